"""`whisper-ser app`: a Gradio page for trying models."""

import argparse

from whisper_ser.errors import InferenceError


def main(argv: list[str]) -> None:
    """Opens the page for the given models, or for those of the environment variable WHISPER_SER_MODEL.

    Raises:
        InferenceError: the extra `app` is not installed, or there is no model.
    """
    parser = argparse.ArgumentParser(prog="whisper-ser app", description="Open a web page for trying models.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="folders or Hub ids; default: the demo model")
    arguments = parser.parse_args(argv)
    try:
        from whisper_ser.page import app
    except ModuleNotFoundError as error:
        raise InferenceError(f"The page needs {error.name}: pip install 'whisper-ser[app]'.") from error
    app.main(arguments.models)

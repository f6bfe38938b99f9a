"""The command `whisper-ser`: runs the subcommand that its first argument names."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module

from whisper_ser import __version__
from whisper_ser.errors import user_errors

COMMANDS = {
    "train": "train, fine-tune and cross-validate",
    "predict": "classify recordings",
    "timeline": "emotions over time, in recordings and streams",
    "describe": "show statistics of a corpus: hours, speakers, labels per fold",
    "compare": "test whether one run is better than another",
    "export": "export a model to a file that runs without torch",
    "push": "publish a trained model on the Hugging Face Hub",
    "verify": "check that a model is the one that was saved",
    "app": "open a web page for trying models",
}
"""Each is a module of `whisper_ser.commands` with a function `main(argv)`, imported when it is called."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status, 1 for an error of the user's input."""
    parser = argparse.ArgumentParser(
        prog="whisper-ser",
        description="Speech emotion recognition.",
        epilog="whisper-ser COMMAND --help shows the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"whisper-ser {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        subparsers.add_parser(name, help=about, add_help=False)
    given = sys.argv[1:] if argv is None else argv
    command = parser.parse_args(given[:1]).command
    module = import_module(f"whisper_ser.commands.{command}")
    return run(module.main, given[1:], "whisper-ser")


def run(command: Callable[[list[str]], int | None], argv: list[str], program: str) -> int:
    """Runs `command(argv)` and returns its exit status; an error of the user's input is one line, with status 1.

    Args:
        program: its name, which the line begins with.
    """
    try:
        return command(argv) or 0
    except user_errors() as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

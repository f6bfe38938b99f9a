"""`whisper-ser verify`: check that a model is the one that was saved."""

import argparse

from whisper_ser.hub.verify import download, verify
from whisper_ser.inference.reference_output import weight_hashes


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser verify",
        description="Check that a model's weights, settings and output are those that were saved; the output of the "
        "plain model, and of its graphs for ONNX Runtime if it has them. Only code of this package runs, none that "
        "comes with the model.",
    )
    parser.add_argument("model", help="folder, or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Prints what was checked; errors say what is wrong."""
    folder = download(arguments.model, arguments.revision)
    difference = verify(folder)
    for name, sha256 in weight_hashes(folder).items():
        print(f"{name}: SHA-256 {sha256}, as saved")
    print(f"reference output: as saved, largest difference of a probability {difference:.1e}")
    return 0

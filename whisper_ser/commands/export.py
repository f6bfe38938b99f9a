"""`whisper-ser export`: a model as a file for other runtimes than PyTorch."""

import argparse
from pathlib import Path

from whisper_ser.inference.model import PRECISIONS


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="whisper-ser export", description="Export a model.")
    formats = parser.add_subparsers(title="formats", required=True, metavar="FORMAT")
    onnx = formats.add_parser(
        "onnx",
        help="one ONNX file, waveform in and probabilities out",
        description="Write a model as one ONNX file, waveform in and probabilities out, and check it against the "
        "model. docs/export.md explains how to run it without torch and from other languages.",
        allow_abbrev=False,
    )
    onnx.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained model")
    onnx.add_argument("output", metavar="OUT", type=Path, help="the file; it may replace an earlier export")
    onnx.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="int8 is smaller and faster; default: %(default)s",
    )
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Exports, and prints what was written."""
    from whisper_ser.export.onnx import export_onnx  # imports torch

    exported = export_onnx(arguments.model, arguments.output, arguments.precision)
    off = f"probabilities off by {exported.difference:.1e} at most"
    print(f"{exported.path}: {exported.precision}, {exported.size / 1e6:.1f} MB, {off}")
    return 0

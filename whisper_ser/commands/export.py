"""`whisper-ser export`: a model for runtimes other than PyTorch."""

import argparse
from pathlib import Path

from whisper_ser.errors import ExportError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="whisper-ser export", description="Export a model.")
    formats = parser.add_subparsers(title="formats", required=True, metavar="FORMAT")
    onnx = formats.add_parser(
        "onnx",
        help="one ONNX file, waveform in and probabilities out",
        description="Write a model as one ONNX file, waveform in and probabilities out, and check what was written "
        "against the model. docs/export.md says how to run it, without torch and from other languages.",
        allow_abbrev=False,
    )
    onnx.add_argument("model", metavar="MODEL", help="folder or Hub id of a trained model")
    onnx.add_argument("output", metavar="OUT", type=Path, help="the file; it may replace an earlier export")
    onnx.add_argument("--int8", action="store_true", help="8-bit products: smaller, faster and less exact")
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Exports, and prints what was written."""
    try:
        from whisper_ser.export.onnx import export_onnx  # onnx and onnxruntime may be absent
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise ExportError(f"Exporting needs the package {error.name}: pip install 'whisper-ser[onnx]'.") from error
    exported = export_onnx(arguments.model, arguments.output, "int8" if arguments.int8 else "float32")
    off = f"{exported.difference:.1e} {'on average' if arguments.int8 else 'at most'}"
    print(f"{exported.path}: {exported.precision}, {exported.size / 1e6:.1f} MB, probabilities off by {off}")
    return 0

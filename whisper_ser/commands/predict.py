"""`whisper-ser predict`: the emotion of recordings."""

import argparse
from collections.abc import Iterator
from typing import Any

from whisper_ser.commands import sharded
from whisper_ser.commands.printing import report, write_lines
from whisper_ser.commands.recordings import (
    STANDARD_INPUT,
    add_arguments,
    audio_files,
    check_plot,
    failure_text,
    open_all,
)
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import (
    csv_lines,
    json_text,
    prediction_row,
    result_object,
    terminal_table,
    write_parquet,
)
from whisper_ser.inference.model import LoadedModel, load_model
from whisper_ser.inference.outputs import Failure, Prediction
from whisper_ser.inference.predict import predict_each
from whisper_ser.io import replacing

FORMATS = ("table", "json", "jsonl", "csv", "parquet")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser predict",
        description="Predict the emotion of recordings of any length and sampling rate, in any format that libsndfile "
        "reads. The exit status is 1 if some of them could not be used.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE|FOLDER|GLOB|-", help="- reads an audio file from standard input"
    )
    add_arguments(parser, FORMATS)
    parser.add_argument("--top_k", type=int, metavar="K", help="show only the K most probable labels")
    parser.add_argument(
        "--abstain_below",
        type=float,
        default=0.0,
        metavar="P",
        help="answer 'uncertain' where the highest probability lies below P",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="recordings encoded together; default: %(default)s")
    sharded.add_arguments(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Predicts, writes the predictions, and reports failures."""
    sharded.check(arguments)
    if arguments.output_dir is not None:
        return sharded.run(arguments, _write)
    files, problems = audio_files(arguments.files)
    check_plot(arguments, files)
    if arguments.format == "parquet" and arguments.output is None:
        raise InferenceError("--format parquet cannot be printed: name a file with --output.")
    if not files:
        return report(problems)
    recognizer = load_model(arguments.model, arguments.device, arguments.precision)
    if arguments.plot is not None and not isinstance(recognizer, LoadedModel):
        raise InferenceError(
            "--plot draws attention, which an exported model does not return: name the folder of the model."
        )
    results = predict_each(
        open_all(files),
        recognizer,
        top_k=arguments.top_k,
        abstain_below=arguments.abstain_below,
        channels=arguments.channels,
        batch_size=arguments.batch_size,
    )
    _write(_successes(results, problems), recognizer.labels, files, arguments)
    if arguments.plot is not None and not problems:
        _draw(files[0], recognizer, arguments)
    return report(problems)


def _successes(results: Iterator[Prediction | Failure], problems: list[str]) -> Iterator[Prediction]:
    for result in results:
        if isinstance(result, Failure):
            problems.append(failure_text(result))
        else:
            yield result


def _write(predictions: Iterator[Prediction], labels: list[str], files: list[str], arguments: Any) -> None:
    match arguments.format:
        case "table":
            write_lines(terminal_table(predictions, files), arguments.output)
        case "json":
            write_lines([json_text([result_object(one) for one in predictions], indent=2)], arguments.output)
        case "jsonl":
            write_lines((json_text(result_object(one)) for one in predictions), arguments.output)
        case "csv":
            write_lines(csv_lines(prediction_row(one, labels) for one in predictions), arguments.output)
        case _:
            with replacing(arguments.output) as written:
                write_parquet((prediction_row(one, labels) for one in predictions), labels, written)


def _draw(file: str, recognizer: Any, arguments: argparse.Namespace) -> None:
    from whisper_ser.inference.attention import explain
    from whisper_ser.inference.plots import draw_attention  # matplotlib takes long to import

    if file == STANDARD_INPUT:
        raise InferenceError("--plot reads the recording twice, which a pipe does not allow: give a file.")
    draw_attention(explain(file, recognizer), arguments.plot)

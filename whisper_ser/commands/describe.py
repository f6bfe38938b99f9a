"""`whisper-ser describe`: statistics of a corpus and of its folds, before training."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from datasets import Dataset

from whisper_ser.data.splits import Fold
from whisper_ser.data.statistics import describe
from whisper_ser.errors import ProtocolError, RecipeError
from whisper_ser.report.description import DESCRIPTION, DURATIONS, description_text, write_description
from whisper_ser.training.checks import refuse_ignored_data
from whisper_ser.training.data import load, plan_folds, protocol_of
from whisper_ser.training.recipe import add_flags
from whisper_ser.training.settings import DataArguments, all_settings, build

FOLDER_OPTIONAL = ("demo", "emobox")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser describe",
        description="Show statistics of a corpus: utterances, hours, speakers, labels by fold, and leaks between the "
        "parts of folds.",
        allow_abbrev=False,
    )
    shared = [field.name for field in fields(DataArguments) if field.metadata["describe"]]
    add_flags(parser, [*shared, "seed"])  # the seed draws the folds
    choices = all_settings()["corpus"].metadata["choices"]
    parser.add_argument("corpus", choices=choices, metavar="corpus", help=f"one of {', '.join(choices)}")
    parser.add_argument(
        "folder",
        nargs="?",
        help="the data folder: of a published corpus as distributed; for own a folder, a table, or a Hub dataset id",
    )
    parser.add_argument("--output_dir", type=Path, help="default: outputs/describe/<corpus>")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="output format (default: %(default)s)"
    )
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Writes the description of the corpus into a folder and prints it."""
    data, seed = _data_arguments(arguments)
    refuse_ignored_data(data)
    corpus = load(data)
    protocol, folds = _folds(corpus, data, seed)
    description = {**describe(corpus, folds, progress=sys.stderr.isatty()), "protocol": protocol}
    durations = description.pop("durations")
    folder = arguments.output_dir or Path("outputs", "describe", corpus.info.dataset_name)
    write_description(folder, description, durations)
    if arguments.format == "json":
        print(json.dumps(description, indent=2, ensure_ascii=False))
    else:
        print(f"{description_text(description)}\n\n{folder}/ holds {DESCRIPTION} and {DURATIONS}")
    return 0


def _data_arguments(arguments: argparse.Namespace) -> tuple[DataArguments, int]:
    """Returns the settings of the data, and the seed."""
    corpus, folder = arguments.corpus, arguments.folder
    own = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("corpus", "folder", "output_dir", "format")
    }
    flags = {"protocol": "auto", "corpus": corpus, **own}
    if folder is None and corpus not in FOLDER_OPTIONAL:
        raise RecipeError(f"Name the folder of the corpus: whisper-ser describe {corpus} FOLDER.")
    if corpus == "own" and not flags.get("table") and not Path(folder).is_dir():
        built = build({**flags, "table": folder})
    else:
        built = build({**flags, "data_dir": folder})
    return built.data, built.training.seed


def _folds(corpus: Dataset, data: DataArguments, seed: int) -> tuple[dict[str, str | None], list[Fold]]:
    """Returns the protocol that was requested and used, and its folds; no folds if `auto` finds none possible."""
    protocol = {"asked": data.protocol, "name": protocol_of(corpus, data), "problem": None}
    try:
        return protocol, plan_folds(corpus, data, seed)
    except ProtocolError as error:
        if data.protocol != "auto":
            raise
        return {**protocol, "problem": str(error)}, []

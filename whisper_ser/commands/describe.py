"""`whisper-ser describe`: statistics of a corpus and of its folds, before training."""

import argparse
import json
import sys
from dataclasses import fields, make_dataclass
from pathlib import Path

from datasets import Dataset
from transformers import HfArgumentParser

from whisper_ser.data.splits import Fold
from whisper_ser.data.statistics import describe
from whisper_ser.errors import ProtocolError, RecipeError
from whisper_ser.report.description import DESCRIPTION, DURATIONS, description_text, write_description
from whisper_ser.training.data import load, plan_folds, protocol_of
from whisper_ser.training.ignored import refuse_ignored_data
from whisper_ser.training.settings import DataArguments, SerTrainingArguments

FOLDER_OPTIONAL = ("demo", "emobox")
EXCLUDED_SETTINGS = ("corpus", "data_dir", "allow_leaks", "feature_dir", "license")
"""Data settings that are no flags here: corpus and folder are positional, leaks are shown, nothing is trained."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser describe",
        description="Show statistics of a corpus: utterances, hours, speakers, labels by fold, and leaks between the "
        "parts of folds.",
        parents=[_data_flags()],
        allow_abbrev=False,
    )
    choices = next(field.metadata["choices"] for field in fields(DataArguments) if field.name == "corpus")
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
    parser.set_defaults(protocol="auto")
    return run(parser.parse_args(argv))


def _data_flags() -> HfArgumentParser:
    """Returns a parser of the data flags of `train` and of its seed, which draws the folds."""
    seed = [field for field in fields(SerTrainingArguments) if field.name == "seed"]
    flags = [field for field in fields(DataArguments) if field.name not in EXCLUDED_SETTINGS]
    dataclass = make_dataclass("DataFlags", [(field.name, field.type, field) for field in flags + seed])
    return HfArgumentParser(dataclass, add_help=False)  # type: ignore[arg-type]


def run(arguments: argparse.Namespace) -> int:
    """Writes the description of the corpus into a folder and prints it."""
    data = _data_arguments(arguments)
    refuse_ignored_data(data)
    corpus = load(data)
    protocol, folds = _folds(corpus, data, arguments.seed)
    description = {**describe(corpus, folds, progress=sys.stderr.isatty()), "protocol": protocol}
    durations = description.pop("durations")
    folder = arguments.output_dir or Path("outputs", "describe", corpus.info.dataset_name)
    write_description(folder, description, durations)
    if arguments.format == "json":
        print(json.dumps(description, indent=2, ensure_ascii=False))
    else:
        print(f"{description_text(description)}\n\n{folder}/ holds {DESCRIPTION} and {DURATIONS}")
    return 0


def _data_arguments(arguments: argparse.Namespace) -> DataArguments:
    shared = [field.name for field in fields(DataArguments) if field.name not in EXCLUDED_SETTINGS]
    flags = {name: getattr(arguments, name) for name in shared}
    corpus, folder = arguments.corpus, arguments.folder
    if folder is None and corpus not in FOLDER_OPTIONAL:
        raise RecipeError(f"Name the folder of the corpus: whisper-ser describe {corpus} FOLDER.")
    if corpus == "own" and not arguments.table and not Path(folder).is_dir():
        return DataArguments(corpus=corpus, **{**flags, "table": folder})
    return DataArguments(corpus=corpus, data_dir=folder, **flags)


def _folds(corpus: Dataset, data: DataArguments, seed: int) -> tuple[dict[str, str | None], list[Fold]]:
    """Returns the protocol that was requested and used, and its folds; no folds if `auto` finds none possible."""
    protocol = {"asked": data.protocol, "name": protocol_of(corpus, data), "problem": None}
    try:
        return protocol, plan_folds(corpus, data, seed)
    except ProtocolError as error:
        if data.protocol != "auto":
            raise
        return {**protocol, "problem": str(error)}, []

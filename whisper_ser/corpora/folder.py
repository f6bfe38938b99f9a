"""A corpus as a folder of audio files with a `metadata.csv`."""

import csv
import os
from collections import Counter
from pathlib import Path

from datasets import Dataset

from whisper_ser.corpora.dataset import Utterance, build_dataset
from whisper_ser.errors import CorpusError

COLUMNS = ("file_name", "emotion", "speaker")
LISTED = 20
"""Bad rows or files that a message lists before it only counts."""


def load_folder(folder: str | Path, labels: list[str] | None = None, description: str = "") -> Dataset:
    """Returns the utterances of `folder/metadata.csv`.

    Args:
        folder: holds the audio and `metadata.csv` with the columns `file_name` (relative to the folder), `emotion` and
            `speaker`; others are ignored. Everything is text: speaker `01` stays `01`.
        labels: the emotions allowed, in the order of the logits; left out, those found, sorted.
        description: kept with the dataset and shown in reports.

    Raises:
        CorpusError: no table, a missing column, and all rows with an empty cell, an unknown label, a file that is
            absent, outside the folder or listed twice.
    """
    folder = Path(folder)
    rows = _read_table(folder / "metadata.csv")
    found = sorted({row["emotion"] for row in rows if row["emotion"]})
    names = labels or found
    if len(names) < 2:
        raise CorpusError(
            f"{folder / 'metadata.csv'} has one emotion only, {', '.join(names)}: nothing to tell apart."
        )
    problems = [
        f"line {line}: {problem}" for line, row in enumerate(rows, 2) if (problem := _problem(row, folder, names))
    ]
    problems += [
        f"{name} is listed {n} times" for name, n in Counter(row["file_name"] for row in rows).items() if n > 1
    ]
    if problems:
        raise CorpusError(
            f"{folder / 'metadata.csv'} has {len(problems)} rows that cannot be used:\n{listed(problems)}"
        )
    utterances = [Utterance(str(folder / row["file_name"]), row["emotion"], row["speaker"]) for row in rows]
    return build_dataset(utterances, names, folder.resolve().name, description=description)


def listed(problems: list[str]) -> str:
    """Returns the problems one a line, the first `LISTED` of them."""
    more = [f"... and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    return "\n".join(f"  {problem}" for problem in problems[:LISTED] + more)


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise CorpusError(
            f"There is no {path}. Expected a folder of audio with a metadata.csv ({', '.join(COLUMNS)})."
        )
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} is not a CSV table in UTF-8 ({error}).") from error
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise CorpusError(
            f"{path} lacks {' and '.join(missing)}: it has {', '.join(columns) or 'nothing'}; "
            f"expected {', '.join(COLUMNS)}."
        )
    if not rows:
        raise CorpusError(f"{path} has no rows.")
    return [{column: (row[column] or "").strip() for column in COLUMNS} for row in rows]


def _problem(row: dict[str, str], folder: Path, labels: list[str]) -> str | None:
    """Returns what is wrong with a row, or `None`."""
    empty = [column for column in COLUMNS if not row[column]]
    if empty:
        return f"{' and '.join(empty)} is empty"
    if row["emotion"] not in labels:
        return f"unknown emotion {row['emotion']!r} of {row['file_name']}; expected {', '.join(labels)}"
    inside = os.path.normpath(row["file_name"])
    if os.path.isabs(inside) or inside.startswith(".."):
        return f"{row['file_name']} lies outside the folder"
    if not (folder / row["file_name"]).is_file():
        return f"there is no file {row['file_name']}"
    return None

"""Your own corpus: a table, a folder with a sub-folder for each label, or a dataset of the Hugging Face Hub."""

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Audio, ClassLabel, Dataset
from huggingface_hub.constants import HF_HOME

from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.data.splits import PARTS
from whisper_ser.errors import CorpusError, format_problems
from whisper_ser.io import replacing

logger = logging.getLogger(__name__)

COMMON_NAMES = {
    "path": ("file_name", "path", "file", "filename", "audio", "wav"),
    "label": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id"),
    "fold": ("fold",),
    "split": (),
}
"""Names by which a column is found, in upper or lower case, unless it is named."""
FACTS = ("gender", "language")
"""Optional columns, in upper or lower case, which may have empty cells."""
GENDERS = {"f": "female", "m": "male"}
REQUIRED = ("path", "label")
UTTERANCE_FIELDS = ("label", "speaker", "gender", "language", "split", "fold")
"""What the fields of `Utterance` after the path are filled with."""
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
METADATA = tuple(f"metadata{suffix}" for suffix in TABLES)
"""File names of the table of an `audiofolder`."""
DELIMITERS = ",;\t"
AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff")
MAX_LABELS = 100
"""With more, the labels must be named: the column is probably not that of the emotion."""
MAX_LABEL_LENGTH = 100
SPLIT_COLUMN = "(split)"
"""Name of the column that holds the split of each row of a dataset or of folders."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


class _Row(NamedTuple):
    """One row: its audio as in the table, the other cells as text by their roles, and the columns that are empty."""

    where: str
    audio: Any
    text: dict[str, str]
    empty: list[str]


class _Table(NamedTuple):
    """The columns of a table, and its rows with their positions."""

    columns: list[str]
    rows: Iterable[tuple[str, dict[str, Any]]]


def load_table(
    source: str | Path,
    *,
    audio_dir: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    speaker_column: str | None = None,
    fold_column: str | None = None,
    split_column: str | None = None,
    label_aliases: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    drop_other_labels: bool = False,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Returns your own corpus with the columns of `Utterance`, in the order of its rows.

    Columns that are not named are found by their `COMMON_NAMES`; speaker, fold, split and the `FACTS` are optional. A
    split (train, validation, test) is kept in `group`. All cells are read as text: speaker `01` stays `01`, and the
    number 1 becomes `1`.

    Args:
        source: one of

            - a `.csv` or `.tsv` (comma, semicolon or tab), `.jsonl` or `.parquet` table;
            - a folder of audio with such a table named `metadata`;
            - a folder with a sub-folder for each label, optionally inside folders `train`, `test` and so on;
            - any other dataset folder or a Hub dataset id, read by `datasets` without decoding audio.
        audio_dir: folder of relative paths in a table, which may not leave it; by default the folder of the table.
        path_column, label_column, speaker_column, fold_column, split_column: names of columns.
        label_aliases: new names of labels: `{"ang": "angry", "exc": "happy"}`.
        labels: the labels allowed after renaming, in the order of the logits; by default those found, sorted.
        drop_other_labels: skip rows with other labels than `labels` instead of raising; their number is logged.
        cache_dir: where audio that is embedded in a dataset is written; by default below `HF_HOME`.

    Raises:
        CorpusError: there is nothing to read, a column is unknown or ambiguous, or rows have an empty cell, a label
            that is not allowed, or a file that is missing, outside the folder or listed twice; lists all such rows.
    """
    if drop_other_labels and not labels:
        raise CorpusError("drop_other_labels keeps only the rows of chosen labels: name them in labels.")
    source = str(source)
    columns = {
        "path": path_column,
        "label": label_column,
        "speaker": speaker_column,
        "fold": fold_column,
        "split": split_column,
    }
    path = Path(source).expanduser()
    metadata = [path / name for name in METADATA if (path / name).is_file()]
    if len(metadata) > 1:
        raise CorpusError(f"{source} has {' and '.join(file.name for file in metadata)}: name the one to read.")
    folder = path
    if metadata or path.is_file():
        file = metadata[0] if metadata else path
        source, folder = str(file), Path(audio_dir or file.parent)
        table = _read_table(file)
    elif path.is_dir() and any(_audio_below(path)):
        _refuse({**columns, "audio_dir": audio_dir}, f"{source} is a folder of audio without a table")
        table = _labelled_by_folder(path)
    else:
        _refuse({"audio_dir": audio_dir}, f"{source} is a dataset that holds its audio")
        table = _read_dataset(source, split_column is None)
    rows = _relabelled(_rows_of(table, columns, source), label_aliases or {}, labels if drop_other_labels else None)
    cache = Path(cache_dir or Path(HF_HOME) / "whisper_ser" / "audio")
    utterances = _checked(rows, labels, folder, cache, source)
    found = sorted({utterance.emotion for utterance in utterances})
    _check_labels(labels, found, source)
    return build_dataset(utterances, labels or found, path.stem if path.is_file() else path.resolve().name)


def _check_labels(labels: Sequence[str] | None, found: list[str], source: str) -> None:
    absent = [label for label in labels or [] if label not in found]
    if absent:
        raise CorpusError(f"{source} has no row with the label {', '.join(absent)}; it has {', '.join(found)}.")
    if not found:
        raise CorpusError(f"{source} has no rows.")
    unprintable = [label for label in found if not label.isprintable() or len(label) > MAX_LABEL_LENGTH]
    if unprintable:
        raise CorpusError(
            f"{source} has labels that do not look like emotions, such as {unprintable[0][:40]!r}: expected printable "
            f"text of at most {MAX_LABEL_LENGTH} characters."
        )
    if not labels and len(found) > MAX_LABELS:
        raise CorpusError(
            f"{source} has {len(found)} different labels, {', '.join(found[:5])}, ...: is this the column of the "
            "emotion? Name the column with label_column, or the labels to use with labels."
        )
    if len(found) < 2:
        raise CorpusError(f"{source} has only one emotion, {found[0]}: at least two are needed.")


def _checked(
    rows: Iterable[_Row], labels: Sequence[str] | None, folder: Path, cache: Path, source: str
) -> list[Utterance]:
    """Returns the rows as utterances with the paths of their audio; raises for rows that cannot be used."""
    utterances, problems = [], []
    listed_paths: Counter[str] = Counter()
    for row in rows:
        if row.empty:
            problems.append(f"{row.where}: {' and '.join(row.empty)} is empty")
        elif labels and row.text["label"] not in labels:
            problems.append(f"{row.where}: unknown emotion {row.text['label']!r}; expected {', '.join(labels)}")
        try:
            path = _audio_path(row.audio, folder, cache)
        except ValueError as error:
            problems.append(f"{row.where}: {error}")
            continue
        # A table that names a file twice is wrong; audio embedded twice in a dataset is left to the audit.
        listed_paths[path] += not isinstance(row.audio, Mapping)
        utterances.append(Utterance(path, *(row.text.get(field, "") for field in UTTERANCE_FIELDS)))
    problems += [f"{path} is listed {n} times" for path, n in listed_paths.items() if n > 1]
    if problems:
        raise CorpusError(f"{source} has {len(problems)} rows that cannot be used:\n{format_problems(problems)}")
    return utterances


def _refuse(arguments: Mapping[str, object], why: str) -> None:
    """Raises `CorpusError` for arguments that would be ignored."""
    given = [f"{name}_column" if name in COMMON_NAMES else name for name, value in arguments.items() if value]
    if given:
        raise CorpusError(f"{why}: {' and '.join(given)} has no meaning for it.")


def _relabelled(rows: Iterable[_Row], aliases: Mapping[str, str], keep: Sequence[str] | None) -> Iterator[_Row]:
    """Yields the rows with their labels renamed, only those in `keep` if given; logs what is left out."""
    unused, dropped = set(aliases), Counter[str]()
    for row in rows:
        unused.discard(row.text["label"])
        label = aliases.get(row.text["label"], row.text["label"])
        if keep and label and label not in keep:
            dropped[label] += 1
        else:
            yield row._replace(text={**row.text, "label": label})
    if unused:
        logger.warning("label_aliases renames %s, which no row has.", ", ".join(sorted(unused)))
    if dropped:
        counts = ", ".join(f"{label} {count}" for label, count in sorted(dropped.items()))
        logger.warning("%d utterances of other labels are left out: %s.", dropped.total(), counts)


# Tables


def _read_table(path: Path) -> _Table:
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise CorpusError(f"{path} is not a table; expected one of {', '.join(TABLES)}.")
    if suffix == ".parquet":
        try:
            # The reader of `datasets` keeps the names of labels and leaves audio encoded.
            return _of_dataset(datasets.load_dataset("parquet", data_files=str(path), split="train"))
        except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
            raise CorpusError(f"{path} is not a Parquet table ({error.__cause__ or error}).") from error
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _parse_jsonl(text) if suffix == ".jsonl" else _parse_csv(text)
    except (ValueError, csv.Error) as error:
        raise CorpusError(f"{path} is not a {suffix[1:].upper()} table in UTF-8 ({error}).") from error


def _parse_csv(text: str) -> _Table:
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header.count), restkey="")
    # The reader skips empty lines, so it is asked for the line number.
    rows = [(f"line {reader.line_num}", {column.strip(): cell for column, cell in row.items()}) for row in reader]
    return _Table([column.strip() for column in reader.fieldnames or []], rows)


def _parse_jsonl(text: str) -> _Table:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            rows.append((f"line {number}", row))
    return _Table(list(dict.fromkeys(column for _, row in rows for column in row)), rows)


def _read_dataset(source: str, split_is_group: bool) -> _Table:
    """Returns the rows of a dataset; if it has several splits, the column `SPLIT_COLUMN` has their names."""
    if not Path(source).is_dir() and (Path(source).suffix in TABLES or not HUB_ID.fullmatch(source)):
        raise CorpusError(f"There is no {source}. Expected a table, a folder, or the id of a dataset on the Hub.")
    try:
        splits = datasets.load_dataset(source)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise CorpusError(
            f"{source} is neither a table, nor a folder of audio with a metadata.csv or a folder for each label, nor "
            f"a readable dataset ({error}). A private dataset needs a login: hf auth login."
        ) from error
    tables = [_of_dataset(split, name) for name, split in splits.items()]
    rows = ((where, row) for table in tables for where, row in table.rows)
    columns = list(tables[0].columns)
    if len(tables) > 1 and split_is_group:
        columns.append(SPLIT_COLUMN)
    return _Table(columns, rows)


def _of_dataset(dataset: Dataset, split: str = "") -> _Table:
    for column, feature in dataset.features.items():
        if isinstance(feature, Audio):
            dataset = dataset.cast_column(column, Audio(decode=False))
    class_labels = {c: feature for c, feature in dataset.features.items() if isinstance(feature, ClassLabel)}

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, row in enumerate(dataset, 1):
            names = {c: None if row[c] in (None, -1) else f.int2str(row[c]) for c, f in class_labels.items()}
            yield f"{split} row {number}".strip(), {**row, **names, SPLIT_COLUMN: split}

    return _Table(dataset.column_names, rows())


# Rows


def _rows_of(table: _Table, named: dict[str, str | None], source: str) -> Iterator[_Row]:
    """Yields the rows of a table, with the columns assigned to their roles."""
    columns = {role: _column(role, name, table.columns, source) for role, name in named.items()}
    if SPLIT_COLUMN in table.columns:
        columns["split"] = SPLIT_COLUMN
    audio = columns.pop("path") or ""
    facts = {column.lower(): column for column in table.columns if column.lower() in FACTS}
    for where, cells in table.rows:
        text = {role: _text(cells.get(column)) for role, column in columns.items() if column}
        empty = [str(columns[role]) for role, value in text.items() if not value]
        known = {fact: _text(cells.get(column)) for fact, column in facts.items()}
        gender = known.get("gender", "").lower()
        known["gender"] = GENDERS.get(gender, gender)
        yield _Row(where, cells.get(audio), text | known, empty)


def _column(role: str, named: str | None, columns: list[str], source: str) -> str | None:
    has = f"it has {', '.join(columns) or 'nothing'}"
    if named is not None:
        if named not in columns:
            raise CorpusError(f"{source} has no column {named}; {has}.")
        return named
    found = [column for column in columns if column.lower() in COMMON_NAMES[role]]
    if len(found) > 1:
        raise CorpusError(f"{source} has {' and '.join(found)}: name the one with the {role} by {role}_column.")
    if not found and role in REQUIRED:
        raise CorpusError(
            f"{source} has no column named {' or '.join(COMMON_NAMES[role])}; {has}. Name it by {role}_column."
        )
    return found[0] if found else None


def _text(value: object) -> str:
    """Returns a cell as text: empty for null and NaN, `1` for 1.0, which pandas makes of 1 in a column with gaps."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _audio_path(audio: object, folder: Path, cache: Path) -> str:
    """Returns the path of a row's audio; embedded audio is written to the cache, under the hash of its content.

    Raises:
        ValueError: there is no such file, or it lies outside `folder`.
    """
    content = audio.get("bytes") if isinstance(audio, Mapping) else None
    name = _text(audio.get("path") if isinstance(audio, Mapping) else audio)
    if content is not None:
        target = cache / (hashlib.sha256(content).hexdigest()[:32] + Path(name).suffix.lower())
        if not target.is_file():
            with replacing(target) as file:
                file.write_bytes(content)
        return str(target)
    if not name:
        raise ValueError("the path is empty")
    if not os.path.isabs(name) and os.path.normpath(name).startswith(".."):
        raise ValueError(f"{name} lies outside {folder}; give audio_dir, or the absolute path")
    if not os.path.isfile(folder / name):
        raise ValueError(f"there is no file {folder / name}")
    return os.path.normpath(folder / name)


def _audio_below(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in AUDIO and file.is_file())


def _labelled_by_folder(folder: Path) -> _Table:
    files = [file.relative_to(folder).parts for file in _audio_below(folder)]
    has_parts = all(len(parts) > 1 and parts[0].lower() in PARTS for parts in files)
    depth = 2 if has_parts else 1
    loose = ["/".join(parts) for parts in files if len(parts) <= depth]
    if loose:
        raise CorpusError(
            f"{folder} has {len(loose)} files outside folders named after a label:\n{format_problems(loose)}"
        )
    names = ["/".join(parts) for parts in files]
    rows = [
        (name, {"file_name": name, "emotion": parts[depth - 1], SPLIT_COLUMN: parts[0]})
        for name, parts in zip(names, files, strict=True)
    ]
    return _Table(["file_name", "emotion", *([SPLIT_COLUMN] if has_parts else [])], rows)

"""Files on disk: atomic writes, checksums, safetensors without torch, and CSV cells that are safe in spreadsheets."""

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whisper_ser.errors import CheckpointError, DamagedFileError

ABANDONED_SECONDS = 24 * 3600


@contextlib.contextmanager
def saving(folder: str | Path) -> Iterator[None]:
    """Raises `CheckpointError` instead of the terse errors of torch and safetensors when files cannot be written."""
    from safetensors import SafetensorError  # may be absent where models are only used

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} could not be written ({error}). Make sure that the disk has free space, then run the same "
            "command again: it resumes from what is complete."
        ) from error


@contextlib.contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; its content replaces `target` if the block ends without an error.

    The path does not exist yet: write a file there, or make a folder.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        written = workplace / target.name
        yield written
        _move(written, target, aside=workplace / "old")
    finally:
        shutil.rmtree(workplace)


def _remove_leftovers(target: Path) -> None:
    """Removes temporary files of killed writers of `target`; recent ones may belong to a running writer."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _move(written: Path, target: Path, aside: Path) -> None:
    if not target.is_dir():
        os.replace(written, target)
        return
    # A folder cannot be renamed over another one: the old one is moved aside first.
    os.replace(target, aside)
    try:
        os.replace(written, target)
    except OSError:
        os.replace(aside, target)
        raise


CHECKSUMS = "checksums.json"
"""File in a folder with the SHA-256 of each other file, by name."""
SEAL = "sha256"
"""Field of a JSON object with the SHA-256 of all its other fields."""


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` for the files in `folder`."""
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    hashes.pop(CHECKSUMS, None)
    with replacing(folder / CHECKSUMS) as path:
        path.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def changed_files(folder: Path) -> list[str]:
    """Returns the names of the files that differ from `checksums.json`, or its own name if it cannot be read."""
    try:
        expected = dict(json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return [CHECKSUMS]
    return sorted(name for name, sha256 in expected.items() if not _is(folder / name, sha256))


def _is(path: Path, sha256: str) -> bool:
    try:
        return file_sha256(path) == sha256
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return False


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its SHA-256 added as the field `sha256`."""
    return {**content, SEAL: _digest(content)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Returns the JSON object that a file holds; one without a seal, as earlier versions wrote it, as it is.

    Raises:
        DamagedFileError: the file holds no JSON object, or not the one that was sealed.
        FileNotFoundError: there is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and content.get(SEAL, _digest(content)) == _digest(content)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise DamagedFileError(path)
    return content


def _digest(content: Mapping[str, Any]) -> str:
    others = {name: value for name, value in content.items() if name != SEAL}
    # Converted to JSON and back, because reading turns keys into text.
    text = json.dumps(json.loads(json.dumps(others)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Returns `$WHISPER_SER_CACHE` or `~/.cache/whisper_ser`; it may not exist yet."""
    return Path(os.environ.get("WHISPER_SER_CACHE") or "~/.cache/whisper_ser").expanduser().resolve()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a safetensors file as float32 by name; float32 ones are memory-mapped.

    Raises:
        CheckpointError: the file is damaged, or has tensors that are not floats.
    """
    try:
        content = np.memmap(path, mode="r")
        begin = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:begin].tobytes())
        header.pop("__metadata__", None)
        return {name: _tensor(content[begin:], **fields) for name, fields in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): download or save the model again.") from error


FLOATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}


def _tensor(content: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    kind = np.dtype(FLOATS[dtype])
    if not 0 <= begin <= end <= len(content) or end - begin != math.prod(shape) * kind.itemsize:
        raise ValueError("a tensor reaches beyond the end")
    values = content[begin:end].view(kind).reshape(shape)
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return np.require(values, np.float32, "A")


FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def escape_csv_formula(cell: Any) -> Any:
    """Returns a cell, with an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_SIGNS) else cell

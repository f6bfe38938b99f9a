"""Files and folders that are either whole or not there."""

import contextlib
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from whisper_ser.errors import CheckpointError

ABANDONED_SECONDS = 24 * 3600


@contextlib.contextmanager
def saving(folder: str | Path) -> Iterator[None]:
    """Raises `CheckpointError` for what torch and safetensors raise, with few words, where files cannot be written."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} could not be written ({error}). Is there free space on the disk? Then start the same command "
            "again: it goes on from what is whole."
        ) from error


@contextlib.contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; what was written there replaces `target` when the block ends well.

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
    """Removes what writers of `target` left that were killed; a younger one may still be at work."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _move(written: Path, target: Path, aside: Path) -> None:
    if not target.is_dir():
        os.replace(written, target)
        return
    # A folder cannot be renamed over another: the old one steps aside for an instant.
    os.replace(target, aside)
    try:
        os.replace(written, target)
    except OSError:
        os.replace(aside, target)
        raise

"""Files and folders that are either whole or not there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; what was written there replaces `target` when the block ends well.

    The path does not exist yet: write a file there, or make a folder.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        written = workplace / target.name
        yield written
        _move(written, target, aside=workplace / "old")
    finally:
        shutil.rmtree(workplace)


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

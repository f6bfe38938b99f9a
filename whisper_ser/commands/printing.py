"""Where the lines of an answer go, and the list of what failed."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from whisper_ser.io import replacing


def progress(items: Sequence[Any], unit: str) -> Iterable[Any]:
    """Returns the items, with a progress bar on a terminal when there are several."""
    if len(items) < 2 or not sys.stderr.isatty():
        return items
    from tqdm import tqdm  # where models are only used, it may be absent

    return tqdm(items, unit=unit)


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """Prints each line as it comes, or writes a file that appears when all of them are written."""
    if output is None:
        try:
            for line in lines:
                # A progress bar on the same terminal makes room.
                write = sys.modules["tqdm"].tqdm.write if "tqdm" in sys.modules else print
                write(line)
                sys.stdout.flush()
        except BrokenPipeError:
            # Who read the lines, such as `head`, has read enough. What Python still holds back goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with replacing(output) as written, open(written, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def report(problems: list[str]) -> int:
    """Prints what went wrong and returns the exit status: 1 if anything did."""
    if problems:
        print(f"whisper-ser: {len(problems)} could not be used:", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    return 1 if problems else 0

"""Output of lines to the terminal or to a file, and the list of failures."""

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
    from tqdm import tqdm  # absent where models are only used

    return tqdm(items, unit=unit)


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """Prints each line as it comes, or writes all lines to a file, atomically."""
    if output is None:
        try:
            for line in lines:
                # Prints above a progress bar on the same terminal.
                write = sys.modules["tqdm"].tqdm.write if "tqdm" in sys.modules else print
                write(line)
                sys.stdout.flush()
        except BrokenPipeError:
            # A reader such as `head` has closed the pipe: discard what Python has buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with replacing(output) as written, open(written, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def report(problems: list[str]) -> int:
    """Prints the problems and returns the exit status: 1 if there are any."""
    if problems:
        print(f"whisper-ser: {len(problems)} could not be used:", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    return 1 if problems else 0

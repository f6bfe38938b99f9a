"""Output of lines to the terminal or to a file, and the list of failures."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from whisper_ser.io import replacing


def write_lines(lines: Iterable[str], output: Path | None) -> None:
    """Prints each line as it comes, or writes all lines to a file, which appears when it is complete."""
    if output is None:
        try:
            for line in lines:
                # Not print: a progress bar may be on the same terminal.
                tqdm.write(line)
                sys.stdout.flush()
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe: discard what Python has buffered.
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

"""Writes the reference: what the package answers, as files in `values/`.

The values are those of version 0.1.0. Do not run this because a test fails: a change of an answer is a change of
behaviour, and the test is there to show it. Run it again only when an answer changes on purpose, for the files that
the change concerns, and give the reason in the commit and in CHANGELOG.md:

    python tests/reference/make.py schema_run.txt card_run.md
"""

import sys
import tempfile
from pathlib import Path

import torch
from answers import ANSWERS, Work
from files import FOLDER, write


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(ANSWERS)):
        sys.exit(f"There is no reference {', '.join(unknown)}; expected {', '.join(ANSWERS)}.")
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        for name in names or ANSWERS:
            write(name, ANSWERS[name](work))


if __name__ == "__main__":
    main(sys.argv[1:])

"""`whisper-ser verify`: is this the model that was saved?"""

import argparse
from typing import Any

from whisper_ser.known_answer import weight_hashes
from whisper_ser.publishing.verify import fetched, verify


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="check a model against its known answer",
        description="Check that a model's weights and answer are those that were saved. The code of this package is "
        "run, none that comes with the model.",
    )
    parser.add_argument("model", help="folder, or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints what was checked; errors tell what is wrong."""
    folder = fetched(arguments.model, arguments.revision)
    difference = verify(folder)
    for name, sha256 in weight_hashes(folder).items():
        print(f"{name}: SHA-256 {sha256}, as saved")
    print(f"known answer: as saved, largest difference of a probability {difference:.1e}")
    return 0

"""The command `whisper-ser`: hands its words to the command they name."""

import argparse
import sys
from types import ModuleType

from modeling_whisper_ser import AudioError, ConfigError, MissingWeightsError, PackingError
from whisper_ser import __version__
from whisper_ser.commands import compare, describe, export, predict, timeline, verify
from whisper_ser.errors import WhisperSerError

COMMANDS: tuple[ModuleType, ...] = (compare, describe, export, predict, timeline, verify)
"""Each has `add_parser(subparsers)`, which names its `run(arguments)` as the default of `run`."""

USER_ERRORS = (WhisperSerError, AudioError, ConfigError, MissingWeightsError, PackingError, OSError)
"""Reported in one line instead of a stack trace."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status, 1 for an error of the user's input."""
    parser = argparse.ArgumentParser(prog="whisper-ser", description="Speech emotion recognition.")
    parser.add_argument("--version", action="version", version=f"whisper-ser {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except USER_ERRORS as error:
        print(f"whisper-ser: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

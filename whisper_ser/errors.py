"""Errors that tell a person what was wrong, what was expected and what to do."""

import sys
from pathlib import Path

MAX_LISTED = 1000
"""Bad rows or files that a message lists before it only counts."""


class WhisperSerError(Exception):
    """Every error of the workshop."""


class CorpusError(WhisperSerError, ValueError):
    """A corpus that is missing, incomplete or wrongly laid out."""


class CheckpointError(WhisperSerError, OSError):
    """A checkpoint that cannot be had or continued."""


class RecipeError(WhisperSerError, ValueError):
    """Settings that are unknown or contradict each other."""


class ProtocolError(WhisperSerError, ValueError):
    """Speakers or labels that do not allow the split asked for."""


class InferenceError(WhisperSerError, ValueError):
    """Something that a model, or the way it was asked, does not allow."""


class FeatureStoreError(WhisperSerError, OSError):
    """Stored encoder states that cannot be written or read."""


class DamagedFileError(WhisperSerError, OSError):
    """A file that is not what was written."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(
            f"{path} is damaged: it is not what was written. Restore it from a copy, or delete it and start the "
            "command that wrote it again."
        )


class ExportError(WhisperSerError):
    """A model that cannot be exported as asked, or an exported file that cannot be used."""


class PublishError(WhisperSerError):
    """A model that cannot be published as it is, or a Hub that does not take or give it."""


class AudioFileError(WhisperSerError, ValueError):
    """One audio file that cannot be used; `reason` says why, without the path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} {reason}.")
        self.reason = reason


def format_problems(problems: list[str]) -> str:
    """Returns the problems one a line, the first `MAX_LISTED` of them."""
    more = [f"... and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
    return "\n".join(f"  {problem}" for problem in problems[:MAX_LISTED] + more)


def user_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that are reported in one line instead of a stack trace.

    Those of the model count only where it was imported: importing it takes seconds.
    """
    model = sys.modules.get("modeling_whisper_ser")
    of_model = (model.AudioError, model.ConfigError, model.MissingWeightsError) if model else ()
    return (WhisperSerError, OSError, *of_model)

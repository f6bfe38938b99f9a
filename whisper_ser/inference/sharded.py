"""Predictions for very many recordings, in shards that are written atomically, each by one process.

A shard is a file of JSON lines, one for each prediction or failure. Its name holds its number and a hash of everything
that the results depend on: names, sizes and modification times of the files, the model, and the options. Interrupted
work continues with the missing shards. Any number of processes share the work without communication; none waits for
another.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from whisper_ser import __version__
from whisper_ser.errors import InferenceError
from whisper_ser.inference.formats import json_text, result_object
from whisper_ser.inference.model import ExportedModel, LoadedModel
from whisper_ser.inference.outputs import Failure, Prediction
from whisper_ser.inference.predict import Channels, predict_each
from whisper_ser.io import replacing

SHARD_FILES = 1024
"""Files in a shard. A multiple of the number of clips that `predict_each` sorts by length at a time: batches, and with
them the last bits of the probabilities, are those of one run over all files."""


@dataclass(frozen=True)
class ShardOptions:
    """The options of a prediction that change its result; the fields are arguments of `predict`."""

    top_k: int | None = None
    abstain_below: float = 0.0
    channels: Channels = "mix"


class Shard(NamedTuple):
    """Files that are predicted together, and the path of their results."""

    files: list[str]
    path: Path

    @property
    def done(self) -> bool:
        return self.path.exists()


def shards_of(
    files: Sequence[str],
    folder: Path,
    recognizer: LoadedModel | ExportedModel,
    options: ShardOptions,
    size: int = SHARD_FILES,
) -> list[Shard]:
    """Returns the shards of the files, `size` in each, stored in `folder`.

    A batch size or a device is no part of the hash: it may change when the work goes on.
    """
    if size < 1:
        raise InferenceError(f"shard_files={size} must be at least 1.")
    common = json.dumps({"version": __version__, "model": recognizer.identity, **asdict(options)}).encode()
    shards = []
    for number, start in enumerate(range(0, len(files), size)):
        some = list(files[start : start + size])
        digest = hashlib.sha256(common + json.dumps([_state(file) for file in some]).encode()).hexdigest()
        shards.append(Shard(some, folder / f"{number:06d}-{digest[:16]}.jsonl"))
    return shards


def predict_shard(
    shard: Shard, recognizer: LoadedModel | ExportedModel, options: ShardOptions, batch_size: int = 8
) -> None:
    """Predicts the files of a shard and writes its results."""
    results = list(predict_each(shard.files, recognizer, **asdict(options), batch_size=batch_size))
    with replacing(shard.path) as written, open(written, "w", encoding="utf-8", newline="\n") as lines:
        for result in results:
            lines.write(json_text(result_object(result)) + "\n")
        # Without this, a power failure might leave a file with its final name and without content.
        lines.flush()
        os.fsync(lines.fileno())


def read_shards(shards: Iterable[Shard]) -> Iterator[Prediction | Failure]:
    """Yields the results of the shards, in the order of the files.

    Raises:
        InferenceError: a shard is damaged.
    """
    for shard in shards:
        try:
            with open(shard.path, encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    fields = json.loads(line)
                    yield Failure(**fields) if "reason" in fields else Prediction(**fields)
        except (ValueError, TypeError) as error:
            raise InferenceError(
                f"{shard.path} is damaged ({error}): remove it and start the same command again."
            ) from error


def _state(file: str) -> tuple[str, int, int]:
    """Returns name, size and modification time of a file, -1 for those of a missing one."""
    try:
        state = os.stat(file)
    except OSError:
        return file, -1, -1
    return file, state.st_size, state.st_mtime_ns

"""What the figures of a run depend on, as hashes: nothing is trained twice, and nothing stale is reused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from whisper_ser.data.audio_index import AudioRecord
from whisper_ser.data.splits import Split
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import CheckpointError
from whisper_ser.io import file_sha256, replacing
from whisper_ser.training.settings import Arguments, is_harmless, metadata

VERSION = 1
"""Raised when the same settings and recordings give other figures than before."""
SETTINGS = "settings.json"
"""Notes what a run depends on, beside what it has finished."""
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


def run_identity(arguments: Arguments, split: Split, hashes: Mapping[str, str]) -> str:
    """Returns a hash of everything that the figures of one training depend on.

    Args:
        hashes: SHA-256 of the samples of each recording, by path.
    """
    return _digest([VERSION, dependencies(arguments), data_digest(split, hashes)])


def sample_hashes(records: Mapping[str, AudioRecord]) -> dict[str, str]:
    """Returns the SHA-256 of the samples of each recording, by path."""
    return {path: record.sample_hash for path, record in records.items()}


def dependencies(arguments: Arguments) -> dict[str, Any]:
    """Returns the settings of model and training that change figures; encoder or saved model go by their content.

    Raises:
        CheckpointError: the checkpoint has no weights.
    """
    groups: dict[str, Any] = {"model": arguments.model, "training": arguments.training}
    settings = {
        group: {one.name: _content(of_group, one) for one in fields(of_group) if one.init and not is_harmless(one)}
        for group, of_group in groups.items()
    }
    settings["training"]["world_size"] = arguments.training.world_size
    return json.loads(json.dumps(settings, default=str))


def _content(group: Any, one: Field) -> Any:
    """Returns the value of a setting, or the SHA-256 of the checkpoint that it names."""
    value = getattr(group, one.name)
    if value is None or not metadata(one).get("checkpoint"):
        return value
    return _digest_of_checkpoint(resolve_encoder(value) if one.name == "encoder" else str(Path(value).expanduser()))


@lru_cache(maxsize=8)
def _digest_of_checkpoint(checkpoint: str) -> str:
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    found = {name: cached_file(checkpoint, name, **options) for name in ("config.json", *WEIGHT_FILES)}
    if not any(found[name] for name in WEIGHT_FILES):
        raise CheckpointError(
            f"{checkpoint} holds none of {', '.join(WEIGHT_FILES)}: give a folder or Hub id of a model."
        )
    files = [path for path in found.values() if path]
    if index := found["model.safetensors.index.json"]:
        files += get_checkpoint_shard_files(checkpoint, index)[0]
    return _digest([file_sha256(Path(path)) for path in files])


def data_digest(split: Split, hashes: Mapping[str, str]) -> str:
    """Returns a hash of labels and parts: which samples, by whom, with which emotion. Paths do not matter."""
    parts = {
        name: [
            [hashes[path], speaker, emotion]
            for path, speaker, emotion in zip(part["path"][:], part["speaker"][:], part["emotion"][:], strict=True)
        ]
        for name, part in split._asdict().items()
    }
    return _digest([split.train.features["emotion"].names, parts])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def note_settings(folder: Path, arguments: Arguments, data: Mapping[str, Any]) -> None:
    """Writes what a run depends on into `folder`, or compares it with what is noted there.

    Args:
        data: what else distinguishes the run, by name.

    Raises:
        CheckpointError: the run there has other settings, or other data.
    """
    settings = {**dependencies(arguments), "data": dict(data)}
    path = folder / SETTINGS
    if not path.is_file():
        with replacing(path) as new:
            new.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        return
    noted = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        f"{name} was {noted.get(group, {}).get(name)}, is now {value}"
        for group, values in settings.items()
        for name, value in values.items()
        if noted.get(group, {}).get(name) != value
    ]
    if changed:
        raise CheckpointError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}). Start it again with its own settings, "
            "choose another --output_dir, or delete that folder."
        )

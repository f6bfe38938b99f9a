"""What the figures of a run depend on, as hashes: nothing is trained twice, and nothing stale is reused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
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
from whisper_ser.training.settings import Arguments, ModelArguments, is_harmless, metadata

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
    content = [VERSION, dependencies(arguments), data_digest(split, hashes)]
    return _digest(content)


def sample_hashes(records: Mapping[str, AudioRecord]) -> dict[str, str]:
    """Returns the SHA-256 of the samples of each recording, by path."""
    return {path: record.sample_hash for path, record in records.items()}


def dependencies(arguments: Arguments) -> dict[str, Any]:
    """Returns the settings of model and training that change figures; encoder or saved model go by their content."""
    groups: dict[str, Any] = {"model": arguments.model, "training": arguments.training}
    settings = {
        group: {
            field.name: getattr(of_group, field.name)
            for field in fields(of_group)
            if field.init and not is_harmless(field)
        }
        for group, of_group in groups.items()
    }
    settings["training"]["world_size"] = arguments.training.world_size
    for one in fields(arguments.model):
        if metadata(one).get("checkpoint"):
            settings["model"][one.name] = source_digest(arguments.model, one.name)
    return json.loads(json.dumps(settings, default=str))


def source_digest(arguments: ModelArguments, name: str) -> str | None:
    """Returns the SHA-256 of the weights and config that the setting `name` points at; `None` where it is not given.

    Raises:
        CheckpointError: the checkpoint has no weights.
    """
    value = getattr(arguments, name)
    if value is None:
        return None
    return _digest_of_checkpoint(resolve_encoder(value) if name == "encoder" else str(Path(value).expanduser()))


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
        data: what the run is told from others by besides its settings, by name.

    Raises:
        CheckpointError: the run there has other settings, or other data.
    """
    settings = {**dependencies(arguments), "data": dict(data)}
    noted = folder / SETTINGS
    if noted.is_file():
        _check_same(json.loads(noted.read_text(encoding="utf-8")), settings, folder)
        return
    with replacing(noted) as path:
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _check_same(noted: dict[str, dict], settings: dict[str, dict], folder: Path) -> None:
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

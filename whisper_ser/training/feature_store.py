"""The feature store: the frozen encoder run once over a corpus, its states kept on disk for every training after.

A store is a folder for each encoder layer, named after what its states depend on: the weights up to that layer, the
front end and the context. In it lie shards, safetensors files of float16 states `(frames, width)` named by the hash of
the audio they are of. A shard is named by its own SHA-256 and renamed into place when it is whole: what is there can
be checked, any number of processes may fill one store, and work that was interrupted goes on. The altered copies
of one number lie in a folder of their own within each layer's, so that neither disturbs the shards of the other.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.numpy import save
from tqdm import tqdm
from transformers.utils import logging

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.audio.log_mel import FRAMES_PER_SECOND
from whisper_ser.data.audio_index import AudioRecord
from whisper_ser.errors import FeatureStoreError
from whisper_ser.inference.frozen_encoder import FrozenEncoder
from whisper_ser.inference.memory import trim_memory
from whisper_ser.io import replacing
from whisper_ser.training.augmented_views import AugmentedView

logger = logging.get_logger(__name__)

BATCH_SECONDS = 60.0
"""Audio encoded at a time."""
SHARD_SECONDS = 600.0
"""Audio in a shard: what an interruption costs at most, and what is held in memory before it is written."""
FORMAT = 1
"""Raised when states are computed or kept otherwise than before."""


class Place(NamedTuple):
    """Where the states of one utterance and layer lie."""

    file: str
    offset: int
    frames: int


@dataclass(frozen=True)
class Features:
    """The stored states of a corpus. Nothing of them is held in memory: a read is one read of a file.

    Attributes:
        layers: encoder layers, from 1, ascending.
        width: of the encoder.
        keys: what each path is stored under.
        places: for each layer, where the states of each key lie.
    """

    layers: tuple[int, ...]
    width: int
    keys: Mapping[str, str]
    places: Mapping[int, Mapping[str, Place]]

    def read(self, path: str) -> torch.Tensor:
        """Returns the states `(layers, frames, width)` of the utterance at `path`, float16.

        Raises:
            FeatureStoreError: the store was changed or removed meanwhile.
        """
        key = self.keys[path]
        states = [self._read(self.places[layer][key]) for layer in self.layers]
        return states[0].unsqueeze(0) if len(states) == 1 else torch.stack(states)

    def of_layers(self, layers: Sequence[int]) -> "Features":
        """Returns the features of some of the layers."""
        return replace(self, layers=tuple(layers))

    def frames(self, path: str) -> int:
        """Returns how many frames the utterance at `path` has."""
        return self.places[self.layers[0]][self.keys[path]].frames

    def _read(self, place: Place) -> torch.Tensor:
        count = place.frames * self.width
        try:
            states = np.fromfile(place.file, dtype=np.float16, count=count, offset=place.offset)
        except OSError as error:
            raise FeatureStoreError(f"{place.file} cannot be read any more ({error}). {_START_AGAIN}") from error
        if len(states) != count:
            raise FeatureStoreError(f"{place.file} is shorter than it was. {_START_AGAIN}")
        return torch.from_numpy(states).view(place.frames, self.width)


_START_AGAIN = "Start the same command again: what is missing in the feature store is encoded anew."


class Plan(NamedTuple):
    """What filling a store takes.

    Attributes:
        shards: utterances to be encoded together, as batches of paths; all of the corpus, stored or not.
        missing: numbers of the shards of which something is not stored.
        bytes: to be written, about.
        places: where each key lies that is stored, for each layer.
    """

    shards: list[list[list[str]]]
    missing: list[int]
    bytes: int
    places: dict[int, dict[str, Place]]


def store_folders(
    folder: Path, model: WhisperForEmotionClassification, extractor: WhisperSerFeatureExtractor, layers: Sequence[int]
) -> dict[int, Path]:
    """Returns the folder of each layer below `folder`."""
    config, encoder = model.config, model.whisper_ser.encoder
    context = {
        "format": FORMAT,
        "engine": "onnxruntime" if PartialState().device.type == "cpu" else "torch",
        "front_end": {name: getattr(extractor, name) for name in ("feature_size", "sampling_rate", "n_fft")}
        | {"hop_length": extractor.hop_length, "pad_to_seconds": extractor.pad_to_seconds},
        "chunk_frames": config.chunk_frames,
        "frame_averaging": config.frame_averaging,
        "heads": config.encoder_config.encoder_attention_heads,
    }
    digest = hashlib.sha256(json.dumps(context, sort_keys=True).encode())
    for below in (encoder.conv1, encoder.conv2, encoder.embed_positions):
        _digest(digest, below)
    folders = {}
    for layer, module in enumerate(encoder.layers, start=1):
        _digest(digest, module)
        of_layer = digest.copy()
        if layer == len(encoder.layers) and encoder.layer_norm is not None:
            _digest(of_layer, encoder.layer_norm)
        if layer in layers:
            width, total = config.encoder_config.d_model, config.encoder_config.encoder_layers
            folders[layer] = folder / f"whisper{width}-layer{layer}of{total}-{of_layer.hexdigest()[:16]}"
    return folders


def _digest(digest: "hashlib._Hash", module: torch.nn.Module) -> None:
    """Adds names, shapes and values of a module's weights to a digest."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)


def plan(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    folders: Mapping[int, Path],
    records: Mapping[str, AudioRecord],
) -> Plan:
    """Returns what is to be encoded; checks the shards that are there, and removes those that are damaged."""
    places = {layer: _scan(folder) for layer, folder in folders.items()}
    stored = set.intersection(*(set(of_layer) for of_layer in places.values()))
    seconds_of = {path: extractor.pad_to_seconds or record.seconds for path, record in records.items()}
    shards = list(_shards(list(records.values()), seconds_of))
    missing = [
        number
        for number, batches in enumerate(shards)
        if any(records[path].sample_hash not in stored for batch in batches for path in batch)
    ]
    seconds = sum(seconds_of[path] for number in missing for batch in shards[number] for path in batch)
    frames = seconds * FRAMES_PER_SECOND / model.config.frame_averaging
    size = round(frames * model.config.encoder_config.d_model * 2) * len(folders)
    return Plan(shards, missing, size, places)


def fill(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    records: Mapping[str, AudioRecord],
    folder: Path,
    layers: Sequence[int] | None = None,
    copy: AugmentedView | None = None,
) -> Features:
    """Returns the states of all files, or of their altered copies, after encoding what the store in `folder` lacks.

    All layers are encoded in one pass. Under several processes, of one or many machines that share `folder`, each
    encodes its share of the shards. Batches are composed of the whole corpus, whatever is missing and whoever encodes
    it.

    Args:
        model: whose encoder reaches the highest of `layers`; by default those it reads.
        records: of `whisper_ser.data.audio_index.index_audio`.
        copy: which copy of each file is encoded in its place; it is found by the path of the file.

    Raises:
        FeatureStoreError: the folder cannot be written, there is no room, or states do not fit into float16.
    """
    process = PartialState()
    layers = tuple(layers or model.config.layer_indices)
    folders = store_folders(folder, model, extractor, layers)
    if copy:
        folders = {layer: of_layer / copy.name for layer, of_layer in folders.items()}
        records = {path: copy.of(record) for path, record in records.items()}
    width = model.config.encoder_config.d_model
    todo = plan(model, extractor, folders, records)
    if todo.missing:
        _check_room(folder, todo.bytes)
    mine = todo.missing[process.process_index :: process.num_processes]
    files = sum(len(batch) for number in mine for batch in todo.shards[number])
    shown = files and process.is_main_process
    what = f"encoding copy {copy.number}" if copy else "encoding"
    with tqdm(total=files, desc=what, unit="file", leave=False, disable=not shown) as progress:
        encoder: Any = FrozenEncoder(model.to(process.device), extractor, layers) if mine else None
        for number in mine:
            assert encoder is not None
            shard: list[dict[str, np.ndarray]] = [{} for _ in layers]
            for batch in todo.shards[number]:
                rate = extractor.sampling_rate
                audio = {path: copy.read(records[path], rate) if copy else read_audio(path, rate) for path in batch}
                for path, states in _encode(audio, encoder).items():
                    for of_layer, state in zip(shard, states, strict=True):
                        of_layer[records[path].sample_hash] = state
                progress.update(len(batch))
            for layer, of_layer in zip(layers, shard, strict=True):
                _write_shard(folders[layer], of_layer)
    if mine:
        del encoder
        trim_memory()
    process.wait_for_everyone()
    places = {layer: _scan(of_layer) for layer, of_layer in folders.items()} if todo.missing else todo.places
    keys = {path: record.sample_hash for path, record in records.items()}
    if not all({*keys.values()} <= of_layer.keys() for of_layer in places.values()):
        raise FeatureStoreError(f"The feature store {folder} was changed while it was being filled. {_START_AGAIN}")
    return Features(layers, width, keys, places)


def _encode(audio: Mapping[str, np.ndarray], encoder: FrozenEncoder) -> dict[str, np.ndarray]:
    """Returns the states `(layers, frames, width)` of each path's audio, float16."""
    with np.errstate(over="ignore"):
        halves = [states.astype(np.float16) for states in encoder.states(list(audio.values()))]
    if not all(np.isfinite(states).all() for states in halves):
        raise FeatureStoreError(f"The encoder's states of one of {', '.join(audio)} do not fit into float16.")
    return dict(zip(audio, halves, strict=True))


def _shards(records: list[AudioRecord], seconds_of: Mapping[str, float]) -> Iterator[list[list[str]]]:
    """Yields batches of files of like length, at most `BATCH_SECONDS` with padding or one long file, by the shard.

    `seconds_of` are those that are encoded of each path.
    """
    shard: list[list[str]] = []
    batch: list[str] = []
    seconds = 0.0
    for record in sorted(records, key=lambda record: (record.seconds, record.sample_hash, record.path)):
        if batch and (len(batch) + 1) * seconds_of[record.path] > BATCH_SECONDS:
            shard.append(batch)
            batch = []
            if seconds > SHARD_SECONDS:
                yield shard
                shard, seconds = [], 0.0
        batch.append(record.path)
        seconds += seconds_of[record.path]
    if batch:
        yield [*shard, batch]


def _write_shard(folder: Path, states: dict[str, np.ndarray]) -> None:
    content = save(states)
    try:
        with replacing(folder / f"{hashlib.sha256(content).hexdigest()}.safetensors") as path:
            path.write_bytes(content)
    except OSError as error:
        raise FeatureStoreError(
            f"The feature store {folder} cannot be written ({error.strerror or error}). Give another --feature_dir, "
            "or make room; what is stored stays good."
        ) from error


def _scan(folder: Path) -> dict[str, Place]:
    """Returns where each key lies, checking every shard; under several processes each checks its share."""
    process = PartialState()
    files = sorted(folder.glob("*.safetensors"))
    found = [_index(file) for file in files[process.process_index :: process.num_processes]]
    places: dict[str, Place] = {}
    for index in gather_object(found):
        places.update(index)
    return places


def _index(file: Path) -> dict[str, Place]:
    """Returns where each key of a shard lies; nothing of a shard that is not what its name says, which is removed."""
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            if digest != file.stem:
                logger.warning(f"{file} is damaged and removed; its utterances are encoded anew.")
                file.unlink(missing_ok=True)
                return {}
            content.seek(0)
            size = int.from_bytes(content.read(8), "little")
            header = json.loads(content.read(size))
    except FileNotFoundError:
        return {}
    return {
        key: Place(str(file), 8 + size + tensor["data_offsets"][0], tensor["shape"][0])
        for key, tensor in header.items()
        if key != "__metadata__"
    }


def _check_room(folder: Path, needed: int) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise FeatureStoreError(
            f"The feature store {folder} cannot be written ({error.strerror or error}). Give another --feature_dir."
        ) from error
    if needed > free:
        raise FeatureStoreError(
            f"The feature store {folder} needs about {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free. "
            "Give another --feature_dir, or fewer layers."
        )

"""The feature store: the frozen encoder run once over a corpus, its states kept on disk for every training after.

A store is a folder for each encoder layer, named after what its states depend on: the weights up to that layer, the
front end and the context. In it lie shards, safetensors files of float16 states `(frames, width)` named by the hash of
the audio they are of. A shard is named by its own SHA-256 and renamed into place when it is whole: what is there can
be checked, any number of processes may fill one store, and work that was interrupted goes on. Augmented
views lie in folders of their own within each layer's, so that neither disturbs the shards of the other.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

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

    def _read(self, place: Place) -> torch.Tensor:
        count = place.frames * self.width
        try:
            states = np.fromfile(place.file, dtype=np.float16, count=count, offset=place.offset)
        except OSError as error:
            raise FeatureStoreError(f"{place.file} cannot be read any more ({error}). {_START_AGAIN}") from error
        if len(states) != count:
            raise FeatureStoreError(f"{place.file} is shorter than it was. {_START_AGAIN}")
        return torch.from_numpy(states).view(place.frames, self.width)


_START_AGAIN = "Start the same command again: what is missing in the feature store is encoded again."


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


def fill(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    records: Mapping[str, AudioRecord],
    folder: Path,
    layers: Sequence[int] | None = None,
    view: AugmentedView | None = None,
) -> Features:
    """Returns the states of all files, or of a view of each, after encoding what the store in `folder` lacks.

    All layers are encoded in one pass. Under several processes, of one or many machines that share `folder`, each
    encodes its share of the shards. Batches are made of the whole corpus, whatever is missing: states do not depend on
    it. Damaged shards are removed.

    Args:
        model: whose encoder reaches the highest of `layers`; by default those it reads.
        records: of `whisper_ser.data.audio_index.index_audio`.
        view: of each file, encoded in its place and found by the path of the file.

    Raises:
        FeatureStoreError: the folder cannot be written, there is no room, or states do not fit into float16.
    """
    layers = tuple(layers or model.config.layer_indices)
    folders = store_folders(folder, model, extractor, layers)
    if view:
        folders = {layer: of_layer / view.name for layer, of_layer in folders.items()}
        records = {path: view.of(record) for path, record in records.items()}
    places = {layer: _scan(of_layer) for layer, of_layer in folders.items()}
    stored = set.intersection(*(set(of_layer) for of_layer in places.values()))
    seconds_of = {path: extractor.pad_to_seconds or record.seconds for path, record in records.items()}
    missing = [
        shard
        for shard in _shards(list(records.values()), seconds_of)
        if not {records[path].sample_hash for batch in shard for path in batch} <= stored
    ]
    width = model.config.encoder_config.d_model
    if missing:
        seconds = sum(seconds_of[path] for shard in missing for batch in shard for path in batch)
        frames = seconds * FRAMES_PER_SECOND / model.config.frame_averaging
        _check_room(folder, round(frames * width * 2) * len(folders))
        _encode(model, extractor, records, folders, missing, view)
        places = {layer: _scan(of_layer) for layer, of_layer in folders.items()}
    keys = {path: record.sample_hash for path, record in records.items()}
    if not all({*keys.values()} <= of_layer.keys() for of_layer in places.values()):
        raise FeatureStoreError(f"The feature store {folder} was changed while it was being filled. {_START_AGAIN}")
    return Features(layers, width, keys, places)


def _encode(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    records: Mapping[str, AudioRecord],
    folders: Mapping[int, Path],
    shards: Sequence[list[list[str]]],
    view: AugmentedView | None,
) -> None:
    """Encodes and writes this process's share of the shards, which are batches of paths; waits for the others."""
    process = PartialState()
    mine = shards[process.process_index :: process.num_processes]
    rate, files = extractor.sampling_rate, sum(len(batch) for shard in mine for batch in shard)
    what, hidden = f"encoding view {view.number}" if view else "encoding", not process.is_main_process
    if mine:
        encoder = FrozenEncoder(model.to(process.device), extractor, tuple(folders))
        with tqdm(total=files, desc=what, unit="file", leave=False, disable=hidden) as progress:
            for shard in mine:
                states: list[dict[str, np.ndarray]] = [{} for _ in folders]
                for batch in shard:
                    audio = [view.read(records[path], rate) if view else read_audio(path, rate) for path in batch]
                    with np.errstate(over="ignore"):
                        halves = [of_path.astype(np.float16) for of_path in encoder.states(audio)]
                    if not all(np.isfinite(of_path).all() for of_path in halves):
                        raise FeatureStoreError(
                            f"The encoder's states of one of {', '.join(batch)} do not fit into float16."
                        )
                    for path, of_path in zip(batch, halves, strict=True):
                        for of_layer, state in zip(states, of_path, strict=True):
                            of_layer[records[path].sample_hash] = state
                    progress.update(len(batch))
                for place, content in zip(folders.values(), states, strict=True):
                    _write_shard(place, content)
        del encoder
        trim_memory()
    process.wait_for_everyone()


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


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A problem of the file system inside is a `FeatureStoreError`."""
    try:
        yield
    except OSError as error:
        raise FeatureStoreError(
            f"The feature store {folder} cannot be written ({error.strerror or error}). Give another --feature_dir, "
            "or make room; what is stored stays good."
        ) from error


def _write_shard(folder: Path, states: dict[str, np.ndarray]) -> None:
    content = save(states)
    with _writing(folder), replacing(folder / f"{hashlib.sha256(content).hexdigest()}.safetensors") as path:
        path.write_bytes(content)


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
                logger.warning(f"{file} is damaged and removed; its utterances are encoded again.")
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
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise FeatureStoreError(
            f"The feature store {folder} needs about {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free. "
            "Give another --feature_dir, or fewer layers."
        )

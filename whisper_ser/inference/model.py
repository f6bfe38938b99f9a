"""Saved models, loaded for use: on ONNX Runtime on a CPU, with torch on an accelerator, or an exported file.

Neither torch nor transformers is imported for a model on a CPU whose graphs are there.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_ser.audio.log_mel import FRAMES_PER_SECOND, LogMel
from whisper_ser.errors import CheckpointError, InferenceError, WhisperSerError, user_errors
from whisper_ser.inference.encoding import encode, encoder_frames
from whisper_ser.inference.engines import Engine
from whisper_ser.inference.engines.exported import ExportedModel, is_exported
from whisper_ser.inference.engines.graphs import FOLDER as GRAPH_FOLDER
from whisper_ser.inference.engines.graphs import find_graphs, find_int8_encoder
from whisper_ser.inference.engines.onnx_engine import OnnxEngine
from whisper_ser.inference.reference_output import (
    REFERENCE_OUTPUT,
    WEIGHTS,
    check_as_saved,
    check_marker,
    compute_probabilities,
    read_reference_output,
    set_marker,
)
from whisper_ser.inference.reference_waveform import (
    INT8_LIMIT,
    NOT_AS_SAVED,
    TOLERANCES,
    VOICES,
    WRONG_INTEGERS,
    check_probabilities,
    describe_waveform,
    waveform,
)
from whisper_ser.io import file_sha256, read_tensors

if TYPE_CHECKING:
    from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor

MODEL_TYPE = "whisper_ser"
PRECISIONS = tuple(TOLERANCES)
DEFAULTS: dict[str, Any] = {
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "chunk_seconds": 4.0,
    "frame_averaging": 1,
    "temperature": 1.0,
}
"""Of `WhisperSerConfig`: a saved `config.json` lacks what is as by default."""
DEVICE_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA's and AMD's drivers on Linux, and of Windows' in WSL: without any there is no GPU to ask torch about."""


@dataclass(frozen=True)
class Settings:
    """Settings of a model that its use needs.

    Args:
        labels: in the order of the probabilities.
        log_mel: the front end.
        chunk_frames: encoder frames of a chunk at most.
        frame_averaging: encoder frames that make one frame vector.
        temperature: of the probabilities.
    """

    labels: list[str]
    log_mel: LogMel
    chunk_frames: int
    frame_averaging: int
    temperature: float

    @classmethod
    def of(cls, config: Mapping[str, Any], front_end: Mapping[str, Any]) -> "Settings":
        """Returns the settings in the contents of `config.json` and `preprocessor_config.json`.

        Raises:
            InferenceError: a field is missing, or has a value that cannot be.
        """
        try:
            config = {**DEFAULTS, **config}
            labels = [str(label) for _, label in sorted((int(i), label) for i, label in config["id2label"].items())]
            whole = {name: int(front_end[name]) for name in ("feature_size", "sampling_rate", "hop_length", "n_fft")}
            log_mel = LogMel(**whole, pad_to_seconds=front_end.get("pad_to_seconds"))
            chunk_frames = round(config["chunk_seconds"] * FRAMES_PER_SECOND)
            found = cls(labels, log_mel, chunk_frames, int(config["frame_averaging"]), float(config["temperature"]))
            usable = labels and min(chunk_frames, found.frame_averaging, log_mel.hop_length) >= 1
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InferenceError(f"The settings of the model are damaged ({error!r}): download it again.") from error
        if not usable or not found.temperature > 0:
            raise InferenceError("The settings of the model cannot be: download it again.")
        return found


class LoadedModel:
    """A trained model, ready for use.

    A frame vector `(frame_width,)` is what the pooling reads of one encoder frame. Whatever is pooled over - a file,
    a window, a segment - is pooled over these vectors, after one pass of the encoder.

    Args:
        name: of the model, for messages.
        settings: of the model.
        engine: what runs it.
        identity: SHA-256 of all that its output depends on.
    """

    def __init__(self, name: str, settings: Settings, engine: Engine, identity: str) -> None:
        self.name = name
        self.settings = settings
        self.engine = engine
        self.identity = identity

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the probabilities."""
        return self.settings.labels

    @property
    def sampling_rate(self) -> int:
        """Hertz of the audio that the model reads."""
        return self.settings.log_mel.sampling_rate

    @property
    def frame_width(self) -> int:
        """Width of a frame vector."""
        return self.engine.frame_width

    def probabilities(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `(clips, labels)` for mono clips `(samples,)` at `sampling_rate`, run together.

        They are what the stock `pipeline("audio-classification")` gives.
        """
        vectors = self.frame_vectors([self.settings.log_mel(clip) for clip in clips])
        return self.pool(np.concatenate(vectors), [len(of_clip) for of_clip in vectors])

    def frame_vectors(self, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the frame vectors `(frames, frame_width)` of the log-mel `(mel_frames, mels)` of each clip.

        Encoder states pass by: memory is bounded, however long a clip is.
        """
        averaging = self.settings.frame_averaging
        counts = [-(-encoder_frames(len(mel)) // averaging) for mel in mels]
        vectors = [np.empty((count, self.frame_width), np.float32) for count in counts]
        filled = [0] * len(mels)
        for stretches in encode(mels, self.engine, self.settings.chunk_frames, averaging):
            found = self.engine.frame_vectors(np.concatenate([states for _, states in stretches], axis=1))
            begin = 0
            for clip, states in stretches:
                frames = states.shape[1]
                vectors[clip][filled[clip] : filled[clip] + frames] = found[begin : begin + frames]
                filled[clip] += frames
                begin += frames
        return vectors

    def pool(self, vectors: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """Returns probabilities `(batch, labels)` of joined frame vectors `(frames, frame_width)`, `counts` each."""
        return self._finite(self.engine.pool(vectors, counts)[0])

    def attend(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns probabilities `(labels,)` of one clip's frame vectors, and attention `(heads, frames)` if any."""
        probabilities, attention = self.engine.pool(vectors, [len(vectors)])
        return self._finite(probabilities)[0], None if attention is None else attention[0]

    def _finite(self, probabilities: np.ndarray) -> np.ndarray:
        if not np.isfinite(probabilities).all():
            raise InferenceError(
                f"The answer of {self.name} is not a number: its weights are damaged, or too large for half "
                "precision. Check it: whisper-ser verify MODEL."
            )
        return probabilities


def load_model(
    model: str | os.PathLike | LoadedModel | ExportedModel, device: Any = None, precision: str | None = None
) -> LoadedModel | ExportedModel:
    """Returns the model saved in a folder or on the Hub, or an exported file, ready for use.

    Only weights and settings are read; no code of the folder runs. `HF_HUB_OFFLINE=1` keeps to what is on this
    machine. What runs on a CPU is checked the first time on each machine: in float32, it must give the model's
    reference output within 1e-4, or, for a folder without one, what the plain model gives in torch; in int8, within
    0.02, what its integers give when they are multiplied as floats.

    Args:
        model: a folder that training wrote, a Hub id, or a file that `whisper-ser export onnx` wrote. What was loaded
            before is returned as it is.
        device: where it runs, such as `"cpu"` or `"cuda:1"`; left out, on a GPU if there is one.
        precision: `"float32"`, the default, or `"int8"`: an encoder with 8-bit products, faster, on a CPU only. It is
            made the first time that any model with this encoder is loaded in int8, which takes seconds.

    Raises:
        InferenceError: a model of another kind, or a device or precision that it does not have.
        ReferenceOutputError: weights or settings are not those that were saved, or the output is another one here.
        CheckpointError, ExportError: a file is damaged, or the graphs cannot be made here.
        ConfigError, MissingWeightsError, OSError: it is incomplete, or not there.
    """
    if isinstance(model, LoadedModel | ExportedModel):
        return model
    if precision not in (None, *PRECISIONS):
        raise InferenceError(f"precision={precision!r} is not one of {', '.join(map(repr, PRECISIONS))}.")
    on_cpu = str(device).partition(":")[0] == "cpu" or (device is None and not has_accelerator())
    if is_exported(model):
        if precision is not None:
            raise InferenceError(f"{model} was exported in a precision of its own: leave precision out.")
        if device is not None and not on_cpu:
            raise InferenceError(f"{model} runs on a CPU: leave device out, or name the folder of the model.")
        return _exported(model)
    if precision == "int8" and not on_cpu:
        raise InferenceError("precision='int8' is for CPUs: leave it out, or choose device='cpu'.")
    folder = local_folder(os.path.expanduser(os.fspath(model)))
    name = os.fspath(model)
    with _explain_damage(name):
        return _on_cpu(name, folder, precision or "float32") if on_cpu else _with_torch(name, folder, device)


def load_frame_model(
    model: str | os.PathLike | LoadedModel | ExportedModel, device: Any = None, precision: str | None = None
) -> LoadedModel:
    """As `load_model`, for timelines and attention; an exported model, which has no frame vectors, is an error."""
    loaded = load_model(model, device, precision)
    if isinstance(loaded, ExportedModel):
        raise InferenceError(
            f"{loaded.path} is an exported model, for whole recordings only: name the folder of the model."
        )
    return loaded


def model_of(
    model: "WhisperForEmotionClassification", extractor: "WhisperSerFeatureExtractor", name: str = "The model"
) -> LoadedModel:
    """Returns a model of torch, ready for use where it is: on ONNX Runtime on a CPU, else with torch."""
    config = json.loads(model.config.to_json_string())
    weights = torch_weights(model)
    settings = settings_of(model, extractor)
    digest = hashlib.sha256(json.dumps([config, json.loads(extractor.to_json_string())], sort_keys=True).encode())
    for tensor_name, tensor in sorted(weights.items()):
        digest.update(f"{tensor_name}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    engine: Engine
    if model.device.type == "cpu":
        engine = OnnxEngine(find_graphs(config), weights, settings.temperature)
    else:
        from whisper_ser.inference.engines.torch_engine import TorchEngine

        engine = TorchEngine(model)
    return LoadedModel(name, settings, engine, digest.hexdigest())


def settings_of(model: "WhisperForEmotionClassification", extractor: "WhisperSerFeatureExtractor") -> Settings:
    """Returns the settings of a model of torch."""
    return Settings.of(*(json.loads(part.to_json_string()) for part in (model.config, extractor)))


def torch_weights(module: Any) -> dict[str, np.ndarray]:
    """Returns weights and buffers of a module of torch by name, float32; those in float32 on a CPU are not copied."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in named.items()}


def load_saved(
    name_or_path: str | os.PathLike, **fields: Any
) -> tuple["WhisperForEmotionClassification", "WhisperSerFeatureExtractor"]:
    """Returns the model of torch saved in a folder or on the Hub, and the extractor that feeds it.

    Where a folder has a reference output, its weights and settings must be those that were saved with it.

    Args:
        name_or_path: a folder that training wrote, or a Hub id.
        **fields: of `WhisperSerConfig` that are set anew.

    Raises:
        InferenceError: the model is of another kind.
        ReferenceOutputError: weights or settings are not those that were saved.
        CheckpointError: a file is damaged.
        ConfigError, MissingWeightsError, OSError: settings that cannot work, weights that are missing, nothing there.
    """
    from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor

    name = os.path.expanduser(os.fspath(name_or_path))
    with _explain_damage(name):
        _check_kind(name, WhisperSerConfig.get_config_dict(name)[0])
        if Path(name).is_dir():
            check_as_saved(Path(name))
        with _no_progress_bar():
            model = WhisperForEmotionClassification.from_pretrained(name, **fields)
        return model, WhisperSerFeatureExtractor.from_pretrained(name)


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers' bar for the weights, which takes longer to read than they take to load, off the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def local_folder(name: str) -> Path:
    """Returns the folder of a model, downloaded if it is a Hub id: settings, weights and graphs, no code.

    Raises:
        InferenceError: the model is of another kind.
        CheckpointError: there is no such folder, and the Hub has no such model or cannot be reached.
    """
    if os.path.isdir(name):
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        # Settings first: weights of another kind of model may be large.
        folder = Path(snapshot_download(name, allow_patterns=["config.json"]))
        if (folder / "config.json").is_file():
            _check_kind(name, _read_json(folder / "config.json"))
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", f"{GRAPH_FOLDER}/*.onnx"]))
    except WhisperSerError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"There is no folder {name}, and the Hub does not give a model of that name ({type(error).__name__}: "
            f"{reason}). Give a folder that training wrote, or a Hub id such as user/name."
        ) from error


def _exported(file: str | os.PathLike) -> ExportedModel:
    """Returns an exported model, checked against its reference output once on each machine."""
    exported = ExportedModel(file)
    marker = check_marker([exported.identity])
    if not marker.is_file():
        exported.verify()
        set_marker(marker)
    return exported


def _on_cpu(name: str, folder: Path, precision: str) -> LoadedModel:
    """Returns the model on ONNX Runtime, checked against its reference output once on each machine."""
    config = _read_json(folder / "config.json")
    _check_kind(name, config)
    hashes = check_as_saved(folder)
    settings = Settings.of(config, _read_json(folder / "preprocessor_config.json"))
    identity = _hash_of(hashes if precision == "float32" else hashes | {"precision": precision})
    weights: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob(WEIGHTS)):
        weights |= read_tensors(file)
    if not weights:
        raise CheckpointError(
            f"{name} has no weights (model.safetensors): download or save the model again. Pickles, such as "
            "pytorch_model.bin, are not read."
        )
    known = [file_sha256(file) for file in [folder / REFERENCE_OUTPUT] if file.is_file()]
    reference: Mapping[str, Any] = {}
    # A graph may be damaged, or not what its name says: it is never trusted, but taken elsewhere, or made anew.
    for source in ({"folder": folder}, {}, {"anew": True}):
        graphs = find_graphs(config, **source)
        try:
            if precision == "int8":
                anew = "anew" in source
                graphs["encoder"] = find_int8_encoder(graphs["encoder"], weights, settings.log_mel, anew)
            parts = graphs, weights, settings.temperature, precision
            model = LoadedModel(name, settings, OnnxEngine(*parts), identity)
            marker = check_marker([identity, *map(file_sha256, graphs.values()), *known])
            if not marker.is_file():
                reference = reference or _reference_output(folder)
                if precision == "int8":
                    exact = LoadedModel(name, settings, OnnxEngine(*parts, exact=True), identity)
                    _check_int8(model, exact, reference)
                else:
                    _check(model, reference, TOLERANCES[precision])
                set_marker(marker)
            break
        except (CheckpointError, InferenceError):
            raise
        except Exception:  # ONNX Runtime's have no common type
            if "anew" in source:
                raise
    return model


def _with_torch(name: str, folder: Path, device: Any) -> LoadedModel:
    import torch

    model, extractor = load_saved(folder)
    placed: Any = model
    loaded = model_of(placed.to(torch.device(device or "cuda")), extractor, name)
    # Of the files, as on a CPU: work that was begun there goes on here.
    return LoadedModel(name, loaded.settings, loaded.engine, _hash_of(check_as_saved(folder)))


def has_accelerator() -> bool:
    """Whether torch can use a GPU; torch is imported only where there may be one."""
    if not any(glob.glob(file) for file in DEVICE_FILES) and shutil.which("nvidia-smi") is None:
        return False
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _reference_output(folder: Path) -> dict[str, Any]:
    """Returns the reference output of a saved model; for one that has none, that of the plain model here."""
    if (folder / REFERENCE_OUTPUT).is_file():
        return read_reference_output(folder)
    print(
        f"whisper-ser: {folder} has no {REFERENCE_OUTPUT}: checking its answers against those of the plain model.",
        file=sys.stderr,
        flush=True,
    )
    try:
        model, extractor = load_saved(folder)
    except ImportError as error:
        raise CheckpointError(
            f"{folder} has no {REFERENCE_OUTPUT} to be checked against, and checking it without needs the package "
            f"{error.name}: install it, or take a folder that training wrote."
        ) from error
    description = describe_waveform(VOICES[0], extractor.sampling_rate)
    return {
        "waveform": description,
        "probabilities": compute_probabilities(model.float(), extractor, waveform(description)),
    }


def _check(
    model: LoadedModel, reference: Mapping[str, Any], tolerance: float, problem: str = NOT_AS_SAVED
) -> dict[str, float]:
    """Returns what the model gives for the reference waveform; raises `ReferenceOutputError` if it is off."""
    (found,) = model.probabilities([waveform(reference["waveform"])])
    probabilities = dict(zip(model.labels, found.tolist(), strict=True))
    check_probabilities(probabilities, {**reference, "tolerance": tolerance}, model.name, problem)
    return probabilities


def _check_int8(model: LoadedModel, exact: LoadedModel, reference: Mapping[str, Any]) -> None:
    """Raises `ReferenceOutputError` where integers are multiplied wrongly, or are too coarse for the model.

    Args:
        model, exact: with integer products, and with products of the floats that the integers stand for.
    """
    expected = _check(exact, reference, INT8_LIMIT, "8-bit integers are too coarse for this model: use float32.")
    _check(model, {**reference, "probabilities": expected}, TOLERANCES["int8"], WRONG_INTEGERS)


def _hash_of(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _check_kind(name: str, config: Any) -> None:
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != MODEL_TYPE:
        raise InferenceError(
            f"{name} is a {kind!r} model, expected {MODEL_TYPE!r}: give a model that run_train.py wrote, or its Hub "
            "id."
        )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _explain_damage(name: str) -> Iterator[None]:
    """Raises `CheckpointError` for the errors, of many types, that libraries raise for damaged files."""
    try:
        yield
    except Exception as error:
        if isinstance(error, user_errors()):
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{name} cannot be loaded, a file of it is damaged or of something else ({type(error).__name__}: "
            f"{reason}). Fetch or save the model again."
        ) from error

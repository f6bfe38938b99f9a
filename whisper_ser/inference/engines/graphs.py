"""Where the graphs of a model lie: beside its weights, else in the cache, for which they are made once.

A float32 graph holds no weights and follows from a model's architecture alone, whose hash is in its name: many models
of one architecture share their graphs. An int8 encoder holds its weights, and the models of one encoder share it.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from whisper_ser.audio.log_mel import LogMel
from whisper_ser.errors import ExportError, InferenceError
from whisper_ser.io import cache_folder, file_sha256, replacing

FOLDER = "onnx"
"""Of a saved model's graphs, beside its weights."""
GRAPHS = ("encoder", "frame_vectors", "pooling")
VERSION = 1
"""Raised when graphs are made otherwise than before."""
ENCODER_PREFIX = "whisper_ser.encoder."
"""Of the names of the encoder's weights."""

ENCODER_FIELDS = (
    "activation_function",
    "d_model",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "encoder_layers",
    "max_source_positions",
    "num_mel_bins",
)
"""Of `encoder_config`, those that change a graph. A saved config lacks those that are as by default."""
HEAD_FIELDS = (
    "layer_mixing",
    "d_model",
    "pooling_type",
    "num_pooling_heads",
    "pooling_head_dim",
    "pooling_queries",
    "pooling_statistics",
    "score_activation",
    "scale_scores",
    "layer_norm_after_pooling",
    "channel_standardisation",
    "ensemble",
)
"""Of `config.json`, those that change the graphs of the head."""


def find_graphs(
    config: Mapping[str, Any], folder: Path | None = None, names: Sequence[str] = GRAPHS, anew: bool = False
) -> dict[str, Path]:
    """Returns the file of each graph of a model; what is not there is made first, for which torch is imported.

    Args:
        config: content of `config.json`.
        folder: of the saved model, which may hold its graphs.
        names: of the graphs wanted.
        anew: makes them, whatever is there.

    Raises:
        InferenceError: a package that making graphs needs is not installed.
        ExportError: a file cannot be written.
        ConfigError: settings that cannot be.
    """
    files = {}
    for name in names:
        file = f"{name}-{graph_key(name, config)[:16]}.onnx"
        cached = cache_folder() / "graphs" / file
        saved = [] if anew or folder is None else [folder / FOLDER / file]
        there = [path for path in [*saved, cached] if path.is_file() and not anew]
        if not there:
            _make(name, config, cached)
        files[name] = there[0] if there else cached
    return files


def graph_key(name: str, config: Mapping[str, Any]) -> str:
    """Returns the hash of what a graph follows from."""
    encoder = config.get("encoder_config") or {}
    fields = {field: encoder.get(field) for field in ENCODER_FIELDS}
    fields |= {field: config.get(field) for field in ("layer_index", "layer_indices")}
    if name != "encoder":
        fields["head"] = {field: config.get(field) for field in HEAD_FIELDS}
        fields["labels"] = len(config.get("id2label") or {})
    content = json.dumps([VERSION, name, fields], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def write_graphs(folder: Path) -> None:
    """Writes the graphs of the model saved in `folder` beside its weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with replacing(folder / FOLDER) as written:
        written.mkdir()
        for file in find_graphs(config).values():
            shutil.copyfile(file, written / file.name)


def find_int8_encoder(graph: Path, weights: Mapping[str, np.ndarray], log_mel: LogMel, anew: bool = False) -> Path:
    """Returns the file of an encoder with 8-bit products in the cache; it is made first where it is not there.

    Args:
        graph: file of the encoder in float32, by the name that `find_graphs` gives it.
        weights: of the model, float32, by name.
        log_mel: its front end, over whose output the ranges of activations are measured.
        anew: makes the file, whatever is there.

    Raises:
        InferenceError: the package onnx is not installed.
        ExportError: the graph cannot be quantised, or the file cannot be written.
    """
    digest = hashlib.sha256(json.dumps([VERSION, graph.name, repr(log_mel)]).encode())
    for name in sorted(weights):
        if name.startswith(ENCODER_PREFIX):
            digest.update(np.ascontiguousarray(weights[name]).data)
    file = cache_folder() / "graphs" / f"encoder-int8-{digest.hexdigest()[:16]}.onnx"
    checksum = file.with_suffix(".sha256")
    whole = file.is_file() and checksum.is_file() and checksum.read_text(encoding="utf-8") == file_sha256(file)
    if anew or not whole:
        int8 = "whisper_ser.inference.engines.int8"
        _write(file, "8-bit encoder", lambda: import_module(int8).quantize_encoder(graph, weights, log_mel))
        checksum.write_text(file_sha256(file), encoding="utf-8")
    return file


def _make(name: str, config: Mapping[str, Any], file: Path) -> None:
    def graph() -> Any:
        config_class = import_module("modeling_whisper_ser").WhisperSerConfig
        graph_export = import_module("whisper_ser.inference.engines.graph_export")
        return graph_export.GRAPHS[name](config_class.from_dict(dict(config)))

    _write(file, f"{name} graph of this architecture", graph)


def _write(file: Path, what: str, make: Callable[[], Any]) -> None:
    """Writes the graph that `make` returns, and says so: it takes seconds, once."""
    print(f"whisper-ser: making the {what}, once.", file=sys.stderr, flush=True)
    try:
        graph = make()
    except ImportError as error:
        raise InferenceError(
            f"The {what} is not in {file.parent} yet, and making it needs the package {error.name}: pip install "
            "whisper-ser with what it depends on, or take a model that was saved with its graphs, in float32, or "
            "exported."
        ) from error
    try:
        with replacing(file) as written:
            written.write_bytes(graph.SerializeToString())
    except OSError as error:
        raise ExportError(
            f"The graph {file} cannot be written ({error.strerror or error}): make room, or name another folder in "
            "WHISPER_SER_CACHE."
        ) from error

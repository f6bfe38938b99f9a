"""Where the graphs of a model lie: beside its weights, else in the cache, for which they are made once.

A graph holds no weights and follows from a model's architecture alone, whose hash is in its name. Whoever trains many
models of one architecture makes their graphs once.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from whisper_ser.errors import ExportError
from whisper_ser.io import cache_folder, replacing

FOLDER = "onnx"
"""Of a saved model's graphs, beside its weights."""
GRAPHS = ("encoder", "frame_vectors", "pooling")
VERSION = 1
"""Raised when graphs are made otherwise than before."""

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
        ExportError: a package that making graphs needs is not installed, or a file cannot be written.
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


def _make(name: str, config: Mapping[str, Any], file: Path) -> None:
    try:
        graph_export = import_module("whisper_ser.inference.engines.graph_export")
        config_class = import_module("modeling_whisper_ser").WhisperSerConfig
        print(f"whisper-ser: making the {name} graph of this architecture, once.", file=sys.stderr, flush=True)
        graph = graph_export.GRAPHS[name](config_class.from_dict(dict(config)))
    except ImportError as error:
        raise ExportError(
            f"This model has no graphs for ONNX Runtime, and making them needs the package {error.name}: pip install "
            "whisper-ser with what it depends on, or take a folder that was saved together with its graphs."
        ) from error
    try:
        with replacing(file) as written:
            written.write_bytes(graph.SerializeToString())
    except OSError as error:
        raise ExportError(
            f"The graph {file} cannot be written ({error.strerror or error}): make room, or name another folder in "
            "WHISPER_SER_CACHE."
        ) from error

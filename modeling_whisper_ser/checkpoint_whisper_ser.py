"""The encoder of any Whisper checkpoint, read tensor by tensor: safetensors as on the Hub, or CTranslate2's file.

The CTranslate2 format is that of every faster-whisper model: little-endian; u32 version; string specification;
u32 revision; u32 variables; then for each a string name, u8 rank, u32 dimensions, u8 type, u32 bytes, and the data.
A string is a u16 length, its terminating zero counted, and its bytes.
"""

import contextlib
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from transformers import WhisperConfig
from transformers.utils import cached_file

SAFETENSORS, SAFETENSORS_INDEX, CTRANSLATE2 = "model.safetensors", "model.safetensors.index.json", "model.bin"
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")
CTRANSLATE2_DTYPES = {0: torch.float32, 4: torch.float16, 5: torch.bfloat16}
CTRANSLATE2_INTEGERS = {1: torch.int8, 2: torch.int16, 3: torch.int32}


class EncoderCheckpointError(OSError):
    """A Whisper checkpoint that is not there, not complete, or not of a kind that can be read."""


class EncoderCheckpoint(NamedTuple):
    """A Whisper encoder on disk: its configuration, and its tensors by their names in Hugging Face's encoder."""

    config: WhisperConfig
    read: Callable[[Iterable[str]], dict[str, torch.Tensor]]


def open_encoder(name_or_path: str | os.PathLike, **hub: Any) -> EncoderCheckpoint:
    """Returns the encoder of a Whisper checkpoint; no weight is read yet, and none of the decoder's ever is.

    Args:
        name_or_path: Hub id, a folder laid out like one, or a CTranslate2 folder (as faster-whisper uses).
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` of the Hub download.

    Raises:
        EncoderCheckpointError: nothing there, no Whisper, no safetensors or CTranslate2 weights, tensors missing.
    """
    name = os.fspath(name_or_path)
    weights = _find(name, SAFETENSORS, hub) or _find(name, SAFETENSORS_INDEX, hub)
    if weights is not None:
        with _damage_in_words(weights):
            return _open_safetensors(name, weights, hub)
    weights = _find(name, CTRANSLATE2, hub)
    if weights is not None:
        with _damage_in_words(weights, "CTranslate2"):
            return _open_ctranslate2(weights)
    raise EncoderCheckpointError(
        f"{name!r} holds none of {SAFETENSORS}, {SAFETENSORS_INDEX} and CTranslate2's {CTRANSLATE2}. Give a Whisper "
        "checkpoint by Hub id, such as openai/whisper-base, or by folder."
    )


@contextlib.contextmanager
def _damage_in_words(path: str, kind: str = "safetensors") -> Iterator[None]:
    """Raises what reading a damaged file raises, in as many types as there are formats, as one error."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise EncoderCheckpointError(
            f"{path} is not a complete {kind} Whisper model, or the config.json beside it is none of one "
            f"({type(error).__name__}: {reason}). PyTorch pickles are not read; convert them to safetensors."
        ) from error


def _find(name: str, filename: str, hub: dict[str, Any]) -> str | None:
    if os.path.isdir(name):
        path = os.path.join(name, filename)
        return path if os.path.isfile(path) else None
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderCheckpointError(f"There is no folder {name!r}.")
    try:
        return cached_file(name, filename, _raise_exceptions_for_missing_entries=False, **hub)
    except OSError as error:
        raise EncoderCheckpointError(f"{name!r} is no folder here and was not had from the Hub: {error}") from error


def _open_safetensors(name: str, weights: str, hub: dict[str, Any]) -> EncoderCheckpoint:
    # Only AutoConfig-style loading downloads; the dict tells the kind before a WhisperConfig is made of it.
    fields, _ = WhisperConfig.get_config_dict(name, **hub)
    if fields.get("model_type") != "whisper":
        raise EncoderCheckpointError(f"{name!r} is a {fields.get('model_type')!r} model, not a Whisper one.")
    files = _files_by_tensor(name, weights, hub)
    prefix = next((key.removesuffix("conv1.weight") for key in files if key.endswith("encoder.conv1.weight")), None)
    if prefix is None:
        raise EncoderCheckpointError(f"{weights} has no Whisper encoder: no tensor ends in encoder.conv1.weight.")

    def read(names: Iterable[str]) -> dict[str, torch.Tensor]:
        tensors = {}
        for tensor in names:
            if prefix + tensor not in files:
                raise EncoderCheckpointError(f"{weights} lacks the tensor {prefix + tensor}: is the file complete?")
            with _damage_in_words(files[prefix + tensor]), safe_open(files[prefix + tensor], "pt") as opened:
                tensors[tensor] = opened.get_tensor(prefix + tensor)
        return tensors

    return EncoderCheckpoint(WhisperConfig(**fields), read)


def _files_by_tensor(name: str, weights: str, hub: dict[str, Any]) -> dict[str, str]:
    """Returns the file that holds each tensor, shards fetched only when they hold some of the encoder."""
    if not weights.endswith(".json"):
        with safe_open(weights, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), weights)
    with open(weights, encoding="utf-8") as opened:
        shard_of = {key: shard for key, shard in json.load(opened)["weight_map"].items() if "encoder." in key}
    if outside := sorted(shard for shard in set(shard_of.values()) if os.path.basename(shard) != shard):
        raise EncoderCheckpointError(f"{weights} names {outside[0]!r}, which does not lie beside it.")
    found = {shard: _find(name, shard, hub) for shard in set(shard_of.values())}
    missing = sorted(shard for shard, path in found.items() if path is None)
    if missing:
        raise EncoderCheckpointError(f"{name!r} lacks {', '.join(missing)}, which {weights} names.")
    return {key: path for key, shard in shard_of.items() if (path := found[shard]) is not None}


class _Variable(NamedTuple):
    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int


def _open_ctranslate2(path: str) -> EncoderCheckpoint:
    variables = _index_ctranslate2(path)
    config = _ctranslate2_config(path, variables)

    def read(names: Iterable[str]) -> dict[str, torch.Tensor]:
        with _damage_in_words(path, "CTranslate2"):
            return {name: _read_ctranslate2(path, variables, name) for name in names}

    return EncoderCheckpoint(config, read)


def _index_ctranslate2(path: str) -> dict[str, _Variable]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        position = 0

        def unpack(layout: str) -> tuple[Any, ...]:
            nonlocal position
            values = struct.unpack_from("<" + layout, data, position)
            position += struct.calcsize("<" + layout)
            return values

        def string() -> str:
            (length,) = unpack("H")
            (raw,) = unpack(f"{length}s")
            return raw.rstrip(b"\0").decode("utf-8")

        unpack("I")
        if string() != "WhisperSpec":
            raise KeyError("WhisperSpec")
        _, count = unpack("II")
        variables = {}
        for _ in range(count):
            name = string()
            (rank,) = unpack("B")
            shape = unpack(f"{rank}I")
            dtype, size = unpack("BI")
            variables[name] = _Variable(dtype, shape, position, size)
            position += size
            if position > len(data):
                raise struct.error(f"{name} ends beyond the file")
        return variables


def _ctranslate2_config(path: str, variables: dict[str, _Variable]) -> WhisperConfig:
    width, mels, _ = variables["encoder/conv1/weight"].shape
    layers = 0
    while f"encoder/layer_{layers}/ffn/linear_0/weight" in variables:
        layers += 1
    heads = variables["encoder/num_heads"]
    with open(path, "rb") as file:
        file.seek(heads.offset)
        num_heads = int.from_bytes(file.read(heads.size), "little")
    return WhisperConfig(
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=num_heads,
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
    )


def _read_ctranslate2(path: str, variables: dict[str, _Variable], name: str) -> torch.Tensor:
    stored, part = _ctranslate2_name(name)
    variable = variables.get(stored)
    if variable is None:
        raise EncoderCheckpointError(f"{path} lacks the tensor {stored}: is the file complete?")
    if variable.dtype not in CTRANSLATE2_DTYPES:
        kind = CTRANSLATE2_INTEGERS.get(variable.dtype, f"type {variable.dtype}")
        raise EncoderCheckpointError(
            f"{path} is quantised ({stored} is {kind}); expected float16, float32 or bfloat16."
        )
    with open(path, "rb") as file:
        file.seek(variable.offset)
        raw = bytearray(file.read(variable.size))
    tensor = torch.frombuffer(raw, dtype=CTRANSLATE2_DTYPES[variable.dtype]).reshape(variable.shape)
    return tensor if part is None else tensor.chunk(3)[part].clone()


def _ctranslate2_name(name: str) -> tuple[str, int | None]:
    """Returns CTranslate2's name of an encoder tensor, and which third of it where q, k and v are stacked."""
    if name == "embed_positions.weight":
        return "encoder/position_encodings/encodings", None
    module, kind = name.rsplit(".", 1)
    norm_kind = {"weight": "gamma", "bias": "beta"}[kind]
    if not module.startswith("layers."):
        return (f"encoder/layer_norm/{norm_kind}" if module == "layer_norm" else f"encoder/{module}/{kind}"), None
    _, index, module = module.split(".", 2)
    attention, ffn = f"encoder/layer_{index}/self_attention", f"encoder/layer_{index}/ffn"
    stacked = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
    if module in stacked:
        return f"{attention}/linear_0/{kind}", stacked[module]
    return {
        "self_attn.out_proj": f"{attention}/linear_1/{kind}",
        "self_attn_layer_norm": f"{attention}/layer_norm/{norm_kind}",
        "fc1": f"{ffn}/linear_0/{kind}",
        "fc2": f"{ffn}/linear_1/{kind}",
        "final_layer_norm": f"{ffn}/layer_norm/{norm_kind}",
    }[module], None

"""CTranslate2 folders, the format of faster-whisper, converted to folders that transformers can load.

The file `model.bin` is little-endian: u32 version; string specification; u32 revision; u32 number of variables; then
for each a string name, u8 rank, u32 dimensions, u8 type, u32 bytes, and the data. A string is a u16 length, which
includes the terminating zero, and its bytes.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from whisper_ser.errors import CheckpointError
from whisper_ser.io import cache_folder, changed_files, file_sha256, replacing, saving, write_checksums

MODEL_FILE = "model.bin"
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
STACKED = "self_attention/linear_0/"
"""The linear maps to queries, keys and values, one below the other."""
RENAMED = (
    ("position_encodings/encodings", "embed_positions.weight"),
    ("layer_norm/gamma", "layer_norm.weight"),
    ("layer_norm/beta", "layer_norm.bias"),
    ("self_attention/layer_norm", "self_attn_layer_norm"),
    ("self_attention/linear_1", "self_attn.out_proj"),
    ("ffn/layer_norm", "final_layer_norm"),
    ("ffn/linear_0", "fc1"),
    ("ffn/linear_1", "fc2"),
    ("/", "."),
)
"""Parts of the names of tensors, as CTranslate2 and as transformers write them."""


def is_ctranslate2(folder: Path) -> bool:
    """Returns whether `folder` has the weights of a CTranslate2 model and no safetensors."""
    return (folder / MODEL_FILE).is_file() and not any(folder.glob("*.safetensors"))


def convert(folder: str | Path) -> Path:
    """Returns a folder with the encoder of a CTranslate2 Whisper model as `config.json` and `model.safetensors`.

    It is kept in `$WHISPER_SER_CACHE` or `~/.cache/whisper_ser`, under the hash of `model.bin`, and converted again if
    it was damaged. The weights keep their type, such as float16.

    Raises:
        CheckpointError: the file is damaged, quantised, or not a Whisper model.
    """
    source = Path(folder).resolve() / MODEL_FILE
    target = cache_folder() / f"{source.parent.name}-{file_sha256(source)[:16]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if changed_files(target):
            config, tensors = read_encoder(source)
            with replacing(target) as written, saving(target):
                config.save_pretrained(written)
                save_file(tensors, written / "model.safetensors", metadata={"format": "pt"})
                write_checksums(written)
    return target


def read_encoder(path: Path) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    """Returns the configuration and the tensors `model.encoder.*` of a CTranslate2 file.

    Raises:
        CheckpointError: the file is damaged, quantised, or not a Whisper model.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            variables = _encoder_variables(data)
        heads = int(variables.pop("num_heads"))
        _refuse_quantised(path, variables)
        tensors = dict(pair for name, variable in variables.items() for pair in _renamed(name, variable))
        config = _config(tensors, heads)
        with torch.device("meta"):
            encoder = WhisperEncoder(config)
        tensors = {name: tensor for name, tensor in tensors.items() if name in encoder.state_dict()}
        encoder.load_state_dict(tensors, assign=True)  # raises if a tensor is missing or has another shape
    except OSError:
        raise
    except Exception as error:  # damage shows as errors of many types
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is not a complete CTranslate2 Whisper model ({type(error).__name__}: {reason}). PyTorch pickles "
            "are not read; convert them to safetensors."
        ) from error
    return config, {f"model.encoder.{name}": tensor for name, tensor in tensors.items()}


def _encoder_variables(data: mmap.mmap) -> dict[str, torch.Tensor]:
    """Returns the variables `encoder/*` by the rest of their names."""
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
    specification = string()
    if specification != "WhisperSpec":
        raise ValueError(f"it is a {specification!r}")
    _, count = unpack("II")
    variables = {}
    for _ in range(count):
        name = string()
        (rank,) = unpack("B")
        shape = unpack(f"{rank}I")
        dtype, size = unpack("BI")
        if position + size > len(data):
            raise ValueError(f"{name} ends beyond the file")
        if name.startswith("encoder/"):
            content = bytearray(data[position : position + size])
            variables[name.removeprefix("encoder/")] = torch.frombuffer(content, dtype=TYPES[dtype]).reshape(shape)
        position += size
    return variables


def _refuse_quantised(path: Path, variables: dict[str, torch.Tensor]) -> None:
    for name, variable in variables.items():
        if variable.dim() and not variable.is_floating_point():
            kind = str(variable.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{path} is quantised (encoder/{name} is {kind}); expected float16, float32 or bfloat16."
            )


def _renamed(name: str, variable: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields a variable as the tensors that transformers makes of it, with their names."""
    name = re.sub(r"^layer_(?=\d)", "layers.", name)
    if STACKED in name:
        for letter, part in zip("qkv", variable.chunk(3), strict=True):
            renamed = name.replace(STACKED, f"self_attn.{letter}_proj.").replace("/", ".")
            if not renamed.endswith("k_proj.bias"):  # Whisper's keys have no bias: it is stored as zeros
                yield renamed, part.clone()
        return
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    yield name, variable


def _config(tensors: dict[str, torch.Tensor], heads: int) -> WhisperConfig:
    width, mels, _ = tensors["conv1.weight"].shape
    return WhisperConfig(
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=sum(name.endswith("fc1.weight") for name in tensors),
        encoder_attention_heads=heads,
        encoder_ffn_dim=len(tensors["layers.0.fc1.weight"]),
        max_source_positions=len(tensors["embed_positions.weight"]),
    )

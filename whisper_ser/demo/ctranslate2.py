"""CTranslate2 folders, the format of faster-whisper, converted to folders that transformers can load.

The file `model.bin` is little-endian: u32 version; string specification; u32 revision; u32 number of variables; then
for each a string name, u8 rank, u32 dimensions, u8 type, u32 bytes, and the data. A string is a u16 length, which
includes the terminating zero, and its bytes.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors.torch import save_file
from transformers import WhisperConfig

from whisper_ser.errors import CheckpointError
from whisper_ser.io import cache_folder, changed_files, file_sha256, replacing, saving, write_checksums

MODEL_FILE = "model.bin"
FLOAT_TYPES = {0: torch.float32, 4: torch.float16, 5: torch.bfloat16}
INTEGER_TYPES = {1: "int8", 2: "int16", 3: "int32"}

# CTranslate2's names of the modules of an encoder layer, by those of transformers; q, k and v are stacked.
STACKED = "self_attention/linear_0"
LINEARS = {"self_attn.out_proj": "self_attention/linear_1", "fc1": "ffn/linear_0", "fc2": "ffn/linear_1"}
NORMS = {"self_attn_layer_norm": "self_attention/layer_norm", "final_layer_norm": "ffn/layer_norm"}


class Variable(NamedTuple):
    """The type and shape of a tensor, and where its bytes are in the file."""

    type: int
    shape: tuple[int, ...]
    offset: int
    size: int


class ModelFile(NamedTuple):
    """An open `model.bin`."""

    path: Path
    data: mmap.mmap
    variables: dict[str, Variable]

    def content(self, name: str) -> bytes:
        """Returns the bytes of a variable."""
        variable = self.variables[name]
        return self.data[variable.offset : variable.offset + variable.size]

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a floating-point variable."""
        if name not in self.variables:
            raise CheckpointError(f"{self.path} lacks the tensor {name}: is the file complete?")
        variable = self.variables[name]
        if variable.type not in FLOAT_TYPES:
            kind = INTEGER_TYPES.get(variable.type, f"type {variable.type}")
            raise CheckpointError(
                f"{self.path} is quantised ({name} is {kind}); expected float16, float32 or bfloat16."
            )
        return torch.frombuffer(bytearray(self.content(name)), dtype=FLOAT_TYPES[variable.type]).reshape(
            variable.shape
        )


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
            model = ModelFile(path, data, _index(data))
            config = _config(model)
            tensors = _encoder_tensors(model, config.encoder_layers)
    except OSError:
        raise
    except Exception as error:  # damage shows as errors of many types
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{path} is not a complete CTranslate2 Whisper model ({type(error).__name__}: {reason}). PyTorch pickles "
            "are not read; convert them to safetensors."
        ) from error
    return config, {f"model.encoder.{name}": tensor for name, tensor in tensors.items()}


def _index(data: mmap.mmap) -> dict[str, Variable]:
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
        variables[name] = Variable(dtype, shape, position, size)
        position += size
        if position > len(data):
            raise ValueError(f"{name} ends beyond the file")
    return variables


def _config(model: ModelFile) -> WhisperConfig:
    variables = model.variables
    width, mels, _ = variables["encoder/conv1/weight"].shape
    layers = 0
    while f"encoder/layer_{layers}/ffn/linear_0/weight" in variables:
        layers += 1
    return WhisperConfig(
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=int.from_bytes(model.content("encoder/num_heads"), "little"),
        encoder_ffn_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
    )


def _encoder_tensors(model: ModelFile, layers: int) -> dict[str, torch.Tensor]:
    """Returns the tensors by their names in transformers' Whisper encoder."""

    def read(name: str) -> torch.Tensor:
        return model.tensor(f"encoder/{name}")

    tensors = {"embed_positions.weight": read("position_encodings/encodings")}

    def add_linear(name: str, stored: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = read(f"{stored}/weight"), read(f"{stored}/bias")

    def add_norm(name: str, stored: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = read(f"{stored}/gamma"), read(f"{stored}/beta")

    add_linear("conv1", "conv1")
    add_linear("conv2", "conv2")
    add_norm("layer_norm", "layer_norm")
    for layer in range(layers):
        for name, stored in LINEARS.items():
            add_linear(f"layers.{layer}.{name}", f"layer_{layer}/{stored}")
        for name, stored in NORMS.items():
            add_norm(f"layers.{layer}.{name}", f"layer_{layer}/{stored}")
        weights = read(f"layer_{layer}/{STACKED}/weight").chunk(3)
        biases = read(f"layer_{layer}/{STACKED}/bias").chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            tensors[f"layers.{layer}.self_attn.{name}_proj.weight"] = weight.clone()
            if name != "k":  # Whisper's keys have no bias: it is stored as zeros
                tensors[f"layers.{layer}.self_attn.{name}_proj.bias"] = bias.clone()
    return tensors

"""Whisper's encoder up to the highest layer that is read, run over the real frames in short chunks.

Its weights come from any Whisper checkpoint, through transformers' own loading.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from .configuration_whisper_ser import WhisperSerConfig

FRAMES_PER_PASS = 8000
"""Encoder frames computed at a time, which bounds the memory for long audio."""

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")
EXPECTED_CHECKPOINT = (
    "Expected a Hub id such as openai/whisper-base, or a folder with config.json and model.safetensors. PyTorch "
    "pickles are not read: convert them to safetensors. A CTranslate2 folder (model.bin, as of faster-whisper) "
    "is converted by training with --encoder FOLDER, and by whisper_ser.demo.ctranslate2.convert(folder)."
)


class EncoderCheckpointError(OSError):
    """A Whisper checkpoint that is absent, incomplete, or in a format that is not read."""


class Chunk(NamedTuple):
    """A stretch of one clip, in encoder frames."""

    clip: int
    start: int
    frames: int


class WhisperSerEncoder(nn.Module):
    """Convolutions, positions and the first `layer_index` layers of a Whisper encoder.

    The stock encoder requires 30 s of input, adds all positions and ignores masks. This one takes any length: audio is
    cut into even chunks of at most `chunk_seconds`, positions restart in each chunk, and padding never influences a
    real frame. With chunks of 30 s on a 30 s window its states are those of the stock encoder.
    """

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__()
        whisper = config.encoder_config
        self.config = config
        self.layer_indices = tuple(config.layer_indices)
        self.conv1 = nn.Conv1d(whisper.num_mel_bins, whisper.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(whisper.d_model, whisper.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(whisper.max_source_positions, whisper.d_model)
        self.layers = nn.ModuleList([WhisperEncoderLayer(whisper) for _ in range(config.layer_index)])
        reads_last = config.layer_index == whisper.encoder_layers
        self.layer_norm = nn.LayerNorm(whisper.d_model) if reads_last else None

    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the states of the layers read, and the mask of real frames.

        Args:
            input_features: log-mel `(batch, mel_frames, mels)`.
            attention_mask: `(batch, mel_frames)`, 1 on real frames, which come first; by default all are real.

        Returns:
            States `(batch, layers, frames, width)`, zero behind a shorter clip, and mask `(batch, frames)`. Two mel
            frames make one encoder frame; `frame_averaging` encoder frames make one frame of the states.

        Raises:
            ValueError: wrong shapes, a clip without real frames, or padding before real frames.
        """
        mel_frames = _real_frames(input_features, attention_mask, self.conv1.in_channels)
        chunks = [
            Chunk(clip, start, frames)
            for clip, length in enumerate(mel_frames)
            for start, frames in even_chunks(-(-length // 2), self.config.chunk_frames)
        ]
        pieces: dict[Chunk, torch.Tensor] = {}
        for group in _passes(chunks):
            mels = [
                input_features[c.clip, 2 * c.start : min(2 * (c.start + c.frames), mel_frames[c.clip])] for c in group
            ]
            lengths = torch.tensor([len(mel) for mel in mels], device=input_features.device)
            padding = None if len(mels[0]) == len(mels[-1]) else lengths
            states = self.encode_chunks(pad_sequence(mels, batch_first=True), padding)
            for index, chunk in enumerate(group):
                pieces[chunk] = states[:, index, : chunk.frames].transpose(0, 1)  # (frames, layers, width)
        clips = [
            torch.cat([pieces[chunk] for chunk in chunks if chunk.clip == clip]) for clip in range(len(mel_frames))
        ]  # each (encoder frames, layers, width)
        averaged = [average_frames(clip, self.config.frame_averaging) for clip in clips]
        states = pad_sequence(averaged, batch_first=True).transpose(1, 2)  # (batch, layers, frames, width)
        counts = torch.tensor([len(clip) for clip in averaged], device=states.device)
        return states, torch.arange(states.shape[2], device=states.device) < counts.unsqueeze(1)

    @contextlib.contextmanager
    def reading(self, layers: Sequence[int]) -> Iterator[None]:
        """Reads `layers`, ascending and at most `layer_index`, instead of those of the config."""
        configured, self.layer_indices = self.layer_indices, tuple(layers)
        try:
            yield
        finally:
            self.layer_indices = configured

    def encode_chunks(self, features: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the states `(layers, chunks, frames, width)` of the layers read, anything behind a shorter chunk.

        Args:
            features: log-mel `(chunks, mel_frames, mels)`.
            lengths: real mel frames of each chunk `(chunks,)`; `None` if all are as long as `features`.
        """
        hidden = nn.functional.gelu(self.conv1(features.transpose(1, 2)))  # (chunks, width, mel_frames)
        attention_mask = None
        if lengths is not None:
            # The second convolution must see zeros behind a shorter chunk, as it does when the chunk is alone.
            mask = torch.arange(hidden.shape[-1], device=hidden.device) < lengths[:, None]  # (chunks, mel_frames)
            hidden = hidden * mask[:, None]
            padding = ~mask[:, None, None, ::2]  # (chunks, 1, 1, frames)
            attention_mask = torch.zeros(padding.shape, dtype=hidden.dtype, device=hidden.device)
            attention_mask = attention_mask.masked_fill(padding, torch.finfo(hidden.dtype).min)
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)  # (chunks, frames, width)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        read = []
        for index, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, attention_mask)
            if index in self.layer_indices:
                # The final LayerNorm exists only if Whisper's last encoder layer is read.
                final_norm = self.layer_norm if index == len(self.layers) else None
                read.append(hidden if final_norm is None else final_norm(hidden))
        return torch.stack(read)  # (layers, chunks, frames, width)


class AbsentEncoder(nn.Module):
    """Takes the encoder's place in a model that is trained on stored states: it has no weights."""

    layers: Sequence[nn.Module] = ()
    layer_norm = None

    def forward(self, *inputs: Any) -> Any:
        raise ValueError("This model was built without its encoder: give it encoder_hidden_states.")

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError("This model was built without its encoder and cannot be saved.")


class WhisperCheckpoint(PreTrainedModel):
    """The part of a Whisper checkpoint that is loaded: the encoder up to `layer_index`."""

    config: WhisperSerConfig
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [".*"]  # the decoder, higher encoder layers, heads of other tasks

    def __init__(self, config: WhisperSerConfig) -> None:
        super().__init__(config)
        self.encoder = WhisperSerEncoder(config)
        self.post_init()


def load_encoder(name_or_path: str | os.PathLike, config: WhisperSerConfig, **hub: Any) -> WhisperSerEncoder:
    """Returns the encoder of a Whisper checkpoint, in float32 and with a copy of `config`.

    Only safetensors are read, sharded or not, as saved by any Whisper class of transformers. Neither the decoder nor
    the layers above `layer_index` are instantiated.

    Args:
        name_or_path: Hub id, or a folder with the same files.
        config: of the new model; its `encoder_config` is that of the checkpoint, see `load_whisper_config`.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` of the Hub download.

    Raises:
        EncoderCheckpointError: no safetensors there, damaged files, missing tensors, or tensors of another shape.
    """
    name = os.fspath(name_or_path)
    with _checkpoint_errors(name):
        checkpoint: Any
        info: dict[str, Any]
        checkpoint, info = WhisperCheckpoint.from_pretrained(  # type: ignore[misc]
            name,
            config=config,
            key_mapping={r"^model\.encoder\.": "encoder."},
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below
            **hub,
        )
    if missing := sorted(info["missing_keys"]):
        raise EncoderCheckpointError(
            f"{name!r} lacks {len(missing)} tensors of a Whisper encoder: {', '.join(missing[:8])}. Is it complete?"
        )
    if mismatched := [
        f"{key} is {tuple(found)}, expected {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]
    ]:
        raise EncoderCheckpointError(
            f"The weights of {name!r} do not fit its config.json: {'; '.join(mismatched[:8])}."
        )
    checkpoint.config.name_or_path = config.name_or_path
    return checkpoint.encoder


def load_whisper_config(name_or_path: str | os.PathLike, **hub: Any) -> WhisperConfig:
    """Returns the configuration of a Whisper checkpoint; no weights are read or downloaded.

    Args:
        name_or_path: Hub id, or a folder with the same files.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` of the Hub download.

    Raises:
        EncoderCheckpointError: no readable config.json there, or a model of another kind.
    """
    name = os.fspath(name_or_path)
    with _checkpoint_errors(name):
        fields, _ = WhisperConfig.get_config_dict(name, **hub)
        kind = fields.get("model_type")
        if kind is None:
            raise EncoderCheckpointError(f"{name!r} has no config.json with a model_type. {EXPECTED_CHECKPOINT}")
        if kind != "whisper":
            raise EncoderCheckpointError(f"{name!r} is a {kind!r} model, not a Whisper one.")
        return WhisperConfig(**fields)


@contextlib.contextmanager
def _checkpoint_errors(name: str) -> Iterator[None]:
    """Raises the many types of errors that a damaged or absent checkpoint causes as `EncoderCheckpointError`."""
    try:
        yield
    except EncoderCheckpointError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise EncoderCheckpointError(
            f"No Whisper encoder could be loaded from {name!r} ({type(error).__name__}: {reason}). "
            + EXPECTED_CHECKPOINT
        ) from error


def average_frames(states: torch.Tensor, group: int) -> torch.Tensor:
    """Returns the mean of every `group` frames of `states` `(frames, ...)`; the last group may be smaller."""
    if group == 1:
        return states
    whole = len(states) // group * group
    means = states[:whole].unflatten(0, (-1, group)).mean(1)
    return means if whole == len(states) else torch.cat([means, states[whole:].mean(0, keepdim=True)])


def even_chunks(frames: int, longest: int) -> list[tuple[int, int]]:
    """Returns `(start, frames)` of the fewest chunks of at most `longest` frames; sizes differ by at most one."""
    count = -(-frames // longest)
    size, larger = divmod(frames, count)
    sizes = [size + 1] * larger + [size] * (count - larger)
    return [(sum(sizes[:index]), size) for index, size in enumerate(sizes)]


def _passes(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    """Yields groups of chunks of similar length, each of at most `FRAMES_PER_PASS` encoder frames."""
    group: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda c: -c.frames):
        if group and (len(group) + 1) * group[0].frames > FRAMES_PER_PASS:
            yield group
            group = []
        group.append(chunk)
    yield group


def _real_frames(features: torch.Tensor, mask: torch.Tensor | None, mels: int) -> list[int]:
    """Returns the number of real mel frames of each clip."""
    if features.dim() != 3 or features.shape[2] != mels or 0 in features.shape:
        raise ValueError(
            f"input_features must be (batch, mel_frames, {mels}), time first, as WhisperSerFeatureExtractor returns "
            f"them; got {tuple(features.shape)}."
        )
    if mask is None:
        mask = features.new_ones(features.shape[:2])
    if mask.shape != features.shape[:2]:
        raise ValueError(
            f"attention_mask {tuple(mask.shape)} must mark each mel frame of input_features {tuple(features.shape)}."
        )
    real = mask.bool()
    if not real[:, :1].all():
        raise ValueError("attention_mask must begin with a real frame in every clip: padding comes last.")
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError("attention_mask has real frames behind padding: padding comes last.")
    return real.sum(1).tolist()

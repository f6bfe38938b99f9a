"""Whisper's encoder up to the highest layer that is read, run over the real frames in short chunks."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from .configuration_whisper_ser import WhisperSerConfig

FRAMES_PER_PASS = 8000
"""Encoder frames run at a time: memory is bounded however long the audio is."""


class Chunk(NamedTuple):
    """A stretch of one clip, in encoder frames."""

    clip: int
    start: int
    frames: int


class WhisperSerEncoder(nn.Module):
    """Convolutions, positions and the first `layer_index` layers of a Whisper encoder.

    The stock encoder demands 30 s, adds every position and ignores masks. This one takes any length: audio is cut into
    even chunks of at most `chunk_seconds`, positions restart in each, and no real frame sees padding. With chunks of
    30 s on a 30 s window its states are those of the stock encoder.
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
        """Returns the states of the layers read and which frames are real.

        Args:
            input_features: log-mel `(batch, mel_frames, mels)`.
            attention_mask: `(batch, mel_frames)`, 1 on real frames, which come first; left out, all are real.

        Returns:
            States `(batch, layers, frames, width)`, zero behind a shorter clip, and mask `(batch, frames)`; two mel
            frames make one encoder frame, `frame_averaging` of these one frame of the states.

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
            for chunk, states in zip(group, self._run(mels), strict=True):
                pieces[chunk] = states[: chunk.frames]
        clips: list[list[torch.Tensor]] = [[] for _ in mel_frames]
        for chunk in chunks:
            clips[chunk.clip].append(pieces.pop(chunk))
        joined = [average_frames(torch.cat(clip), self.config.frame_averaging) for clip in clips]
        states = pad_sequence(joined, batch_first=True).transpose(1, 2)
        return states, _mask([len(clip) for clip in joined], states.shape[2], states.device)

    @contextlib.contextmanager
    def reading(self, layers: Sequence[int]) -> Iterator[None]:
        """Reads other layers, ascending, than the config says, none of them above the highest there is."""
        usual, self.layer_indices = self.layer_indices, tuple(layers)
        try:
            yield
        finally:
            self.layer_indices = usual

    def _run(self, mels: list[torch.Tensor]) -> torch.Tensor:
        """Returns `(chunks, frames, layers, width)` of log-mel chunks, each `(mel_frames, mels)`."""
        lengths = [len(mel) for mel in mels]
        padded = pad_sequence(mels, batch_first=True).transpose(1, 2)
        hidden = nn.functional.gelu(self.conv1(padded))
        attention_mask = None
        if min(lengths) < max(lengths):
            # Behind a shorter chunk the second convolution must see the zeros it sees behind a chunk alone.
            mask = _mask(lengths, padded.shape[-1], hidden.device)
            hidden = hidden * mask[:, None]
            attention_mask = torch.zeros(mask[:, None, None, ::2].shape, dtype=hidden.dtype, device=hidden.device)
            attention_mask.masked_fill_(~mask[:, None, None, ::2], torch.finfo(hidden.dtype).min)
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        read = []
        for index, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, attention_mask)
            if index in self.layer_indices:
                # The final LayerNorm exists only where the last layer of all is read.
                above = self.layer_norm if index == len(self.layers) else None
                read.append(hidden if above is None else above(hidden))
        return torch.stack(read, dim=2)


def average_frames(states: torch.Tensor, group: int) -> torch.Tensor:
    """Returns the mean of every `group` frames of `states` `(frames, ...)`; the last group may be smaller."""
    if group == 1:
        return states
    whole = len(states) // group * group
    means = states[:whole].unflatten(0, (-1, group)).mean(1)
    return means if whole == len(states) else torch.cat([means, states[whole:].mean(0, keepdim=True)])


def even_chunks(frames: int, longest: int) -> list[tuple[int, int]]:
    """Returns `(start, frames)` of the fewest chunks of at most `longest`; their sizes differ by one at most."""
    count = -(-frames // longest)
    size, larger = divmod(frames, count)
    sizes = [size + 1] * larger + [size] * (count - larger)
    return [(sum(sizes[:index]), size) for index, size in enumerate(sizes)]


def _passes(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    """Yields groups of chunks of like length, `FRAMES_PER_PASS` encoder frames in each at most."""
    group: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda c: -c.frames):
        if group and (len(group) + 1) * group[0].frames > FRAMES_PER_PASS:
            yield group
            group = []
        group.append(chunk)
    yield group


def _mask(lengths: list[int], longest: int, device: torch.device) -> torch.Tensor:
    return torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]


def _real_frames(features: torch.Tensor, mask: torch.Tensor | None, mels: int) -> list[int]:
    """Returns how many mel frames of each clip are real."""
    if features.dim() != 3 or features.shape[2] != mels or 0 in features.shape:
        raise ValueError(
            f"input_features must be (batch, mel_frames, {mels}), time first, as WhisperSerFeatureExtractor gives "
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

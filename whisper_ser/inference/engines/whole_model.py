"""A whole model as one graph, waveform to probabilities, for runtimes that have nothing else."""

from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch._higher_order_ops import scan

from modeling_whisper_ser import WhisperForEmotionClassification
from whisper_ser.audio.log_mel import LogMel, mel_filters
from whisper_ser.inference.engines.exported import AUDIO, LENGTHS, PROBABILITIES
from whisper_ser.inference.engines.graph_export import Padded, quiet, without_source

OPSET = 18
"""Of 2022: any ONNX Runtime since 1.18 reads it."""
BLOCK_FRAMES = 6000
"""Mel frames transformed at a time: memory is bounded however long the audio is."""


def whole_model_graph(model: WhisperForEmotionClassification, log_mel: LogMel) -> onnx.ModelProto:
    """Returns the graph of `WholeModel`, with the model's weights in it; batch and length are open."""
    inputs = (torch.randn(2, 20000), torch.tensor([20000, 9000]))
    with quiet():
        program: Any = torch.onnx.export(
            WholeModel(model, log_mel).eval(),
            inputs,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[AUDIO, LENGTHS],
            output_names=[PROBABILITIES],
            dynamic_shapes=({0: "batch", 1: "samples"}, {0: "batch"}),
        )
    return without_source(program.model_proto)


class WholeModel(nn.Module):
    """Log-mel, even chunks, encoder and head in operations that a graph can hold.

    Args:
        model: of torch.
        log_mel: the settings of its front end.
    """

    transform: torch.Tensor
    filters: torch.Tensor

    def __init__(self, model: WhisperForEmotionClassification, log_mel: LogMel) -> None:
        super().__init__()
        self.model, self.log_mel = model, log_mel
        transform, filters = _transform_and_filters(log_mel)
        self.register_buffer("transform", torch.from_numpy(transform))
        self.register_buffer("filters", torch.from_numpy(filters))

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Returns probabilities `(batch, labels)` of audio `(batch, samples)`, of which `lengths` `(batch,)` count."""
        padded, computed, mel_frames = self._padded(audio, lengths)
        mels = self._log_mel(padded, computed)
        frames = (mel_frames + 1) // 2
        states = self._encoded(mels, mel_frames, frames)
        if self.model.config.frame_averaging > 1:
            states, frames = self._averaged(states, frames)
        real = torch.arange(states.shape[2]) < frames.unsqueeze(1)
        vectors = self.model.whisper_ser.frame_vectors(states.flatten(1, 2))
        pooled, _ = self.model.whisper_ser.pool_vectors(vectors, Padded(real))  # type: ignore[arg-type]
        return self.model.classify(pooled).softmax(-1)

    def _padded(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, int, torch.Tensor]:
        """Returns audio mirrored at its ends, how many mel frames to compute, and those of each clip `(batch,)`."""
        hop, half = self.log_mel.hop_length, self.log_mel.n_fft // 2
        audio = torch.where(torch.arange(audio.shape[1]) < lengths.unsqueeze(1), audio, 0.0)
        if self.log_mel.pad_to_seconds is None:
            computed = (audio.shape[1] + half + hop - 1) // hop
            audio = nn.functional.pad(audio, (0, self.log_mel.n_fft))
            return torch.cat([audio[:, 1 : half + 1].flip(1), audio], dim=1), computed, (lengths + hop - 1) // hop
        samples = round(self.log_mel.pad_to_seconds * self.log_mel.sampling_rate)
        audio = nn.functional.pad(audio, (0, samples))[:, :samples]
        mirrored = [audio[:, 1 : half + 1].flip(1), audio, audio[:, samples - half - 1 : samples - 1].flip(1)]
        return torch.cat(mirrored, dim=1), samples // hop, torch.full_like(lengths, samples // hop)

    def _log_mel(self, audio: torch.Tensor, frames: int) -> torch.Tensor:
        """Returns log-mel `(batch, frames or a few more, mels)` of frames that begin every `hop_length` samples."""
        hop = self.log_mel.hop_length
        blocks = (frames + BLOCK_FRAMES - 1) // BLOCK_FRAMES
        block = (frames + blocks - 1) // blocks
        needed = (block - 1) * hop + self.log_mel.n_fft
        audio = nn.functional.pad(audio, (0, blocks * hop + self.log_mel.n_fft))
        offsets = torch.arange(needed)

        def transformed(carry: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            piece = audio[:, number * block * hop + offsets]
            spectrum = nn.functional.conv1d(piece.unsqueeze(1), self.transform, stride=hop)
            return carry.clone(), self.filters @ spectrum.square()  # (batch, mels, block)

        _, power = scan(transformed, torch.zeros(1), torch.arange(blocks))
        log_power = power.permute(1, 0, 3, 2).flatten(1, 2).clamp(min=1e-10).log10()
        # Frames behind a clip are silent, which never raises its maximum.
        return (torch.maximum(log_power, log_power.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0

    def _encoded(self, mels: torch.Tensor, mel_frames: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Returns the states `(layers, batch, frames, width)`, anything behind a shorter clip.

        Args:
            mels: log-mel `(batch, mel_frames, mels)`.
            mel_frames, frames: mel frames and encoder frames of each clip `(batch,)`.
        """
        limit = self.model.config.chunk_frames
        count = ((frames + limit - 1) // limit).clamp(min=1)  # chunks of each clip
        size = frames // count
        larger = frames - size * count  # so many of them have one frame more
        total, longest = count.sum().item(), ((frames + count - 1) // count).max().clamp(min=2).item()
        torch._check(total >= 1)
        torch._check(longest >= 2)
        torch._check(longest <= limit)
        ends = count.cumsum(0)
        number = torch.arange(total)
        owner = (number.unsqueeze(1) >= ends).sum(1)
        place = number - (ends - count)[owner]
        start = place * size[owner] + torch.minimum(place, larger[owner])
        length = torch.minimum(2 * (size[owner] + (place < larger[owner])), mel_frames[owner] - 2 * start)

        def encoded(carry: torch.Tensor, chunk: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
            owner, start, length = chunk
            offsets = torch.arange(2 * longest)
            frame = (2 * start + offsets).clamp(max=mels.shape[1] - 1)
            features = torch.where((offsets < length).unsqueeze(1), mels[owner.expand(frame.shape), frame], 0.0)
            states = self.model.whisper_ser.encoder.encode_chunks(features.unsqueeze(0), length.unsqueeze(0))[:, 0]
            return carry.clone(), states

        # One chunk at a time: activations stay small, and batches gain nothing on a CPU.
        _, rows = scan(encoded, torch.zeros(1), (owner, start, length))  # (chunks, layers, frames, width)
        most = frames.max().item()
        torch._check(most >= 1)
        frame = torch.arange(most)
        edge = larger * (size + 1)  # where the smaller chunks of each clip begin
        behind = larger.unsqueeze(1) + (frame - edge.unsqueeze(1)) // size.clamp(min=1).unsqueeze(1)
        place = torch.where(frame < edge.unsqueeze(1), frame // (size + 1).unsqueeze(1), behind)
        place = torch.minimum(place, count.unsqueeze(1) - 1)
        start = place * size.unsqueeze(1) + torch.minimum(place, larger.unsqueeze(1))
        inside = torch.minimum(frame - start, torch.zeros_like(start) + (longest - 1))
        return rows[(ends - count).unsqueeze(1) + place, :, inside].permute(2, 0, 1, 3)

    def _averaged(self, states: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the means of groups of frames `(layers, batch, groups, width)`, and how many each clip has."""
        group = self.model.config.frame_averaging
        real = torch.arange(states.shape[2]) < frames.unsqueeze(1)
        padding = (group - states.shape[2] % group) % group
        states = nn.functional.pad(states * real[None, :, :, None], (0, 0, 0, padding))
        counts = nn.functional.pad(real, (0, padding)).unflatten(1, (-1, group)).sum(2).clamp(min=1)
        means = states.unflatten(2, (-1, group)).sum(3) / counts[None, :, :, None]
        return means, (frames + group - 1) // group


def _transform_and_filters(log_mel: LogMel) -> tuple[np.ndarray, np.ndarray]:
    """Returns the windowed Fourier transform `(2 * bins, 1, n_fft)`, and the mel filters of both parts as
    `(mels, 2 * bins)`; frequencies that no filter hears are left out."""
    filters = mel_filters(log_mel.n_fft, log_mel.feature_size, log_mel.sampling_rate)
    heard = np.flatnonzero(filters.any(axis=1))
    sample = np.arange(log_mel.n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * sample / log_mel.n_fft)
    # Whole turns are taken out before the angle is rounded.
    angle = 2 * np.pi * (np.outer(heard, sample) % log_mel.n_fft) / log_mel.n_fft
    transform = window * np.concatenate([np.cos(angle), np.sin(angle)])
    return transform[:, None].astype(np.float32), np.tile(filters[heard].T, 2).astype(np.float32)

"""Frame vectors of a recording of any length, equal to those of the forward pass, in bounded memory."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_whisper_ser.encoder_whisper_ser import average_frames, even_chunks
from whisper_ser.inference.model import Recognizer

SECTION_FRAMES = 3000
"""Mel frames (30 s) computed at a time."""
MARGIN_FRAMES = 3
"""Mel frames computed twice, on each side of a section: a frame reaches 1.25 hops to either side of its centre."""
WHISPER_RANGE = 2.0
"""Whisper clamps log-mel at 2 (8 decades, scaled) below the maximum of the recording."""
PASS_FRAMES = 2000
"""Encoder frames in one pass."""


def recording_vectors(blocks: Iterable[np.ndarray], recognizer: Recognizer) -> torch.Tensor:
    """Returns the frame vectors `(frames, frame_width)` of a recording, on the device of the model.

    The log-mel frames (115 MB an hour for 80 channels) and the vectors (184 MB for a head of 256) are in memory as a
    whole; waveform and encoder states are not.

    Args:
        blocks: mono samples `(samples,)` at the recognizer's sampling rate.
    """
    mel = torch.cat(list(_log_mel(blocks, recognizer)))
    # Each section was clamped below its own maximum, which is at most that of the recording.
    mel.clamp_(min=mel.max() - WHISPER_RANGE)
    model = recognizer.model
    frames = math.ceil(math.ceil(len(mel) / 2) / model.config.frame_averaging)
    vectors = torch.empty(frames, model.config.frame_width, dtype=model.dtype, device=model.device)
    begin = 0
    for section in _vectors(mel, recognizer):
        vectors[begin : begin + len(section)] = section
        begin += len(section)
    return vectors


def _vectors(mel: torch.Tensor, recognizer: Recognizer) -> Iterator[torch.Tensor]:
    """Yields the frame vectors of consecutive sections."""
    config = recognizer.model.config
    rest: list[torch.Tensor] = []
    for states in _states(mel, recognizer):
        # Frames are averaged over the whole recording: groups may span two chunks.
        joined = torch.cat([*rest, states])
        whole = len(joined) // config.frame_averaging * config.frame_averaging
        rest = [joined[whole:].clone()]
        if whole:
            yield _projected(joined[:whole], recognizer)
    if rest and len(rest[0]):
        yield _projected(rest[0], recognizer)


def _projected(states: torch.Tensor, recognizer: Recognizer) -> torch.Tensor:
    averaged = average_frames(states, recognizer.model.config.frame_averaging)
    return recognizer.project(averaged.transpose(0, 1))


def _states(mel: torch.Tensor, recognizer: Recognizer) -> Iterator[torch.Tensor]:
    """Yields the encoder states `(frames, layers, width)` of consecutive sections of even chunks."""
    chunks = even_chunks(-(-len(mel) // 2), recognizer.model.config.chunk_frames)
    count = max(1, PASS_FRAMES // chunks[0][1])
    for first in range(0, len(chunks), count):
        clips = [mel[2 * start : 2 * (start + frames)] for start, frames in chunks[first : first + count]]
        mask = torch.tensor([[1] * len(clip) + [0] * (len(clips[0]) - len(clip)) for clip in clips])
        features = {"input_features": pad_sequence(clips, batch_first=True), "attention_mask": mask}
        yield torch.cat([states.transpose(0, 1) for states in recognizer.encoder_states(features)])


def _log_mel(blocks: Iterable[np.ndarray], recognizer: Recognizer) -> Iterator[torch.Tensor]:
    """Yields the log-mel `(frames, mels)` of consecutive sections, each clamped below its own maximum."""
    hop = recognizer.extractor.hop_length
    section, margin = SECTION_FRAMES * hop, MARGIN_FRAMES * hop
    buffer, before = np.empty(0, np.float32), 0
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) > before + section + margin:
            (frames,) = recognizer.features([buffer[: before + section + margin]])["input_features"]
            yield frames[before // hop : before // hop + SECTION_FRAMES].clone()
            buffer, before = buffer[before + section - margin :], margin
    (frames,) = recognizer.features([buffer])["input_features"]
    yield frames[before // hop :]

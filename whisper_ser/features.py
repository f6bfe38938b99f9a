"""The frozen encoder run once over a corpus, its states kept in memory for every epoch."""

from collections.abc import Iterator

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio import read_audio

BATCH_SECONDS = 60.0
"""Audio encoded at a time."""


def encoder_states(
    model: WhisperForEmotionClassification,
    extractor: WhisperSerFeatureExtractor,
    paths: list[str],
    seconds: list[float],
) -> list[torch.Tensor]:
    """Returns the encoder states `(layers, frames, width)` of each file, float32 on the CPU.

    Under several processes each encodes its share, and all get all. `seconds` are the lengths of the files: those of
    like length are encoded together.
    """
    process = PartialState()
    base = model.to(process.device).eval().whisper_ser
    batches = list(_batches(seconds))[process.process_index :: process.num_processes]
    mine: list[tuple[int, torch.Tensor]] = []
    with torch.no_grad(), tqdm(desc="encoding", unit="file", disable=not process.is_main_process) as progress:
        progress.total = sum(map(len, batches))
        for batch in batches:
            audio = [read_audio(paths[index], extractor.sampling_rate) for index in batch]
            features = extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt").to(process.device)
            states, mask = base.encode(**features)
            lengths = mask.sum(1).tolist()
            mine += [(i, s[:, :n].float().cpu().clone()) for i, s, n in zip(batch, states, lengths, strict=True)]
            progress.update(len(batch))
    everyone: list[tuple[int, torch.Tensor]] = gather_object(mine)
    return [states for _, states in sorted(everyone, key=lambda item: item[0])]


def _batches(seconds: list[float]) -> Iterator[list[int]]:
    """Yields indices of files of like length, together at most `BATCH_SECONDS` with padding, or one long file."""
    batch: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda i: seconds[i]):
        if batch and (len(batch) + 1) * seconds[index] > BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

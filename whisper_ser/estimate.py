"""What a sweep will cost, from timing a few steps before it starts."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig
from modeling_whisper_ser.configuration_whisper_ser import FRAMES_PER_SECOND
from whisper_ser.arguments import Arguments
from whisper_ser.cells import Cell, cores, usual_jobs
from whisper_ser.folds import Fold
from whisper_ser.listening import Sound

TRIED_SECONDS = 8.0
"""Audio that is encoded to see how long it takes."""
REPEATS = 5


def estimate(cells: Sequence[Cell], folds: Sequence[Fold], sounds: Mapping[str, Sound], arguments: Arguments) -> str:
    """Returns what training `cells` will take in time and disk, the states not yet stored assumed for none."""
    device, jobs = arguments.training.device, min(arguments.sweep.jobs or usual_jobs(cells), len(cells))
    encoded: dict[str, list[Cell]] = defaultdict(list)
    trained: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.config:
            encoded[_what_is_stored(cell)].append(cell)
            trained[json.dumps(_of_a_step(cell.config), sort_keys=True, default=str)].append(cell)
    encoding, training, disk, hours = 0.0, 0.0, 0.0, 0.0
    for those in encoded.values():
        config = max((cell.config for cell in those if cell.config), key=lambda config: config.layer_index)
        layers = len({layer for cell in those if cell.config for layer in cell.config.layer_indices})
        held = min(layers, arguments.sweep.layers_at_once or layers)
        seconds = sum(_lengths(those[0], sounds)) * _renditions(those)
        size = 2 * held * seconds * FRAMES_PER_SECOND / config.frame_averaging * config.encoder_config.d_model
        disk = max(disk, size) if arguments.sweep.layers_at_once else disk + size
        encoding += seconds * _seconds_to_encode(config, device) * math.ceil(layers / held)
        hours += seconds / 3600
    for those in trained.values():
        steps = sum(_steps(folds[cell.fold], cell.arguments) for cell in those)
        with _threads(max(1, cores() // jobs)):
            training += steps * _seconds_of_a_step(those[0], _lengths(those[0], sounds)) / jobs
    return (
        f"{len(cells)} trainings, {jobs} at a time: about {_duration(encoding + training)} "
        f"({_duration(encoding)} of it to encode {hours:.2f} hours of audio, less what is stored), and "
        f"up to {_size(disk)} in {arguments.data.feature_dir}"
    )


def _what_is_stored(cell: Cell) -> str:
    """Returns what tells apart the stores of cells, but for their layers and copies."""
    model, config = cell.arguments.model, cell.config
    context = (config.chunk_seconds, config.frame_averaging) if config else ()
    return json.dumps([model.encoder, model.pad_to_seconds, *context])


def _lengths(cell: Cell, sounds: Mapping[str, Sound]) -> list[float]:
    return [cell.arguments.model.pad_to_seconds or sound.seconds for sound in sounds.values()]


def _renditions(cells: Sequence[Cell]) -> int:
    """Returns how often each utterance is encoded: itself and its altered copies."""
    return 1 + len({copy.name for cell in cells for copy in cell.arguments.training.copies})


def _of_a_step(config: WhisperSerConfig) -> dict[str, Any]:
    """Returns the fields of a model that takes about as long to train: one layer costs as much as another."""
    one_layer = {"layer_indices": [1], "layer_mixing": "none"}
    ensemble = config.ensemble and [{**member, **one_layer} for member in config.ensemble]
    return {**config.to_dict(), "layer_index": 1, **one_layer, "ensemble": ensemble}


def _steps(fold: Fold, arguments: Arguments) -> float:
    """Returns the steps of one training; a step forward only, of the evaluation, is half of one."""
    train, validation, test = (len(part) / arguments.training.train_batch_size for part in fold.split)
    anew = math.ceil(train + validation) if arguments.training.refit else 0
    return arguments.training.num_train_epochs * (math.ceil(train) + anew + (validation or test) / 2)


def _seconds_to_encode(config: WhisperSerConfig, device: torch.device) -> float:
    """Returns the time to encode a second of audio."""
    model: Any = WhisperForEmotionClassification(config).whisper_ser
    model.to(device).eval()
    mel_frames = int(TRIED_SECONDS * 2 * FRAMES_PER_SECOND)
    features = torch.zeros(1, mel_frames, config.encoder_config.num_mel_bins, device=device)
    with torch.inference_mode():
        return _median_time(lambda: model.encode(features), device) / TRIED_SECONDS


def _seconds_of_a_step(cell: Cell, lengths: Sequence[float]) -> float:
    config, arguments = cell.config, cell.arguments
    if config is None:
        raise ValueError("Only a cell with a config can be timed.")
    model: Any = WhisperForEmotionClassification(WhisperSerConfig(**_of_a_step(config)))
    model.to(arguments.training.device).train()
    frames = max(1, round(sum(lengths) / len(lengths) * FRAMES_PER_SECOND / config.frame_averaging))
    batch, width = arguments.training.train_batch_size, config.encoder_config.d_model
    states = torch.randn(batch, 1, frames, width, device=model.device).half()
    labels = torch.zeros(batch, dtype=torch.long, device=model.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def step() -> None:
        model(encoder_hidden_states=states, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _median_time(step, model.device)


def _median_time(function: Callable[[], object], device: torch.device) -> float:
    """Returns how long `function` takes, in seconds, after a first time that does not count."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"

"""Many short trainings on the same stored states, several at a time, none done twice.

A run is one fold of one setting with one seed. Each is trained from its own seed and writes its own folder, so that
neither the order nor the company matters. On a CPU every run runs in a process with its own share of the cores: the
steps are so small that several of them side by side are far faster than one after the other on all cores.
"""

import copy
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from modeling_whisper_ser import WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.data.splits import Fold
from whisper_ser.errors import WhisperSerError
from whisper_ser.evaluation.results import METRICS_FILE, ResultError, RunResult, check_predictions, read_result
from whisper_ser.training.grid import folder_name
from whisper_ser.training.models import build_model, head_model
from whisper_ser.training.results import all_predictions, run_result, write_fold
from whisper_ser.training.settings import Arguments, SerTrainingArguments
from whisper_ser.training.trainer import BEST, Inputs, train_with_refit


class TrainingError(WhisperSerError, RuntimeError):
    """A training that could not be finished."""


class Run(NamedTuple):
    """One training.

    Attributes:
        folder: for its metrics and predictions.
        fold: index into the folds.
        config: of the new model that is trained; `None` builds the model with its encoder, or trains a saved one on.
        arguments: with the run's own encoder, layer, pooling and seed.
        identity: hash of everything that its figures depend on.
    """

    folder: Path
    fold: int
    config: WhisperSerConfig | None
    arguments: Arguments
    identity: str

    @property
    def done(self) -> bool:
        """Whether it was finished before, of the same data, model and settings, and is as it was written."""
        try:
            result = read_result(self.folder / METRICS_FILE)
            check_predictions(self.folder)
        except (OSError, ResultError):
            return False
        return result.identity == self.identity


class RunContext(NamedTuple):
    """What all runs of one encoder share; with `curves`, each is evaluated after every epoch."""

    folds: Sequence[Fold]
    inputs: Inputs
    extractor: WhisperSerFeatureExtractor
    curves: bool


def train_runs(runs: Sequence[Run], context: RunContext, jobs: int | None) -> Iterator[tuple[Run, RunResult | None]]:
    """Trains the runs and yields each with its result as it is done, in any order.

    Args:
        jobs: runs at a time; by default one a core without an accelerator, else one.
    """
    jobs = min(jobs or usual_jobs(runs), len(runs))
    if jobs <= 1 or PartialState().num_processes > 1:
        for run in runs:
            yield run, train_run(run, context)
        return
    # Not forked: a process that has run torch may hold locks which its child would wait for.
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _start_process, (context, max(1, cores() // jobs))
    ) as pool:
        futures = {pool.submit(_run_in_process, run): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                f"One of {jobs} training processes died, possibly killed: out of memory. What is finished is kept: "
                "start the same command again to go on, with a lower --jobs if it was memory."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def train_run(run: Run, context: RunContext) -> RunResult | None:
    """Trains one run, writes its folder and returns its result; `None` in all processes but the main one."""
    fold = context.folds[run.fold]
    split = fold.split
    seed = run.arguments.training.seed
    set_seed(seed)
    if run.config is None:
        model, _ = build_model(run.arguments.model, split.train.features["emotion"].names)
    else:
        model = head_model(run.config, seed)
    inputs = context.inputs.of_layers(model.config.layer_indices)
    arguments = run.arguments._replace(training=_quiet(run.arguments.training, run.folder, context.curves))
    # Learning curves are those of the validation part; where there is none, those of the test part.
    follow_test = context.curves and not len(split.validation)
    options = {"resumable": False, "follow_test": follow_test}
    training = train_with_refit(model, context.extractor, inputs, split, arguments, **options)
    result = None
    if PartialState().is_main_process:
        predictions = all_predictions(training, fold)
        result = run_result(training, predictions, fold, arguments, context.extractor, inputs.hours, run.identity)
        write_fold(run.folder, result, predictions)
    PartialState().wait_for_everyone()
    return result


def fold_folder(number: int, name: str) -> str:
    """Returns the name of the folder of fold `number`, from 0, as a file system takes it."""
    return f"{number + 1:02d}-{folder_name(name)}"


def _quiet(arguments: SerTrainingArguments, folder: Path, curves: bool) -> SerTrainingArguments:
    """Returns the arguments for one run: one bar tells the progress of all, and a run is short enough to repeat."""
    arguments = copy.copy(arguments)
    arguments.output_dir = str(folder)
    arguments.disable_tqdm = True
    arguments.save_strategy = SaveStrategy.NO
    if arguments.selection not in BEST and not curves:
        arguments.eval_strategy = IntervalStrategy.NO
    return arguments


def usual_jobs(runs: Sequence[Run]) -> int:
    """Returns how many runs this process trains at a time: one a core without an accelerator, else one."""
    if PartialState().num_processes > 1:
        return 1
    return cores() if all(run.arguments.training.device.type == "cpu" for run in runs) else 1


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_context: RunContext | None = None
"""In a process of the pool, what its runs share."""


def _start_process(context: RunContext, threads: int) -> None:
    global _context
    _context = context
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, possibly killed: nobody else would stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_process(run: Run) -> RunResult | None:
    if _context is None:
        raise RuntimeError("The process was not started by train_runs.")
    return train_run(run, _context)

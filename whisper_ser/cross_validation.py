"""A corpus trained and tested fold by fold: the encoder runs once, and a finished fold is never done again."""

import copy
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from whisper_ser.arguments import Arguments, SerTrainingArguments
from whisper_ser.folds import Fold
from whisper_ser.models import build_model
from whisper_ser.report.run import METRICS, write_fold
from whisper_ser.training import Inputs, note_settings, prepare_inputs, train


def cross_validate(folds: Sequence[Fold], arguments: Arguments) -> list[Path]:
    """Trains and tests on every fold, each from the same seed; returns the folder of each.

    The folders lie in `output_dir/folds`. Interrupted and started again with the same settings, it goes on with the
    first fold that is not finished; after a complete run it starts anew.

    Raises:
        CheckpointError: `output_dir` holds an unfinished cross-validation with other settings.
        CorpusError: audio that cannot be used, all of it listed.
    """
    process, output_dir = PartialState(), Path(arguments[2].output_dir)
    folders = [output_dir / "folds" / _folder_name(number, fold.name) for number, fold in enumerate(folds, 1)]
    with process.main_process_first():
        if process.is_main_process and (output_dir / METRICS).is_file():
            shutil.rmtree(output_dir / "folds", ignore_errors=True)
            (output_dir / METRICS).unlink()
        note_settings(output_dir / "folds", arguments)
    inputs: Inputs | None = None
    progress = tqdm(folds, desc="cross-validation", unit="fold", disable=not process.is_main_process)
    for fold, folder in zip(progress, folders, strict=True):
        if (folder / METRICS).is_file():
            continue
        set_seed(arguments[2].seed)
        model, extractor = build_model(arguments[0], fold.split.train.features["emotion"].names)
        if inputs is None:
            inputs = prepare_inputs(model, extractor, [path for part in folds[0].split for path in part["path"]])
        of_fold = (*arguments[:2], _quiet(arguments[2], folder))
        training = train(model, extractor, inputs, fold.split, of_fold)
        if process.is_main_process:
            figures = write_fold(folder, training, fold.split, inputs.hours, of_fold)
            progress.set_postfix_str(f"fold {fold.name}: UA {100 * figures['test']['ua']:.1f}")
        process.wait_for_everyone()
    return folders


def _folder_name(number: int, fold: str) -> str:
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', fold)}"


def _quiet(arguments: SerTrainingArguments, folder: Path) -> SerTrainingArguments:
    """Returns the arguments for one fold: one bar tells the progress of all, and a fold is short enough to repeat."""
    arguments = copy.copy(arguments)
    arguments.output_dir = str(folder)
    arguments.disable_tqdm = True
    arguments.logging_strategy = IntervalStrategy.NO
    if arguments.selection == "last":
        arguments.eval_strategy = IntervalStrategy.NO
        arguments.save_strategy = SaveStrategy.NO
    return arguments

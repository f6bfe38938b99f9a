"""A corpus trained and tested fold by fold: the encoder runs once, and a finished fold is never done again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from whisper_ser.data.audio_index import AudioRecord
from whisper_ser.data.splits import Fold, training_paths
from whisper_ser.training.identity import note_settings, run_identity, sample_hashes
from whisper_ser.training.models import build_model
from whisper_ser.training.runs import Run, RunContext, fold_folder, train_runs
from whisper_ser.training.settings import Arguments
from whisper_ser.training.trainer import prepare_inputs


def cross_validate(
    folds: Sequence[Fold], records: Mapping[str, AudioRecord], arguments: Arguments
) -> dict[int, list[Path]]:
    """Trains and tests on every fold, each from the same seed; returns the folder of each fold, by seed.

    The folders lie in `output_dir/folds`. Started again, it trains the folds that are not finished and keeps the
    others.

    Raises:
        CheckpointError: `output_dir` holds a cross-validation with other settings.
    """
    process, output_dir = PartialState(), Path(arguments.training.output_dir)
    with process.main_process_first():
        note_settings(output_dir / "folds", arguments, {"folds": [fold.name for fold in folds]})
    runs = plan_runs(folds, records, arguments)
    todo, silent = [run for run in runs if not run.done], not process.is_main_process
    progress = tqdm(
        total=len(runs), initial=len(runs) - len(todo), desc="cross-validation", unit="fold", disable=silent
    )
    if todo:
        model, extractor = build_model(arguments.model, folds[0].split.train.features["emotion"].names)
        store, copies = Path(arguments.data.feature_dir), arguments.training.augmented_views
        trained = training_paths(folds, arguments.training.refit) if copies else ()
        inputs = prepare_inputs(model, extractor, records, store, copies=copies, trained=trained)
        if arguments.model.model_name_or_path is None and not inputs.log_mels:
            todo = [run._replace(config=model.config) for run in todo]
        # Encoder layers that are trained keep all cores busy, and every process would hold all spectrograms.
        jobs = arguments.sweep.jobs or (1 if inputs.log_mels else None)
        for run, metrics in train_runs(todo, RunContext(folds, inputs, extractor, curves=False), jobs):
            progress.update()
            if metrics:
                progress.set_postfix_str(f"fold {folds[run.fold].name}: UA {100 * metrics['test']['ua']:.1f}")
    progress.close()
    by_seed: dict[int, list[Path]] = {}
    for run in runs:
        by_seed.setdefault(run.arguments.training.seed, []).append(run.folder)
    return by_seed


def plan_runs(folds: Sequence[Fold], records: Mapping[str, AudioRecord], arguments: Arguments) -> list[Run]:
    """Returns the run of every seed and fold, those of one seed together."""
    seeds = [*dict.fromkeys(arguments.sweep.seeds or [arguments.training.seed])]
    runs, hashes = [], sample_hashes(records)
    for seed in seeds:
        of_seed = arguments.with_seed(seed)
        for number, fold in enumerate(folds):
            folder = _folder(Path(arguments.training.output_dir), fold, number, seed, seeds)
            runs.append(Run(folder, number, None, of_seed, run_identity(of_seed, fold.split, hashes)))
    return runs


def _folder(output_dir: Path, fold: Fold, number: int, seed: int, seeds: Sequence[int]) -> Path:
    of_seed = output_dir / "folds" if len(seeds) == 1 else output_dir / "folds" / f"seed-{seed}"
    return of_seed / fold_folder(number, fold.name)

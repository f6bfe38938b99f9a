"""An experiment: settings, the folds of a corpus with its recordings, and what their audit found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.encoder_whisper_ser import load_whisper_config
from whisper_ser.data.audio_index import AudioRecord, index_audio
from whisper_ser.data.leakage import AuditResult, audit, check
from whisper_ser.data.splits import Fold, training_paths
from whisper_ser.demo.encoder import resolve_encoder
from whisper_ser.errors import RecipeError
from whisper_ser.training.checks import check_values
from whisper_ser.training.data import load, plan_folds, protocol_of
from whisper_ser.training.grid import Point, points_of
from whisper_ser.training.identity import note_settings, run_identity, sample_hashes
from whisper_ser.training.models import build_model
from whisper_ser.training.runs import Run, RunContext, fold_folder, train_runs
from whisper_ser.training.settings import Arguments, settings_of
from whisper_ser.training.trainer import prepare_inputs

FOLDS = "folds"
"""The folder of a cross-validation that has one folder for each of its runs."""


@dataclass(frozen=True)
class Experiment:
    """What all runs of an experiment share.

    Attributes:
        arguments: all settings, with what varies.
        protocol: by which the folds were cut; the one that `auto` chose.
        folds: to train and test on.
        records: of all recordings, by path.
        audit: of the folds.
        warnings: leaks that were allowed, for every table.
    """

    arguments: Arguments
    protocol: str
    folds: Sequence[Fold]
    records: Mapping[str, AudioRecord]
    audit: AuditResult
    warnings: Sequence[str]

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the logits."""
        return self.folds[0].split.train.features["emotion"].names

    @property
    def hours(self) -> float:
        """Hours of all audio."""
        return sum(record.seconds for record in self.records.values()) / 3600

    def points(self) -> list[Point]:
        """Returns the combinations of settings to train, the settings themselves where nothing varies.

        Raises:
            RecipeError: settings that no run takes, or that need validation speakers where the folds have none.
        """
        points = points_of(self.arguments, lambda encoder: _whisper_config(encoder).encoder_layers)
        validated = all(len(fold.split.validation) for fold in self.folds)
        for point in points:
            training = point.arguments.training
            try:
                check_values(point.arguments)
            except RecipeError as error:
                raise RecipeError(f"{point.name!r}: {error}") from error
            if self.arguments.grid.varies and (training.selection == "validation" or training.refit) and not validated:
                raise RecipeError(f"{point.name!r} needs validation speakers: give --validation_fraction, as 0.2.")
        return points


def prepare_experiment(arguments: Arguments) -> Experiment:
    """Returns the experiment that the settings describe.

    Raises:
        CorpusError, ProtocolError, RecipeError: the corpus cannot be loaded, or not cut into these folds.
        LeakageError: a leak between the parts of a fold that is not allowed.
    """
    corpus, training = load(arguments.data), arguments.training
    drawn = 0.2 if training.selection == "validation" or training.refit else 0.0
    folds = plan_folds(corpus, arguments.data, training.seed, drawn)
    records = index_audio(sorted({path for part in folds[0].split for path in part["path"]}))
    audited = audit(folds, records)
    warnings = check(audited, set(arguments.data.allow_leaks or []))
    return Experiment(arguments, protocol_of(corpus, arguments.data), folds, records, audited, warnings)


def inputs_of(experiment: Experiment, arguments: Arguments, layers: Sequence[int] | None = None) -> tuple[Any, ...]:
    """Returns the model that the settings build, its extractor, and its inputs of all recordings."""
    model, extractor = build_model(arguments.model, experiment.labels)
    views = arguments.training.augmented_views
    trained = training_paths(experiment.folds, arguments.training.refit) if views else ()
    store = Path(arguments.data.feature_dir)
    inputs = prepare_inputs(model, extractor, experiment.records, store, layers, views, trained)
    return model, extractor, inputs


def plan_runs(experiment: Experiment, point: Point) -> list[Run]:
    """Returns the run of every seed and fold of a combination, those of one seed together."""
    arguments, hashes = point.arguments, sample_hashes(experiment.records)
    config, runs = new_config(experiment, arguments), []
    for seed in arguments.seeds:
        of_seed = arguments.with_seed(seed)
        folder = Path(arguments.training.output_dir) / FOLDS
        if len(arguments.seeds) > 1:
            folder = folder / f"seed-{seed}"
        for number, fold in enumerate(experiment.folds):
            identity = run_identity(of_seed, fold.split, hashes)
            runs.append(Run(folder / fold_folder(number, fold.name), number, config, of_seed, identity))
    return runs


def new_config(experiment: Experiment, arguments: Arguments) -> WhisperSerConfig | None:
    """Returns the config of a new model on a frozen encoder; `None` where each run builds or loads its own encoder.

    Raises:
        ConfigError: the settings do not fit the encoder.
    """
    if arguments.model.model_name_or_path or arguments.model.unfreeze_last_n:
        return None
    encoder, names = _whisper_config(arguments.model.encoder or ""), dict(enumerate(experiment.labels))
    return WhisperSerConfig(encoder_config=encoder, id2label=names, **arguments.model.config_fields)


def _whisper_config(encoder: str) -> Any:
    return load_whisper_config(resolve_encoder(encoder))


def train_grid(experiment: Experiment, points: Sequence[Point], curves: bool = False) -> list[list[Run]]:
    """Trains every combination with every seed on every fold; returns the finished runs of each combination.

    Runs that are there, of the same data and settings, are not trained again: an interrupted experiment goes on, and
    one with more combinations trains what is new. Combinations that encode the recordings alike share one pass.

    Args:
        curves: evaluates the test part after every epoch too, for learning curves.

    Raises:
        CheckpointError: a folder holds a cross-validation with other settings.
    """
    process = PartialState()
    planned = [plan_runs(experiment, point) for point in points]
    with process.main_process_first():
        for point in points:
            folder = Path(point.arguments.training.output_dir) / FOLDS
            note_settings(folder, point.arguments, {"folds": [fold.name for fold in experiment.folds]})
    groups: dict[str, list[Run]] = {}
    names = {run.folder: point.name for point, runs in zip(points, planned, strict=True) for run in runs}
    for run in (run for runs in planned for run in runs if not run.done):
        groups.setdefault(_encoding(run.arguments), []).append(run)
    todo = sum(map(len, groups.values()))
    if todo and process.is_main_process:
        print(f"{todo} trainings on {experiment.hours:.2f} hours of audio", flush=True)
    silent = not process.is_main_process
    with tqdm(total=len(names), initial=len(names) - todo, desc="runs", unit="training", disable=silent) as bar:
        for runs in groups.values():
            for run, result in _train_alike(experiment, runs, curves):
                bar.update()
                if result:
                    name = ", ".join(filter(None, [names[run.folder], f"fold {experiment.folds[run.fold].name}"]))
                    bar.set_postfix_str(f"{name}: UA {100 * result.test.ua:.1f}")
    return planned


def _encoding(arguments: Arguments) -> str:
    """Returns what the inputs of a run depend on: equal for runs that can share them."""
    training = arguments.training
    encoder = {name: getattr(arguments.model, name) for name in sorted(settings_of("encoder"))}
    return str((encoder, arguments.model.unfreeze_last_n, training.augmented_views, training.refit))


def _train_alike(experiment: Experiment, runs: list[Run], curves: bool) -> Any:
    """Trains runs that share their inputs, and yields each with its result."""
    arguments = runs[0].arguments
    read = sorted({layer for run in runs if run.config for layer in run.config.layer_indices}) or None
    if read:
        # A model for its encoder alone, up to the highest layer that a run reads.
        reaching = replace(arguments.model, layers=read[-1:], layer_mixing=None, ensemble=None)
        arguments = arguments._replace(model=reaching)
    _, extractor, inputs = inputs_of(experiment, arguments, read)
    # Encoder layers that are trained keep all cores busy, and every process would hold all spectrograms.
    jobs = experiment.arguments.grid.jobs or (1 if inputs.log_mels else None)
    yield from train_runs(runs, RunContext(experiment.folds, inputs, extractor, curves), jobs)

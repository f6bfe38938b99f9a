"""`whisper-ser train`: one model, or a grid of settings, seeds and folds, and its reports."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import pipeline, set_seed
from transformers.utils import logging

from whisper_ser.audio import read_audio
from whisper_ser.paper.report import write_sweep_report
from whisper_ser.report.run import check_output, summary, write_cross_validation, write_run
from whisper_ser.report.variants import write_variants
from whisper_ser.training.experiment import FOLDS, Experiment, inputs_of, prepare_experiment, train_grid
from whisper_ser.training.grid import VARIANTS, Point
from whisper_ser.training.models import license_model
from whisper_ser.training.recipe import parse_arguments, write_recipe
from whisper_ser.training.sweep import is_sweep
from whisper_ser.training.trainer import remove_checkpoints, train_with_refit

TRY_IT = """{python} -c "
from transformers import pipeline
from whisper_ser.audio import read_audio

classifier = pipeline('audio-classification', model={model!r}, trust_remote_code=True)
print(classifier(read_audio({file!r})))
" """


def main(argv: list[str]) -> None:
    """Trains as the recipe and the flags say."""
    logging.disable_progress_bar()  # weights are read and written in an instant
    experiment = prepare_experiment(parse_arguments(argv))
    points = experiment.points()
    if experiment.arguments.data.protocol == "split" and not experiment.arguments.grid.varies:
        train_one(experiment)
    else:
        train_many(experiment, points)


def train_one(experiment: Experiment) -> None:
    """Trains one model, writes its folder, and shows how to use it."""
    arguments, split = experiment.arguments, experiment.folds[0].split
    output_dir = Path(arguments.training.output_dir)
    check_output(output_dir, "model")
    # New weights are drawn before the Trainer sets the seed.
    set_seed(arguments.training.seed)
    model, extractor, inputs = inputs_of(experiment, arguments)
    license_model(model, arguments, split.train.info.dataset_name)
    training = train_with_refit(model, extractor, inputs, split, arguments)
    if PartialState().is_main_process:
        result = write_run(output_dir, training, extractor, experiment)
        remove_checkpoints(output_dir)
        print("\n" + summary(result, output_dir))
        try_it(output_dir / "model", split.test["path"][0])


def train_many(experiment: Experiment, points: Sequence[Point]) -> None:
    """Cross-validates every combination of settings, and writes the metrics of each and what compares them."""
    output_dir = Path(experiment.arguments.training.output_dir)
    varies = experiment.arguments.grid.varies
    check_output(output_dir, VARIANTS if varies else FOLDS)
    sweep = is_sweep(experiment, points)
    trained = train_grid(experiment, points, curves=sweep)
    if not PartialState().is_main_process:
        return
    folders = {point.name: Path(point.arguments.training.output_dir) for point in points}
    for point, runs in zip(points, trained, strict=True):
        result = write_cross_validation(folders[point.name], runs, experiment)
        write_recipe(folders[point.name], point.arguments.to_dict())
    if not varies:
        print("\n" + summary(result, output_dir))
        return
    write_recipe(output_dir, experiment.arguments.to_dict())
    if sweep:
        page = write_sweep_report(output_dir, list(folders.values()))
        print(f"\nThe report is in {page}")
    else:
        print("\n" + write_variants(output_dir, folders))


def try_it(model: Path, file: str) -> None:
    """Classifies one file with the stock pipeline, and prints the command to do so."""
    classifier: Any = pipeline("audio-classification", model=str(model), trust_remote_code=True)
    answers = classifier(read_audio(file, classifier.feature_extractor.sampling_rate))
    print(f"\n{_shortest(file)}: " + ", ".join(f"{answer['label']} {answer['score']:.2f}" for answer in answers))
    print("\nTry it yourself, with any audio file:\n")
    print(TRY_IT.format(python=shlex.quote(_shortest(sys.executable)), file=_shortest(file), model=str(model)))


def _shortest(path: str) -> str:
    """Returns the path relative to the current folder if it lies inside, else as it is."""
    here = os.path.relpath(path)
    return path if here.startswith("..") else here

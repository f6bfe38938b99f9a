"""`whisper-ser train`: one run, a cross-validation, a sweep or an ablation, and its reports."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import pipeline, set_seed
from transformers.utils import logging

from whisper_ser.audio import read_audio
from whisper_ser.data.audio_index import AudioRecord, index_audio
from whisper_ser.data.leakage import AuditResult, audit, check
from whisper_ser.data.splits import Fold, Split, training_paths
from whisper_ser.paper.latency import measure_latency
from whisper_ser.paper.report import write_sweep_report
from whisper_ser.report.ablation import write_ablation
from whisper_ser.report.cross_validation import cross_validation_summary, write_cross_validation
from whisper_ser.report.run import check_output, summary, write_run
from whisper_ser.training.ablation import VARIANTS, variants_of
from whisper_ser.training.cross_validation import cross_validate
from whisper_ser.training.data import load, plan_folds, protocol_of
from whisper_ser.training.models import build_model, license_model
from whisper_ser.training.recipe import recipe, write_recipe
from whisper_ser.training.refitting import train_with_refit
from whisper_ser.training.settings import Arguments, DataArguments, parse_arguments
from whisper_ser.training.sweep import sweep
from whisper_ser.training.trainer import prepare_inputs, remove_checkpoints

TRY_IT = """{python} -c "
from transformers import pipeline
from whisper_ser.audio import read_audio

classifier = pipeline('audio-classification', model={model!r}, trust_remote_code=True)
print(classifier(read_audio({file!r})))
" """


def main(argv: list[str]) -> None:
    """Trains as the recipe and the flags say."""
    logging.disable_progress_bar()  # weights are read and written in an instant
    arguments = parse_arguments(argv)
    corpus = load(arguments.data)
    folds = plan(corpus, arguments)
    records = index_audio(sorted({path for part in folds[0].split for path in part["path"]}))
    audited, warnings = check_leaks(folds, records, arguments.data)
    protocol = protocol_of(corpus, arguments.data)
    if arguments.sweep.variants:
        ablate(folds, protocol, records, audited, warnings, arguments)
    elif arguments.sweep.varies:
        vary(folds, protocol, records, audited, warnings, arguments)
    elif arguments.data.protocol == "split":
        train_one(folds[0].split, records, audited, warnings, arguments)
    else:
        validate(folds, protocol, records, audited, warnings, arguments)


def plan(corpus: Dataset, arguments: Arguments) -> list[Fold]:
    """Returns the folds to train and test on: one, or those of a cross-validation."""
    drawn = 0.2 if arguments.training.selection == "validation" or arguments.training.refit else 0.0
    return plan_folds(corpus, arguments.data, arguments.training.seed, drawn)


def check_leaks(
    folds: list[Fold], records: Mapping[str, AudioRecord], data: DataArguments
) -> tuple[AuditResult, list[str]]:
    """Returns the audit of the folds and the warnings for every table; raises for a leak that is not allowed."""
    audited = audit(folds, records)
    return audited, check(audited, set(data.allow_leaks or []))


def train_one(
    split: Split, records: Mapping[str, AudioRecord], audited: AuditResult, warnings: list[str], arguments: Arguments
) -> None:
    """Trains one model, writes its folder, and shows how to use it."""
    output_dir = Path(arguments.training.output_dir)
    check_output(output_dir, "model")
    # New weights are drawn before the Trainer sets the seed.
    set_seed(arguments.training.seed)
    model, extractor = build_model(arguments.model, split.train.features["emotion"].names)
    license_model(model, arguments, split.train.info.dataset_name)
    store = Path(arguments.data.feature_dir)
    trained = training_paths([Fold("test", split)], arguments.training.refit)
    inputs = prepare_inputs(
        model, extractor, records, store, copies=arguments.training.augmented_views, trained=trained
    )
    training = train_with_refit(model, extractor, inputs, split, arguments)
    if PartialState().is_main_process:
        metrics = write_run(output_dir, training, extractor, split, inputs.hours, audited, warnings, arguments)
        remove_checkpoints(output_dir)
        print("\n" + summary(metrics, output_dir))
        try_it(output_dir / "model", split.test["path"][0])


def validate(
    folds: list[Fold],
    protocol: str,
    records: Mapping[str, AudioRecord],
    audited: AuditResult,
    warnings: list[str],
    arguments: Arguments,
) -> None:
    """Cross-validates and writes the metrics over all folds."""
    output_dir = Path(arguments.training.output_dir)
    check_output(output_dir, "folds")
    folders = cross_validate(folds, records, arguments)
    if PartialState().is_main_process:
        metrics = write_cross_validation(output_dir, folds, folders, protocol, audited, warnings)
        write_recipe(output_dir, recipe(arguments))
        print("\n" + cross_validation_summary(metrics, output_dir))


def vary(
    folds: list[Fold],
    protocol: str,
    records: Mapping[str, AudioRecord],
    audited: AuditResult,
    warnings: list[str],
    arguments: Arguments,
) -> None:
    """Trains every setting of a sweep on every fold, and writes the report."""
    check_output(Path(arguments.training.output_dir), "cells")
    by_protocol = arguments._replace(data=replace(arguments.data, protocol=protocol))
    results = sweep(folds, records, audited, warnings, by_protocol)
    if PartialState().is_main_process:
        page = write_sweep_report(Path(arguments.training.output_dir), results, measure_latency)
        print(f"\nThe report is in {page}")


def ablate(
    folds: list[Fold],
    protocol: str,
    records: Mapping[str, AudioRecord],
    audited: AuditResult,
    warnings: list[str],
    arguments: Arguments,
) -> None:
    """Cross-validates every variant of a recipe on the same folds, and writes the table that compares them."""
    output_dir = Path(arguments.training.output_dir)
    check_output(output_dir, VARIANTS)
    variants, main_process = variants_of(arguments, folds), PartialState().is_main_process
    for name, settings in variants.items():
        if main_process:
            print(f"{name}:", flush=True)
        cross_validated = cross_validate(folds, records, settings)
        folder = Path(settings.training.output_dir)
        if main_process:
            write_cross_validation(folder, folds, cross_validated, protocol, audited, warnings)
            write_recipe(folder, recipe(settings))
        PartialState().wait_for_everyone()
    if main_process:
        folders = {name: Path(settings.training.output_dir) for name, settings in variants.items()}
        print("\n" + write_ablation(output_dir, folders))


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

"""Variants of one recipe, each cross-validated on the same folds with the same seeds, none of its folds twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.checkpoint_whisper_ser import open_encoder
from whisper_ser.arguments import Arguments, as_flags, parse_arguments
from whisper_ser.audit import AuditResult
from whisper_ser.cells import Cell, folder_name
from whisper_ser.checkpoints import resolve_encoder
from whisper_ser.cross_validation import cross_validate, plan_cells
from whisper_ser.errors import RecipeError
from whisper_ser.estimate import estimate
from whisper_ser.folds import Fold
from whisper_ser.listening import Sound
from whisper_ser.models import given_fields
from whisper_ser.report.cross_validation import write_cross_validation
from whisper_ser.report.recipe import recipe, write_recipe

VARIANTS = "variants"
"""The folder in the output that has a cross-validation for each variant."""


def compare_variants(
    folds: Sequence[Fold],
    sounds: Mapping[str, Sound],
    audited: AuditResult,
    warnings: Sequence[str],
    arguments: Arguments,
) -> dict[str, Path]:
    """Cross-validates every variant; returns the folder of each, as `write_cross_validation` leaves it.

    Started again it goes on with what is not finished; variants that are new in the recipe are added. A variant that
    was changed needs a new name, or its folder removed.

    Raises:
        RecipeError: settings that no run takes, or variants that would share a folder.
        CheckpointError: a variant's folder holds folds with other settings.
    """
    variants = variants_of(arguments)
    for name, settings in variants.items():
        validates = settings.training.selection == "validation" or settings.training.refit
        if validates and not all(len(fold.split.validation) for fold in folds):
            raise RecipeError(f"The variant {name!r} needs validation speakers: give --validation_fraction, as 0.2.")
    main = PartialState().is_main_process
    cells = [cell for settings in variants.values() for cell in _with_configs(folds, sounds, settings)]
    todo = [cell for cell in cells if not cell.done]
    if todo and main:
        print(estimate(todo, folds, sounds, arguments), flush=True)
    for name, settings in variants.items():
        if main:
            print(f"{name}:", flush=True)
        folders = cross_validate(folds, sounds, settings, anew=False)
        if main:
            folder, protocol = Path(settings.training.output_dir), arguments.data.protocol
            write_cross_validation(folder, folds, folders, protocol, audited, warnings)
            write_recipe(folder, recipe(settings))
        PartialState().wait_for_everyone()
    return {name: Path(settings.training.output_dir) for name, settings in variants.items()}


def variants_of(arguments: Arguments) -> dict[str, Arguments]:
    """Returns the settings of each variant: those of all, with its own in their place, in a folder of its own.

    Raises:
        RecipeError: settings that no run takes, or two names for one folder.
    """
    common = {name: value for name, value in recipe(arguments).items() if name != "variants"}
    variants: dict[str, Arguments] = {}
    for name, own in arguments.sweep.settings_of_variants.items():
        folder = Path(arguments.training.output_dir) / VARIANTS / folder_name(name)
        settings: dict[str, Any] = {**common, **own, "output_dir": str(folder)}
        try:
            variants[name] = parse_arguments(as_flags(settings))
        except RecipeError as error:
            raise RecipeError(f"The variant {name!r}: {error}") from error
    folders: dict[str, str] = {}
    for name, settings_of in variants.items():
        twin = folders.setdefault(settings_of.training.output_dir, name)
        if twin != name:
            raise RecipeError(f"The variants {twin!r} and {name!r} would share a folder: call one of them otherwise.")
    return variants


def _with_configs(folds: Sequence[Fold], sounds: Mapping[str, Sound], settings: Arguments) -> list[Cell]:
    """Returns the cells of one variant; those that train a new head on a frozen encoder know its config."""
    cells, model = plan_cells(folds, sounds, settings), settings.model
    if model.model_name_or_path is not None or model.unfreeze_last_n:
        return cells
    labels = dict(enumerate(folds[0].split.train.features["emotion"].names))
    encoder = open_encoder(resolve_encoder(model.encoder or "")).config
    config = WhisperSerConfig(encoder_config=encoder, id2label=labels, **given_fields(model))
    return [cell._replace(config=config) for cell in cells]

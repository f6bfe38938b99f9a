"""Variants of one recipe, each to be cross-validated on the same folds with the same seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whisper_ser.data.splits import Fold
from whisper_ser.errors import RecipeError
from whisper_ser.training.recipe import recipe
from whisper_ser.training.runs import folder_name
from whisper_ser.training.settings import Arguments, as_flags, parse_arguments

VARIANTS = "variants"
"""The folder in the output that has a cross-validation for each variant."""


def variants_of(arguments: Arguments, folds: Sequence[Fold]) -> dict[str, Arguments]:
    """Returns the settings of each variant: those of all, with its own in their place, in a folder of its own.

    Raises:
        RecipeError: settings that no run takes, or that need validation speakers where the folds have none; two names
            for one folder.
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
    _check(variants, folds)
    return variants


def _check(variants: dict[str, Arguments], folds: Sequence[Fold]) -> None:
    folders: dict[str, str] = {}
    for name, settings in variants.items():
        twin = folders.setdefault(settings.training.output_dir, name)
        if twin != name:
            raise RecipeError(f"The variants {twin!r} and {name!r} would share a folder: call one of them otherwise.")
        validates = settings.training.selection == "validation" or settings.training.refit
        if validates and not all(len(fold.split.validation) for fold in folds):
            raise RecipeError(f"The variant {name!r} needs validation speakers: give --validation_fraction, as 0.2.")

"""The settings of a run as a recipe: a file that `run_train.py` takes."""

import json
import os
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from whisper_ser.io import replacing
from whisper_ser.training.settings import (
    Arguments,
    DataArguments,
    ModelArguments,
    SerTrainingArguments,
    SweepArguments,
)

RECIPE = "recipe.json"

OF_THIS_MACHINE = (
    "data_dir",
    "output_dir",
    "feature_dir",
    "table",
    "manifest",
    "use_cpu",
    "dataloader_pin_memory",
    "jobs",
)
"""Settings that mean nothing elsewhere: whoever follows the recipe gives their own."""
NEVER_WRITTEN = ("hub_token", "local_rank", "resume_from_checkpoint")


def recipe(arguments: Arguments) -> dict[str, Any]:
    """Returns the settings that are not defaults; `run_train.py` makes the same `Arguments` of them again."""
    model, data, training, sweep = arguments
    settings: dict[str, Any] = {}
    for given, default in (
        (model, ModelArguments()),
        (data, DataArguments()),
        (training, SerTrainingArguments(output_dir=training.output_dir)),
        (sweep, SweepArguments()),
    ):
        for field in fields(given):
            value = getattr(given, field.name)
            if field.init and field.name not in NEVER_WRITTEN and value != getattr(default, field.name):
                settings[field.name] = value.value if isinstance(value, Enum) else value
    # The folder is no default of the run, even where it is the default's.
    return {**settings, "output_dir": training.output_dir}


def portable(settings: dict[str, Any], published_encoder: str | None = None) -> dict[str, Any]:
    """Returns a recipe for other people: without paths of this machine, which are nobody's business.

    An encoder in a folder goes by the Hub id it was published under, where that is known. Otherwise it keeps the
    folder's name alone, as a saved model does.
    """
    portable = {name: value for name, value in settings.items() if name not in OF_THIS_MACHINE}
    for name in ("encoder", "model_name_or_path"):
        if name in portable and os.path.isdir(os.path.expanduser(portable[name])):
            portable[name] = Path(os.path.expanduser(portable[name])).resolve().name
            if name == "encoder" and published_encoder:
                portable[name] = published_encoder
    return portable


def write_recipe(folder: Path, settings: dict[str, Any]) -> None:
    """Writes `recipe.json` into `folder`."""
    with replacing(folder / RECIPE) as path:
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

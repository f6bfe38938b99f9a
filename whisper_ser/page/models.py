"""The models that the page offers, under names without paths of the machine."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from whisper_ser.errors import InferenceError
from whisper_ser.inference.model import LoadedModel, load_frame_model

MODEL_VARIABLE = "WHISPER_SER_MODEL"
"""Environment variable that names the models of a Space, separated by commas."""
DEMO_MODEL = "outputs/demo/model"


def chosen_models(arguments: Sequence[str]) -> list[str]:
    """Returns folders and Hub ids: the arguments, else those of the environment variable, else the demo model.

    Raises:
        InferenceError: there is none of them.
    """
    models = list(arguments) or [name.strip() for name in os.environ.get(MODEL_VARIABLE, "").split(",")]
    models = [name for name in models if name]
    if models:
        return models
    if not Path(DEMO_MODEL).is_dir():
        raise InferenceError(
            f"No model: name folders or Hub ids, set {MODEL_VARIABLE}, or train the demo model with `make train`."
        )
    return [DEMO_MODEL]


def load_models(models: Sequence[str]) -> dict[str, LoadedModel]:
    """Returns the loaded models by the name shown, in the order given.

    The name is the Hub id, or the last part of a folder's path; for `run/model` that of the run.

    Raises:
        InferenceError, MissingWeightsError, OSError: as `load_model`; an exported model.
    """
    loaded: dict[str, LoadedModel] = {}
    for model in models:
        short = _short_name(model)
        names = (short if number == 1 else f"{short} ({number})" for number in itertools.count(1))
        loaded[next(name for name in names if name not in loaded)] = load_frame_model(model)
    return loaded


def _short_name(model: str) -> str:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "model" else resolved.name

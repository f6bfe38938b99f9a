"""The models that the page offers, each under a name that tells nothing of the machine."""

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
    """Returns the models, loaded, by the names that people choose them by, in the order given.

    A Hub id is its own name, a folder is called by its last part, and `run/model` by its run.

    Raises:
        InferenceError, MissingWeightsError, OSError: as `load_model`; an exported model.
    """
    loaded: dict[str, LoadedModel] = {}
    for model in models:
        recognizer = load_frame_model(model)
        name = short = _short_name(model)
        number = 1
        while name in loaded:
            number += 1
            name = f"{short} ({number})"
        loaded[name] = recognizer
    return loaded


def _short_name(model: str) -> str:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == "model" else resolved.name

"""A Space in which people try the model: `app.py`, the packages it imports, and what the Hub has to know."""

import importlib.metadata
import shutil
import tomllib
from pathlib import Path

import yaml
from huggingface_hub import HfApi

import modeling_whisper_ser
import whisper_ser
from whisper_ser.errors import PublishError
from whisper_ser.publishing.faults import in_words
from whisper_ser.publishing.upload import Published, Target, push

MODEL_VARIABLE = "WHISPER_SER_MODEL"
"""Environment variable by which the Space tells `app.py` its model."""
PACKAGES = (modeling_whisper_ser, whisper_ser)


def stage_space(folder: Path, app: Path, model_id: str) -> None:
    """Writes the files of a Space for `model_id` into the new `folder`.

    Raises:
        PublishError: `app` is not there.
    """
    if not app.is_file():
        raise PublishError(f"There is no {app}, which --space would push: leave --space out.")
    folder.mkdir(parents=True)
    shutil.copy(app, folder / "app.py")
    for package in PACKAGES:
        source = Path(package.__file__ or "").parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (folder / "requirements.txt").write_text("\n".join(_requirements(app.parent)) + "\n", encoding="utf-8")
    metadata = {
        "title": model_id.split("/")[-1],
        "sdk": "gradio",
        **_sdk_version(),
        "app_file": "app.py",
        "models": [model_id],
        "license": "apache-2.0",
    }
    text = f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\nTry [{model_id}](/{model_id}).\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def push_space(api: HfApi, folder: Path, model_id: str, private: bool) -> Published:
    """Uploads the Space of the same name as the model, and tells it the model.

    Raises:
        PublishError: as `push`.
    """
    published = push(api, folder, Target(model_id, "space", private=private), f"Space for {model_id}")
    with in_words(model_id, api.endpoint):
        api.add_space_variable(model_id, MODEL_VARIABLE, model_id)
    return published


def _requirements(root: Path) -> list[str]:
    """Returns what the packages need, from the file that says so."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"]


def _sdk_version() -> dict[str, str]:
    """Returns the version of gradio that was tried here, if one was."""
    try:
        return {"sdk_version": importlib.metadata.version("gradio")}
    except importlib.metadata.PackageNotFoundError:
        return {}

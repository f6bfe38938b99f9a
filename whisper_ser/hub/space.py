"""A Space to try the model in: `app.py`, the packages it imports, and the metadata that the Hub needs."""

import importlib.metadata
import shutil
import sys
from pathlib import Path

import yaml
from huggingface_hub import HfApi
from packaging.requirements import Requirement

import modeling_whisper_ser
import whisper_ser
from whisper_ser.data.licenses import CODE_LICENSE
from whisper_ser.errors import PublishError
from whisper_ser.hub.hub_errors import explain_hub_error
from whisper_ser.hub.publish import Published, Target, push
from whisper_ser.page.models import MODEL_VARIABLE

PACKAGES = (modeling_whisper_ser, whisper_ser)
EXTRAS = ("demo",)
"""Extras that `app.py` needs: the synthesiser of its examples. Gradio is part of every Space."""
APP = """from whisper_ser.commands.app import main

main([])
"""
ABOUT = """
Try [{model}](/{model}): upload or record speech, and see which emotion the voice resembles, when, and which moments
the model weighed most. It names what a voice resembles in acted recordings, not what a person feels:
do not use it to judge people.

The variable `{variable}` in the settings of the Space names the model; separated by commas, it names several to choose
from. Private ones need a secret `HF_TOKEN` that may read them.

The licence above is that of the code of this Space. Each model has its own licence: see its page.
"""


def stage_space(folder: Path, model_id: str) -> None:
    """Writes the files of a Space for `model_id` into the new `folder`.

    Raises:
        PublishError: gradio is not installed.
    """
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP, encoding="utf-8")
    for package in PACKAGES:
        source = Path(package.__file__ or "").parent
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (folder / "requirements.txt").write_text("\n".join(_requirements()) + "\n", encoding="utf-8")
    metadata = {
        "title": model_id.split("/")[-1],
        "sdk": "gradio",
        "sdk_version": _sdk_version(),
        # The default Python of a Space is older than the packages allow.
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "models": [model_id],
        "license": CODE_LICENSE,
    }
    about = ABOUT.format(model=model_id, variable=MODEL_VARIABLE)
    text = f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n{about}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def push_space(api: HfApi, folder: Path, model_id: str, private: bool) -> Published:
    """Uploads the Space under the name of the model, and sets its variable to the model.

    Raises:
        PublishError: as `push`.
    """
    published = push(api, folder, Target(model_id, "space", private=private), f"Space for {model_id}")
    with explain_hub_error(model_id, api.endpoint):
        api.add_space_variable(model_id, MODEL_VARIABLE, model_id)
    return published


def _requirements() -> list[str]:
    """Returns the dependencies of the page, from the metadata of the installed package."""
    needed = []
    for line in importlib.metadata.requires("whisper-ser") or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            needed.append(f"{requirement.name}{requirement.specifier}")
    return needed


def _sdk_version() -> str:
    """Returns the version of gradio that is installed here."""
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        raise PublishError(
            "A Space runs on gradio, which is not installed here: install it, try the page (python app.py MODEL), and "
            "push again."
        ) from None

"""What must hold before anything leaves the machine."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, get_token
from safetensors import SafetensorError

from modeling_whisper_ser import MissingWeightsError, WhisperForEmotionClassification, WhisperSerConfig
from whisper_ser.errors import PublishError
from whisper_ser.hub.clean_process import strangers_answer
from whisper_ser.hub.hub_errors import TOKEN
from whisper_ser.hub.staging import check_files
from whisper_ser.inference.reference_output import check_settings, check_weights, read_known_answer
from whisper_ser.inference.reference_waveform import check_probabilities, waveform
from whisper_ser.report.model_card import NO_NAME_YET, base_model

NO_NAME = re.compile(r"\s*|\d+|(LABEL|label|class|emotion)[_ -]?\d+")
METADATA = ("license", "language", "library_name", "pipeline_tag", "datasets", "metrics", "tags", "eval_results")
SECTIONS = (
    "## Use",
    "### Long audio",
    "### Timeline",
    "## Check what you got",
    "## Results",
    "### Calibration",
    "## Training",
    "### Data",
    "### Environmental cost",
    "## Limits",
    "## Licence",
    "## Citation",
)
SECTIONS_WITH_DATA = {"### By gender and speaker": ("by_gender", "by_speaker")}


def check(folder: Path, metrics: dict[str, Any]) -> None:
    """Raises unless the staged model can be published.

    Args:
        folder: of the upload.
        metrics: that its card was made from.

    Raises:
        PublishError, KnownAnswerError: what is missing or wrong, and what to do.
    """
    check_files(folder)
    check_no_token(folder)
    config = WhisperSerConfig.from_pretrained(folder)
    check_labels(config.labels, metrics["labels"])
    check_card((folder / "README.md").read_text(encoding="utf-8"), metrics, config)
    known = read_known_answer(folder)
    check_weights(folder, known)
    check_settings(folder, known)
    check_tensors(folder)
    check_probabilities(strangers_answer(folder, waveform(known["waveform"])), known, str(folder))


def check_labels(labels: list[str], measured: list[str]) -> None:
    """Raises unless labels are the names that were measured, and names at all."""
    nameless = [label for label in labels if NO_NAME.fullmatch(label)]
    if nameless:
        raise PublishError(
            f"The labels {', '.join(map(repr, nameless))} are no names of emotions: nobody could tell what the model "
            "says. Name them in the data or by --label_aliases, and train again."
        )
    if labels != measured:
        raise PublishError(
            f"The metrics are of a model with the labels {', '.join(measured)}, this one has {', '.join(labels)}: "
            "publish the folder model/ of the run that the metrics are of."
        )


def check_card(text: str, metrics: dict[str, Any], config: WhisperSerConfig) -> None:
    """Raises unless the card has all its metadata and sections."""
    data = ModelCard(text, ignore_metadata_errors=True).data
    lacking = [name for name in METADATA if not getattr(data, name, None)]
    if base_model(metrics, config) and not getattr(data, "base_model", None):
        lacking.append("base_model")
    if not metrics["corpus"].get("license"):
        lacking.append("licence of the corpus")
    lacking += [section for section in SECTIONS if f"\n{section}\n" not in text]
    for section, groups in SECTIONS_WITH_DATA.items():
        if any(metrics.get(group) for group in groups) and f"\n{section}\n" not in text:
            lacking.append(section)
    if lacking:
        hint = (
            " Tell by --about_corpus what the data are." if {"language", "licence of the corpus"} & {*lacking} else ""
        )
        raise PublishError(f"The card is not complete: it lacks {', '.join(lacking)}.{hint}")
    if NO_NAME_YET in text:
        raise PublishError("The card does not say under which name the model is loaded.")


def check_no_token(folder: Path) -> None:
    """Raises if a token for the Hub stands in a text file of the upload."""
    token = get_token()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".md", ".py"):
            text = path.read_text(encoding="utf-8")
            if (token and token in text) or TOKEN.search(text):
                raise PublishError(f"{path.name} holds a token for the Hub: take it out, and revoke it.")


def check_tensors(folder: Path) -> None:
    """Raises unless the weight files hold every tensor of the model and none besides, such as optimiser state."""
    try:
        _, info = WhisperForEmotionClassification.from_pretrained(folder, output_loading_info=True)
    except (MissingWeightsError, SafetensorError, OSError) as error:
        raise PublishError(f"{folder} does not load: {error}") from error
    if foreign := sorted(info["unexpected_keys"]):
        raise PublishError(f"The weights hold tensors that are not the model's: {', '.join(foreign)}.")


def file_list(folder: Path) -> str:
    """Returns the files of an upload with their sizes, for people."""
    sizes = [(path.name, path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join(f"  {size / 1e6:>9.3f} MB  {name}" for name, size in sizes)

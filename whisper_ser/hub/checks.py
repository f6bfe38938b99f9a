"""Checks of a staged model before anything is uploaded."""

import re
from pathlib import Path

from huggingface_hub import get_token

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig
from whisper_ser.data.licenses import read_license
from whisper_ser.errors import PublishError
from whisper_ser.evaluation.results import RunResult
from whisper_ser.hub.clean_process import predict_in_clean_process
from whisper_ser.hub.hub_errors import TOKEN
from whisper_ser.hub.verify import verify
from whisper_ser.inference.reference_output import read_reference_output
from whisper_ser.inference.reference_waveform import check_probabilities, waveform

PLACEHOLDER_LABEL = re.compile(r"\s*|\d+|(LABEL|label|class|emotion)[_ -]?\d+")


def check(folder: Path, result: RunResult) -> None:
    """Raises unless the staged model works, is the one that was measured, and holds nothing private.

    Args:
        folder: of the upload.
        result: that its card was made from.

    Raises:
        PublishError, ReferenceOutputError, ExportError: what is missing or wrong, and what to do.
    """
    check_no_token(folder)
    check_labels(WhisperSerConfig.from_pretrained(folder).labels, result.labels)
    if not result.corpus.languages:
        raise PublishError("The language of the corpus is not known: give it by --about_corpus.")
    verify(folder)
    check_tensors(folder)
    reference = read_reference_output(folder)
    check_probabilities(predict_in_clean_process(folder, waveform(reference["waveform"])), reference, str(folder))


def check_license(folder: Path) -> None:
    """Raises `PublishError` if the staged model has no licence: none can be derived, and nobody has stated one."""
    license = read_license(WhisperSerConfig.from_pretrained(folder))
    if license is None or license.id is None:
        sources = license.sources if license else {}
        found = ", ".join(f"{name} ({one or 'licence unknown'})" for name, one in sources.items())
        raise PublishError(
            f"The licence of the model is not known: none follows from what it learnt from, {found or 'unknown'}. If "
            "you have the right to publish it, state its licence: --license ID, such as --license cc-by-4.0. A table "
            "of your own that is a published corpus is named by --about_corpus."
        )


def check_labels(labels: list[str], measured: list[str]) -> None:
    """Raises unless the labels look like emotions and are those that were measured."""
    placeholders = [label for label in labels if PLACEHOLDER_LABEL.fullmatch(label)]
    if placeholders:
        raise PublishError(
            f"The labels {', '.join(map(repr, placeholders))} do not look like emotions: nobody could interpret the "
            "output of the model. Rename them in the data or by --label_aliases, and train again."
        )
    if labels != measured:
        raise PublishError(
            f"The metrics belong to a model with the labels {', '.join(measured)}, this one has {', '.join(labels)}: "
            "publish the folder model/ of the run that has these metrics."
        )


def check_no_token(folder: Path) -> None:
    """Raises if a text file of the upload contains a token of the Hub."""
    token = get_token()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".md", ".py"):
            text = path.read_text(encoding="utf-8")
            if (token and token in text) or TOKEN.search(text):
                raise PublishError(f"{path.name} contains a token of the Hub: remove it, and revoke the token.")


def check_tensors(folder: Path) -> None:
    """Raises if the weight files hold more than the tensors of the model, such as the state of an optimiser."""
    _, info = WhisperForEmotionClassification.from_pretrained(folder, output_loading_info=True)
    if foreign := sorted(info["unexpected_keys"]):
        raise PublishError(f"The weight files hold tensors that do not belong to the model: {', '.join(foreign)}.")


def file_list(folder: Path) -> str:
    """Returns the files of an upload with their sizes, one a line."""
    sizes = [
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return "\n".join(f"  {size / 1e6:>9.3f} MB  {name}" for name, size in sizes)

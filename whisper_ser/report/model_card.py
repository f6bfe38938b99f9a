"""The model card of a run, generated from its metrics, its config, its recipe and its reference output."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.licenses import CODE_LICENSE, HeadLicense, read_license
from whisper_ser.evaluation.results import RunResult
from whisper_ser.inference.reference_output import read_reference_output
from whisper_ser.report.protocol import card_protocol
from whisper_ser.training.recipe import RECIPE

NO_NAME_YET = "path/or/hub-id"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
METRIC_NAMES = {
    "wa": "WA (accuracy)",
    "ua": "UA (mean recall of the classes)",
    "f1": "F1 (weighted by support)",
    "macro_f1": "macro F1",
}


def model_card(
    result: RunResult,
    folder: Path,
    model_id: str = NO_NAME_YET,
    cross_validation: RunResult | None = None,
    speed: dict[str, Any] | None = None,
) -> str:
    """Returns the card: YAML metadata with the model index, then use, check, results, training, limits and licence.

    The same arguments give the same text.

    Args:
        result: of the run that trained the model.
        folder: of the saved model, with config, recipe and reference output.
        model_id: Hub id or path to load the model by.
        cross_validation: result of a cross-validation of the same recipe, which the card then shows first.
        speed: measured time, `{"device", "threads", "command", "rows": [{"seconds", "milliseconds", "runtime"}]}`;
            without it the card has no section on speed.

    Raises:
        ReferenceOutputError: `folder` has no reference output.
    """
    config = WhisperSerConfig.from_pretrained(folder)
    tests = [cross_validation, result] if cross_validation else [result]
    license = read_license(config) or HeadLicense(None)
    name = model_id.split("/")[-1] if model_id != NO_NAME_YET else f"whisper-ser-{result.corpus.name}"
    card = ModelCard.from_template(
        _metadata(result, config, license, name, tests),
        template_str=resources.files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8"),
        result=result,
        tests=tests,
        protocol=card_protocol,
        config=config,
        license=license,
        code_license=CODE_LICENSE,
        encoder=base_model(result, config) or result.model.base,
        name=name,
        model_id=model_id,
        reference=read_reference_output(folder),
        recipe=json.loads((folder / RECIPE).read_text(encoding="utf-8")),
        speed=speed,
        metric_names=METRIC_NAMES,
        percent=lambda share: "-" if share is None else f"{100 * share:.1f}",
    )
    return str(card).rstrip() + "\n"


def base_model(result: RunResult, config: WhisperSerConfig) -> str | None:
    """Returns the Hub id of the checkpoint that the encoder is from, or `None` where only a folder is known."""
    if result.model.on_hub:
        return result.model.base
    # The config of a downloaded checkpoint still has its Hub id.
    published = str(config.encoder_config.to_dict().get("_name_or_path") or "")
    return published if HUB_ID.fullmatch(published) else None


def _metadata(
    result: RunResult, config: WhisperSerConfig, license: HeadLicense, name: str, tests: list[RunResult]
) -> ModelCardData:
    return ModelCardData(
        **license.card_metadata,  # type: ignore[arg-type]
        language=result.corpus.languages or None,
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=base_model(result, config),
        datasets=[result.corpus.name],
        tags=["speech-emotion-recognition", "whisper"],
        metrics=["accuracy", "recall", "f1"],
        model_name=name,
        eval_results=[one for test in tests for one in _eval_results(test)],
    )


def _eval_results(result: RunResult) -> list[EvalResult]:
    """Returns every metric of a test with its protocol, in percent except for the calibration error."""
    figures = [(metric, name, round(100 * getattr(result.test, metric), 2)) for metric, name in METRIC_NAMES.items()]
    figures.append(("ece", "expected calibration error", round(result.test.ece or 0, 4)))
    recall = result.all_utterances.recall
    figures += [
        ("recall", f"recall of {label}", round(100 * share, 2)) for label, share in recall.items() if share is not None
    ]
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech emotion recognition",
            dataset_type=result.corpus.name,
            dataset_name=f"{result.corpus.name} ({card_protocol(result)})",
            # The Hub merges results of the same dataset and config, whatever their name is.
            dataset_config="cross-validation" if result.is_cross_validation else "split",
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=value,
        )
        for metric, name, value in figures
    ]

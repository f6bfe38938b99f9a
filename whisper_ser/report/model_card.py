"""The model card of a run, generated from its metrics, its config, its recipe and its reference output."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.licenses import CODE_LICENSE, HeadLicense, read_license
from whisper_ser.inference.reference_output import read_reference_output
from whisper_ser.report.results import NAMES, Results, results_of
from whisper_ser.training.recipe import RECIPE

NO_NAME_YET = "path/or/hub-id"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
METRIC_NAMES = {**NAMES, "ece": "expected calibration error"}


def model_card(
    metrics: dict[str, Any],
    folder: Path,
    model_id: str = NO_NAME_YET,
    cross_validation: dict[str, Any] | None = None,
    speed: dict[str, Any] | None = None,
) -> str:
    """Returns the card: YAML metadata with the model index, then use, check, results, training, limits and licence.

    The same arguments give the same text.

    Args:
        metrics: content of `metrics.json` of the run that trained the model.
        folder: of the saved model, with config, recipe and reference output.
        model_id: Hub id or path to load the model by.
        cross_validation: metrics of a cross-validation of the same recipe, which the card then shows first.
        speed: measured time, `{"device", "threads", "command", "rows": [{"seconds", "milliseconds", "runtime"}]}`;
            without it the card has no section on speed.

    Raises:
        ReferenceOutputError: `folder` has no reference output.
    """
    config = WhisperSerConfig.from_pretrained(folder)
    tests = [results_of(cross_validation)] if cross_validation else []
    tests.append(results_of(metrics))
    license = read_license(config) or HeadLicense(None)
    name = model_id.split("/")[-1] if model_id != NO_NAME_YET else f"whisper-ser-{metrics['corpus']['name']}"
    card = ModelCard.from_template(
        _metadata(metrics, config, license, name, tests),
        template_str=resources.files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8"),
        metrics=metrics,
        shown_first=cross_validation or metrics,
        config=config,
        license=license,
        code_license=CODE_LICENSE,
        encoder=base_model(metrics, config) or metrics["base_model"]["name"],
        name=name,
        model_id=model_id,
        tests=tests,
        cross_validated=cross_validation is not None,
        reference=read_reference_output(folder),
        recipe=json.loads((folder / RECIPE).read_text(encoding="utf-8")),
        speed=speed,
        metric_names=METRIC_NAMES,
        percent=lambda share: "-" if share is None else f"{100 * share:.1f}",
    )
    return str(card).rstrip() + "\n"


def base_model(metrics: dict[str, Any], config: WhisperSerConfig) -> str | None:
    """Returns the Hub id of the checkpoint that the encoder is from, or `None` where only a folder is known."""
    if metrics["base_model"]["on_hub"]:
        return metrics["base_model"]["name"]
    # The config of a downloaded checkpoint still has its Hub id.
    published = str(config.encoder_config.to_dict().get("_name_or_path") or "")
    return published if HUB_ID.fullmatch(published) else None


def _metadata(
    metrics: dict[str, Any], config: WhisperSerConfig, license: HeadLicense, name: str, tests: list[Results]
) -> ModelCardData:
    corpus = metrics["corpus"]
    return ModelCardData(
        **license.card_metadata,  # type: ignore[arg-type]
        language=corpus["languages"] or None,
        library_name="transformers",
        pipeline_tag="audio-classification",
        base_model=base_model(metrics, config),
        datasets=[corpus["name"]],
        tags=["speech-emotion-recognition", "whisper"],
        metrics=["accuracy", "recall", "f1"],
        model_name=name,
        eval_results=[result for test in tests for result in _eval_results(test, corpus)],
    )


def _eval_results(test: Results, corpus: dict[str, Any]) -> list[EvalResult]:
    """Returns every metric of a test with its protocol, in percent except for the calibration error."""
    figures = [(figure.metric, METRIC_NAMES[figure.metric], 100 * figure.value) for figure in test.figures]
    figures.append(("ece", METRIC_NAMES["ece"], test.ece))
    recall = test.pooled["recall"]
    figures += [("recall", f"recall of {label}", 100 * share) for label, share in recall.items() if share is not None]
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech emotion recognition",
            dataset_type=corpus["name"],
            dataset_name=f"{corpus['name']} ({test.protocol})",
            # The Hub merges results of the same dataset and config, whatever their name is.
            dataset_config=test.kind,
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4 if metric == "ece" else 2),
        )
        for metric, name, value in figures
    ]

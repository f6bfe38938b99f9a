"""The model card of a run: every value comes from its metrics, its recipe and its known answer."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.inference.reference_output import read_known_answer
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
    """Returns the card: YAML metadata with the model index, then use, check, results, training and limits.

    The same arguments give the same text.

    Args:
        metrics: what `metrics.json` of the run holds that trained the model.
        folder: of the saved model, with config, recipe and known answer.
        model_id: under which the model is loaded.
        cross_validation: metrics of a cross-validation of the same recipe; the card then leads with its figures.
        speed: measured time, `{"device", "threads", "command", "rows": [{"seconds", "milliseconds", "runtime"}]}`;
            without it the card has no section on speed.

    Raises:
        KnownAnswerError: `folder` has no known answer.
    """
    config = WhisperSerConfig.from_pretrained(folder)
    tests = [results_of(cross_validation)] if cross_validation else []
    tests.append(results_of(metrics))
    name = model_id.split("/")[-1] if model_id != NO_NAME_YET else f"whisper-ser-{metrics['corpus']['name']}"
    card = ModelCard.from_template(
        _metadata(metrics, config, name, tests),
        template_str=resources.files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8"),
        metrics=metrics,
        led_by=cross_validation or metrics,
        config=config,
        name=name,
        model_id=model_id,
        tests=tests,
        cross_validated=cross_validation is not None,
        known=read_known_answer(folder),
        recipe=json.loads((folder / RECIPE).read_text(encoding="utf-8")),
        speed=speed,
        metric_names=METRIC_NAMES,
        percent=lambda share: "-" if share is None else f"{100 * share:.1f}",
    )
    return str(card).rstrip() + "\n"


def base_model(metrics: dict[str, Any], config: WhisperSerConfig) -> str | None:
    """Returns the Hub id of the checkpoint that the encoder came from, or `None` where only a folder is known."""
    if metrics["base_model"]["on_hub"]:
        return metrics["base_model"]["name"]
    # A checkpoint that was downloaded before still says under which name it was published.
    published = str(config.encoder_config.to_dict().get("_name_or_path") or "")
    return published if HUB_ID.fullmatch(published) else None


def _metadata(metrics: dict[str, Any], config: WhisperSerConfig, name: str, tests: list[Results]) -> ModelCardData:
    corpus = metrics["corpus"]
    return ModelCardData(
        license="apache-2.0",
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
    """Returns every metric of a test with its protocol, in percent but for the calibration error."""
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
            # Results of one dataset and config count as one entry, whatever its name says.
            dataset_config=test.kind,
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4 if metric == "ece" else 2),
        )
        for metric, name, value in figures
    ]

"""The model card of a run, every value of which comes from its metrics."""

from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_whisper_ser import WhisperSerConfig


def model_card(metrics: dict[str, Any], config: WhisperSerConfig) -> str:
    """Returns the card: YAML metadata with the model index, then use, results, protocol and limits.

    Args:
        metrics: what `metrics.json` holds.
        config: of the model.
    """
    test, corpus = metrics["test"], metrics["corpus"]
    results = [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech emotion recognition",
            dataset_type=corpus["name"],
            dataset_name=f"{corpus['name']} (held-out speakers {', '.join(metrics['protocol']['test_speakers'])})",
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=round(100 * test[metric], 2),
        )
        for metric, name in (("wa", "WA (accuracy)"), ("ua", "UA (mean recall)"), ("f1", "F1 (weighted)"))
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        # A folder is nobody else's: only a Hub id means something on the Hub.
        base_model=metrics["base_model"]["name"] if metrics["base_model"]["on_hub"] else None,
        tags=["speech-emotion-recognition", "whisper"],
        metrics=["accuracy", "recall", "f1"],
        model_name=f"whisper-ser-{corpus['name']}",
        eval_results=results,
    )
    template = resources.files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        card_data, template_str=template, metrics=metrics, config=config, percent=lambda share: f"{100 * share:.1f}"
    )
    return str(card).rstrip() + "\n"

"""Where a sweep departs from the settings that the paper states."""

from collections.abc import Iterator
from typing import Any

from whisper_ser.paper import published as paper


def departures(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Returns `(setting, the paper's, here)` where this sweep is not what the paper describes; none elsewhere."""
    name = results["corpus"]["name"]
    if name not in paper.CLASSES:
        return []
    protocol, training = results["protocol"], results["training"]
    here = {
        "classes": len(results["labels"]),
        "folds": len(protocol["folds"]),
        **{key: (protocol | training).get(key) for key in paper.SETTINGS},
    }
    there = {"classes": paper.CLASSES[name], "folds": paper.FOLDS[name], **paper.SETTINGS}
    rows = [(key, _word(there[key]), _word(here[key])) for key in there if there[key] != here[key]]
    return rows + list(dict.fromkeys(_of_models(name, results["models"])))


def _of_models(name: str, models: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yields `(setting, the paper's, here)` of the poolings; the pooling is named where only some could differ."""
    for pooling, fields in models.items():
        there: dict[str, Any] = paper.MODEL
        if pooling in paper.SCALED:
            own = {"num_pooling_heads": paper.HEADS[name], "scale_scores": paper.SCALED[pooling]}
            there = {**there, **paper.ATTENTION, **own}
        for key, value in there.items():
            if fields[key] != value:
                yield key if key in paper.MODEL else f"{key} ({pooling})", _word(value), _word(fields[key])


def model_line(results: dict[str, Any]) -> str:
    """Returns what each pooling was trained with: heads, and dropouts as shares of input, pooling and classifier."""
    return "; ".join(
        pooling
        + (f" {fields['num_pooling_heads']} x {fields['pooling_head_dim']}" if pooling in paper.SCALED else "")
        + f", dropout {fields['input_dropout']:g} / {fields['pooling_dropout']:g} / {fields['classifier_dropout']:g}"
        for pooling, fields in results["models"].items()
    )


def _word(value: Any) -> str:
    return {"None": "none", "True": "on", "False": "off"}.get(str(value), str(value))

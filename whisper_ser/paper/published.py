"""What the paper publishes (arXiv 2602.06000): its figures, in percent as its tables print them, and its settings."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from whisper_ser.paper.sweep import Sweep
from whisper_ser.report.tables import Mean

CLASSES = {"shemo": 5, "iemocap": 4}
FOLDS = {"shemo": 10, "iemocap": 5}
"""Of the corpora that the paper reports (Sections 4.1 and 4.2)."""

OWN_SOURCE = "the paper"
OWN_LAYER = {"shemo": 8, "iemocap": 12}
"""Where Table 4 has the figures of its own row of Table 2. On IEMOCAP, WA is of layer 12 (attentive) and UA of layer
11 (qkv)."""
ODDITIES = {
    "shemo": ["tiny qkv: no single layer has both its WA and its UA"],
    "iemocap": [
        "tiny attentive: no single layer has both its WA and its UA",
        "small mean: layer 10, though layer 12 has a higher UA",
        "small qkv: no single layer has both its WA and its UA",
    ],
}
"""Where Table 1 is not the layer of highest UA in Tables 3 and 4."""
SETTINGS = {
    "selection": "test_best",
    "pad_to_seconds": 30,
    "epochs": 30,
    "batch_size": 16,
    "learning_rate": 1e-3,
}
"""Section 4.2, the 30 s window of 3.1.2, and the checkpoint by test accuracy of the released code."""
MODEL = {
    "channel_standardisation": False,
    "frame_averaging": 1,
    "chunk_seconds": 30,
    "d_model": 256,
    "input_dropout": 0,
    "classifier_dropout": 0,
    "label_smoothing": 0,
    "layer_norm_after_pooling": False,
}
"""Of every pooling. The dropout inside the poolings is not stated."""
ATTENTION = {"pooling_head_dim": 4, "pooling_statistics": False, "score_activation": "none"}
"""Of the poolings with heads (section 4.2, equations 6 and 8), besides `HEADS` and `SCALED`."""
HEADS = {"shemo": 6, "iemocap": 12}
SCALED = {"attentive": False, "qkv": True}
"""Whether attention scores are divided by the root of the head size, by pooling."""


@dataclass(frozen=True)
class PriorResult:
    """A row of Table 2. `encoder` is the pretrained model, `source` who reported it."""

    encoder: str
    source: str
    wa: float
    ua: float


def whisper_size(encoder: str) -> str | None:
    """Returns `tiny` or `small` for the encoders of the paper, English-only ones included, else `None`."""
    found = re.fullmatch(r"(?:.*/)?whisper-(tiny|small)(?:\.en)?", encoder)
    return found and found[1]


def best_layer(corpus: str, encoder: str, pooling: str) -> dict[str, Mean]:
    """Returns Table 1's `{"wa": ..., "ua": ...}`, empty where the paper has none."""
    return _figures("best_layer.csv").get((corpus, whisper_size(encoder), pooling, None), {})


def one_layer(corpus: str, encoder: str, pooling: str, layer: int) -> dict[str, Mean]:
    """Returns the `{"wa": ..., "ua": ..., "f1": ...}` of Table 3 or 4, empty where the paper has none."""
    return _figures("layer_sweep.csv").get((corpus, whisper_size(encoder), pooling, layer), {})


def prior_work(corpus: str) -> list[PriorResult]:
    """Returns the rows of Table 2 for a corpus, the paper's own last; none for a corpus it does not report."""
    rows = [row for row in _rows("prior_work.csv") if row["corpus"] == corpus]
    return [PriorResult(row["encoder"], row["source"], float(row["wa"]), float(row["ua"])) for row in rows]


@cache
def _figures(file: str) -> dict[tuple[str, str | None, str, int | None], dict[str, Mean]]:
    figures: dict[tuple[str, str | None, str, int | None], dict[str, Mean]] = {}
    for row in _rows(file):
        layer = int(row["layer"]) if "layer" in row else None
        of_row = figures.setdefault((row["corpus"], row["whisper_size"], row["pooling"], layer), {})
        of_row[row["metric"]] = Mean(float(row["mean"]), float(row["std"]))
    return figures


def _rows(file: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath("csv", file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def departures(sweep: Sweep) -> list[tuple[str, str, str]]:
    """Returns `(setting, the paper's, here)` where a sweep is not what the paper describes; none for other corpora."""
    about, training = sweep.about, sweep.about.training
    if about.corpus.name not in CLASSES:
        return []
    there = {"classes": CLASSES[about.corpus.name], "folds": FOLDS[about.corpus.name], **SETTINGS}
    here = {
        "classes": len(about.labels),
        "folds": len(about.protocol.folds),
        "selection": about.protocol.selection,
        "pad_to_seconds": about.model.pad_to_seconds,
        **{name: getattr(training, name) for name in ("epochs", "batch_size", "learning_rate")},
    }
    rows = [(key, _word(there[key]), _word(here[key])) for key in there if there[key] != here[key]]
    return rows + list(dict.fromkeys(_departures_of_models(sweep)))


def _departures_of_models(sweep: Sweep) -> Iterator[tuple[str, str, str]]:
    """Yields `(setting, the paper's, here)` of the poolings; the pooling is named where only some could differ."""
    for pooling, config in sweep.models.items():
        there: dict[str, Any] = MODEL
        if pooling in SCALED:
            own = {"num_pooling_heads": HEADS[sweep.about.corpus.name], "scale_scores": SCALED[pooling]}
            there = {**there, **ATTENTION, **own}
        for key, value in there.items():
            if (here := getattr(config, key)) != value:
                yield key if key in MODEL else f"{key} ({pooling})", _word(value), _word(here)


def _word(value: Any) -> str:
    return {"None": "none", "True": "on", "False": "off"}.get(str(value), str(value))

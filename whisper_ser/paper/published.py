"""The figures that the paper publishes (arXiv 2602.06000), in percent, as its tables print them."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

CLASSES = {"shemo": 5, "iemocap": 4}
FOLDS = {"shemo": 10, "iemocap": 5}
"""Of the corpora that the paper reports (Sections 4.1 and 4.2)."""

OWN_ROW = "Whisper Small (Ours)"
OWN_SOURCE = "the paper"
OWN_LAYER = {"shemo": 8, "iemocap": 12}
"""Where Table 4 has the figures of its own row of Table 2. On IEMOCAP, WA is of layer 12 (attentive) and UA of layer
11 (qkv)."""
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


class Figure(NamedTuple):
    """Mean and population standard deviation over folds, in percent."""

    mean: float
    std: float


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


def best_layer(corpus: str, encoder: str, pooling: str) -> dict[str, Figure]:
    """Returns Table 1's `{"wa": ..., "ua": ...}`, empty where the paper has none."""
    return _figures("best_layer.csv").get((corpus, whisper_size(encoder), pooling, None), {})


def one_layer(corpus: str, encoder: str, pooling: str, layer: int) -> dict[str, Figure]:
    """Returns the `{"wa": ..., "ua": ..., "f1": ...}` of Table 3 or 4, empty where the paper has none."""
    return _figures("layer_sweep.csv").get((corpus, whisper_size(encoder), pooling, layer), {})


def prior_work(corpus: str) -> list[PriorResult]:
    """Returns the rows of Table 2 for a corpus, the paper's own last; none for a corpus it does not report."""
    rows = []
    for row in _rows("prior_work.csv"):
        if row["corpus"] == corpus:
            encoder, source = _encoder_and_source(row["model"])
            rows.append(PriorResult(encoder, source, float(row["wa"]), float(row["ua"])))
    return rows


def oddities_of_best_layer(corpus: str) -> list[str]:
    """Returns where Table 1 is not the layer of highest UA in Tables 3 and 4, a line for each such row."""
    lines = []
    for (of, size, pooling, _), figures in _figures("best_layer.csv").items():
        if of != corpus:
            continue
        layers = {
            key[3]: of_layer for key, of_layer in _figures("layer_sweep.csv").items() if key[:3] == (of, size, pooling)
        }
        shown = [layer for layer, of_layer in layers.items() if figures.items() <= of_layer.items()]
        highest = max(layers, key=lambda layer: layers[layer]["ua"].mean)
        if not shown:
            lines.append(f"{size} {pooling}: no single layer has both its WA and its UA")
        elif highest not in shown:
            lines.append(f"{size} {pooling}: layer {shown[0]}, though layer {highest} has a higher UA")
    return lines


@cache
def _figures(file: str) -> dict[tuple[str, str | None, str, int | None], dict[str, Figure]]:
    figures: dict[tuple[str, str | None, str, int | None], dict[str, Figure]] = {}
    for row in _rows(file):
        layer = int(row["layer"]) if "layer" in row else None
        of_row = figures.setdefault((row["corpus"], row["whisper_size"], row["pooling"], layer), {})
        of_row[row["metric"]] = Figure(float(row["mean"]), float(row["std"]))
    return figures


def _rows(file: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath("csv", file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _encoder_and_source(model: str) -> tuple[str, str]:
    """Splits `HuBERT Large Ma et al. (2024)`: names of encoders end with their size."""
    if model == OWN_ROW:
        return "Whisper Small", OWN_SOURCE
    found = re.fullmatch(r"(.+? (?:X-)?Large(?: V3)?) (.+)", model)
    return (found[1], found[2]) if found else (model, "")

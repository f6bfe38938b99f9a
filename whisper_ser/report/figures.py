"""Figures as PNG."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend comes first: there may be no screen)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.image import AxesImage  # noqa: E402

from whisper_ser.evaluation.calibration import coverage_curve  # noqa: E402

MARKED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds named on the curve of coverage, where they leave answers out."""


def draw_durations(seconds: list[float], title: str, path: Path) -> None:
    """Writes the histogram of durations in seconds; far longer ones than the rest are counted below it."""
    shown = min(max(seconds), 2 * float(np.quantile(seconds, 0.99)))
    longer = sum(duration > shown for duration in seconds)
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes.hist(seconds, bins=40, range=(0, shown), color="tab:blue", edgecolor="white", linewidth=0.5)
    median = float(np.median(seconds))
    axes.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median {median:.2f} s")
    axes.set_xlim(0, shown)
    axes.set_xlabel("seconds" + (f" ({longer} longer, up to {max(seconds):.0f} s, not shown)" if longer else ""))
    axes.set_ylabel("utterances")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")
    plt.close(figure)


def draw_confusion_matrix(matrix: list[list[int]], labels: list[str], title: str, path: Path) -> None:
    """Writes the confusion matrix: colour is the share of the true class, numbers are share and count."""
    size = 1.6 + 0.9 * len(labels)
    figure, axes = plt.subplots(figsize=(size + 0.6, size), dpi=150, layout="constrained")
    image = paint_confusion_matrix(axes, np.array(matrix), "{share:.0f}%\n{count}", fontsize=9)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    figure.savefig(path, format="png")
    plt.close(figure)


def paint_confusion_matrix(axes: Axes, counts: np.ndarray, text: str, fontsize: float) -> AxesImage:
    """Paints the shares of the true class, rows of `counts` `(labels, labels)`, and writes `text` into each cell.

    Args:
        text: a format with `share`, in percent, and `count`.
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, column in np.ndindex(counts.shape):
        axes.text(
            column,
            row,
            text.format(share=100 * share[row, column], count=counts[row, column]),
            ha="center",
            va="center",
            color="white" if share[row, column] > 0.55 else "black",
            fontsize=fontsize,
        )
    return axes.imshow(share, cmap="Blues", vmin=0, vmax=1)


def draw_coverage(confidence: np.ndarray, right: np.ndarray, of: str, path: Path) -> None:
    """Writes how many of the answers are right, by the share of utterances answered, as the threshold rises.

    Args:
        confidence: probability of the winning class `(utterances,)`.
        right: whether it is the true one `(utterances,)`.
        of: corpus and protocol, for the title.
    """
    thresholds, answered, correct = coverage_curve(confidence, right)
    figure, axes = plt.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes.plot(100 * answered, 100 * correct, color="tab:blue", linewidth=1.5)
    axes.axhline(100 * correct[-1], color="black", linestyle="--", linewidth=0.8)
    for threshold in MARKED:
        if thresholds[-1] < threshold <= thresholds[0]:
            last = np.flatnonzero(thresholds >= threshold)[-1]
            point = 100 * answered[last], 100 * correct[last]
            axes.plot(*point, "o", color="tab:blue", markersize=4)
            axes.annotate(f"{threshold:g}", point, xytext=(3, 5), textcoords="offset points", fontsize=8)
    axes.set_xlim(0, 102)
    axes.set_xlabel("utterances answered (%); dots: the threshold of probability")
    axes.set_ylabel("of those, right (%)")
    axes.set_title(f"{of}, {len(confidence)} test utterances, {100 * correct[-1]:.1f}% of all right", fontsize=10)
    figure.savefig(path, format="png")
    plt.close(figure)

"""The figures of a sweep: what each shows as a table, and its drawing from that table alone."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from whisper_ser.evaluation.metrics import class_recall
from whisper_ser.paper.sweep import METRICS, Choice, Setting, Sweep, choose_setting, means
from whisper_ser.paper.tables import counts
from whisper_ser.report.figures import paint_confusion_matrix, plt
from whisper_ser.report.tables import percent

STYLES: dict[str, dict[str, Any]] = {
    "mean": {"color": "#0072B2", "marker": "o"},
    "attentive": {"color": "#D55E00", "marker": "s"},
    "qkv": {"color": "#009E73", "marker": "^"},
    "statistics": {"color": "#CC79A7", "marker": "D"},
}
"""Colours that the colour-blind tell apart (Okabe and Ito 2008); the markers say it again."""

CHARACTERS_PER_INCH = 18
"""Of a footer."""

SMALL: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
}


def recall_by_class(sweep: Sweep) -> pandas.DataFrame:
    """Returns what Fig. 2 shows: recall of each class over all test utterances, of the best layer of each pooling."""
    rows = []
    for chosen, choice in _choices(sweep):
        for label, recall in zip(sweep.about.labels, class_recall(choice.matrix), strict=True):
            share = None if recall is None else percent(recall)
            rows.append({**chosen, "emotion": label, "recall": share})
    return pandas.DataFrame(rows)


def draw_recall(frame: pandas.DataFrame, footer: str, path: Path) -> None:
    """Writes Fig. 2: one radar an encoder, one line a pooling."""
    encoders, labels = _unique(frame["encoder"]), _unique(frame["emotion"])
    angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
    with plt.rc_context(SMALL):
        figure, grid = plt.subplots(
            1, len(encoders), figsize=(3.8 * len(encoders), 4.1), squeeze=False, subplot_kw={"projection": "polar"}
        )
        for axes, encoder in zip(grid[0], encoders, strict=True):
            for pooling, rows in frame[frame["encoder"] == encoder].groupby("pooling", sort=False):
                recall = rows["recall"].to_numpy(dtype=float)
                axes.plot(
                    [*angles, angles[0]], [*recall, recall[0]], label=pooling, markersize=4, lw=1.3, **_style(pooling)
                )
            axes.set_theta_offset(np.pi / 2)
            axes.set_theta_direction(-1)
            axes.set_xticks(angles, labels)
            for angle, name in zip(angles, axes.get_xticklabels(), strict=True):
                right = np.sin(angle)
                name.set_horizontalalignment("center" if abs(right) < 0.1 else "left" if right > 0 else "right")
            axes.tick_params(axis="x", pad=2)
            axes.set_ylim(0, 100)
            axes.set_yticks([20, 40, 60, 80, 100], ["20", "40", "60", "80", "100%"], color="0.35", fontsize=7)
            axes.set_title(encoder, pad=14)
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
        _save(figure, footer, path)


def confusion(sweep: Sweep) -> pandas.DataFrame:
    """Returns what Fig. 3 shows: counts of all test utterances, of the best layer of each pooling."""
    rows, labels = [], sweep.about.labels
    for chosen, choice in _choices(sweep):
        for (true, predicted), count in np.ndenumerate(choice.matrix):
            names = {"true": labels[true], "predicted": labels[predicted]}
            rows.append({**chosen, **names, "utterances": int(count)})
    return pandas.DataFrame(rows)


def draw_confusion(frame: pandas.DataFrame, footer: str, path: Path) -> None:
    """Writes Fig. 3: encoders by row, poolings by column; colours and numbers are shares of the true class."""
    encoders, poolings, labels = (_unique(frame[name]) for name in ("encoder", "pooling", "true"))
    side = 1.0 + 0.38 * len(labels)
    with plt.rc_context(SMALL):
        size = (side * len(poolings) + 1.6, (side + 0.3) * len(encoders) + 1.2)
        figure, grid = plt.subplots(
            len(encoders), len(poolings), figsize=size, squeeze=False, sharex=True, sharey=True
        )
        # For panels of a fixed shape.
        figure.set_layout_engine("compressed")
        for (row, column), axes in np.ndenumerate(grid):
            chosen = frame[(frame["encoder"] == encoders[row]) & (frame["pooling"] == poolings[column])]
            axes.set_title(f"{encoders[row]}, {poolings[column]}")
            if chosen.empty:
                axes.text(0.5, 0.5, "missing", transform=axes.transAxes, ha="center", color="0.35")
                continue
            matrix = chosen["utterances"].to_numpy().reshape(len(labels), len(labels))
            image = paint_confusion_matrix(axes, matrix, "{share:.0f}", fontsize=8)
        for axes in grid[-1]:
            axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
            axes.set_xlabel("predicted")
        for axes in grid[:, 0]:
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylabel("true")
        figure.colorbar(image, ax=grid, shrink=0.7, label="share of the true class", pad=0.01)
        _save(figure, footer, path)


def learning_curves(sweep: Sweep) -> pandas.DataFrame:
    """Returns what Fig. 4 shows: loss and figures by epoch, the mean over runs of each setting.

    They are those of the part (`part`) that was followed in all of them: the test part, or else the validation part.
    """
    part = followed_part(sweep)
    rows = []
    for setting in _settings(sweep) if part else []:
        for entries in zip(*(fold.history for fold in sweep.results[setting].folds), strict=False):
            parts = [getattr(entry, part or "test") for entry in entries]
            figures = {name: percent(np.mean([of[name] for of in parts])) for name in METRICS}
            losses = [entry.loss for entry in entries if entry.loss is not None]
            loss = round(float(np.mean(losses)), 6) if losses else None
            rows.append({**setting._asdict(), "part": part, "epoch": entries[0].epoch, "loss": loss, **figures})
    return pandas.DataFrame(rows)


def followed_part(sweep: Sweep) -> str | None:
    """Returns the part that was evaluated after every epoch of all runs, the test part first, or `None`."""
    histories = [fold.history for result in sweep.results.values() for fold in result.folds]
    for part in ("test", "validation"):
        if all(history and all(getattr(epoch, part) for epoch in history) for history in histories):
            return part
    return None


def draw_learning_curves(frame: pandas.DataFrame, footer: str, path: Path) -> None:
    """Writes Fig. 4: encoders by row, poolings by column, one line a layer, from dark (first) to bright (last)."""
    encoders, poolings = _unique(frame["encoder"]), _unique(frame["pooling"])
    with plt.rc_context(SMALL):
        size = (2.9 * len(poolings) + 0.9, 2.5 * len(encoders) + 0.5)
        figure, grid = plt.subplots(
            len(encoders), len(poolings), figsize=size, squeeze=False, sharex=True, sharey=True
        )
        for row, encoder in enumerate(encoders):
            of_encoder = frame[frame["encoder"] == encoder]
            layers = sorted(of_encoder["layer"].unique())
            colours = dict(zip(layers, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers))), strict=True))
            for axes, pooling in zip(grid[row], poolings, strict=True):
                for layer, rows in of_encoder[of_encoder["pooling"] == pooling].groupby("layer"):
                    axes.plot(rows["epoch"], rows["ua"], color=colours[layer], lw=1.2)
                axes.set_title(f"{encoder}, {pooling}")
                axes.grid(alpha=0.3)
            grid[row][0].set_ylabel(f"UA of the {frame['part'].iloc[0]} part (%)")
            lines = [plt.Line2D([], [], color=colours[layer], lw=2, label=str(layer)) for layer in layers]
            grid[row][-1].legend(
                handles=lines, title="layer", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
            )
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        _save(figure, footer, path)


def metric_by_layer(sweep: Sweep) -> pandas.DataFrame:
    """Returns what Fig. 5 shows: mean and standard deviation over folds of each layer and pooling."""
    rows = []
    for setting in _settings(sweep):
        row: dict[str, Any] = setting._asdict()
        for metric, figure in means(sweep.cells(setting)).items():
            row |= {metric: figure.mean, f"{metric}_std": figure.std}
        rows.append(row)
    return pandas.DataFrame(rows)


def draw_metric_by_layer(frame: pandas.DataFrame, footer: str, path: Path) -> None:
    """Writes Fig. 5: UA above WA, encoders by column, one line a pooling, the band one deviation over folds."""
    encoders = _unique(frame["encoder"])
    with plt.rc_context(SMALL):
        size = (max(3.6 * len(encoders), 4.2), 5.2)
        figure, grid = plt.subplots(2, len(encoders), figsize=size, squeeze=False, sharex="col", sharey="row")
        for row, metric in enumerate(("ua", "wa")):
            for axes, encoder in zip(grid[row], encoders, strict=True):
                of_encoder = frame[frame["encoder"] == encoder]
                layers = range(of_encoder["layer"].min(), of_encoder["layer"].max() + 1)
                for pooling, rows in of_encoder.groupby("pooling", sort=False):
                    # A layer that is missing interrupts the line.
                    line = rows.set_index("layer").reindex(layers)
                    mean, deviation = line[metric], line[f"{metric}_std"]
                    axes.plot(layers, mean, label=pooling, markersize=4, lw=1.4, **_style(pooling))
                    colour = _style(pooling)["color"]
                    low, high = mean - deviation, (mean + deviation).clip(upper=100)
                    axes.fill_between(layers, low, high, color=colour, alpha=0.08, lw=0)
                    # Where bands overlap, their edges still tell them apart.
                    for edge in (low, high):
                        axes.plot(layers, edge, color=colour, lw=0.6, alpha=0.6)
                axes.set_xticks(list(layers))
                axes.grid(alpha=0.3)
            grid[row][0].set_ylabel(f"{metric.upper()} (%)")
        for axes, encoder in zip(grid[0], encoders, strict=True):
            axes.set_title(encoder)
        for axes in grid[-1]:
            axes.set_xlabel("encoder layer")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
        _save(figure, footer, path)


def _save(figure: Any, footer: str, path: Path) -> None:
    line = round(CHARACTERS_PER_INCH * figure.get_figwidth())
    wrapped = "\n".join(textwrap.fill(text, line) for text in footer.splitlines())
    figure.supxlabel(f"\n{wrapped}", fontsize=7, color="0.35")
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.1)
    plt.close(figure)


def _style(pooling: str) -> dict[str, Any]:
    return STYLES.get(pooling, {"color": "black", "marker": "x"})


def _choices(sweep: Sweep) -> Iterator[tuple[dict[str, Any], Choice]]:
    """Yields the best layer of each pooling of each encoder: as columns of a table, and its trainings."""
    for encoder in sweep.encoders:
        for pooling in sweep.models:
            if choice := choose_setting(sweep, sweep.settings(encoder, pooling)):
                columns = {"encoder": encoder, "pooling": pooling, "rule": choice.rule}
                yield {**columns, "layer": counts(choice.layers)}, choice


def _settings(sweep: Sweep) -> list[Setting]:
    return [setting for encoder in sweep.encoders for setting in sweep.settings(encoder)]


def _unique(column: pandas.Series) -> list[Any]:
    return list(dict.fromkeys(column))

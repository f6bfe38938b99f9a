"""Pictures of one recording: where the model listened, and how the emotion changed."""

from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from whisper_ser.audio.log_mel import hertz_to_mel
from whisper_ser.inference.attention import Explanation
from whisper_ser.inference.formats import shown
from whisper_ser.inference.outputs import Span, Timeline
from whisper_ser.io import replacing

PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
    "#999999",
    "#882255",
)
"""Okabe and Ito's colours, told apart with any colour vision, and two more."""
SILENCE_COLOUR = "#E4E4E4"
DPI = 200


def draw_attention(explanation: Explanation, path: str | Path) -> None:
    """Writes a PNG of attention over time for each head, above waveform and log-mel."""
    _save(attention_figure(explanation), path)


def attention_figure(explanation: Explanation, width: float = 7.0) -> Figure:
    """Returns the picture that `draw_attention` writes; `width` in inches."""
    seconds = len(explanation.waveform) / explanation.sampling_rate
    attention = explanation.attention
    heights = [0.8, 1.2] if attention is None else [max(1.0, 0.13 * len(attention)), 0.8, 1.2]
    figure = Figure(figsize=(width, 0.9 + 1.15 * sum(heights)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    if attention is not None:
        _draw_heads(axes[0], attention, seconds)
    _draw_waveform(axes[-2], explanation.waveform, seconds)
    _draw_log_mel(axes[-1], explanation.log_mel)
    axes[-1].set_xlim(0, seconds)
    axes[-1].set_xlabel("time (s)")
    answer = ",  ".join(f"{label} {value:.2f}" for label, value in list(explanation.probabilities.items())[:4])
    figure.suptitle(f"{Path(shown(explanation.file)).name}:  {answer}", fontsize=9)
    return _lettered(figure)


def _draw_heads(axes: Axes, attention: np.ndarray, seconds: float) -> None:
    heads, frames = attention.shape
    # Against even attention, so that clips of any length share a scale: 1 is what each frame would get.
    image = axes.imshow(
        attention * frames,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        # The root keeps weak attention visible beside a head that listens to a single frame.
        norm=PowerNorm(0.5, vmin=0),
        extent=(0, seconds, heads + 0.5, 0.5),
    )
    axes.set_ylabel("pooling head")
    axes.set_yticks(sorted({1, *range(4, heads + 1, 4)}) if heads > 6 else range(1, heads + 1))
    bar = axes.figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("attention / even", fontsize=8)


def _draw_waveform(axes: Axes, waveform: np.ndarray, seconds: float) -> None:
    """Draws lowest and highest sample of each of some thousand columns, as a line through all would take long."""
    columns = np.array_split(waveform, min(2000, len(waveform)))
    times = np.linspace(0, seconds, len(columns))
    axes.fill_between(times, [c.min() for c in columns], [c.max() for c in columns], color="#404040", linewidth=0.3)
    loudest = 1.05 * max(float(np.abs(waveform).max()), 1e-6)
    axes.set_ylim(-loudest, loudest)
    axes.set_yticks([])
    axes.set_ylabel("waveform")


def _draw_log_mel(axes: Axes, log_mel: np.ndarray) -> None:
    frames, mels = log_mel.shape
    highest = 8000.0
    axes.imshow(
        log_mel.T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="magma",
        extent=(0, frames / 100, 0, mels),
    )
    scale = hertz_to_mel(highest)
    ticks = [500, 1000, 2000, 4000]
    axes.set_yticks([mels * hertz_to_mel(hertz) / scale for hertz in ticks], [f"{hertz / 1000:g}" for hertz in ticks])
    axes.set_ylabel("log-mel (kHz)")


def draw_timeline(timeline: Timeline, path: str | Path) -> None:
    """Writes a PNG of the windows' probabilities over time, above the segments."""
    figure = Figure(figsize=(9.0, 3.0), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    colours = {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(timeline.labels)}
    _draw_windows(upper, timeline, colours)
    _draw_segments(lower, timeline.segments, colours)
    lower.set_xlim(0, timeline.seconds)
    lower.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _minutes(seconds)))
    lower.set_xlabel("time (min:s)")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    channel = "" if timeline.channel is None else f", channel {timeline.channel}"
    figure.suptitle(f"{Path(shown(timeline.file)).name}{channel}", fontsize=9)
    _save(_lettered(figure), path)


def _draw_windows(axes: Axes, timeline: Timeline, colours: dict[str, str]) -> None:
    axes.set_facecolor(SILENCE_COLOUR)
    named = False
    for silent, group in groupby(timeline.windows, key=lambda window: window.probabilities is None):
        windows = list(group)
        if silent:
            continue
        edges = _edges(windows, timeline)
        below = np.zeros(len(windows))
        for label, colour in colours.items():
            values = np.array([(window.probabilities or {})[label] for window in windows])
            axes.stairs(
                below + values, edges, baseline=below, fill=True, color=colour, label=None if named else label, lw=0
            )
            below = below + values
        named = True
    axes.fill_between([], [], color=SILENCE_COLOUR, label="silence")
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"probability\n({timeline.window:g} s windows)")


def _edges(windows: list[Span], timeline: Timeline) -> np.ndarray:
    """Returns what consecutive windows stand for: one hop around the middle of each, the outermost up to the ends."""
    middles = np.array([(window.start + window.end) / 2 for window in windows])
    edges = np.concatenate([[middles[0] - timeline.hop / 2], (middles[:-1] + middles[1:]) / 2, [middles[-1]]])
    edges[-1] += timeline.hop / 2
    if windows[0].start == 0:
        edges[0] = 0
    if windows[-1].end >= timeline.seconds:
        edges[-1] = timeline.seconds
    return edges


def _draw_segments(axes: Axes, segments: list[Span], colours: dict[str, str]) -> None:
    for label, group in groupby(sorted(segments, key=lambda span: span.label or ""), key=lambda span: span.label):
        bars = [(span.start, span.end - span.start) for span in group]
        axes.broken_barh(bars, (0, 1), facecolors=SILENCE_COLOUR if label is None else colours[label], linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("segments", rotation=0, ha="right", va="center")


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}".removesuffix(".0")


def _lettered(figure: Figure) -> Figure:
    """Returns the figure, its letters of the sizes that all have."""
    for axes in figure.axes:
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with replacing(path) as written:
        figure.savefig(written, format="png")

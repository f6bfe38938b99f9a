"""The tables behind the page's timeline chart and its list of segments."""

import html

import numpy as np
import pandas as pd

from whisper_ser.inference.formats import clock
from whisper_ser.inference.outputs import Timeline
from whisper_ser.inference.plots import PALETTE

MINUTES_FROM = 180
"""Charts of recordings of so many seconds, or more, count minutes."""


def colours(labels: list[str]) -> dict[str, str]:
    """Returns the colour of each label."""
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(labels)}


def legend(labels: list[str]) -> str:
    """Returns the colour key of the labels as HTML."""
    entries = [
        f'<span style="white-space: nowrap"><span style="color: {colour}">&#9632;</span> {html.escape(label)}</span>'
        for label, colour in colours(labels).items()
    ]
    entries.append("<span>gaps: silence</span>")
    return f'<div style="display: flex; flex-wrap: wrap; gap: 0 1em">{"".join(entries)}</div>'


def time_unit(timeline: Timeline) -> tuple[str, int]:
    """Returns the unit of a chart's time axis, and its length in seconds."""
    return ("min", 60) if timeline.seconds >= MINUTES_FROM else ("s", 1)


def bars(timeline: Timeline) -> pd.DataFrame:
    """Returns `time`, `emotion` and `probability` for each step of one hop and each label; none where it is silent.

    A step has the probabilities of the window whose middle is nearest.
    """
    _, unit = time_unit(timeline)
    middles = np.array([(window.start + window.end) / 2 for window in timeline.windows])
    rows = []
    for step in np.arange(timeline.hop / 2, max(timeline.seconds, timeline.hop), timeline.hop):
        window = timeline.windows[int(np.abs(middles - step).argmin())]
        for label, probability in (window.probabilities or {}).items():
            rows.append({"time": step / unit, "emotion": label, "probability": probability})
    return pd.DataFrame(rows, columns=["time", "emotion", "probability"])


def segments(timeline: Timeline) -> pd.DataFrame:
    """Returns start, end, emotion and probability of each segment as text."""
    rows = [
        {
            "from": clock(span.start),
            "to": clock(span.end),
            "emotion": span.label or "silence",
            "probability": f"{span.probabilities[span.label]:.2f}" if span.probabilities and span.label else "",
        }
        for span in timeline.segments
    ]
    return pd.DataFrame(rows, columns=["from", "to", "emotion", "probability"])

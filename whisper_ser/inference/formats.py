"""Predictions and timelines as tables, JSON, CSV, parquet and WebVTT."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from whisper_ser.inference.outputs import Failure, Prediction, Span, Timeline, Update
from whisper_ser.io import escape_csv_formula

ROW_GROUP = 65536
"""Rows of a parquet row group."""


def shown(name: str) -> str:
    """Returns a file name that can be printed: control characters and bytes that are not UTF-8 are replaced."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def prediction_row(prediction: Prediction, labels: list[str]) -> dict[str, Any]:
    """Returns one row of a table; labels beyond `top_k` are empty."""
    probabilities = {f"probability_{label}": prediction.probabilities.get(label) for label in labels}
    return {
        "file": shown(prediction.file),
        "channel": prediction.channel,
        "seconds": round(prediction.seconds, 3),
        "label": prediction.label,
        "score": prediction.score,
        **probabilities,
    }


def result_object(result: Prediction | Failure) -> dict[str, Any]:
    """Returns a prediction or a failure as a JSON object."""
    fields = {**asdict(result), "file": shown(result.file)}
    if isinstance(result, Prediction):
        fields["seconds"] = round(result.seconds, 3)
    return fields


def terminal_table(predictions: Iterable[Prediction], files: list[str]) -> Iterator[str]:
    """Yields the lines of a table as predictions arrive; `files` are the names of all recordings."""
    width = max([len("file"), *(len(shown(file)) for file in files)])
    yield f"{'file':<{width}}  {'channel':>7}  {'seconds':>8}  {'label':<10}  probabilities"
    for one in predictions:
        channel = "mix" if one.channel is None else str(one.channel)
        ranked = "  ".join(f"{label} {value:.3f}" for label, value in one.probabilities.items())
        yield f"{shown(one.file):<{width}}  {channel:>7}  {one.seconds:>8.2f}  {one.label:<10}  {ranked}"


def csv_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yields the header and the rows as CSV; text that a spreadsheet would run as a formula is escaped."""
    for number, row in enumerate(rows):
        if number == 0:
            yield _csv_line(row)
        yield _csv_line([escape_csv_formula(value) for value in row.values()])


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    # Python 3.11 quotes a cell with a line break only if that is part of the line terminator.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def write_parquet(rows: Iterable[dict[str, Any]], labels: list[str], path: Path) -> None:
    """Writes rows of predictions, with `ROW_GROUP` rows in memory. Columns have types even without rows."""
    import pandas as pd
    import pyarrow.parquet

    kinds = {"file": "string", "channel": "Int64", "seconds": "float64", "label": "string", "score": "float64"}
    kinds |= {f"probability_{label}": "float64" for label in labels}

    def table(some: list[dict[str, Any]]) -> Any:
        return pyarrow.Table.from_pandas(pd.DataFrame(some, columns=list(kinds)).astype(kinds), preserve_index=False)

    remaining = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, table([]).schema) as writer:
        while some := list(islice(remaining, ROW_GROUP)):
            writer.write_table(table(some))


def timeline_object(timeline: Timeline) -> dict[str, Any]:
    """Returns a timeline as a JSON object; the label of silence is `null`."""
    return {
        **asdict(timeline),
        "file": shown(timeline.file),
        "seconds": round(timeline.seconds, 3),
        "windows": [_span_object(window) for window in timeline.windows],
        "segments": [_span_object(segment) for segment in timeline.segments],
    }


def _span_object(span: Span) -> dict[str, Any]:
    times = {"start": round(span.start, 3), "end": round(span.end, 3)}
    return {**times, "label": span.label, "probabilities": span.probabilities}


def timeline_rows(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """Yields a row for each segment, then for each window."""
    update = Update(timeline.windows, timeline.segments)
    yield from update_rows(update, timeline.file, timeline.channel, timeline.labels)


def update_rows(update: Update, file: str, channel: int | None, labels: list[str]) -> Iterator[dict[str, Any]]:
    """Yields a row for each segment, then for each window; silence has no label and no probabilities."""
    for kind, spans in (("segment", update.segments), ("window", update.windows)):
        for span in spans:
            probabilities = span.probabilities or {}
            yield {
                "file": shown(file),
                "channel": channel,
                "kind": kind,
                "start": round(span.start, 3),
                "end": round(span.end, 3),
                "label": span.label,
                **{f"probability_{label}": probabilities.get(label) for label in labels},
            }


def segment_line(span: Span) -> str:
    """Returns start, end, label and probabilities, highest first, as a line of text."""
    ranked = sorted((span.probabilities or {}).items(), key=lambda item: -item[1])
    probabilities = "  ".join(f"{label} {value:.3f}" for label, value in ranked)
    return f"{clock(span.start)}  {clock(span.end)}  {span.label or 'silence':<10}  {probabilities}".rstrip()


def webvtt(segments: Iterable[Span]) -> Iterator[str]:
    """Yields the blocks of WebVTT subtitles (w3.org/TR/webvtt1), a cue for each segment of speech."""
    yield "WEBVTT\n"
    for span in segments:
        if span.probabilities is not None and span.label is not None:
            text = f"{_escaped(span.label)} {100 * span.probabilities[span.label]:.0f}%"
            yield f"{clock(span.start)} --> {clock(span.end)}\n{text}\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clock(seconds: float) -> str:
    """Returns seconds as `HH:MM:SS.mmm`."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def json_text(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)

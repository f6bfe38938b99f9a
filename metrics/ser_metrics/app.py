"""The metric's page on the Hub: a table to fill in, and its figures.

`evaluate.utils.launch_gradio_widget` is not used: it calls a part of gradio that is gone since gradio 4.
"""

from pathlib import Path
from typing import Any

import gradio
import pandas
from evaluate.utils import parse_readme
from ser_metrics import SerMetrics

EXAMPLE = [["angry", "angry"], ["sad", "sad"], ["sad", "angry"], ["neutral", "neutral"]]


def figures(table: pandas.DataFrame) -> dict[str, Any]:
    """Returns the metric of a table of label names, rows that are not filled in left out."""
    filled = table[(table != "").all(axis=1)].dropna()
    try:
        return SerMetrics().compute(references=list(filled["references"]), predictions=list(filled["predictions"]))
    except ValueError as error:
        raise gradio.Error(str(error)) from error


page = gradio.Interface(
    fn=figures,
    inputs=gradio.Dataframe(headers=["references", "predictions"], datatype="str", value=EXAMPLE, type="pandas"),
    outputs=gradio.JSON(),
    title="SER metrics",
    article=parse_readme(Path(__file__).parent / "README.md"),
)

if __name__ == "__main__":
    page.launch()

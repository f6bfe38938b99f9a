"""Writes the functions of `whisper_ser.evaluation.metrics` into `ser_metrics.py`, which must work without the package.

`make metric` runs it. The class of the metric, above the mark, is kept as it is.
"""

import inspect
from pathlib import Path

from whisper_ser.evaluation import metrics

TARGET = Path(__file__).parent / "ser_metrics" / "ser_metrics.py"
MARK = "# Written by `make metric` from whisper_ser/evaluation/metrics.py: change it there.\n"
FUNCTIONS = (
    metrics.evaluate,
    metrics.matrix_scores,
    metrics.class_recall,
    metrics.confusion_matrix,
    metrics.expected_calibration_error,
    metrics.class_pairs,
    metrics.class_indices,
    metrics.class_probabilities,
    metrics.labels_found,
)


def built(source: str) -> str:
    """Returns the source of the metric with the functions of the package below the mark."""
    above, mark, _ = source.partition(MARK)
    if not mark:
        raise ValueError(f"{TARGET} lacks the line {MARK.strip()!r} below its class.")
    constants = f"ECE_BINS = {metrics.ECE_BINS}\n"
    return above + "\n\n".join([mark + constants, *map(inspect.getsource, FUNCTIONS)])


if __name__ == "__main__":
    TARGET.write_text(built(TARGET.read_text(encoding="utf-8")), encoding="utf-8")

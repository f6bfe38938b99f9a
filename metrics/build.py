"""`make metric`: copies `whisper_ser/evaluation/metrics.py` to `ser_metrics.py`, which works without the package."""

import inspect
from pathlib import Path

from whisper_ser.evaluation import metrics

TARGET = Path(__file__).parent / "ser_metrics" / "ser_metrics.py"
CHANGES = {
    inspect.getdoc(metrics) or "": "Metrics of speech emotion recognition as a metric of Hugging Face `evaluate`.\n\n"
    "Written by `make metric` from whisper_ser/evaluation/metrics.py: change it there.\n",
    "\nfrom whisper_ser.errors import WhisperSerError\n": "",
    "class EvaluationError(WhisperSerError, ValueError)": "class EvaluationError(ValueError)",
}


def built() -> str:
    """Returns the source of the metric without what it imports from the package."""
    source = inspect.getsource(metrics)
    for ours, theirs in CHANGES.items():
        if source.count(ours) != 1:
            raise ValueError(f"{metrics.__file__} must contain this once: {ours}")
        source = source.replace(ours, theirs)
    return source


if __name__ == "__main__":
    TARGET.write_text(built(), encoding="utf-8")

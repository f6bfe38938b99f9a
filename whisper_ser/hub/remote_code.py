"""Loads a model as a stranger does: as remote code, without this package. Run as a script in a process of its own.

`python -P remote_code.py MODEL REVISION AUDIO` prints one line of JSON: the probability of each label for the samples
in the file AUDIO (.npy). Imports nothing of the package, whose absence is the point.
"""

import json
import sys
from importlib.abc import MetaPathFinder
from typing import Any

OURS = ("modeling_whisper_ser", "whisper_ser")


class Absent(MetaPathFinder):
    """Hides an installed package, so that the model's own code has to do."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.split(".")[0] in OURS:
            raise ModuleNotFoundError(f"{fullname} is not installed here", name=fullname)


def main(model: str, revision: str, audio: str) -> None:
    sys.meta_path.insert(0, Absent())
    import numpy as np
    from transformers import pipeline

    classifier = pipeline(
        "audio-classification", model=model, revision=revision or None, trust_remote_code=True, device="cpu"
    )
    answers = classifier(np.load(audio), top_k=classifier.model.config.num_labels)
    print(json.dumps({answer["label"]: answer["score"] for answer in answers}))


if __name__ == "__main__":
    main(*sys.argv[1:])

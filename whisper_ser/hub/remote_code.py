"""Runs a model as other people do: as remote code, without this package. A script for a process of its own.

`python -P remote_code.py MODEL REVISION AUDIO` prints one line of JSON: the probability of each label for the samples
in the file AUDIO (.npy). It must not import anything of this package.
"""

import json
import sys
from importlib.abc import MetaPathFinder
from typing import Any

HIDDEN_PACKAGES = ("modeling_whisper_ser", "whisper_ser")


class PackageHider(MetaPathFinder):
    """Makes installed packages impossible to import, so that only the model's own code is used."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.split(".")[0] in HIDDEN_PACKAGES:
            raise ModuleNotFoundError(f"{fullname} is not installed here", name=fullname)


def main(model: str, revision: str, audio: str) -> None:
    sys.meta_path.insert(0, PackageHider())
    import numpy as np
    from transformers import pipeline

    classifier = pipeline(
        "audio-classification", model=model, revision=revision or None, trust_remote_code=True, device="cpu"
    )
    outputs = classifier(np.load(audio), top_k=classifier.model.config.num_labels)
    print(json.dumps({output["label"]: output["score"] for output in outputs}))


if __name__ == "__main__":
    main(*sys.argv[1:])

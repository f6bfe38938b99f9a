"""Predictions of a model in a clean process, in which this package cannot be imported."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from whisper_ser.errors import PublishError

SCRIPT = Path(__file__).with_name("remote_code.py")
TIMEOUT_SECONDS = 900


def predict_in_clean_process(
    model: str | Path, audio: np.ndarray, revision: str | None = None, cache: Path | None = None
) -> dict[str, float]:
    """Returns the probability of each label that the stock pipeline gives for `audio` `(samples,)`, as remote code.

    Args:
        model: folder, or Hub id whose files are in `cache`. Nothing is downloaded.
        revision: commit of a Hub id.
        cache: of the Hub's files, instead of the default one.

    Raises:
        PublishError: the model does not load or run there; the message ends with the last line of the process.
    """
    with tempfile.TemporaryDirectory() as workplace:
        samples = Path(workplace) / "audio.npy"
        np.save(samples, audio)
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            # Cached code of a model that was loaded before must not be used for this one.
            "HF_MODULES_CACHE": str(Path(workplace) / "modules"),
            **({"HF_HUB_CACHE": str(cache)} if cache else {}),
        }
        try:
            process = subprocess.run(
                [sys.executable, "-P", str(SCRIPT), str(model), revision or "", str(samples)],
                capture_output=True,
                text=True,
                cwd=workplace,
                env=environment,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise PublishError(f"{model} gave no output within {TIMEOUT_SECONDS} s in a clean process.") from None
    if process.returncode != 0:
        last_line = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise PublishError(
            f"{model} does not load as remote code in a clean process, the way other people load it: {last_line}"
        )
    return json.loads(process.stdout.splitlines()[-1])

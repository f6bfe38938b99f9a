"""The answer of a model in a clean process, where this package is not installed."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from whisper_ser.errors import PublishError

SCRIPT = Path(__file__).with_name("remote_code.py")
DEADLINE_SECONDS = 900


def strangers_answer(
    model: str | Path, audio: np.ndarray, revision: str | None = None, cache: Path | None = None
) -> dict[str, float]:
    """Returns the probability of each label that the stock pipeline gives to `audio` `(samples,)`, as remote code.

    Args:
        model: folder, or Hub id whose files lie in `cache`. Nothing is fetched.
        revision: commit of a Hub id.
        cache: of the Hub's files, instead of the usual one.

    Raises:
        PublishError: the model does not load or answer there; ends as that process did.
    """
    with tempfile.TemporaryDirectory() as workplace:
        samples = Path(workplace) / "audio.npy"
        np.save(samples, audio)
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            # Code of a model that was loaded before must not stand in for this one's.
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
                timeout=DEADLINE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise PublishError(f"{model} did not answer within {DEADLINE_SECONDS} s in a clean process.") from None
    if process.returncode != 0:
        end = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise PublishError(
            f"{model} does not load as remote code in a clean process, as a stranger would load it: {end}"
        )
    return json.loads(process.stdout.splitlines()[-1])

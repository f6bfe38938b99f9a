"""Several processes, as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def torchrun(processes: int, script: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script, which imports the repository and its tests, in so many processes of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    paths = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/training"), os.environ.get("PYTHONPATH", "")]
    )
    return subprocess.run(
        [*command, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
        timeout=600,
    )

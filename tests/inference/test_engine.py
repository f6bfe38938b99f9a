"""The engine says what the model says: every kind of head, any length, any batch, whatever happened to its graphs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, ROOT, save_small_model, speechlike
from safetensors.numpy import load_file, save_file

import whisper_ser
from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from modeling_whisper_ser.encoder_whisper_ser import average_frames as average_in_torch
from modeling_whisper_ser.encoder_whisper_ser import even_chunks as even_in_torch
from whisper_ser.errors import CheckpointError, ExportError, InferenceError
from whisper_ser.inference import reference_output
from whisper_ser.inference.encoding import average_frames, even_chunks
from whisper_ser.inference.engines import graphs, session
from whisper_ser.inference.engines.torch_engine import TorchEngine
from whisper_ser.inference.model import LoadedModel, Settings, load_model, load_saved, model_of, settings_of
from whisper_ser.inference.reference_output import write_reference_output
from whisper_ser.inference.reference_waveform import ReferenceOutputError
from whisper_ser.io import read_tensors

# Odd and even numbers of mel frames, part of one, one chunk and several of two sizes, less than a frame of the head.
SECONDS = (0.73, 4.01, 11.11, 3.999, 0.0251, 8.0)


CONFIGS = {
    "mean": {"pooling_type": "mean"},
    "statistics": {"pooling_type": "statistics"},
    "attentive": {"pooling_type": "attentive"},
    "attentive, scaled, tanh, deviations": {
        "pooling_type": "attentive",
        "scale_scores": True,
        "score_activation": "tanh",
        "pooling_statistics": True,
    },
    "qkv of the authors' code": {"score_activation": "tanh", "layer_norm_after_pooling": True},
    "qkv, all queries, deviations": {"pooling_statistics": True},
    "learnt queries alone, unscaled": {"scale_scores": False},
    "last layer": {"layer_index": 3},
    "layers side by side": {"layer_index": 3, "layer_mixing": "concat", "layer_indices": [1, 3]},
    "weighted layers": {"layer_index": 3, "layer_mixing": "weighted", "layer_indices": [1, 2, 3]},
    "attended layers": {"layer_mixing": "attention", "layer_indices": [1, 2]},
    "no standardisation": {"channel_standardisation": False},
    "averaged frames": {"frame_averaging": 7},
    "averaged frames of several layers": {"frame_averaging": 5, "layer_mixing": "weighted", "layer_indices": [1, 2]},
    "other chunks": {"chunk_seconds": 1.5},
    "the paper's window": {"chunk_seconds": 30.0, "pad_to_seconds": 30.0},
    "a short window": {"pad_to_seconds": 5.0},
    "temperature": {"temperature": 1.7},
    "ensemble": {"ensemble": [{}, {"pooling_type": "attentive"}, {"layer_indices": [1]}], "temperature": 0.6},
    "ensemble of averaged frames": {"ensemble": [{}, {"pooling_type": "mean"}], "frame_averaging": 5},
}


SAVED_QUERIES = {
    "qkv, all queries, deviations": ["mean", "learnt", "max"],
    "learnt queries alone, unscaled": ["learnt"],
}
"""Queries that models saved earlier may have, and new ones may not."""


def give_saved_queries(folder: Path, queries: list[str]) -> None:
    """Makes a saved model one whose head has other queries, with new weights where their shapes differ."""
    saved = WhisperForEmotionClassification.from_pretrained(folder)
    config = WhisperSerConfig.from_dict({**saved.config.to_dict(), "pooling_queries": queries})
    torch.manual_seed(2)
    model = WhisperForEmotionClassification(config)
    new = model.state_dict()
    kept = {name: x for name, x in saved.state_dict().items() if name in new and new[name].shape == x.shape}
    model.load_state_dict(kept, strict=False)
    model.save_pretrained(folder)


def unlike_a_fresh_model(folder: Path) -> None:
    """Moves parameters that start at 0 or 1, behind which a mix-up would hide."""
    model = WhisperForEmotionClassification.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".encoder." not in name and parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)


def clips_of(seconds=SECONDS) -> list[np.ndarray]:
    return [speechlike(length, 90 + 40 * n, seed=n) for n, length in enumerate(seconds)]


def by_torch(folder: Path, clips: list[np.ndarray]) -> np.ndarray:
    """What the model in a folder answers, each clip alone, by transformers' own way."""
    model = WhisperForEmotionClassification.from_pretrained(folder).eval()
    extractor = WhisperSerFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**extractor(clip, sampling_rate=RATE, return_tensors="pt")).logits for clip in clips]
    return torch.cat(logits).softmax(-1).numpy()


@pytest.fixture(scope="module")
def saved(small_model, tmp_path_factory) -> Path:
    """A model with its graphs and its reference output, as training saves it."""
    folder = Path(shutil.copytree(small_model, tmp_path_factory.mktemp("saved") / "model"))
    write_reference_output(folder)
    graphs.write_graphs(folder)
    return folder


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHISPER_SER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_model_answers_as_in_torch(small_checkpoint, tmp_path, name):
    folder = save_small_model(small_checkpoint, tmp_path / "model", **CONFIGS[name])
    if name in SAVED_QUERIES:
        give_saved_queries(folder, SAVED_QUERIES[name])
    unlike_a_fresh_model(folder)
    clips, model = clips_of(), whisper_ser.load_model(folder, "cpu")
    expected = by_torch(folder, clips)
    assert np.ptp(expected, axis=0).max() > 1e-3, "answers to all clips alike would show nothing"
    assert model.probabilities(clips) == pytest.approx(expected, abs=1e-5)
    assert np.concatenate([model.probabilities([clip]) for clip in clips]) == pytest.approx(expected, abs=1e-5)
    by_engine_of_torch = LoadedModel("torch", *_parts(folder), "")
    assert by_engine_of_torch.probabilities(clips) == pytest.approx(expected, abs=1e-5)


def _parts(folder: Path):
    model, extractor = load_saved(folder)
    return settings_of(model, extractor), TorchEngine(model)


@pytest.mark.parametrize("name", ["attentive", "qkv of the authors' code", "ensemble", "mean"])
def test_attention_is_the_models(small_checkpoint, tmp_path, name):
    folder, clip = save_small_model(small_checkpoint, tmp_path / "model", **CONFIGS[name]), speechlike(5.0)
    model, extractor = load_saved(folder)
    with torch.no_grad():
        expected = model.eval()(**extractor(clip, return_tensors="pt"), output_attentions=True).pooling_attentions
    for engine in (whisper_ser.load_model(folder, "cpu"), LoadedModel("torch", *_parts(folder), "")):
        _, found = engine.attend(*engine.frame_vectors([engine.settings.log_mel(clip)]))
        if expected is None:
            assert found is None
        else:
            assert found == pytest.approx(expected[0].numpy(), abs=1e-6)


def test_passes_of_any_size_give_the_same(saved, monkeypatch):
    model, clips = whisper_ser.load_model(saved, "cpu"), [*clips_of(), speechlike(70.0)]
    expected = model.probabilities(clips)
    for frames in (1, 130, 450, 100_000):
        monkeypatch.setattr(model.engine, "frames_per_pass", frames)
        assert model.probabilities(clips) == pytest.approx(expected, abs=1e-5)


def test_chunks_and_averages_are_those_of_the_model():
    for frames in range(1, 700):
        assert even_chunks(frames, 200) == even_in_torch(frames, 200)
        states = np.random.default_rng(frames).standard_normal((2, frames, 3)).astype(np.float32)
        expected = average_in_torch(torch.from_numpy(states).transpose(0, 1), 7).transpose(0, 1).numpy()
        assert average_frames(states, 7) == pytest.approx(expected, abs=1e-6)


def test_settings_that_a_config_leaves_out_are_the_models_defaults(tmp_path):
    config = WhisperSerConfig()
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for name in ("chunk_seconds", "temperature", "frame_averaging"):  # as earlier releases saved it
        saved.pop(name, None)
    settings = Settings.of(saved, WhisperSerFeatureExtractor().to_dict())
    assert settings.chunk_frames == config.chunk_frames and settings.labels == config.labels
    assert (settings.frame_averaging, settings.temperature) == (config.frame_averaging, config.temperature)


@pytest.mark.parametrize("pooling_type", ["qkv", "statistics"])
def test_graphs_follow_the_standardisation_of_the_weights(small_checkpoint, tmp_path, pooling_type, monkeypatch):
    folder = save_small_model(small_checkpoint, tmp_path / "model", pooling_type=pooling_type)
    whisper_ser.load_model(folder, "cpu")
    monkeypatch.setattr(graphs, "_make", None)  # no other graph is made
    weights = load_file(folder / "model.safetensors")
    moved = [name for name in weights if name.endswith((".mean", ".deviation"))]
    assert len(moved) == (4 if pooling_type == "statistics" else 2)
    for name in moved:
        before = whisper_ser.load_model(folder, "cpu").probabilities(clips_of())
        gains = np.linspace(0.5, 2.0, weights[name].size, dtype=np.float32)
        weights[name] = weights[name] * gains.reshape(weights[name].shape) + np.float32(0.2)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        found = whisper_ser.load_model(folder, "cpu").probabilities(clips_of())
        assert found == pytest.approx(by_torch(folder, clips_of()), abs=1e-5)
        assert np.abs(found - before).max() > 1e-3, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_read_as_float32(saved, tmp_path, dtype):
    model, extractor = load_saved(saved)
    for part in (model.to(dtype), extractor):
        part.save_pretrained(tmp_path)
    for name, values in read_tensors(tmp_path / "model.safetensors").items():
        assert values.dtype == np.float32
        assert np.array_equal(values, model.state_dict()[name].float().numpy())
    expected = by_torch(saved, clips_of())
    model_of_file = model_of(load_saved(tmp_path)[0].float(), extractor)
    assert model_of_file.probabilities(clips_of()) == pytest.approx(expected, abs=0.05)


def test_a_model_in_memory_is_the_one_that_is_saved(saved):
    loaded, of_memory = whisper_ser.load_model(saved, "cpu"), model_of(*load_saved(saved))
    assert of_memory.probabilities(clips_of()) == pytest.approx(loaded.probabilities(clips_of()), abs=1e-6)


def test_a_saved_model_brings_its_graphs(saved, empty_cache, capsys):
    model = whisper_ser.load_model(saved, "cpu")
    assert model.probabilities(clips_of()) == pytest.approx(by_torch(saved, clips_of()), abs=1e-5)
    assert [path.name for path in empty_cache.iterdir()] == ["checked"] and "once" not in capsys.readouterr().err


def test_a_model_without_graphs_has_them_made_once(small_model, empty_cache, capsys):
    whisper_ser.load_model(small_model, "cpu")
    assert capsys.readouterr().err.count("once.") == 3
    whisper_ser.load_model(small_model, "cpu")
    assert not capsys.readouterr().err
    assert sum(path.stat().st_size for path in (empty_cache / "graphs").iterdir()) < 150_000, "no weights in them"


def test_it_is_checked_once_for_what_it_depends_on(saved, tmp_path, empty_cache, monkeypatch):
    checked, check = [], model_module()._check
    monkeypatch.setattr(model_module(), "_check", lambda *given: checked.append(1) or check(*given))
    for folder in (saved, Path(shutil.copytree(saved, tmp_path / "copy"))):
        for _ in range(2):
            whisper_ser.load_model(folder, "cpu")
    assert len(checked) == 1
    monkeypatch.setattr(reference_output, "processor", lambda: "another")
    whisper_ser.load_model(saved, "cpu")
    assert len(checked) == 2


def model_module():
    from whisper_ser.inference import model

    return model


@pytest.mark.parametrize("name", ["encoder", "frame_vectors", "pooling"])
@pytest.mark.parametrize("damage", ["cut", "other", "changed"])
def test_a_graph_that_is_damaged_or_of_something_else_is_made_anew(saved, tmp_path, name, damage):
    onnx = pytest.importorskip("onnx")
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    (file,) = (folder / graphs.FOLDER).glob(f"{name}-*.onnx")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "other":
        other = {"encoder": "pooling", "frame_vectors": "encoder", "pooling": "frame_vectors"}[name]
        shutil.copy(next((folder / graphs.FOLDER).glob(f"{other}-*.onnx")), file)
    else:
        graph = onnx.load(file, load_external_data=False)
        output = graph.graph.output[0].name
        (last,) = (node for node in graph.graph.node if output in node.output)
        last.output[list(last.output).index(output)] = "before"
        graph.graph.node.append(onnx.helper.make_node("Add", ["before", "before"], [output]))
        onnx.save(graph, file)
    model = whisper_ser.load_model(folder, "cpu")
    assert model.probabilities(clips_of()) == pytest.approx(by_torch(saved, clips_of()), abs=1e-5)


def test_answers_other_than_the_reference_are_refused(saved, tmp_path):
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    reference = json.loads((folder / "known_answer.json").read_text())
    first, second = list(reference["probabilities"])[:2]
    reference["probabilities"][first] += 0.01
    reference["probabilities"][second] -= 0.01
    (folder / "known_answer.json").write_text(json.dumps(reference))
    # The same weights were checked here before; another reference output is checked again.
    with pytest.raises(ReferenceOutputError, match="reference"):
        whisper_ser.load_model(folder, "cpu")


def test_weights_that_do_not_fit_are_told(small_model, tmp_path):
    weights = load_file(small_model / "model.safetensors")
    for missing in ("classifier.weight", "whisper_ser.encoder.conv1.bias"):
        folder = Path(shutil.copytree(small_model, tmp_path / missing))
        kept = {name: x for name, x in weights.items() if name != missing}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(Exception, match=missing.replace(".", r"\.")):
            whisper_ser.load_model(folder, "cpu")
    (tmp_path / "file").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(tmp_path / "file")


def test_int8_is_near_float32_and_made_once_for_an_encoder(saved, small_checkpoint, tmp_path, empty_cache, capsys):
    floats = whisper_ser.load_model(saved, "cpu", "float32")
    integers = whisper_ser.load_model(saved, "cpu", "int8")
    difference = np.abs(integers.probabilities(clips_of()) - floats.probabilities(clips_of())).max()
    assert 1e-4 < difference < 0.05
    assert integers.identity != floats.identity and floats.identity == whisper_ser.load_model(saved, "cpu").identity
    assert capsys.readouterr().err == "whisper-ser: making the 8-bit encoder, once.\n"
    other = save_small_model(small_checkpoint, tmp_path / "other", pooling_type="mean")
    for folder in (saved, other):
        whisper_ser.load_model(folder, "cpu", "int8")
    assert "8-bit" not in capsys.readouterr().err, "another head on the same encoder takes the same file"
    weights = load_file(other / "model.safetensors")
    weights["whisper_ser.encoder.layers.0.fc1.weight"] *= 1.01
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    whisper_ser.load_model(other, "cpu", "int8")
    assert "8-bit" in capsys.readouterr().err


def test_a_damaged_int8_encoder_is_made_anew(saved, empty_cache, capsys):
    expected = whisper_ser.load_model(saved, "cpu", "int8").probabilities(clips_of())
    (file,) = (empty_cache / "graphs").glob("encoder-int8-*.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    file.write_bytes(content)
    capsys.readouterr()
    found = whisper_ser.load_model(saved, "cpu", "int8").probabilities(clips_of())
    assert np.array_equal(found, expected) and "8-bit" in capsys.readouterr().err


def test_a_processor_that_multiplies_integers_wrongly_is_found_out(saved, empty_cache, monkeypatch):
    def wrong(graph, weights=None, threads=None, exact=False):
        opened = session.open_session(graph, weights, threads, exact)
        if exact or "int8" not in str(graph):
            return opened
        run = opened.run
        opened.run = lambda names, inputs: [np.minimum(states, 0.5) for states in run(names, inputs)]
        return opened

    with monkeypatch.context() as patched:
        patched.setattr("whisper_ser.inference.engines.onnx_engine.open_session", wrong)
        for _ in range(2):
            with pytest.raises(ReferenceOutputError, match="8-bit products of this processor.*use float32"):
                whisper_ser.load_model(saved, "cpu", "int8")
        whisper_ser.load_model(saved, "cpu")
    whisper_ser.load_model(saved, "cpu", "int8")


def test_int8_that_is_too_coarse_for_a_model_is_refused(saved, empty_cache, monkeypatch):
    monkeypatch.setattr(model_module(), "INT8_LIMIT", 1e-6)
    with pytest.raises(ReferenceOutputError, match="too coarse for this model: use float32"):
        whisper_ser.load_model(saved, "cpu", "int8")


def test_int8_is_for_processors_and_an_exported_file_has_its_own(saved, tmp_path, monkeypatch):
    with pytest.raises(InferenceError, match="choose device='cpu'"):
        whisper_ser.load_model(saved, "cuda", "int8")
    with pytest.raises(InferenceError, match="leave precision out"):
        whisper_ser.load_model(tmp_path / "model.onnx", precision="int8")
    with pytest.raises(InferenceError, match="precision='int4' is not one of 'float32', 'int8'"):
        whisper_ser.load_model(saved, precision="int4")


def test_a_folder_without_reference_output_is_checked_against_the_plain_model(small_model, empty_cache, capsys):
    for precision in ("float32", "int8"):
        whisper_ser.load_model(small_model, "cpu", precision)
        assert "has no known_answer.json: checking its answers against" in capsys.readouterr().err
        whisper_ser.load_model(small_model, "cpu", precision)
        assert not capsys.readouterr().err


def test_a_gpu_is_asked_for_only_where_there_may_be_one(monkeypatch):
    monkeypatch.setattr(model_module(), "DEVICE_FILES", ())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not model_module().has_accelerator()
    monkeypatch.setattr(model_module(), "DEVICE_FILES", (__file__,))
    assert model_module().has_accelerator()


def test_threads_hardly_wait_busily(saved):
    model = whisper_ser.load_model(saved, "cpu")
    options = model.engine._encoder.get_session_options()
    assert int(options.get_session_config_entry("session.intra_op.spin_duration_us")) <= 50
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


def test_onnx_runtime_reports_nothing(tmp_path):
    code = "import whisper_ser, onnxruntime; onnxruntime.get_available_providers()"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    assert not list(tmp_path.iterdir()), "the file of a telemetry session"


def test_without_onnx_runtime_it_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="pip install onnxruntime"):
        session.open_session(saved / "x.onnx")


HIDDEN = """
import sys, time

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED and name.partition(".")[0] in INSTALLED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import importlib.metadata
INSTALLED = {name for name in importlib.metadata.packages_distributions()}
ALLOWED = {"whisper_ser", "onnxruntime", "numpy", "soundfile", "_soundfile", "_soundfile_data", "soxr"}
ALLOWED |= {"cffi", "_cffi_backend", "typing_extensions"}  # soundfile's
sys.meta_path.insert(0, Hidden())
from whisper_ser.cli import main
status = main(sys.argv[1:])
assert not {"torch", "transformers", "datasets", "pandas", "matplotlib", "tqdm", "huggingface_hub"} & {*sys.modules}
print(time.process_time(), file=sys.stderr)
sys.exit(status)
"""


def without_torch(*command: str) -> tuple[str, float]:
    """Returns what a command prints where only ONNX Runtime, NumPy, soundfile and soxr are, and its processor time."""
    done = subprocess.run([sys.executable, "-c", HIDDEN, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout, float(done.stderr.split()[-1])


def test_predict_needs_four_packages_and_little_time(saved, tmp_path):
    soundfile.write(tmp_path / "a.wav", speechlike(1.4), 8000)
    found, seconds = without_torch("predict", str(tmp_path / "a.wav"), "--model", str(saved), "--format", "json")
    (answer,) = json.loads(found)
    (expected,) = whisper_ser.predict(str(tmp_path / "a.wav"), saved, device="cpu")
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert seconds < 3
    found, _ = without_torch("timeline", str(tmp_path / "a.wav"), "--model", str(saved), "--format", "csv")
    assert "segment" in found


def test_without_torch_a_model_without_graphs_says_what_it_needs(small_model, tmp_path, empty_cache):
    soundfile.write(tmp_path / "a.wav", speechlike(1.4), RATE)
    command = [sys.executable, "-c", HIDDEN, "predict", str(tmp_path / "a.wav"), "--model", str(small_model)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "needs the package" in done.stderr


@pytest.mark.parametrize("name", ["whisper_ser.encoder.layers.1.fc1.weight", "whisper_ser.projector.weight"])
def test_weights_that_are_missing_are_named(small_model, tmp_path, name):
    folder = shutil.copytree(small_model, tmp_path / "model")
    (folder / "known_answer.json").unlink(missing_ok=True)
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"lacks the weights {re.escape(name)}: download or save it again"):
        load_model(folder, "cpu")


def test_a_folder_without_weights_says_so(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "model")
    (folder / "known_answer.json").unlink(missing_ok=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights .model.safetensors.*Pickles.* are not read"):
        load_model(folder, "cpu")


SAME_GRAPHS = {
    *("encoder_config", "layer_index", "layer_indices"),  # part of every key, the first by its own fields
    *("chunk_seconds", "frame_averaging", "temperature"),  # obeyed around the graphs, or inputs of them
    *("input_dropout", "pooling_dropout", "classifier_dropout", "unfreeze_last_n"),
    *("class_weights", "class_priors", "mixup", "label_smoothing"),
}
"""Fields of a configuration that need no other graphs."""


def test_every_field_of_a_model_has_graphs_of_its_own_or_needs_none():
    assert {*graphs.HEAD_FIELDS} | SAME_GRAPHS == {*WhisperSerConfig.__annotations__}
    assert not {*graphs.HEAD_FIELDS} & SAME_GRAPHS

"""An exported model says what the model says: every kind of head, any length, any batch, and files that are whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, ROOT, save_small_model, speechlike

import whisper_ser
from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerConfig, WhisperSerFeatureExtractor
from whisper_ser.cli import main
from whisper_ser.errors import AudioFileError, ExportError
from whisper_ser.inference.model import Recognizer, load_model
from whisper_ser.inference.reference_waveform import ReferenceOutputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from whisper_ser.inference.engines.onnx_runtime import OnnxModel, predict  # noqa: E402

from whisper_ser.export import onnx as onnx_file  # noqa: E402
from whisper_ser.export.onnx import export_onnx  # noqa: E402

# Odd and even numbers of mel frames, part of one, one chunk and several of two sizes, less than a frame of the head.
SECONDS = (0.73, 4.01, 11.11, 3.999, 0.0251, 8.0)


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
def exported(small_model, tmp_path_factory) -> Path:
    return export_onnx(small_model, tmp_path_factory.mktemp("onnx") / "model.onnx").path


@pytest.fixture(scope="module")
def integers(small_model, tmp_path_factory) -> Path:
    return export_onnx(small_model, tmp_path_factory.mktemp("onnx") / "int8.onnx", "int8").path


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


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_model_answers_as_in_torch(small_checkpoint, tmp_path, name):
    folder = save_small_model(small_checkpoint, tmp_path / "model", **CONFIGS[name])
    if name in SAVED_QUERIES:
        give_saved_queries(folder, SAVED_QUERIES[name])
    unlike_a_fresh_model(folder)
    clips, model = clips_of(), OnnxModel(export_onnx(folder, tmp_path / "model.onnx").path)
    expected = by_torch(folder, clips)
    assert np.ptp(expected, axis=0).max() > 1e-3, "answers to all clips alike would show nothing"
    assert model.probabilities(clips) == pytest.approx(expected, abs=1e-5)


def unlike_a_fresh_model(folder: Path) -> None:
    """Moves parameters that start at 0 or 1, behind which a mix-up would hide."""
    model = WhisperForEmotionClassification.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".encoder." not in name and parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)


def test_a_clip_in_a_batch_is_answered_as_alone(exported):
    model, clips = OnnxModel(exported), clips_of()
    alone = np.concatenate([model.probabilities([clip]) for clip in clips])
    assert model.probabilities(clips) == pytest.approx(alone, abs=1e-5)


def test_what_lies_behind_a_clip_is_not_read(exported):
    session, clip = OnnxModel(exported)._session, speechlike(1.3)
    (expected,) = session.run(None, {"audio": clip[None], "lengths": np.array([len(clip)])})
    longer = np.concatenate([clip, np.full(3 * RATE, np.nan, np.float32)])
    (found,) = session.run(None, {"audio": longer[None], "lengths": np.array([len(clip)])})
    assert found == pytest.approx(expected, abs=1e-5)


def test_long_audio_takes_several_passes_and_is_answered_as_in_torch(small_model, exported):
    # 200 s are 20,001 mel frames and 10,001 encoder frames: blocks of 6000, passes of 8000.
    clips = [speechlike(200.01), speechlike(30.0, 180, seed=1)]
    assert OnnxModel(exported).probabilities(clips) == pytest.approx(by_torch(small_model, clips), abs=1e-5)


def test_int8_is_smaller_and_nearly_the_same(small_model, exported, integers):
    model = OnnxModel(integers)
    assert model.metadata["precision"] == "int8"
    assert model.probabilities(clips_of()) == pytest.approx(by_torch(small_model, clips_of()), abs=0.02)
    kinds = {node.op_type for node in all_nodes(onnx.load(integers).graph)}
    assert "MatMulInteger" in kinds
    assert "MatMulInteger" not in {node.op_type for node in all_nodes(onnx.load(exported).graph)}


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def test_the_graph_is_standard_onnx_with_open_batch_and_length(exported):
    found = onnx.load(exported)
    assert {opset.domain for opset in found.opset_import} == {""}
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*found.graph.input, *found.graph.output)
    }
    assert shapes == {"audio": ["batch", "samples"], "lengths": ["batch"], "probabilities": ["batch", 3]}


def test_what_a_user_needs_travels_in_the_file(exported):
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(exported).metadata_props}
    assert metadata["labels"] == ["angry", "happy", "sad"]
    assert metadata["sampling_rate"] == RATE
    assert metadata["chunk_seconds"] == 4.0
    assert metadata["pad_to_seconds"] is None
    assert metadata["model"]["pooling_type"] == "qkv"
    assert set(metadata["known_answer"]["probabilities"]) == {"angry", "happy", "sad"}


def test_a_file_proves_itself_and_a_changed_one_is_found_out(exported, tmp_path):
    assert OnnxModel(exported).verify() < 1e-5
    changed = onnx.load(exported)
    constants = changed.graph.initializer
    bias = next(c for c in constants if c.data_type == onnx.TensorProto.FLOAT and list(c.dims) == [3])
    bias.raw_data = np.array([0.0, 2.0, 0.0], np.float32).tobytes()
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(ReferenceOutputError, match="do not use the model"):
        OnnxModel(tmp_path / "changed.onnx").verify()


def test_predict_reads_any_file_and_says_what_the_model_says(small_model, exported, tmp_path):
    stereo = np.stack([speechlike(2.2), speechlike(2.2, 200)], axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 44100)
    soundfile.write(tmp_path / "long.ogg", speechlike(67.0), 22050)
    given = [str(tmp_path / "stereo.flac"), speechlike(0.9), tmp_path / "long.ogg"]
    expected = whisper_ser.predict(given, small_model, device="cpu")
    found = predict(given, exported, batch_size=2)
    assert [one.file for one in found] == [str(given[0]), "audio 2", str(given[2])]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.file, ours.label, list(ours.probabilities)) == (
            theirs.file,
            theirs.label,
            list(theirs.probabilities),
        )
        assert ours.seconds == pytest.approx(theirs.seconds, abs=1e-3)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
    (alone,) = predict(speechlike(0.9), OnnxModel(exported, threads=1))
    assert alone.probabilities == pytest.approx(found[1].probabilities, abs=1e-5)


def test_recordings_that_cannot_be_used_are_named(exported, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(AudioFileError, match="silent.wav is silent"):
        predict(tmp_path / "silent.wav", exported)
    with pytest.raises(AudioFileError, match="nowhere.wav does not exist"):
        predict(["nowhere.wav"], exported)
    with pytest.raises(ExportError, match="batch_size=0"):
        predict([], exported, batch_size=0)


WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "datasets", "pandas", "onnx"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from whisper_ser.inference.engines.onnx_runtime import main
sys.exit(main(sys.argv[1:]))
"""


def test_it_runs_where_there_is_no_torch(small_model, exported, tmp_path):
    soundfile.write(tmp_path / "a.wav", speechlike(1.4), 8000)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(exported), str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    (expected,) = whisper_ser.predict(str(tmp_path / "a.wav"), small_model, device="cpu")
    assert answer["file"] == expected.file
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)


def test_the_command_writes_a_file_that_answers(small_model, tmp_path, capsys):
    assert main(["export", "onnx", str(small_model), str(tmp_path / "new" / "model.onnx"), "--int8"]) == 0
    assert "int8" in capsys.readouterr().out
    assert OnnxModel(tmp_path / "new" / "model.onnx").metadata["precision"] == "int8"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_an_earlier_export_is_replaced_and_nothing_else_is(small_model, exported, integers, tmp_path, capsys):
    ours = Path(shutil.copy(exported, tmp_path / "ours.onnx"))
    export_onnx(small_model, ours, "int8")
    assert OnnxModel(ours).metadata["precision"] == "int8"
    foreign = onnx.load(exported)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "notes.txt").write_text("three years of work")
    (tmp_path / "folder").mkdir()
    for name in ("foreign.onnx", "notes.txt", "folder"):
        before = (tmp_path / name).read_bytes() if name != "folder" else None
        assert main(["export", "onnx", str(small_model), str(tmp_path / name)]) == 1
        assert f"{name} exists and is not a model that was exported before" in capsys.readouterr().err
        assert before is None or (tmp_path / name).read_bytes() == before


def test_a_graph_that_answers_otherwise_is_not_kept(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LIMITS", {"float32": 1e-12})
    with pytest.raises(ExportError, match="off by"):
        export_onnx(small_model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(small_model, exported, tmp_path, monkeypatch):
    target = Path(shutil.copy(exported, tmp_path / "model.onnx"))

    def full(graph, path):
        Path(path).write_bytes(b"half a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(ExportError, match=r"model\.onnx could not be written .*No space left"):
        export_onnx(small_model, target, "int8")
    assert target.read_bytes() == exported.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_too_large_for_one_file_is_refused(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    with pytest.raises(ExportError, match="at most: export it as int8"):
        export_onnx(small_model, tmp_path / "model.onnx")


def test_what_is_no_model_is_refused(small_checkpoint, small_model, tmp_path, capsys):
    assert main(["export", "onnx", str(tmp_path / "nowhere"), str(tmp_path / "a.onnx")]) == 1
    assert main(["export", "onnx", str(small_checkpoint), str(tmp_path / "a.onnx")]) == 1
    assert "expected 'whisper_ser'" in capsys.readouterr().err
    with pytest.raises(ExportError, match="precision='int4'"):
        export_onnx(small_model, tmp_path / "a.onnx", "int4")
    recognizer = load_model(small_model, "cpu")
    with pytest.raises(ExportError, match="packed"):
        export_onnx(Recognizer(recognizer.model.packed(), recognizer.extractor), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_exported_model_are_refused(exported, tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    for name, message in (("nowhere.onnx", "There is no file"), ("text.onnx", "no ONNX model")):
        with pytest.raises(ExportError, match=message):
            OnnxModel(tmp_path / name)
    later = onnx.load(exported)
    for entry in later.metadata_props:
        if entry.key == "whisper_ser_format":
            entry.value = "2"
    onnx.save(later, tmp_path / "later.onnx")
    with pytest.raises(ExportError, match="has format 2"):
        OnnxModel(tmp_path / "later.onnx")
    del later.metadata_props[:]
    onnx.save(later, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="wrote"):
        OnnxModel(tmp_path / "foreign.onnx")


def test_a_missing_package_is_named_with_its_extra(small_model, tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("whisper_ser.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "onnx", str(small_model), str(tmp_path / "model.onnx")]) == 1
    assert "pip install 'whisper-ser[onnx]'" in capsys.readouterr().err


def test_the_runner_names_a_missing_onnx_runtime(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="pip install onnxruntime"):
        OnnxModel(exported)

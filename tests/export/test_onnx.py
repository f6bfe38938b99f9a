"""An exported model says what the model says: every kind of head, any length, any batch, and files that are whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from conftest import RATE, save_small_model, speechlike
from test_engine import CONFIGS, by_torch, clips_of, unlike_a_fresh_model

import whisper_ser
from whisper_ser.cli import main
from whisper_ser.errors import ExportError
from whisper_ser.export import onnx as onnx_file
from whisper_ser.export.onnx import export_onnx
from whisper_ser.inference import reference_output
from whisper_ser.inference.engines.exported import ExportedModel
from whisper_ser.inference.engines.graphs import find_graphs
from whisper_ser.inference.engines.int8 import quantize_whole_model
from whisper_ser.inference.model import load_saved, settings_of, torch_weights
from whisper_ser.inference.reference_waveform import ReferenceOutputError


@pytest.fixture(scope="module")
def exported(small_model, tmp_path_factory) -> Path:
    return export_onnx(small_model, tmp_path_factory.mktemp("onnx") / "model.onnx").path


# The head is the engine's, and tested there: those whose graphs are otherwise around it.
FORMS = ["averaged frames of several layers", "the paper's window", "ensemble", "last layer"]


@pytest.mark.parametrize("name", FORMS)
def test_models_of_other_forms_answer_as_in_torch(small_checkpoint, tmp_path, name):
    folder = save_small_model(small_checkpoint, tmp_path / "model", **CONFIGS[name])
    unlike_a_fresh_model(folder)
    clips, model = clips_of(), ExportedModel(export_onnx(folder, tmp_path / "model.onnx").path)
    assert model.probabilities(clips) == pytest.approx(by_torch(folder, clips), abs=1e-5)


def test_a_clip_in_a_batch_is_answered_as_alone(exported):
    model, clips = ExportedModel(exported), clips_of()
    alone = np.concatenate([model.probabilities([clip]) for clip in clips])
    assert model.probabilities(clips) == pytest.approx(alone, abs=1e-5)


def test_what_lies_behind_a_clip_is_not_read(exported):
    session, clip = ExportedModel(exported)._session, speechlike(1.3)
    (expected,) = session.run(None, {"audio": clip[None], "lengths": np.array([len(clip)])})
    longer = np.concatenate([clip, np.full(3 * RATE, np.nan, np.float32)])
    (found,) = session.run(None, {"audio": longer[None], "lengths": np.array([len(clip)])})
    assert found == pytest.approx(expected, abs=1e-5)


def test_long_audio_takes_several_passes_and_is_answered_as_in_torch(small_model, exported):
    # 200 s are 20,001 mel frames and 10,001 encoder frames: blocks of 6000, passes of 8000.
    clips = [speechlike(200.01), speechlike(30.0, 180, seed=1)]
    assert ExportedModel(exported).probabilities(clips) == pytest.approx(by_torch(small_model, clips), abs=1e-5)


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
    assert ExportedModel(exported).verify() < 1e-5
    changed = onnx.load(exported)
    constants = changed.graph.initializer
    bias = next(c for c in constants if c.data_type == onnx.TensorProto.FLOAT and list(c.dims) == [3])
    bias.raw_data = np.array([0.0, 2.0, 0.0], np.float32).tobytes()
    onnx.save(changed, tmp_path / "changed.onnx")
    with pytest.raises(ReferenceOutputError, match="do not use the model"):
        ExportedModel(tmp_path / "changed.onnx").verify()


def test_int8_is_smaller_and_nearly_the_same(small_model, exported, tmp_path):
    written = export_onnx(small_model, tmp_path / "model.onnx", "int8")
    assert (written.precision, ExportedModel(written.path).metadata["precision"]) == ("int8", "int8")
    assert written.size < exported.stat().st_size and 1e-4 < written.difference < 0.05
    integers = ExportedModel(written.path)
    assert integers.verify() < 0.01 and integers.metadata["known_answer"]["tolerance"] == 0.02
    # The same quantisation as that of a folder, whose encoder does not lie in a loop.
    engine = whisper_ser.load_model(small_model, "cpu", "int8")
    assert integers.probabilities(clips_of()) == pytest.approx(engine.probabilities(clips_of()), abs=0.01)
    with pytest.raises(ExportError, match="no loop over the encoder"):
        quantize_whole_model(integers_only(written.path), *encoder_of(small_model))


def encoder_of(folder: Path):
    model, extractor = load_saved(folder)
    config = json.loads(model.config.to_json_string())
    graph = find_graphs(config, names=["encoder"])["encoder"]
    return graph, torch_weights(model), settings_of(model, extractor).log_mel


def integers_only(path: Path) -> onnx.ModelProto:
    graph = onnx.load(path)
    for node in graph.graph.node:
        del node.attribute[:]
    return graph


def test_a_file_is_checked_once_on_each_machine(exported, tmp_path, monkeypatch):
    checked, verify = [], ExportedModel.verify
    monkeypatch.setenv("WHISPER_SER_CACHE", str(tmp_path))
    monkeypatch.setattr(ExportedModel, "verify", lambda self: checked.append(1) or verify(self))
    for _ in range(2):
        whisper_ser.load_model(exported)
    whisper_ser.load_model(shutil.copy(exported, tmp_path / "copy.onnx"))
    assert len(checked) == 1
    monkeypatch.setattr(reference_output, "processor", lambda: "another")
    whisper_ser.load_model(exported)
    assert len(checked) == 2
    # What fails is not marked, and fails again.
    wrong = onnx.load(exported)
    for entry in wrong.metadata_props:
        if entry.key == "known_answer":
            entry.value = entry.value.replace('"probabilities": {"angry": 0.', '"probabilities": {"angry": 1.')
    onnx.save(wrong, tmp_path / "wrong.onnx")
    for _ in range(2):
        with pytest.raises(ReferenceOutputError, match="do not use the model"):
            whisper_ser.load_model(tmp_path / "wrong.onnx")


def test_predict_reads_any_file_and_says_what_the_model_says(small_model, exported, tmp_path):
    stereo = np.stack([speechlike(2.2), speechlike(2.2, 200)], axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 44100)
    soundfile.write(tmp_path / "long.ogg", speechlike(67.0), 22050)
    given = [str(tmp_path / "stereo.flac"), speechlike(0.9), tmp_path / "long.ogg"]
    expected = whisper_ser.predict(given, small_model, device="cpu")
    found = whisper_ser.predict(given, exported, batch_size=2)
    assert [one.file for one in found] == [str(given[0]), "audio 2", str(given[2])]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.file, ours.label, list(ours.probabilities)) == (
            theirs.file,
            theirs.label,
            list(theirs.probabilities),
        )
        assert ours.seconds == pytest.approx(theirs.seconds, abs=1e-3)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
    (alone,) = whisper_ser.predict(speechlike(0.9), ExportedModel(exported, threads=1))
    assert alone.probabilities == pytest.approx(found[1].probabilities, abs=1e-5)


def test_the_command_writes_a_file_that_answers(small_model, tmp_path, capsys):
    assert main(["export", "onnx", str(small_model), str(tmp_path / "new" / "model.onnx")]) == 0
    assert "float32" in capsys.readouterr().out
    assert ExportedModel(tmp_path / "new" / "model.onnx").metadata["precision"] == "float32"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_an_earlier_export_is_replaced_and_nothing_else_is(small_model, other_model, exported, tmp_path, capsys):
    ours = Path(shutil.copy(exported, tmp_path / "ours.onnx"))
    export_onnx(other_model, ours)
    assert ExportedModel(ours).metadata["model"]["pooling_type"] == "mean"
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
        export_onnx(small_model, target)
    assert target.read_bytes() == exported.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_too_large_for_one_file_is_refused(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    with pytest.raises(ExportError, match="at most: train on a lower"):
        export_onnx(small_model, tmp_path / "model.onnx")


def test_what_is_no_model_is_refused(small_checkpoint, small_model, tmp_path, capsys):
    assert main(["export", "onnx", str(tmp_path / "nowhere"), str(tmp_path / "a.onnx")]) == 1
    assert main(["export", "onnx", str(small_checkpoint), str(tmp_path / "a.onnx")]) == 1
    assert "expected 'whisper_ser'" in capsys.readouterr().err
    with pytest.raises(ExportError, match="precision='int4'"):
        export_onnx(small_model, tmp_path / "a.onnx", "int4")
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_exported_model_are_refused(exported, tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    for name, message in (("nowhere.onnx", "There is no file"), ("text.onnx", "no ONNX model")):
        with pytest.raises(ExportError, match=message):
            ExportedModel(tmp_path / name)
    later = onnx.load(exported)
    for entry in later.metadata_props:
        if entry.key == "whisper_ser_format":
            entry.value = "2"
    onnx.save(later, tmp_path / "later.onnx")
    with pytest.raises(ExportError, match="has format 2"):
        ExportedModel(tmp_path / "later.onnx")
    del later.metadata_props[:]
    onnx.save(later, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="wrote"):
        ExportedModel(tmp_path / "foreign.onnx")

"""The licence of a model, from its corpora through training, fine-tuning and saving to an exported file."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile
from conftest import RATE, speechlike
from huggingface_hub import ModelCard
from transformers import AutoModelForAudioClassification

from whisper_ser.commands import train
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.licenses import LicenseError, head_license
from whisper_ser.hub.verify import verify
from whisper_ser.inference.reference_output import replace_setting
from whisper_ser.training.data import license_sources
from whisper_ser.training.settings import DataArguments


@pytest.fixture(scope="module")
def emodb(tmp_path_factory) -> Path:
    """A few recordings named as EmoDB names its own."""
    folder = tmp_path_factory.mktemp("emodb")
    for number, speaker in enumerate(("03", "08", "09", "10")):
        for emotion, pitch in (("F", 240), ("W", 110)):
            for version in "ab":
                samples = speechlike(0.9, pitch + 9 * number, seed=ord(version))
                soundfile.write(folder / f"{speaker}a01{emotion}{version}.wav", samples, RATE)
    return folder


def license_in(model: Path) -> dict | None:
    return json.loads((model / "config.json").read_text()).get("license")


def fine_tune(model: Path, emodb: Path, output: Path, *more: str) -> Path:
    flags = ["--corpus", "emodb", "--data_dir", str(emodb), "--allow_incomplete", "true", "--labels", "angry", "happy"]
    flags += ["--num_train_epochs", "1", "--test_speakers", "03", "--output_dir", str(output)]
    train.main(["--model_name_or_path", str(model), *flags, *more])
    return output / "model"


@pytest.fixture(scope="module")
def noncommercial(trained, tmp_path_factory) -> Path:
    """A model that learnt from RAVDESS, as far as its licence goes."""
    model = Path(shutil.copytree(trained / "model", tmp_path_factory.mktemp("ravdess") / "model"))
    replace_setting(model, "license", asdict(head_license({"ravdess": CORPORA["ravdess"].license_id})))
    return model


@pytest.fixture(scope="module")
def fine_tuned(noncommercial, emodb, tmp_path_factory) -> Path:
    return fine_tune(noncommercial, emodb, tmp_path_factory.mktemp("tuned") / "run")


def test_a_noncommercial_model_fine_tuned_on_free_data_stays_noncommercial(fine_tuned):
    sources = {"emodb": "cc0-1.0", "ravdess": "cc-by-nc-sa-4.0"}
    assert license_in(fine_tuned) == {"id": "cc-by-nc-sa-4.0", "sources": sources}
    assert ModelCard.load(fine_tuned / "README.md").data.license == "cc-by-nc-sa-4.0"
    text = (fine_tuned / "README.md").read_text()
    assert "the strictest licence of what it learnt from: emodb (cc0-1.0), ravdess (cc-by-nc-sa-4.0)." in text


def test_whoever_loads_and_saves_it_keeps_the_licence(fine_tuned, tmp_path):
    model = AutoModelForAudioClassification.from_pretrained(fine_tuned)
    model.save_pretrained(tmp_path)
    assert license_in(tmp_path) == license_in(fine_tuned) is not None


def test_an_exported_file_carries_it(fine_tuned, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from whisper_ser.export.onnx import export_onnx

    export_onnx(fine_tuned, tmp_path / "model.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(metadata["license"]) == license_in(fine_tuned)


def test_a_lax_licence_is_refused_before_training(noncommercial, emodb, tmp_path):
    with pytest.raises(LicenseError, match=r"ravdess \(cc-by-nc-sa-4.0\)"):
        fine_tune(noncommercial, emodb, tmp_path / "run", "--license", "apache-2.0")
    assert not (tmp_path / "run" / "model").exists()


def test_of_a_model_without_a_licence_none_follows(trained, emodb, tmp_path):
    model = Path(shutil.copytree(trained / "model", tmp_path / "old"))
    settings = json.loads((model / "config.json").read_text())
    del settings["license"]
    (model / "config.json").write_text(json.dumps(settings))
    (model / "known_answer.json").unlink()
    assert license_in(fine_tune(model, emodb, tmp_path / "run")) == {
        "id": None,
        "sources": {"emodb": "cc0-1.0", "the model old": None},
    }
    assert "no licence yet" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_ones_own_data_have_no_licence_until_it_is_stated(trained):
    found = license_in(trained / "model")
    assert found["id"] is None and list(found["sources"].values()) == [None]


@pytest.mark.parametrize(
    ("corpus", "name", "expected"),
    [
        ("own", "ravdess", None),
        ("demo", "demo", "apache-2.0"),
        ("emobox", "cremad", "odbl"),
        ("emobox", "emodb", "cc0-1.0"),
        ("emobox", "mead", None),
        *((name, name, spec.license_id) for name, spec in CORPORA.items()),
    ],
)
def test_the_licence_of_a_corpus_is_that_of_its_spec(corpus, name, expected):
    assert license_sources(DataArguments(corpus=corpus), name) == {name: expected}


def test_a_setting_is_replaced_with_its_hash(noncommercial):
    assert verify(noncommercial) < 1e-5

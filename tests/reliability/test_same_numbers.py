"""The same inputs give the same numbers, whatever the order, the batches, the workers and the processes."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speechlike
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import whisper_ser
from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from reliability.processes import child, finished
from reliability.work import FLAGS, run_flags, train
from whisper_ser.commands import train as run_train
from whisper_ser.data.audio_index import index_audio
from whisper_ser.training import feature_store as features
from whisper_ser.training.feature_store import fill

TOLERANCE = 1e-5
"""Of a probability in float32, between batches of other sizes."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def recognizer(small_model):
    return whisper_ser.load_model(small_model, "cpu")


CLIPS = [speechlike(0.2 + 0.37 * n % 6.0, 80 + 13 * n, seed=n) for n in range(12)]


@given(order=st.permutations(range(len(CLIPS))), batch_size=st.integers(1, 16))
def test_answers_do_not_depend_on_order_or_batch_size(recognizer, tried, order, batch_size):
    alone = _alone(recognizer)
    together = whisper_ser.predict([CLIPS[n] for n in order], recognizer, batch_size=batch_size)
    for n, one in zip(order, together, strict=True):
        assert one.probabilities == pytest.approx(alone[n], abs=TOLERANCE)
        tried(1)


_answers: list[dict[str, float]] = []


def _alone(recognizer) -> list[dict[str, float]]:
    if not _answers:
        _answers.extend(whisper_ser.predict(clip, recognizer)[0].probabilities for clip in CLIPS)
    return _answers


def test_the_same_question_has_the_same_answer_to_the_bit(recognizer, small_model, tried):
    again = whisper_ser.load_model(small_model, "cpu")
    for clip in CLIPS:
        first, second, third = (whisper_ser.predict(clip, r)[0] for r in (recognizer, recognizer, again))
        assert first == second == third
        tried(1)


def test_stored_states_do_not_depend_on_the_order_of_the_files(small_checkpoint, corpus, tmp_path, monkeypatch, tried):
    monkeypatch.setattr(features, "SHARD_SECONDS", 6.0)
    monkeypatch.setattr(features, "BATCH_SECONDS", 4.0)
    paths = sorted(str(path) for path in corpus.glob("*.wav"))
    model = WhisperForEmotionClassification.from_encoder(small_checkpoint, ["a", "b"], layer_index=2)
    stores = []
    for seed in range(4):
        order = random.Random(seed).sample(paths, len(paths))
        fill(model, WhisperSerFeatureExtractor(), index_audio(order, progress=False), tmp_path / str(seed))
        # A shard's name is the hash of what is in it.
        stores.append({path.name for path in (tmp_path / str(seed)).rglob("*.safetensors")})
        tried(1)
    assert len(stores[0]) > 2 and all(store == stores[0] for store in stores)


@pytest.fixture(scope="module")
def reference(corpus, small_checkpoint, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("reference") / "run"
    torch.set_num_threads(1)
    run_train.main(run_flags(corpus, small_checkpoint, output, *FLAGS))
    return output


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


def same_bits(one: Path, other: Path) -> bool:
    theirs = weights(other)
    return all(np.array_equal(tensor, theirs[name]) for name, tensor in weights(one).items()) and (
        (one / "predictions.parquet").read_bytes() == (other / "predictions.parquet").read_bytes()
    )


@pytest.mark.parametrize("where", ["here", "in another process"])
def test_a_seed_gives_the_same_bits(corpus, small_checkpoint, reference, tmp_path, tried, where):
    argv = run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS)
    if where == "here":
        run_train.main(argv)
    else:
        assert finished(child(train, argv, tmp_path / "log")) == 0
    assert same_bits(tmp_path / "run", reference)
    tried(1)


def test_another_seed_gives_others(corpus, small_checkpoint, reference, tmp_path):
    run_train.main(run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS, "--seed", "1"))
    assert not same_bits(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_that_load_the_data_change_nothing(corpus, small_checkpoint, reference, tmp_path, tried, workers):
    more = ["--dataloader_num_workers", str(workers)]
    run_train.main(run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS, *more))
    assert same_bits(tmp_path / "run", reference)
    tried(1)


def test_a_corpus_that_lies_elsewhere_gives_the_same_weights(corpus, small_checkpoint, reference, tmp_path, tried):
    elsewhere = shutil.copytree(corpus, tmp_path / "a corpus elsewhere")
    run_train.main(run_flags(elsewhere, small_checkpoint, tmp_path / "run", *FLAGS))
    theirs = weights(reference)
    assert all(np.array_equal(tensor, theirs[name]) for name, tensor in weights(tmp_path / "run").items())
    tried(1)


@pytest.mark.slow
def test_the_number_of_threads_changes_little(corpus, small_checkpoint, reference, tmp_path, tried):
    torch.set_num_threads(2)
    run_train.main(run_flags(corpus, small_checkpoint, tmp_path / "run", *FLAGS))
    theirs = weights(reference)
    for name, tensor in weights(tmp_path / "run").items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=1e-3, atol=2e-4, err_msg=name)
    tried(1)

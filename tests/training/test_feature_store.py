"""The feature store: right states, encoded once, whoever encodes them and whatever happens meanwhile."""

from pathlib import Path

import numpy as np
import pytest
import torch
from processes import torchrun
from safetensors import safe_open

from modeling_whisper_ser import WhisperForEmotionClassification, WhisperSerFeatureExtractor
from whisper_ser.audio.decoding import read_audio
from whisper_ser.data.audio_index import index_audio
from whisper_ser.errors import FeatureStoreError
from whisper_ser.training import feature_store as features
from whisper_ser.training.feature_store import fill


def new_model(checkpoint: Path, layer: int = 3, **fields) -> WhisperForEmotionClassification:
    return WhisperForEmotionClassification.from_encoder(checkpoint, ["a", "b"], layer_index=layer, **fields)


@pytest.fixture(scope="module")
def records(corpus):
    return index_audio(sorted(str(path) for path in corpus.glob("*.wav")), progress=False)


def states_of(model, path: str) -> torch.Tensor:
    """Returns the states `(layers, frames, width)` that the model itself gives."""
    batch = WhisperSerFeatureExtractor()(read_audio(path), sampling_rate=16000, return_tensors="pt")
    return model.whisper_ser.encode(**batch)[0][0].detach()


def files_of(store: Path) -> set[str]:
    """Returns the shards' names, which are the hashes of what is in them."""
    return {path.name for path in store.rglob("*.safetensors")}


@pytest.fixture
def count_encoded(monkeypatch) -> list[str]:
    """Lists the files read to be encoded."""
    read: list[str] = []
    monkeypatch.setattr(features, "read_audio", lambda path, rate: read.append(path) or read_audio(path, rate))
    return read


def test_stored_states_are_those_of_the_model_in_half_precision(small_checkpoint, records, tmp_path):
    model = new_model(small_checkpoint, 2)
    stored = fill(model, WhisperSerFeatureExtractor(), records, tmp_path)
    assert stored.layers == (2,) and len(records) == 36
    for path in records:
        expected = states_of(model, path)
        got = stored.read(path)
        assert got.dtype == torch.float16 and got.shape == expected.shape
        assert torch.allclose(got.float(), expected, rtol=2e-3, atol=2e-3)


def test_all_layers_come_from_one_pass(small_checkpoint, records, tmp_path, count_encoded):
    all_layers = fill(new_model(small_checkpoint), WhisperSerFeatureExtractor(), records, tmp_path, [1, 2, 3])
    assert sorted(count_encoded) == sorted(records)
    path = next(iter(records))
    assert all_layers.read(path).shape[0] == 3
    for layer in (1, 2, 3):
        # A model cut at that layer finds its states: nothing is encoded again.
        alone = fill(new_model(small_checkpoint, layer), WhisperSerFeatureExtractor(), records, tmp_path)
        assert len(count_encoded) == len(records)
        assert torch.equal(alone.read(path)[0], all_layers.read(path)[layer - 1])
        assert torch.equal(all_layers.of_layers([layer]).read(path), alone.read(path))
        expected = states_of(new_model(small_checkpoint, layer), path)
        assert torch.allclose(alone.read(path).float(), expected, rtol=2e-3, atol=2e-3)


def test_what_the_states_depend_on_decides_where_they_lie(small_checkpoint, records, tmp_path):
    changed = new_model(small_checkpoint, 2)
    with torch.no_grad():
        changed.whisper_ser.encoder.layers[0].fc1.weight[0, 0] += 1e-3
    one = dict(list(records.items())[:1])
    for model, extractor in (
        (new_model(small_checkpoint, 2), WhisperSerFeatureExtractor()),
        (new_model(small_checkpoint, 2, chunk_seconds=0.5), WhisperSerFeatureExtractor()),
        (new_model(small_checkpoint, 2, frame_averaging=5), WhisperSerFeatureExtractor()),
        (new_model(small_checkpoint, 2), WhisperSerFeatureExtractor(pad_to_seconds=2)),
        (changed, WhisperSerFeatureExtractor()),
        (new_model(small_checkpoint, 2, pooling_type="mean", d_model=8), WhisperSerFeatureExtractor()),
    ):
        fill(model, extractor, one, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5, "the head changes no states, everything else does"


def test_the_final_norm_belongs_to_the_last_layer_alone(small_checkpoint, tmp_path):
    changed = new_model(small_checkpoint)
    with torch.no_grad():
        changed.whisper_ser.encoder.layer_norm.weight[0] += 1e-3
    before, after = (
        features.store_folders(tmp_path, model, WhisperSerFeatureExtractor(), [1, 2, 3])
        for model in (new_model(small_checkpoint), changed)
    )
    assert [before[layer] == after[layer] for layer in (1, 2, 3)] == [True, True, False]


def test_a_shard_holds_as_much_padded_audio_as_unpadded(records):
    heard = list(records.values())
    shards = list(features._shards(heard, {record.path: 30.0 for record in heard}))
    assert [sum(map(len, shard)) for shard in shards] == [22, 14]
    assert {len(batch) for shard in shards for batch in shard} == {2}


def test_an_interrupted_store_goes_on_and_is_what_it_would_have_been(
    small_checkpoint, records, tmp_path, monkeypatch, count_encoded
):
    monkeypatch.setattr(features, "BATCH_SECONDS", 4.0)
    monkeypatch.setattr(features, "SHARD_SECONDS", 6.0)
    model, extractor = new_model(small_checkpoint), WhisperSerFeatureExtractor()
    fill(model, extractor, records, tmp_path / "whole", [1, 3])
    write, written = features._write_shard, []

    def die_in_the_fourth(folder, states):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(folder)
        write(folder, states)

    monkeypatch.setattr(features, "_write_shard", die_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        fill(model, extractor, records, tmp_path / "again", [1, 3])
    monkeypatch.setattr(features, "_write_shard", write)
    count_encoded.clear()
    fill(model, extractor, records, tmp_path / "again", [1, 3])
    # The fourth file would have been the second layer of the second shard: only the first shard was whole.
    assert 0 < len(count_encoded) < len(records)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole") and len(files_of(tmp_path / "again")) > 6


def test_a_damaged_shard_is_encoded_anew(small_checkpoint, records, tmp_path, caplog):
    model, extractor = new_model(small_checkpoint, 1), WhisperSerFeatureExtractor()
    path = next(iter(records))
    expected = fill(model, extractor, records, tmp_path).read(path)
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    for position in (3, 20, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        shard.write_bytes(damaged)
        assert torch.equal(fill(model, extractor, records, tmp_path).read(path), expected)
        assert shard.read_bytes() == whole
    shard.write_bytes(whole[:-100])
    assert torch.equal(fill(model, extractor, records, tmp_path).read(path), expected)


def test_a_store_removed_under_a_running_job_says_so(small_checkpoint, records, tmp_path):
    stored = fill(new_model(small_checkpoint, 1), WhisperSerFeatureExtractor(), records, tmp_path)
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:64])
    with pytest.raises(FeatureStoreError, match="shorter than it was. Start the same command again"):
        stored.read(next(iter(records)))
    shard.unlink()
    with pytest.raises(FeatureStoreError, match="cannot be read any more"):
        stored.read(next(iter(records)))


def test_no_room_and_no_right_to_write_are_said_before_anything_is_encoded(
    small_checkpoint, records, tmp_path, monkeypatch, count_encoded
):
    model, extractor = new_model(small_checkpoint, 1), WhisperSerFeatureExtractor()
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureStoreError, match="--feature_dir"):
        fill(model, extractor, records, tmp_path / "file")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(FeatureStoreError, match="needs about .* GB more, and 0.0 GB are free"):
        fill(model, extractor, records, tmp_path / "store")
    assert not count_encoded


def test_anyone_can_open_a_shard(small_checkpoint, records, tmp_path):
    stored = fill(new_model(small_checkpoint, 1), WhisperSerFeatureExtractor(), records, tmp_path)
    (shard,) = tmp_path.rglob("*.safetensors")
    path = next(iter(records))
    with safe_open(shard, framework="pt") as file:
        assert set(file.keys()) == {record.sample_hash for record in records.values()}
        assert torch.equal(file.get_tensor(records[path].sample_hash), stored.read(path)[0])


FILLER = """
import os, signal, sys
from pathlib import Path
from accelerate import PartialState
from modeling_whisper_ser import WhisperSerFeatureExtractor
from test_feature_store import new_model
from whisper_ser.training import feature_store as features
from whisper_ser.data.audio_index import index_audio

checkpoint, corpus, store = sys.argv[1:]
features.SHARD_SECONDS, features.BATCH_SECONDS = 3.0, 2.0
assert PartialState(cpu=True).num_processes == 4
write, written = features._write_shard, []

def deadly(folder, states):
    if PartialState().process_index == 1 and len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, states)
    written.append(folder)

if "DEADLY" in os.environ:
    features._write_shard = deadly
records = index_audio(sorted(str(path) for path in Path(corpus).glob("*.wav")), progress=False)
stored = features.fill(new_model(checkpoint), WhisperSerFeatureExtractor(), records, Path(store), [1, 3])
assert len(stored.places[1]) == len(records) == 36
"""


@pytest.fixture
def store_of_one(small_checkpoint, records, tmp_path, monkeypatch) -> set[str]:
    monkeypatch.setattr(features, "SHARD_SECONDS", 3.0)
    monkeypatch.setattr(features, "BATCH_SECONDS", 2.0)
    torch.set_num_threads(1)
    fill(new_model(small_checkpoint), WhisperSerFeatureExtractor(), records, tmp_path / "one", [1, 3])
    (tmp_path / "fill.py").write_text(FILLER)
    return files_of(tmp_path / "one")


def test_four_processes_write_the_store_of_one(store_of_one, small_checkpoint, corpus, tmp_path):
    result = torchrun(4, tmp_path / "fill.py", small_checkpoint, corpus, tmp_path / "four")
    assert result.returncode == 0, result.stderr
    assert files_of(tmp_path / "four") == store_of_one


@pytest.mark.slow
def test_one_of_four_processes_is_killed_and_the_store_is_finished(store_of_one, small_checkpoint, corpus, tmp_path):
    given = [tmp_path / "fill.py", small_checkpoint, corpus, tmp_path / "four"]
    killed = torchrun(4, *given, DEADLY="1")
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "four").rglob("*.safetensors")}
    # The second process had written both layers of its first shard.
    assert 2 <= len(kept) < len(store_of_one)
    again = torchrun(4, *given)
    assert again.returncode == 0, again.stderr
    assert files_of(tmp_path / "four") == store_of_one
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_states_too_large_for_half_precision_are_refused(small_checkpoint, records, tmp_path):
    model = new_model(small_checkpoint, 1)
    with torch.no_grad():
        model.whisper_ser.encoder.layers[0].fc2.bias.fill_(1e6)
    with pytest.raises(FeatureStoreError, match="do not fit into float16"):
        fill(model, WhisperSerFeatureExtractor(), records, tmp_path)
    assert not np.any([path.is_file() for path in tmp_path.rglob("*")])

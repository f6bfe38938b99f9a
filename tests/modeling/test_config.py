"""The configuration says what is wrong with it."""

import json

import pytest
from transformers import AutoConfig, WhisperConfig

from modeling_whisper_ser import ConfigError, WhisperForEmotionClassification, WhisperSerConfig


def test_defaults_read_the_middle_layer_of_the_encoder():
    config = WhisperSerConfig(encoder_config=WhisperConfig(encoder_layers=6))
    assert (config.layer_index, config.layer_indices) == (3, [3])


def test_score_scaling_follows_the_papers_equations_unless_said_otherwise():
    assert WhisperSerConfig(pooling_type="qkv").scale_scores is True
    assert WhisperSerConfig(pooling_type="attentive").scale_scores is False
    assert WhisperSerConfig(pooling_type="attentive", scale_scores=True).scale_scores is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling_type": "max"}, "pooling_type='max'.*'mean', 'attentive', 'qkv', 'statistics'"),
        ({"score_activation": "relu"}, "score_activation='relu'.*'none', 'tanh'"),
        ({"layer_mixing": "sum"}, "layer_mixing='sum'"),
        ({"layer_index": 0}, "layer_index=0 .*from 1 to 4"),
        ({"layer_index": 5}, "layer_index=5 .*from 1 to 4"),
        ({"layer_index": 2.0}, "layer_index=2.0 .*whole number"),
        ({"layer_index": 2, "layer_indices": [1, 2]}, r"layer_indices=\[1, 2\]"),
        ({"layer_mixing": "concat", "layer_indices": [3, 2]}, "ascend to 2"),
        ({"layer_mixing": "concat", "layer_indices": [2, 2]}, "ascend to 2"),
        ({"layer_mixing": "concat", "layer_indices": [1, 2], "layer_index": 3}, "ascend to 3"),
        ({"layer_mixing": "concat", "layer_indices": [0, 2]}, "layer_indices=0"),
        ({"layer_mixing": "concat", "layer_indices": []}, "ascend to"),
        ({"pooling_queries": ["mean", "max"]}, "only for models saved earlier.*leave pooling_queries out"),
        ({"ensemble": [{}, {"pooling_queries": ["learnt"]}]}, "only for models saved earlier"),
        ({"frame_averaging": 0}, "frame_averaging=0"),
        ({"d_model": 0}, "d_model=0"),
        ({"num_pooling_heads": True}, "num_pooling_heads=True"),
        ({"pooling_head_dim": -4}, "pooling_head_dim=-4"),
        ({"input_dropout": 1.0}, "input_dropout=1.0"),
        ({"pooling_dropout": "0.5"}, "pooling_dropout='0.5'"),
        ({"label_smoothing": float("nan")}, "label_smoothing=nan"),
        ({"chunk_seconds": 31}, "chunk_seconds=31 .*0.5 and 30"),
        ({"chunk_seconds": 0}, "chunk_seconds=0"),
        ({"unfreeze_last_n": 3, "layer_index": 2}, "unfreeze_last_n=3 .*from 0 to 2"),
        ({"channel_standardisation": 1}, "channel_standardisation=1"),
        ({"num_labels": 3, "class_weights": [1.0, 2.0]}, "class_weights=.*3 numbers"),
        ({"num_labels": 2, "class_weights": [1.0, -2.0]}, "class_weights="),
        ({"id2label": {0: "sad", 1: "sad"}}, "id2label"),
        ({"id2label": {1: "sad", 2: "happy"}}, "id2label"),
        ({"encoder_config": "tiny"}, "encoder_config"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(fields, message):
    with pytest.raises(ConfigError, match=message):
        WhisperSerConfig(**fields)


@pytest.mark.parametrize("queries", [["mean", "max"], ["learnt"]])
def test_queries_of_saved_models_are_kept(tmp_path, queries):
    saved = WhisperSerConfig(num_labels=3).to_dict()
    for fields in ({"pooling_queries": queries}, {"ensemble": [{}, {"pooling_queries": queries}]}):
        WhisperSerConfig.from_dict({**saved, **fields}).save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert [head.pooling_queries for head in loaded.of_heads()][-1] == queries
        assert loaded.to_dict() == WhisperSerConfig.from_dict(loaded.to_dict()).to_dict()


@pytest.mark.parametrize("queries", [["mean", "median"], ["mean", "mean"], []])
def test_saved_queries_that_do_not_exist_are_refused(queries):
    with pytest.raises(ConfigError, match="one or more of mean, learnt, max"):
        WhisperSerConfig.from_dict({"pooling_queries": queries})


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("poling_type", "pooling_type"),
        ("layers_index", "layer_index"),
        ("pooling_heads", "num_pooling_heads"),
        ("channel_standardization", "channel_standardisation"),
        ("chunk_second", "chunk_seconds"),
    ],
)
def test_a_near_miss_of_a_field_is_an_error(misspelt, meant):
    with pytest.raises(ConfigError, match=f"{misspelt}.*{meant}"):
        WhisperSerConfig(**{misspelt: 1})


def test_fields_of_a_newer_transformers_load(tmp_path):
    WhisperSerConfig(layer_index=1).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text()) | {"rope_something_new": 1, "future_cache_layout": {"a": 1}}
    path.write_text(json.dumps(fields))
    assert WhisperSerConfig.from_pretrained(tmp_path).layer_index == 1


def test_saved_and_loaded_configs_are_the_same(tmp_path):
    config = WhisperSerConfig(
        encoder_config={"encoder_layers": 6, "d_model": 64, "encoder_attention_heads": 4},
        layer_index=5,
        pooling_type="attentive",
        score_activation="tanh",
        id2label={0: "angry", 1: "sad"},
        class_weights=[0.5, 1.5],
        chunk_seconds=30.0,
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, WhisperSerConfig) and isinstance(loaded.encoder_config, WhisperConfig)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.labels == ["angry", "sad"] and loaded.label2id == {"angry": 0, "sad": 1}


def test_a_field_set_wrongly_after_creation_is_found_by_the_model():
    config = WhisperSerConfig()
    config.pooling_type = "median"
    with pytest.raises(ConfigError, match="pooling_type='median'"):
        WhisperForEmotionClassification(config)

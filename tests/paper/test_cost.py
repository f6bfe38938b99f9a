"""What encoders cost: against the modules themselves, counted parameter by parameter and product by product."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder
from whisper_ser.paper.cost import (
    WAVEFORM_COSTS,
    WHISPER_ENCODERS,
    published_cost,
    whisper_cost,
    whisper_macs,
    whisper_parameters,
)
from whisper_ser.paper.published import CLASSES, prior_work


def encoder(layer: int, chunk_seconds: float = 4.0) -> tuple[WhisperSerEncoder, dict]:
    whisper = WhisperConfig(d_model=48, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=80)
    config = WhisperSerConfig(encoder_config=whisper, layer_index=layer, chunk_seconds=chunk_seconds)
    # PyTorch counts the products of plain attention; those of its fused kernel on the CPU it does not know.
    config.encoder_config._attn_implementation = "eager"
    return WhisperSerEncoder(config).eval(), whisper.to_dict()


def counted_macs(module: torch.nn.Module, inputs: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_parameters_are_those_of_the_encoder_as_it_is_cut(layer):
    module, config = encoder(layer)
    assert whisper_parameters(config, layer) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("layer", "seconds", "chunk_seconds"), [(1, 4.0, 4.0), (3, 4.0, 4.0), (2, 6.0, 2.5), (2, 3.0, 30.0)]
)
def test_the_operations_are_those_that_the_encoder_does(layer, seconds, chunk_seconds):
    module, config = encoder(layer, chunk_seconds)
    log_mel = torch.randn(1, round(100 * seconds), 80)
    assert whisper_macs(config, layer, seconds, chunk_seconds) == counted_macs(module, log_mel)


def test_a_padded_utterance_costs_its_window():
    _, config = encoder(3)
    assert whisper_macs(config, 3, 4.0, 30.0, pad_to_seconds=30) == whisper_macs(config, 3, 30.0, 30.0)


@pytest.mark.parametrize(
    ("name", "model", "config", "width", "layers"),
    [
        ("Wav2vec 2.0 Large", Wav2Vec2Model, Wav2Vec2Config, 1024, 24),
        ("HuBERT Large", HubertModel, HubertConfig, 1024, 24),
        ("HuBERT X-Large", HubertModel, HubertConfig, 1280, 48),
        ("WavLM Large", WavLMModel, WavLMConfig, 1024, 24),
        ("Data2vec 2.0 Large", Data2VecAudioModel, Data2VecAudioConfig, 1024, 24),
    ],
)
def test_published_encoders_cost_what_transformers_builds(name, model, config, width, layers):
    ours = WAVEFORM_COSTS[name]
    settings = {"conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    with torch.device("meta"):
        theirs = model(config(**settings, **sizes, num_attention_heads=16, attn_implementation="eager")).eval()
        waveform = torch.empty(1, 64000)
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert ours.parameters == pytest.approx(parameters, rel=1e-3 if "WavLM" in name else 0)
    assert ours.macs_per_second == pytest.approx(counted_macs(theirs, waveform) / 4, rel=1e-3)


@pytest.mark.parametrize("name", list(WHISPER_ENCODERS))
def test_published_whisper_encoders_have_the_parameters_of_transformers(name):
    config = WHISPER_ENCODERS[name]
    with torch.device("meta"):
        theirs = WhisperEncoder(WhisperConfig(**config, encoder_attention_heads=config["d_model"] // 64))
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert whisper_parameters(config, config["encoder_layers"]) == parameters


def test_every_row_of_prior_work_has_a_cost():
    for corpus in CLASSES:
        assert all(published_cost(row.encoder).macs_per_second > 1e9 for row in prior_work(corpus))


def test_a_window_costs_the_same_however_short_the_utterance():
    config = WHISPER_ENCODERS["Whisper Large V3"]
    short, long = (whisper_cost(config, 32, seconds, pad_to_seconds=30).macs_per_second for seconds in (2.0, 4.0))
    assert short == 2 * long == 2 * published_cost("Whisper Large V3").macs_per_second

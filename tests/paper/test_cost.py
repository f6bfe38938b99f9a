"""What encoders cost: against the modules themselves, counted parameter by parameter and product by product."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.encoder_whisper_ser import WhisperSerEncoder
from whisper_ser.paper.cost import (
    WAVEFORM_ENCODERS,
    WHISPER_ENCODERS,
    published_cost,
    whisper_macs,
    whisper_parameters,
)
from whisper_ser.paper.latency import measure_latency
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
    ("name", "model", "config"),
    [
        ("HuBERT Large", HubertModel, HubertConfig),
        ("HuBERT X-Large", HubertModel, HubertConfig),
        ("WavLM Large", WavLMModel, WavLMConfig),
    ],
)
def test_published_encoders_cost_what_transformers_builds(name, model, config):
    ours = WAVEFORM_ENCODERS[name]
    settings = {"conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
    sizes = {"hidden_size": ours.width, "intermediate_size": ours.inner, "num_hidden_layers": ours.layers}
    with torch.device("meta"):
        theirs = model(config(**settings, **sizes, num_attention_heads=16, attn_implementation="eager")).eval()
        waveform = torch.empty(1, 64000)
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert ours.parameters == pytest.approx(parameters, rel=1e-3 if "WavLM" in name else 0)
    assert ours.macs(4.0) == pytest.approx(counted_macs(theirs, waveform), rel=1e-3)


@pytest.mark.parametrize("name", list(WHISPER_ENCODERS))
def test_published_whisper_encoders_have_the_parameters_of_transformers(name):
    config = WHISPER_ENCODERS[name]
    with torch.device("meta"):
        theirs = WhisperEncoder(WhisperConfig(**config, encoder_attention_heads=config["d_model"] // 64))
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert whisper_parameters(config, config["encoder_layers"]) == parameters


def test_every_row_of_prior_work_has_a_cost():
    for corpus in CLASSES:
        assert all(published_cost(row.encoder, 4.0).macs_per_second > 1e9 for row in prior_work(corpus))


def test_a_window_costs_the_same_however_short_the_utterance():
    short, long = (published_cost("Whisper Large V3", seconds).macs_per_second for seconds in (2.0, 4.0))
    assert short == 2 * long


def test_latency_is_the_median_run_and_names_its_device(monkeypatch):
    _, whisper = encoder(3)
    config = WhisperSerConfig(encoder_config=WhisperConfig(**whisper), layer_index=2, id2label={0: "angry", 1: "sad"})
    # Nine runs of 1 to 9 s behind two long ones that warm up.
    durations = [100, 100, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    clock = iter(np.cumsum([moment for duration in durations for moment in (0, duration)]).tolist())
    monkeypatch.setattr("whisper_ser.paper.latency.time.perf_counter", lambda: next(clock))
    latency = measure_latency(config, None)
    assert latency.seconds == 5
    assert f"{torch.get_num_threads()} thread" in latency.device

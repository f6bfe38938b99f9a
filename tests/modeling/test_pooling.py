"""Every pooling against a loop over utterances, heads and frames that follows the paper's equations."""

import math

import pytest
import torch

from modeling_whisper_ser import WhisperSerConfig
from modeling_whisper_ser.pooling_whisper_ser import Packing, build_pooling

D_MODEL, HEADS, DIM = 16, 3, 4
LENGTHS = (7, 1, 4)


def build(pooling_type, **fields):
    sizes = {"d_model": D_MODEL, "num_pooling_heads": HEADS, "pooling_head_dim": DIM}
    # As from a file: saved models may have queries that new ones may not.
    config = WhisperSerConfig.from_dict({"pooling_type": pooling_type, **sizes, **fields})
    return build_pooling(config, D_MODEL).eval()


def pool(pooling, hidden: torch.Tensor, mask: torch.Tensor):
    """Calls `pooling` with the frames of `hidden` `(batch, frames, d_model)` that `mask` marks."""
    packing = Packing.of(mask)
    return pooling(packing.pack(hidden), packing)


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(score) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


def naive_scores(pooling, kind, frames, head, scaled, tanh) -> list[float]:
    rows = slice(head * DIM, (head + 1) * DIM)
    mean = sum(frames) / len(frames)
    scores = []
    for frame in frames:
        if kind == "attentive":
            hidden = torch.tanh(pooling.hidden.weight[rows] @ frame + pooling.hidden.bias[rows])
            score = float(hidden @ pooling.score_weight[head] + pooling.score_bias[head])
        else:
            score = float((pooling.query["mean"].weight[rows] @ mean) @ (pooling.key.weight[rows] @ frame))
        score = score / math.sqrt(DIM) if scaled else score
        scores.append(math.tanh(score) if tanh else score)
    return scores


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attentive", "qkv"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("activation", ["none", "tanh"])
def test_attention_poolings_follow_the_papers_equations(kind, scaled, activation):
    pooling = build(kind, scale_scores=scaled, score_activation=activation)
    for parameter in pooling.parameters():
        parameter.normal_()
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), D_MODEL)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    pooled, attentions = pool(pooling, hidden, mask)
    assert attentions.shape == (len(LENGTHS), HEADS, max(LENGTHS))
    for row, length in enumerate(LENGTHS):
        frames, heads = list(hidden[row, :length]), []
        for head in range(HEADS):
            weights = softmax(naive_scores(pooling, kind, frames, head, scaled, activation == "tanh"))
            assert attentions[row, head].tolist() == pytest.approx(weights + [0.0] * (max(LENGTHS) - length), abs=1e-5)
            values = [pooling.value.weight[head * DIM : (head + 1) * DIM] @ frame for frame in frames]
            heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
        expected = pooling.out.weight @ torch.cat(heads)
        assert torch.allclose(pooled[row], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_mean_pooling_by_hand():
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [99.0, 99.0]]])
    pooled, attentions = pool(build("mean"), hidden, torch.tensor([[True, True, False]]))
    assert pooled.tolist() == [[2.0, 15.0]]
    assert attentions is None


@torch.no_grad()
def test_statistics_pooling_is_mean_and_deviation_standardised_over_utterances():
    pooling = build("statistics")
    pooling.mean.normal_()
    pooling.deviation.uniform_(0.5, 2)
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), D_MODEL)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    pooled, _ = pool(pooling, hidden, mask)
    for row, length in enumerate(LENGTHS):
        frames = hidden[row, :length]
        deviation = torch.stack([frames[:, c].var(correction=0) for c in range(D_MODEL)]).add(1e-6).sqrt()
        expected = (torch.cat([frames.mean(0), deviation]) - pooling.mean) / pooling.deviation
        assert torch.allclose(pooled[row], expected, atol=1e-5)


@torch.no_grad()
def test_statistics_that_were_fitted_have_mean_0_and_deviation_1_over_utterances():
    pooling = build("statistics")
    utterances = [3 * torch.randn(length, D_MODEL) + torch.arange(D_MODEL) for length in (5, 9, 2, 7)]
    masks = [torch.ones(1, len(frames), dtype=torch.bool) for frames in utterances]
    pairs = list(zip(utterances, map(Packing.of, masks), strict=True))
    pooling.fit(pooling.statistics(frames, packing) for frames, packing in pairs)
    pooled = torch.cat([pooling(frames, packing)[0] for frames, packing in pairs])
    assert torch.allclose(pooled.mean(0), torch.zeros(2 * D_MODEL), atol=1e-5)
    assert torch.allclose(pooled.std(0, correction=0), torch.ones(2 * D_MODEL), atol=1e-4)


@pytest.mark.parametrize("kind", ["attentive", "qkv"])
@pytest.mark.parametrize("fields", [{}, {"pooling_statistics": True}, {"pooling_queries": ["mean", "max"]}])
def test_training_without_dropout_gives_what_use_gives(kind, fields):
    pooling = build(kind, pooling_dropout=0.0, **fields)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), D_MODEL, requires_grad=True)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    outcomes = []
    for training in (False, True):
        pooled, weights = pool(pooling.train(training), hidden, mask)
        (gradient,) = torch.autograd.grad(pooled.square().sum(), hidden)
        outcomes.append((pooled, weights, gradient))
    for in_use, in_training in zip(*outcomes, strict=True):
        assert (in_use - in_training).abs().max() <= 1e-5 * in_training.abs().max()


def test_the_maximum_is_of_an_utterances_own_frames():
    hidden = torch.tensor([[[-1.0], [-5.0]], [[-3.0], [9.0]]])
    packing = Packing.of(torch.tensor([[True, True], [True, False]]))
    assert packing.max(packing.pack(hidden)).tolist() == [[-1.0], [-3.0]]


@torch.no_grad()
def test_other_queries_bring_heads_of_their_own():
    pooling = build("qkv", pooling_queries=["max", "learnt", "mean"])
    for parameter in pooling.parameters():
        parameter.normal_()
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), D_MODEL)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    pooled, attentions = pool(pooling, hidden, mask)
    assert attentions.shape == (len(LENGTHS), 3 * HEADS, max(LENGTHS))
    for row, length in enumerate(LENGTHS):
        frames = hidden[row, :length]
        queries = torch.cat(
            [
                pooling.query["max"].weight @ torch.stack([frames[:, c].max() for c in range(D_MODEL)]),
                pooling.learnt_query,
                pooling.query["mean"].weight @ frames.mean(0),
            ]
        )
        heads = []
        for head in range(3 * HEADS):
            rows = slice(head * DIM, (head + 1) * DIM)
            scores = [float(queries[rows] @ (pooling.key.weight[rows] @ f)) / math.sqrt(DIM) for f in frames]
            assert attentions[row, head, :length].tolist() == pytest.approx(softmax(scores), abs=1e-4)
            heads.append(
                sum(w * (pooling.value.weight[rows] @ f) for w, f in zip(softmax(scores), frames, strict=True))
            )
        assert torch.allclose(pooled[row], pooling.out.weight @ torch.cat(heads), rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attentive", "qkv"])
def test_statistics_under_attention_are_weighted_mean_and_deviation(kind):
    pooling = build(kind, pooling_statistics=True)
    hidden = torch.randn(len(LENGTHS), max(LENGTHS), D_MODEL)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    pooled, attentions = pool(pooling, hidden, mask)
    for row, length in enumerate(LENGTHS):
        heads = []
        for head in range(HEADS):
            values = hidden[row, :length] @ pooling.value.weight[head * DIM : (head + 1) * DIM].T
            weights = attentions[row, head, :length]
            mean = sum(w * v for w, v in zip(weights, values, strict=True))
            variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
            heads += [mean, (variance + 1e-6).sqrt()]
        assert torch.allclose(pooled[row], pooling.out.weight @ torch.cat(heads), atol=1e-4)


@pytest.mark.parametrize("kind", ["mean", "attentive", "qkv", "statistics"])
def test_padding_changes_neither_vector_nor_gradient(kind):
    pooling = build(kind)
    frames = torch.randn(1, 5, D_MODEL, requires_grad=True)
    alone, _ = pool(pooling, frames, torch.ones(1, 5, dtype=torch.bool))
    padded = torch.cat([frames, torch.full((1, 3, D_MODEL), 1e4)], dim=1)
    with_padding, _ = pool(pooling, padded, torch.arange(8)[None] < 5)
    assert torch.allclose(alone, with_padding, atol=1e-5)
    (gradient,) = torch.autograd.grad(alone.square().sum(), frames)
    (gradient_padded,) = torch.autograd.grad(with_padding.square().sum(), frames)
    assert torch.allclose(gradient, gradient_padded, atol=1e-5)
    assert torch.isfinite(gradient).all()


def test_one_frame_has_a_finite_gradient():
    pooling = build("statistics")
    frame = torch.randn(1, 1, D_MODEL, requires_grad=True)
    pool(pooling, frame, torch.ones(1, 1, dtype=torch.bool))[0].sum().backward()
    assert torch.isfinite(frame.grad).all()


def test_dropout_acts_on_queries_keys_and_values_in_training_alone():
    pooling = build("qkv", pooling_dropout=0.5)
    dropped = []
    pooling.dropout.register_forward_hook(lambda module, given, result: dropped.append(given[0].shape))
    hidden, mask = torch.randn(1, 5, D_MODEL), torch.ones(1, 5, dtype=torch.bool)
    pool(pooling.train(), hidden, mask)
    inner = HEADS * DIM
    assert sorted(dropped) == [(1, inner), (5, 2 * inner)]
    torch.manual_seed(0)
    first, second = (pool(pooling, hidden, mask)[0] for _ in range(2))
    assert not torch.equal(first, second)
    pooling.eval()
    assert torch.equal(*(pool(pooling, hidden, mask)[0] for _ in range(2)))

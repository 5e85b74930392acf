"""The captioner against its equations written out, its loss, and its decoder state against teacher forcing."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from milan.errors import BadInput
from milan.models import CaptionBatch, Captioner
from milan.models.captioner import lstm_step
from milan.models.decoding import TokenConstraints, beam_search
from tests.models.worlds import EXEMPLARS, captioner, features


def written_out(model: object, unit: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Return the log probability of each token and the summed attention, by the paper's equations, word by word."""
    mean = unit.mean(0)
    hidden, cell = torch.tanh(model.initial_hidden(mean)), torch.tanh(model.initial_cell(mean))
    logs, paid = [], torch.zeros(len(unit))
    for last, said in zip([model.vocabulary.start, *tokens], tokens, strict=False):
        energy = torch.stack([model.energy(torch.tanh(model.query(hidden) + model.key(one))).squeeze() for one in unit])
        weights = energy.softmax(0)
        context = torch.sigmoid(model.gate(hidden)) * (weights.unsqueeze(1) * unit).sum(0)
        hidden, cell = model.cell(torch.cat([model.embedding.weight[last], context]), (hidden, cell))
        logs.append(model.readout(hidden).log_softmax(0)[said])
        paid = paid + weights
    return torch.stack(logs), paid


@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_teacher_forcing_follows_the_equations(gate: str) -> None:
    model, units = captioner(gate=gate), features(3)
    stop, pad = model.vocabulary.stop, model.vocabulary.pad
    said = [[3, 1, stop], [7, stop], [2, 2, 9, 4, stop]]
    tokens = torch.tensor([one + [pad] * (5 - len(one)) for one in said])
    with torch.no_grad():
        logits, targets, paid = model(units, tokens)
        expected = [written_out(model, unit, one) for unit, one in zip(units, said, strict=True)]
    loss = F.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, -torch.cat([logs for logs, _ in expected]).mean(), atol=1e-5, rtol=0)
    torch.testing.assert_close(paid[0], expected[2][1], atol=1e-5, rtol=0)  # longest first
    extra = sum(((1 - attention) ** 2).mean() for _, attention in expected) / 3
    torch.testing.assert_close(model.loss(CaptionBatch(units, tokens)), loss + extra, atol=1e-5, rtol=0)


def test_padding_changes_no_loss() -> None:
    model, units = captioner(), features(2)
    stop, pad = model.vocabulary.stop, model.vocabulary.pad
    tokens = torch.tensor([[3, 1, stop], [7, stop, pad]])
    padded = F.pad(tokens, (0, 4), value=pad)
    torch.testing.assert_close(model.loss(CaptionBatch(units, padded)), model.loss(CaptionBatch(units, tokens)))


def test_scores_equal_the_equations_and_the_beam_search() -> None:
    model, units = captioner(), features(3)
    found = beam_search(model.start_decoding(units), 3, TokenConstraints(model.vocabulary), beam=6, steps=5)
    torch.testing.assert_close(model.score(units, found.tokens), found.scores, atol=1e-4, rtol=0)
    tokens = found.tokens[1, 2].tolist()
    said = tokens[: tokens.index(model.vocabulary.stop) + 1] if model.vocabulary.stop in tokens else tokens
    with torch.no_grad():
        torch.testing.assert_close(written_out(model, units[1], said)[0].sum(), found.scores[1, 2], atol=1e-4, rtol=0)


def test_gradients_reach_every_weight() -> None:
    model = captioner().train()
    model.loss(CaptionBatch(features(4), torch.tensor([[1, 2, model.vocabulary.stop]] * 4))).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == ["energy.bias"], "a shift of all energies cannot matter"


def by_autograd(model: Captioner, units: Tensor, tokens: Tensor) -> Tensor:
    """Return the loss computed step by step with PyTorch's gradient, for texts of one length."""
    hidden, cell = model.initial_state(units)
    keys, (of_words, of_features) = model.key(units), model.input_weights()
    last, logits, paid = torch.full_like(tokens[:, 0], model.vocabulary.start), [], torch.zeros_like(units[:, :, 0])
    for said in tokens.t():
        attended, weights = model.attend(model.query(hidden).unsqueeze(1), units, keys)
        gates = model.attended_gates(hidden, attended.squeeze(1), of_features) + F.linear(
            model.embedding(last), of_words
        )
        hidden, cell = lstm_step(gates, cell)
        logits.append(model.readout(hidden))
        last, paid = said, paid + weights.squeeze(1)
    return F.cross_entropy(torch.cat(logits), tokens.t().flatten()) + (1 - paid).square().mean()


@pytest.mark.parametrize("gate", ["vector", "scalar"])
def test_the_hand_written_gradient_equals_autograd(gate: str) -> None:
    model, units = captioner(gate=gate).double(), features(3).double()
    tokens = torch.tensor(
        [[3, 1, 4, model.vocabulary.stop], [7, 2, 2, model.vocabulary.stop], [9, 9, 1, model.vocabulary.stop]]
    )
    found, expected = ([*torch.autograd.grad(loss, [*model.parameters()])] for loss in
                       (model.loss(CaptionBatch(units, tokens)), by_autograd(model, units, tokens)))  # fmt: skip
    for name, one, other in zip(dict(model.named_parameters()), found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_the_hand_written_gradient_equals_finite_differences() -> None:
    model, units = captioner().double(), features(3).double()
    stop, pad = model.vocabulary.stop, model.vocabulary.pad
    batch = CaptionBatch(units, torch.tensor([[3, stop, pad, pad], [7, 2, 8, stop], [9, 1, stop, pad]]))
    model.loss(batch).backward()
    for weight in (
        model.query.weight,
        model.key.weight,
        model.cell.weight_ih,
        model.initial_cell.weight,
        model.energy.weight,
    ):
        value, step = weight.data[0, 0].item(), 1e-5
        losses = []
        for place in (value - step, value + step):
            weight.data[0, 0] = place
            losses.append(model.loss(batch).item())
        weight.data[0, 0] = value
        assert (losses[1] - losses[0]) / (2 * step) == pytest.approx(weight.grad[0, 0].item(), abs=1e-8)


def test_autocast_changes_little() -> None:
    model, units = captioner(hidden=64), features(3)
    batch = CaptionBatch(units, torch.tensor([[3, 1, model.vocabulary.stop]] * 3))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(batch)
    assert half.dtype == torch.float32
    assert 0 < abs(half.item() - model.loss(batch).item()) < 0.02
    half.backward()
    short = model.query.weight.grad.clone()
    model.zero_grad()
    model.loss(batch).backward()
    assert F.cosine_similarity(short.flatten(), model.query.weight.grad.flatten(), dim=0) > 0.99


def test_features_of_another_encoder_are_refused() -> None:
    with pytest.raises(BadInput, match="length 7"):
        captioner().start_decoding(torch.zeros(1, EXEMPLARS, 7))
    with pytest.raises(BadInput, match="needs features"):
        captioner(features=0)

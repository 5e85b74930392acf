"""The captioner's LSTM under teacher forcing, with a hand-written gradient.

Autograd multiplies and accumulates the gradient of a weight once per word. Here the errors of all words are collected,
and one product at the end computes the gradient: at the published size an epoch with its validation takes 0.75 of the
CPU time on one thread (92 s instead of 122 s, ``benchmarks.training_step``). The equations are those of
``milan.models.captioner``; tests compare the two.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class StepWeights(NamedTuple):
    """The weights that every step uses.

    Attributes:
        by_hidden: weights of the hidden state in the query, the gate and the LSTM's four gates, stacked.
        bias: biases of the same outputs.
        by_features: weights of the gated features in the LSTM's four gates.
        energy: weights of the attention energy.
        shift: bias of the attention energy; it cancels in the softmax.
    """

    by_hidden: Float[Tensor, "outputs hidden"]
    bias: Float[Tensor, " outputs"]
    by_features: Float[Tensor, "gates features"]
    energy: Float[Tensor, " attention"]
    shift: Float[Tensor, "1"]


class _Step(NamedTuple):
    """The values of a step's forward pass that its gradient needs."""

    hidden: Tensor
    cell: Tensor
    compared: Tensor
    weights: Tensor
    attended: Tensor
    gate: Tensor
    # input, forget, cell, output
    gates: tuple[Tensor, ...]
    # tanh of the new cell state
    out: Tensor


class TeacherForcedLstm(torch.autograd.Function):
    """The autograd function behind ``run_teacher_forced``."""

    @staticmethod
    def forward(
        ctx: Any, going: Sequence[int], features: Tensor, keys: Tensor, words: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return states and attention weights of all steps; ``rest`` is hidden, cell and ``StepWeights``."""
        hidden, cell, *weights = rest
        ctx.going, ctx.product = going, _make_matmul(features.device.type)
        with torch.autocast(features.device.type, enabled=False):
            states, attention, ctx.steps = _run_forward(
                going, features, keys, words, hidden, cell, StepWeights(*weights), ctx.product
            )
        ctx.save_for_backward(features, keys, words, *weights)
        return states, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_states: Tensor, of_attention: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each argument of ``forward``, by a pass over the steps from last to first."""
        features, keys, words, *rest = ctx.saved_tensors
        weights = StepWeights(*rest)
        of_keys, of_words = torch.zeros_like(keys), torch.zeros_like(words)
        of_energy = torch.zeros_like(weights.energy)
        hidden, cell = (features.new_zeros(len(features), weights.by_hidden.shape[1]) for _ in range(2))
        errors: list[Tensor] = []
        parts = of_states.split(list(ctx.going))
        for number in reversed(range(len(ctx.going))):
            step, rows = ctx.steps[number], slice(ctx.going[number])
            of_gates, cell[rows] = _backward_lstm(step, parts[number] + hidden[rows], cell[rows])
            of_gated = ctx.product(of_gates, weights.by_features)
            of_gate = (of_gated * step.attended) * (step.gate * (1 - step.gate))
            of_gate = of_gate if step.gate.shape[1] > 1 else of_gate.sum(1, keepdim=True)
            paid = of_attention[rows] + torch.bmm(features[rows], (of_gated * step.gate).unsqueeze(2)).squeeze(2)
            of_energies = step.weights * (paid - (step.weights * paid).sum(1, keepdim=True))
            of_energy += step.compared.flatten(0, 1).t() @ of_energies.flatten()
            of_compared = (1 - step.compared.square()).mul_(of_energies.unsqueeze(2)).mul_(weights.energy)
            of_keys[rows] += of_compared
            of_words[rows, number] = of_gates
            errors.append(torch.cat([of_compared.sum(1), of_gate, of_gates], 1))
            hidden[rows] = ctx.product(errors[-1], weights.by_hidden)
        every, back = torch.cat(errors), ctx.steps[::-1]
        of_hidden = ctx.product(every.t(), torch.cat([step.hidden for step in back]))
        gated = torch.cat([step.gate * step.attended for step in back])
        of_features = ctx.product(every[:, -weights.by_features.shape[0] :].t(), gated)
        return (
            None,
            None,
            of_keys,
            of_words,
            hidden,
            cell,
            of_hidden,
            every.sum(0),
            of_features,
            of_energy,
            torch.zeros_like(weights.shift),
        )


def run_teacher_forced(
    active_counts: Sequence[int],
    features: Float[Tensor, "batch k features"],
    keys: Float[Tensor, "batch k attention"],
    words: Float[Tensor, "batch length gates"],
    hidden: Float[Tensor, "batch hidden"],
    cell: Float[Tensor, "batch hidden"],
    weights: StepWeights,
) -> tuple[Float[Tensor, "words hidden"], Float[Tensor, "batch k"]]:
    """Run the LSTM over captions sorted by length, longest first.

    The features get no gradient. Under autocast the matrix products take 16-bit operands; all else keeps its precision.

    Args:
        active_counts: the number of captions that have a word at each step.
        features: the features of each caption's unit.
        keys: the attention keys of the features.
        words: the contribution of each word to the LSTM's gates.
        hidden: the hidden state before the first word.
        cell: the cell state before the first word.
        weights: the weights of the steps.

    Returns:
        The hidden states after every word, step by step; and the attention to each exemplar, summed over the steps.
    """
    return TeacherForcedLstm.apply(active_counts, features, keys, words, hidden, cell, *weights)


def _make_matmul(device: str) -> Any:
    """Return the matrix product in autocast's precision, with a 32-bit result."""
    if not torch.is_autocast_enabled(device):
        return torch.matmul
    half = torch.get_autocast_dtype(device)
    return lambda one, other: (one.to(half) @ other.to(half)).float()


def _run_forward(
    active_counts: Sequence[int],
    features: Tensor,
    keys: Tensor,
    words: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weights: StepWeights,
    product: Any,
) -> tuple[Tensor, Tensor, list[_Step]]:
    steps, states, attention = [], [], torch.zeros_like(features[:, :, 0])
    by_hidden, by_features = weights.by_hidden.t(), weights.by_features.t()
    sizes = [keys.shape[2], len(weights.bias) - keys.shape[2] - words.shape[2], words.shape[2]]
    for number, rows in enumerate(active_counts):
        hidden, cell = hidden[:rows], cell[:rows]
        query, gate, carried = (product(hidden, by_hidden) + weights.bias).split(sizes, 1)
        compared = (query.unsqueeze(1) + keys[:rows]).tanh_()
        paid = (compared @ weights.energy + weights.shift).softmax(1)
        attended, gate = torch.bmm(paid.unsqueeze(1), features[:rows]).squeeze(1), gate.sigmoid()
        gates = product(gate * attended, by_features) + carried + words[:rows, number]
        into, keep, new, out = gates.chunk(4, 1)
        parts = into.sigmoid(), keep.sigmoid(), new.tanh(), out.sigmoid()
        grown = parts[1] * cell + parts[0] * parts[2]
        steps.append(_Step(hidden, cell, compared, paid, attended, gate, parts, grown.tanh()))
        hidden, cell = parts[3] * steps[-1].out, grown
        attention[:rows] += paid
        states.append(hidden)
    return torch.cat(states), attention, steps


def _backward_lstm(step: _Step, of_hidden: Tensor, of_cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the four gates' inputs, and of the cell state before the step."""
    into, keep, new, out = step.gates
    of_cell = of_cell + of_hidden * out * (1 - step.out.square())
    parts = [
        of_cell * new * into * (1 - into),
        of_cell * step.cell * keep * (1 - keep),
        of_cell * into * (1 - new.square()),
        of_hidden * step.out * out * (1 - out),
    ]
    return torch.cat(parts, 1), of_cell * keep

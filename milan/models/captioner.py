"""The captioner p(d|E): Show, Attend and Tell over the features of a unit's exemplars."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from milan.errors import BadInput
from milan.models.attention_lstm import StepWeights, run_teacher_forced
from milan.models.decoding import TokenConstraints, greedy_search, pad_index, pad_rows
from milan.models.model_files import PretrainedMixin
from milan.models.vocabulary import Vocabulary


class CaptionBatch(NamedTuple):
    """Annotations with the features of the annotated units.

    Attributes:
        features: the features of each annotation's unit.
        tokens: each annotation without ``<start>``, with ``<stop>``, padded with ``<pad>``.
    """

    features: Float[Tensor, "batch k features"]
    tokens: Int[Tensor, "batch length"]


class UnitBatch(NamedTuple):
    """Units with all their annotations, to score descriptions.

    Attributes:
        features: the features of each unit.
        references: the annotations of each unit.
    """

    features: Float[Tensor, "batch k features"]
    references: list[list[str]]


class Captioner(
    nn.Module,
    PretrainedMixin,
    library_name="milan",
    tags=["milan", "interpretability", "neuron-description"],
    license="mit",
):
    """Show, Attend and Tell (Xu et al. 2015) as MILAN uses it (Hernandez et al. 2022, appendix B).

    An LSTM attends over the features of a unit's exemplars and predicts the description word by word. Two details
    follow the released code, where the paper does not specify them: the gate on the attended features is a vector (a
    scalar in Xu et al.), and the next word is predicted from the hidden state alone. Unlike the released code, no loss
    term counts padded steps.

    Args:
        words: words of the vocabulary, without the special tokens
        features: length of one exemplar's feature vector (3,904 for ResNet-101)
        embedding: length of a word embedding
        hidden: length of the LSTM's state
        attention: length of the attention's hidden layer
        dropout: dropout probability of the hidden state before the word prediction
        gate: one gate per feature (vector) or one gate in all (scalar)
        double_stochastic: weight of the loss term that makes each exemplar's attention sum to about 1 over a caption
        learning_rate: learning rate of AdamW in training
        encoder: arguments of ``load_encoder`` that restore the encoder of the features
    """

    card_summary = (
        "Describes what a unit of a vision network responds to, given the masked images that activate it most: p(d|E)"
        " of MILAN."
    )

    def __init__(
        self,
        words: list[str],
        features: int = 3904,
        embedding: int = 128,
        hidden: int = 512,
        attention: int = 512,
        dropout: float = 0.5,
        gate: Literal["vector", "scalar"] = "vector",
        double_stochastic: float = 1.0,
        learning_rate: float = 1e-3,
        encoder: dict[str, str] | None = None,
    ):
        super().__init__()
        if features < 1:
            raise BadInput(
                "a captioner needs features; give data.encoder, such as diorama:encoder or torchvision:resnet101"
            )
        self.vocabulary = Vocabulary(words)
        self.initial_hidden = nn.Linear(features, hidden)
        self.initial_cell = nn.Linear(features, hidden)
        self.embedding = nn.Embedding(len(self.vocabulary), embedding)
        self.query = nn.Linear(hidden, attention)
        self.key = nn.Linear(features, attention)
        self.energy = nn.Linear(attention, 1)
        self.gate = nn.Linear(hidden, features if gate == "vector" else 1)
        self.cell = nn.LSTMCell(embedding + features, hidden)
        self.readout = nn.Linear(hidden, len(self.vocabulary))
        self.dropout, self.double_stochastic, self.learning_rate = dropout, double_stochastic, learning_rate
        self.encoder = dict(encoder or {})
        self.trained_on: dict[str, Any] = {}

    def initial_state(
        self, features: Float[Tensor, "units k features"]
    ) -> tuple[Float[Tensor, "units hidden"], Float[Tensor, "units hidden"]]:
        """Return the hidden state and the cell state before the first word.

        Raises:
            BadInput: the features have another length than those that the captioner was trained on.
        """
        if features.shape[-1] != self.key.in_features:
            raise BadInput(
                f"features of length {features.shape[-1]}; this captioner was trained on {self.key.in_features}, by the"
                f" encoder {self.encoder}"
            )
        mean = features.mean(1)
        return self.initial_hidden(mean).tanh(), self.initial_cell(mean).tanh()

    def attend(
        self,
        queries: Float[Tensor, "units rows attention"],
        features: Float[Tensor, "units k features"],
        keys: Float[Tensor, "units k attention"],
    ) -> tuple[Float[Tensor, "units rows features"], Float[Tensor, "units rows k"]]:
        """Return the attended features of each query, and its attention weights, which sum to 1 over the exemplars."""
        compared = fast_tanh(queries.unsqueeze(2) + keys.unsqueeze(1))
        weights = (compared @ self.energy.weight[0] + self.energy.bias).softmax(-1)
        return weights @ features, weights

    def attended_gates(
        self,
        hidden: Float[Tensor, "rows hidden"],
        attended: Float[Tensor, "rows features"],
        weights: Float[Tensor, "gates features"],
    ) -> Float[Tensor, "rows gates"]:
        """Return the input of the LSTM's four gates without the contribution of the word."""
        gated = stable_sigmoid(self.gate(hidden)) * attended
        return F.linear(gated, weights, self.cell.bias_ih) + F.linear(hidden, self.cell.weight_hh, self.cell.bias_hh)

    def input_weights(self) -> tuple[Float[Tensor, "gates embedding"], Float[Tensor, "gates features"]]:
        """Return the LSTM's input weights for the word and for the attended features.

        Call it once for all steps: the backward pass of each split copies the whole matrix.
        """
        words, features = self.cell.weight_ih.split([self.embedding.embedding_dim, self.key.in_features], 1)
        return words, features

    def forward(
        self, features: Float[Tensor, "batch k features"], tokens: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"], Float[Tensor, "batch k"]]:
        """Run teacher forcing.

        Captions are sorted by length, longest first, so that a step computes only the captions that have a token there.

        Returns:
            The logits of each token that is not padding, those tokens, and the attention paid to each exemplar, summed
            over the steps.
        """
        lengths, order = (tokens != self.vocabulary.pad).sum(1).sort(descending=True, stable=True)
        active_counts = [int((lengths > step).sum()) for step in range(int(lengths[0]))]
        features, tokens = features[order], tokens[order]
        previous = torch.cat([torch.full_like(tokens[:, :1], self.vocabulary.start), tokens[:, :-1]], 1)
        words = F.linear(self.embedding(previous), self.input_weights()[0])
        hidden, cell = self.initial_state(features)
        keys, words, hidden, cell = (part.to(features.dtype) for part in (self.key(features), words, hidden, cell))
        states, attention = run_teacher_forced(active_counts, features, keys, words, hidden, cell, self.step_weights())
        targets = torch.cat([tokens[:rows, step] for step, rows in enumerate(active_counts)])
        return self.readout(F.dropout(states, self.dropout, self.training)), targets, attention

    def step_weights(self) -> StepWeights:
        """Return the weights that every step of teacher forcing uses."""
        by_hidden = torch.cat([self.query.weight, self.gate.weight, self.cell.weight_hh])
        bias = torch.cat([self.query.bias, self.gate.bias, self.cell.bias_ih + self.cell.bias_hh])
        return StepWeights(by_hidden, bias, self.input_weights()[1], self.energy.weight[0], self.energy.bias)

    def loss(self, batch: CaptionBatch) -> Float[Tensor, ""]:
        """Return the mean cross entropy per token plus the weighted doubly stochastic term."""
        logits, targets, attention = self(batch.features, batch.tokens)
        return F.cross_entropy(logits, targets) + self.double_stochastic * (1 - attention).square().mean()

    def start_decoding(self, features: Float[Tensor, "units k features"]) -> "CaptionerState":
        """Return the decoder state before the first word, with one row per unit."""
        return CaptionerState(self, features)

    @torch.no_grad()
    def score(
        self, features: Float[Tensor, "units k features"], tokens: Int[Tensor, "units texts steps"]
    ) -> Float[Tensor, "units texts"]:
        """Return the log probability of each text given its unit.

        Log probabilities are summed over the tokens of a text up to and including ``<stop>``; later tokens are ignored.
        """
        flat, state = tokens.flatten(0, 1), self.start_decoding(features)
        previous = torch.full_like(flat[:, 0], self.vocabulary.start)
        rows = torch.arange(len(features), device=flat.device).repeat_interleave(tokens.shape[1])
        active, total = torch.arange(len(flat), device=flat.device), features.new_zeros(len(flat))
        for step in range(flat.shape[1]):
            current = flat[active, step]
            total[active] += state.advance(rows, previous).gather(1, current.unsqueeze(1)).squeeze(1)
            rows = (current != self.vocabulary.stop).nonzero().squeeze(1)
            active, previous = active[rows], current[rows]
            if not len(active):
                break
        return total.view(tokens.shape[:2])

    @torch.no_grad()
    def decode_greedily(self, features: Float[Tensor, "units k features"]) -> list[str]:
        """Return the description of each unit that takes the most likely word at every step."""
        decoded = greedy_search(self.start_decoding(features), len(features), TokenConstraints(self.vocabulary))
        return [self.vocabulary.decode(tokens[0].tolist()) for tokens in decoded.tokens]


class CaptionerState:
    """The captioner's decoder state; each row is the beginning of a caption.

    The attention, the gate and their matrix products (four fifths of the arithmetic) do not depend on the next word.
    They are computed once per parent row, for all beams that continue it. The contribution of a word to the LSTM's
    gates is looked up in a table.

    Args:
        captioner: the model.
        features: the features of the units to describe.
    """

    def __init__(self, captioner: Captioner, features: Float[Tensor, "units k features"]):
        self.captioner, self.features, self.device = captioner, features, features.device
        hidden, cell = captioner.initial_state(pad_rows(features))
        self.hidden, self.cell = hidden[: len(features)], cell[: len(features)]
        self.keys = captioner.key(pad_rows(features))[: len(features)]
        word_weights, self.feature_weights = captioner.input_weights()
        self.word_gates = F.linear(captioner.embedding.weight, word_weights)
        # the unit of each row
        self.units = torch.arange(len(features), device=self.device)

    @torch.no_grad()
    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append one token to rows of the state and return the log probabilities of the token after it.

        Args:
            parents: the row of the current state that each new row continues.
            tokens: the token to append.
        """
        used, origin = parents.unique(return_inverse=True)
        gates = self._parent_gates(used)[pad_index(origin)].add_(self.word_gates[pad_index(tokens)])
        hidden, self.cell = lstm_step(gates, self.cell[pad_index(parents)])
        logits = self.captioner.readout(hidden)[: len(tokens)]
        self.hidden, self.cell, self.units = hidden[: len(tokens)], self.cell[: len(tokens)], self.units[parents]
        return torch.log_softmax(logits, -1, out=logits)

    def _parent_gates(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "padded gates"]:
        """Return what parent rows contribute to the gates of the rows that continue them.

        The rows of a unit must be adjacent.
        """
        hidden = self.hidden[pad_index(rows)]
        queries, attended = self.captioner.query(hidden), self.features.new_zeros(len(hidden), self.features.shape[-1])
        units, counts = self.units[rows].unique_consecutive(return_counts=True)
        begin = 0
        for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
            part, one = slice(begin, begin + count), slice(unit, unit + 1)
            rows_of_unit = pad_rows(queries[part]).unsqueeze(0)
            attended[part] = self.captioner.attend(rows_of_unit, self.features[one], self.keys[one])[0][0, :count]
            begin += count
        return self.captioner.attended_gates(hidden, attended, self.feature_weights)


def lstm_step(
    gates: Float[Tensor, "rows gates"], cell: Float[Tensor, "rows hidden"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]]:
    """Return the hidden state and the cell state after one step of an LSTM.

    Args:
        gates: the inputs of the four gates, in PyTorch's order (input, forget, cell, output).
        cell: the cell state before the step.
    """
    input_gate, forget_gate, new, output_gate = gates.chunk(4, -1)
    cell = stable_sigmoid(forget_gate) * cell + stable_sigmoid(input_gate) * fast_tanh(new)
    return stable_sigmoid(output_gate) * fast_tanh(cell), cell


def stable_sigmoid(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the sigmoid, computed by exp.

    PyTorch's own sigmoid gives other last bits at the end of a tensor, or of a thread's part of it, than inside.
    """
    return (-values).exp_().add(1).reciprocal_()


def fast_tanh(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the hyperbolic tangent up to 1e-7, computed by exp in half the time of PyTorch's own."""
    return (-2 * values).exp_().add(1).reciprocal_().mul(2).sub_(1)

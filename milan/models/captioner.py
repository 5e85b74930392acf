"""The captioner p(d|E): Show, Attend and Tell over the features of a unit's exemplars."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningModule
from sacrebleu import corpus_bleu
from torch import Tensor, nn
from torch.nn import functional as F

from milan.errors import BadInput
from milan.models.attention_lstm import StepWeights, run_teacher_forced
from milan.models.decoding import TokenConstraints, greedy_search, pad_index, pad_rows
from milan.models.model_files import PretrainedMixin
from milan.models.vocabulary import Vocabulary


class CaptionBatch(NamedTuple):
    """Annotations with the features of the units they are of."""

    features: Float[Tensor, "batch k features"]
    tokens: Int[Tensor, "batch length"]  # without <start>, with <stop>, padded with <pad>


class UnitBatch(NamedTuple):
    """Units with all that was said of each, for scores of whole descriptions."""

    features: Float[Tensor, "batch k features"]
    references: list[list[str]]


class Captioner(
    LightningModule,
    PretrainedMixin,
    library_name="milan",
    tags=["milan", "interpretability", "neuron-description"],
    license="mit",
):
    """Xu et al. 2015 as MILAN uses it (Hernandez et al. 2022, appendix B): an LSTM that attends over the features of a
    unit's exemplars.

    As the released code has it and the paper does not say: the gate on the attended features is a vector
    (``gate="scalar"`` is Xu et al.'s), and the next word is read off the hidden state alone. Padded steps count in no
    loss (there they did in the attention's).

    Args:
        words: the vocabulary, specials not included.
        features: length of one exemplar's feature vector (3,904 for ResNet-101).
        embedding: length of a word's vector.
        hidden: length of the LSTM's state.
        attention: length of the space in which state and features are compared.
        dropout: on the hidden state before a word is read off it.
        gate: one gate for each feature, or one for all.
        double_stochastic: weight of the term that asks each exemplar to be attended to about once over a caption.
        learning_rate: of AdamW.
        encoder: settings of the encoder that the features come from, as ``load_encoder`` takes them.
    """

    card_summary = (
        "Says in words what a unit of a vision network responds to, from the masked images that activate it most:"
        " p(d|E) of MILAN."
    )
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("bleu", "max")

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
            raise BadInput("a captioner needs features; give data.encoder, as diorama:encoder or torchvision:resnet101")
        self.save_hyperparameters()
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
        """Hidden and cell state before the first word."""
        if features.shape[-1] != self.key.in_features:
            wanted = f"this captioner was trained on {self.key.in_features}, by the encoder {self.encoder}"
            raise BadInput(f"features of length {features.shape[-1]}; {wanted}")
        mean = features.mean(1)
        return self.initial_hidden(mean).tanh(), self.initial_cell(mean).tanh()

    def attend(
        self,
        queries: Float[Tensor, "units rows attention"],
        features: Float[Tensor, "units k features"],
        keys: Float[Tensor, "units k attention"],
    ) -> tuple[Float[Tensor, "units rows features"], Float[Tensor, "units rows k"]]:
        """The mean of the features that each state's query attends to, and the attention paid to each exemplar (sums to
        1).
        """
        compared = (queries.unsqueeze(2) + keys.unsqueeze(1)).tanh_()
        weights = (compared @ self.energy.weight[0] + self.energy.bias).softmax(-1)
        return weights @ features, weights

    def attended_gates(
        self,
        hidden: Float[Tensor, "rows hidden"],
        attended: Float[Tensor, "rows features"],
        weights: Float[Tensor, "gates features"],
    ) -> Float[Tensor, "rows gates"]:
        """What the state and the attended features add to the LSTM's four gates: all of it but the word's share."""
        gated = stable_sigmoid(self.gate(hidden)) * attended
        return F.linear(gated, weights, self.cell.bias_ih) + F.linear(hidden, self.cell.weight_hh, self.cell.bias_hh)

    def input_weights(self) -> tuple[Float[Tensor, "gates embedding"], Float[Tensor, "gates features"]]:
        """The LSTM's weights of a word and of attended features; taken once for all steps, since each taking is a large
        copy backward.
        """
        words, features = self.cell.weight_ih.split([self.embedding.embedding_dim, self.key.in_features], 1)
        return words, features

    def forward(
        self, features: Float[Tensor, "batch k features"], tokens: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "words vocabulary"], Int[Tensor, " words"], Float[Tensor, "batch k"]]:
        """Teacher forcing: logits of every real token of the captions, those tokens, and the attention paid to each
        exemplar in all.

        The captions are sorted by length, so that a step costs only the captions that are still going on.
        """
        lengths, order = (tokens != self.vocabulary.pad).sum(1).sort(descending=True, stable=True)
        going = [int((lengths > step).sum()) for step in range(int(lengths[0]))]
        features, tokens = features[order], tokens[order]
        before = torch.cat([torch.full_like(tokens[:, :1], self.vocabulary.start), tokens[:, :-1]], 1)
        words = F.linear(self.embedding(before), self.input_weights()[0])
        hidden, cell = self.initial_state(features)
        keys, words, hidden, cell = (part.to(features.dtype) for part in (self.key(features), words, hidden, cell))
        states, attention = run_teacher_forced(going, features, keys, words, hidden, cell, self.step_weights())
        said = torch.cat([tokens[:rows, step] for step, rows in enumerate(going)])
        return self.readout(F.dropout(states, self.dropout, self.training)), said, attention

    def step_weights(self) -> StepWeights:
        """What is the same at every step under teacher forcing."""
        by_hidden = torch.cat([self.query.weight, self.gate.weight, self.cell.weight_hh])
        bias = torch.cat([self.query.bias, self.gate.bias, self.cell.bias_ih + self.cell.bias_hh])
        return StepWeights(by_hidden, bias, self.input_weights()[1], self.energy.weight[0], self.energy.bias)

    def loss(self, batch: CaptionBatch) -> Float[Tensor, ""]:
        """Cross entropy by token, plus the doubly stochastic term."""
        logits, said, attention = self(batch.features, batch.tokens)
        return F.cross_entropy(logits, said) + self.double_stochastic * (1 - attention).square().mean()

    def start_decoding(self, features: Float[Tensor, "units k features"]) -> "CaptionerState":
        """For ``milan.models.decoding``: one row for each unit, before any word."""
        return CaptionerState(self, features)

    @torch.no_grad()
    def score(
        self, features: Float[Tensor, "units k features"], tokens: Int[Tensor, "units texts steps"]
    ) -> Float[Tensor, "units texts"]:
        """Log probability of each text given its unit, summed over its tokens up to and with ``<stop>``; what follows
        that is ignored.
        """
        flat, walk = tokens.flatten(0, 1), self.start_decoding(features)
        last = torch.full_like(flat[:, 0], self.vocabulary.start)
        rows = torch.arange(len(features), device=flat.device).repeat_interleave(tokens.shape[1])
        going, total = torch.arange(len(flat), device=flat.device), features.new_zeros(len(flat))
        for step in range(flat.shape[1]):
            said = flat[going, step]
            total[going] += walk.advance(rows, last).gather(1, said.unsqueeze(1)).squeeze(1)
            rows = (said != self.vocabulary.stop).nonzero().squeeze(1)
            going, last = going[rows], said[rows]
            if not len(going):
                break
        return total.view(tokens.shape[:2])

    @torch.no_grad()
    def decode_greedily(self, features: Float[Tensor, "units k features"]) -> list[str]:
        """The text that each unit gets when the likeliest word is taken at every step."""
        found = greedy_search(self.start_decoding(features), len(features), TokenConstraints(self.vocabulary))
        return [self.vocabulary.decode(tokens[0].tolist()) for tokens in found.tokens]

    def on_validation_epoch_start(self) -> None:
        self._validation_texts: list[tuple[str, list[str]]] = []

    def validation_step(self, batch: UnitBatch, _index: int) -> None:
        self._validation_texts += zip(self.decode_greedily(batch.features), batch.references, strict=True)

    def on_validation_epoch_end(self) -> None:
        self.log("bleu", compute_bleu(*zip(*self._validation_texts, strict=True)), prog_bar=True)

    def training_step(self, batch: CaptionBatch, _index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, batch_size=len(batch.tokens))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.learning_rate)


class CaptionerState:
    """Beginnings of captions on their way.

    A state's attention, gate and its matrix products (four fifths of the arithmetic) do not depend on the word that
    comes next, so they are done when it goes on, once for all beams that grew out of it; and a word's share of the
    LSTM's gates is a row of a table.
    """

    def __init__(self, captioner: Captioner, features: Float[Tensor, "units k features"]):
        self.captioner, self.features, self.device = captioner, features, features.device
        hidden, cell = captioner.initial_state(pad_rows(features))
        self.hidden, self.cell = hidden[: len(features)], cell[: len(features)]
        self.keys = captioner.key(pad_rows(features))[: len(features)]
        of_words, self.of_features = captioner.input_weights()
        self.words = F.linear(captioner.embedding.weight, of_words)
        self.units = torch.arange(len(features), device=self.device)  # which unit each row is of

    @torch.no_grad()
    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        grown, origin = parents.unique(return_inverse=True)
        gates = self._gates(grown)[pad_index(origin)] + self.words[pad_index(tokens)]
        hidden, self.cell = lstm_step(gates, self.cell[pad_index(parents)])
        logits = self.captioner.readout(hidden)[: len(tokens)]
        self.hidden, self.cell, self.units = hidden[: len(tokens)], self.cell[: len(tokens)], self.units[parents]
        return logits.sub_(logits.logsumexp(-1, keepdim=True))

    def _gates(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "padded gates"]:
        """What the states of these rows (those of a unit next to each other) add to the gates of those that grow out of
        them.
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
        return self.captioner.attended_gates(hidden, attended, self.of_features)


def compute_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU in points, lower-cased and without closing full stops, as in 2022; texts may have different numbers
    of references.
    """
    most = max(len(of) for of in references)
    streams: Any = [
        [_normalize_text(of[i]) if i < len(of) else None for of in references] for i in range(most)
    ]  # None: no such reference
    return float(corpus_bleu([_normalize_text(text) for text in texts], streams).score)


def _normalize_text(text: str) -> str:
    return text.lower().strip(". ")


def lstm_step(
    gates: Float[Tensor, "rows gates"], cell: Float[Tensor, "rows hidden"]
) -> tuple[Float[Tensor, "rows hidden"], Float[Tensor, "rows hidden"]]:
    """Hidden and cell state after one step of an LSTM, from the sums that enter its four gates (in PyTorch's order)."""
    into, keep, new, out = gates.chunk(4, -1)
    cell = stable_sigmoid(keep) * cell + stable_sigmoid(into) * new.tanh()
    return stable_sigmoid(out) * cell.tanh(), cell


def stable_sigmoid(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """By tanh, since PyTorch's own gives other last bits at the end of a tensor, or of a thread's share of it, than
    within.
    """
    return (0.5 * values).tanh() * 0.5 + 0.5

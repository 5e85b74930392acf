"""The prior p(d): a two-layer LSTM over the annotators' texts."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from milan.models.captioner import CaptionBatch, lstm_step
from milan.models.decoding import pad_index
from milan.models.model_files import PretrainedMixin
from milan.models.vocabulary import Vocabulary


class TextBatch(NamedTuple):
    """Annotations without features.

    Attributes:
        tokens: each annotation without ``<start>``, with ``<stop>``, padded with ``<pad>``.
    """

    tokens: Int[Tensor, "batch length"]


class Prior(
    nn.Module,
    PretrainedMixin,
    library_name="milan",
    tags=["milan", "interpretability", "language-model"],
    license="mit",
):
    """A language model of the annotations: how likely a text is as the description of any unit.

    The architecture is that of Hernandez et al. 2022, appendix B.2.

    Args:
        words: words of the vocabulary, without the special tokens
        embedding: length of a word embedding
        hidden: length of the state of each layer
        layers: number of LSTM layers
        dropout: dropout probability between the layers, as in the released code
        learning_rate: learning rate of AdamW in training
    """

    card_summary = "Scores how likely a text is as the description of any unit of a vision network: p(d) of MILAN."

    def __init__(
        self,
        words: list[str],
        embedding: int = 128,
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.5,
        learning_rate: float = 1e-3,
    ):
        super().__init__()
        self.vocabulary = Vocabulary(words)
        self.embedding = nn.Embedding(len(self.vocabulary), embedding, padding_idx=self.vocabulary.pad)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.readout = nn.Linear(hidden, len(self.vocabulary))
        self.learning_rate = learning_rate
        self.trained_on: dict[str, Any] = {}

    def forward(
        self, tokens: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]]:
        """Return the logits of each token that is not padding, given the tokens before it, and those tokens.

        The texts are packed, so that padding costs no LSTM step: half the time where most texts are shorter than the
        longest.
        """
        lengths = (tokens != self.vocabulary.pad).sum(1).cpu()
        previous = torch.cat([torch.full_like(tokens[:, :1], self.vocabulary.start), tokens[:, :-1]], 1)
        inputs, targets = (
            pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
            for values in (self.embedding(previous), tokens)
        )
        return self.readout(self.lstm(inputs)[0].data), targets.data

    def loss(self, batch: TextBatch | CaptionBatch) -> Float[Tensor, ""]:
        """Return the mean cross entropy per token."""
        return F.cross_entropy(*self(batch.tokens))

    def start_decoding(self, units: int) -> "PriorState":
        """Return the decoder state before the first word, with one row per unit."""
        return PriorState(self, units)

    @torch.no_grad()
    def score(self, tokens: Int[Tensor, "*shape steps"], *, trailing: bool = False) -> Float[Tensor, "*shape"]:
        """Return the log probability of each text.

        Log probabilities are summed over the tokens of a text up to and including ``<stop>``; later tokens are ignored.
        Texts with a common beginning share its computation: the texts of a beam form a tree with far fewer nodes than
        tokens.

        Args:
            tokens: the texts, padded with anything after ``<stop>``.
            trailing: whether one token after ``<stop>`` counts too, as in the 2022 code, whose mask ends a token late.
        """
        flat, state = tokens.flatten(0, -2), self.start_decoding(1)
        # the row of the state that each text has reached
        row = torch.zeros_like(flat[:, 0])
        previous = torch.full_like(row, self.vocabulary.start)
        active, total = torch.arange(len(flat), device=flat.device), self.readout.weight.new_zeros(len(flat))
        log_probs = state.advance(row[:1], previous[:1])
        for step in range(flat.shape[1]):
            current = flat[active, step]
            total[active] += log_probs[row, current]
            more = (previous if trailing else current) != self.vocabulary.stop
            if step + 1 == flat.shape[1] or not more.any():
                break
            size = len(self.vocabulary)
            pairs, reached = (row[more] * size + current[more]).unique(return_inverse=True)
            log_probs = state.advance(pairs // size, pairs % size)
            active, row, previous = active[more], reached, current[more]
        return total.view(tokens.shape[:-1])


class PriorState:
    """The prior's decoder state; each row is the beginning of a text.

    What does not depend on the next word is computed once per parent row, for all rows that continue it.

    Args:
        prior: the model.
        units: the number of rows before the first word.
    """

    def __init__(self, prior: Prior, units: int):
        self.prior, self.device = prior, prior.readout.weight.device
        self.states = [
            (prior.readout.weight.new_zeros(units, prior.lstm.hidden_size),) * 2 for _ in range(prior.lstm.num_layers)
        ]
        self.word_gates = F.linear(prior.embedding.weight, self._weight("weight_ih", 0), self._weight("bias_ih", 0))

    @torch.no_grad()
    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append one token to rows of the state and return the log probabilities of the token after it.

        Args:
            parents: the row of the current state that each new row continues.
            tokens: the token to append.
        """
        used, origin = (pad_index(index) for index in parents.unique(return_inverse=True))
        parents, gates = pad_index(parents), self.word_gates[pad_index(tokens)]
        states = []
        for layer, (hidden, cell) in enumerate(self.states):
            carried = F.linear(hidden[used], self._weight("weight_hh", layer), self._weight("bias_hh", layer))[origin]
            if layer:
                gates = F.linear(gates, self._weight("weight_ih", layer), self._weight("bias_ih", layer))
            gates, new_cell = lstm_step(gates + carried, cell[parents])
            states.append((gates, new_cell))
        logits = self.prior.readout(gates)[: len(tokens)]
        self.states = [(hidden[: len(tokens)], cell[: len(tokens)]) for hidden, cell in states]
        return torch.log_softmax(logits, -1, out=logits)

    def _weight(self, name: str, layer: int) -> Tensor:
        return getattr(self.prior.lstm, f"{name}_l{layer}")

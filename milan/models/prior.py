"""The prior p(d): a two-layer LSTM over the annotators' texts."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from milan.models.captioner import CaptionBatch, lstm_step
from milan.models.decoding import pad_index
from milan.models.model_files import PretrainedMixin
from milan.models.vocabulary import Vocabulary


class TextBatch(NamedTuple):
    """Annotations alone."""

    tokens: Int[Tensor, "batch length"]  # without <start>, with <stop>, padded with <pad>


class Prior(
    LightningModule,
    PretrainedMixin,
    library_name="milan",
    tags=["milan", "interpretability", "language-model"],
    license="mit",
):
    """How likely a text is as a description of any unit (Hernandez et al. 2022, appendix B.2).

    Args:
        words: the vocabulary, specials not included.
        embedding: length of a word's vector.
        hidden: length of each layer's state.
        layers: LSTM layers.
        dropout: between layers, as the released code has it.
        learning_rate: of AdamW.
    """

    card_summary = "Says how likely a text is as the description of any unit of a vision network: p(d) of MILAN."
    monitor: ClassVar[tuple[str, Literal["min", "max"]]] = ("held_out_loss", "min")

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
        self.save_hyperparameters()
        self.vocabulary = Vocabulary(words)
        self.embedding = nn.Embedding(len(self.vocabulary), embedding, padding_idx=self.vocabulary.pad)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.readout = nn.Linear(hidden, len(self.vocabulary))
        self.learning_rate = learning_rate
        self.trained_on: dict[str, Any] = {}

    def forward(
        self, tokens: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, "words vocabulary"], Int[Tensor, " words"]]:
        """Logits of every token that is not ``<pad>``, given those before it, and those tokens."""
        before = torch.cat([torch.full_like(tokens[:, :1], self.vocabulary.start), tokens[:, :-1]], 1)
        states, _ = self.lstm(self.embedding(before))
        real = tokens != self.vocabulary.pad
        return self.readout(states[real]), tokens[real]

    def loss(self, batch: TextBatch | CaptionBatch) -> Float[Tensor, ""]:
        """Cross entropy by token."""
        return F.cross_entropy(*self(batch.tokens))

    def start_decoding(self, units: int) -> "PriorState":
        """For ``milan.models.decoding``: one row for each unit, before any word."""
        return PriorState(self, units)

    @torch.no_grad()
    def score(self, tokens: Int[Tensor, "*shape steps"], *, trailing: bool = False) -> Float[Tensor, "*shape"]:
        """Log probability of each text, summed over its tokens up to and with ``<stop>``; what follows that is ignored.

        Texts that begin alike share the work as far as they do: a beam's fifty are a tree of far fewer beginnings than
            words.

        Args:
            tokens: texts, each filled up with anything after its ``<stop>``.
            trailing: count one token after ``<stop>`` too, where there is one, as the 2022 code does, whose mask ends a
                token late.
        """
        flat, walk = tokens.flatten(0, -2), self.start_decoding(1)
        row = torch.zeros_like(flat[:, 0])  # the walk's row that each text has come to
        before = torch.full_like(row, self.vocabulary.start)
        going, total = torch.arange(len(flat), device=flat.device), self.readout.weight.new_zeros(len(flat))
        logs = walk.advance(row[:1], before[:1])
        for step in range(flat.shape[1]):
            said = flat[going, step]
            total[going] += logs[row, said]
            more = (before if trailing else said) != self.vocabulary.stop
            if step + 1 == flat.shape[1] or not more.any():
                break
            pairs, reached = (row[more] * len(self.vocabulary) + said[more]).unique(return_inverse=True)
            logs = walk.advance(pairs // len(self.vocabulary), pairs % len(self.vocabulary))
            going, row, before = going[more], reached, said[more]
        return total.view(tokens.shape[:-1])

    def training_step(self, batch: TextBatch, _index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, batch_size=len(batch.tokens))
        return loss

    def validation_step(self, batch: TextBatch, _index: int) -> None:
        tokens = int((batch.tokens != self.vocabulary.pad).sum())
        self.log(
            "held_out_loss", self.loss(batch), batch_size=tokens, prog_bar=True
        )  # a mean over tokens, whatever the batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.learning_rate)


class PriorState:
    """Beginnings of texts on their way; what does not depend on the next word is done once for all that grow
    out of it.
    """

    def __init__(self, prior: Prior, units: int):
        self.prior, self.device = prior, prior.readout.weight.device
        self.states = [
            (prior.readout.weight.new_zeros(units, prior.lstm.hidden_size),) * 2 for _ in range(prior.lstm.num_layers)
        ]
        self.words = F.linear(prior.embedding.weight, self._weight("weight_ih", 0), self._weight("bias_ih", 0))

    @torch.no_grad()
    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        grown, origin = parents.unique(return_inverse=True)
        grown, origin, parents, entered = (
            pad_index(grown),
            pad_index(origin),
            pad_index(parents),
            self.words[pad_index(tokens)],
        )
        states = []
        for layer, (hidden, cell) in enumerate(self.states):
            carried = F.linear(hidden[grown], self._weight("weight_hh", layer), self._weight("bias_hh", layer))[origin]
            if layer:
                entered = F.linear(entered, self._weight("weight_ih", layer), self._weight("bias_ih", layer))
            entered, new = lstm_step(entered + carried, cell[parents])
            states.append((entered, new))
        logits = self.prior.readout(entered)[: len(tokens)]
        self.states = [(hidden[: len(tokens)], cell[: len(tokens)]) for hidden, cell in states]
        return logits.sub_(logits.logsumexp(-1, keepdim=True))

    def _weight(self, name: str, layer: int) -> Tensor:
        return getattr(self.prior.lstm, f"{name}_l{layer}")

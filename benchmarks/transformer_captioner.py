"""A transformer in the place of MILAN's LSTM: it reads the exemplars' features as a memory and says a text word by
word.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from milan.models import CaptionBatch
from milan.models.decoding import MAX_STEPS, TokenConstraints, greedy_search
from milan.models.vocabulary import Vocabulary

LONGEST = 64  # tokens of a training text


class TransformerCaptioner(nn.Module):
    """Two layers of a decoder (Vaswani et al. 2017) over the projected features; answers as ``milan.models.Captioner``
    does.

    Args:
        words: the vocabulary, specials not included.
        features: length of one exemplar's feature vector.
        width: of its vectors.
        layers: of the decoder.
        heads: of its attention.
        dropout: within it.
        learning_rate: learning rate of AdamW in training.
    """

    def __init__(
        self,
        words: Sequence[str],
        features: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.3,
        learning_rate: float = 1e-3,
    ):
        super().__init__()
        self.learning_rate = learning_rate
        self.vocabulary = Vocabulary(words)
        self.project = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width))
        self.embedding, self.position = nn.Embedding(len(self.vocabulary), width), nn.Embedding(LONGEST + 1, width)
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        self.readout = nn.Linear(width, len(self.vocabulary))

    def forward(
        self, memory: Float[Tensor, "rows k width"], before: Int[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length vocabulary"]:
        """Logits of what follows each token."""
        length = before.shape[1]
        said = self.embedding(before) + self.position.weight[:length]
        ahead = torch.ones(length, length, dtype=torch.bool, device=before.device).triu(1)
        return self.readout(self.decoder(said, memory, tgt_mask=ahead))

    def loss(self, batch: CaptionBatch) -> Float[Tensor, ""]:
        """Cross entropy by token."""
        before = torch.cat([torch.full_like(batch.tokens[:, :1], self.vocabulary.start), batch.tokens[:, :-1]], 1)
        logits = self(self.project(batch.features), before)
        return F.cross_entropy(logits.transpose(1, 2), batch.tokens, ignore_index=self.vocabulary.pad)

    def start_decoding(self, features: Float[Tensor, "units k features"]) -> "TransformerWalk":
        """For ``milan.models.decoding``."""
        return TransformerWalk(self, features)

    @torch.no_grad()
    def decode_greedily(self, features: Float[Tensor, "units k features"]) -> list[str]:
        found = greedy_search(
            self.start_decoding(features), len(features), TokenConstraints(self.vocabulary), steps=MAX_STEPS
        )
        return [self.vocabulary.decode(tokens[0].tolist()) for tokens in found.tokens]


class TransformerWalk:
    """Beginnings of texts on their way; each step reads them anew, since they are a few words."""

    def __init__(self, model: TransformerCaptioner, features: Float[Tensor, "units k features"]):
        self.model, self.device = model, features.device
        with torch.no_grad():
            self.memory = model.project(features)
        self.units = torch.arange(len(features), device=self.device)
        self.before = self.units.new_zeros(len(features), 0)

    @torch.no_grad()
    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Any:
        self.units = self.units[parents]
        self.before = torch.cat([self.before[parents], tokens.unsqueeze(1)], 1)
        return self.model(self.memory[self.units], self.before)[:, -1].log_softmax(-1)

"""Reranking of candidate texts by an image-text model, as in the 2022 release (``+clip``)."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from milan.errors import MilanWarning
from milan.pretrained.embedder import embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.units import Candidate, Exemplars


class ClipReranker:
    """Ranks candidate texts of a unit by their similarity to its exemplars.

    The score of a text is (1 - λ) Σ cos(text, masked exemplar) + λ Σ cos(text, whole exemplar), summed over the
    exemplars.

    Args:
        embedder: the image-text model.
        weight: λ, 0..1. With 1, the default of the released code, the masks have no effect.
    """

    def __init__(self, embedder: Embedder, weight: float):
        self.embedder, self.weight = embedder, weight
        if weight < 1 and not embedder.masks_attention:
            warnings.warn(
                f"{getattr(embedder, 'name', 'the image-text model')} has no class token whose attention can be masked:"
                " pixels outside the masks are black instead",
                MilanWarning,
                stacklevel=2,
            )

    def rank(self, exemplars: Exemplars, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Return the candidates with their new scores, best first, ties in their order."""
        texts = embed_texts(self.embedder, [each.text or " " for each in candidates])
        whole = self._sum_similarities(self.embedder.encode_images(exemplars.images), texts)
        # Of weight 0 they need not be computed.
        masked = (
            self._sum_similarities(self.embedder.encode_masked_images(exemplars.images, exemplars.masks), texts)
            if self.weight < 1
            else torch.zeros_like(whole)
        )
        scores = (1 - self.weight) * masked + self.weight * whole
        order = torch.sort(scores, descending=True, stable=True).indices.tolist()
        return tuple(replace(candidates[place], score=float(scores[place])) for place in order)

    @staticmethod
    def _sum_similarities(
        images: Float[Tensor, "k features"], texts: Float[Tensor, "texts features"]
    ) -> Float[Tensor, " texts"]:
        return (images @ texts.T).sum(0)

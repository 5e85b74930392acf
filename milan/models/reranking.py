"""Reranking of decoded texts by PMI: likely for this unit, and likelier than for units in general."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.models.decoding import DecodedTexts
from milan.models.vocabulary import Vocabulary
from milan.units import Candidate


class RankedTexts(NamedTuple):
    """The texts of each unit with their scores, best first.

    Attributes:
        tokens: the texts.
        likelihood: log p(d|E).
        prior: log p(d); NaN without a prior.
        pmi: log p(d|E) - λ log p(d).
        scores: the scores by which the texts are ranked.
    """

    tokens: Int[Tensor, "units texts steps"]
    likelihood: Float[Tensor, "units texts"]
    prior: Float[Tensor, "units texts"]
    pmi: Float[Tensor, "units texts"]
    scores: Float[Tensor, "units texts"]

    def make_candidates(self, unit: int, vocabulary: Vocabulary) -> tuple[Candidate, ...]:
        """Return the possible texts of one unit without duplicates, best first, with their three scores."""
        texts: dict[str, Candidate] = {}
        columns = (self.tokens, self.scores, self.likelihood, self.prior, self.pmi)
        for tokens, score, *values in zip(*(column[unit].tolist() for column in columns), strict=True):
            words = vocabulary.decode(tokens)
            if score > -math.inf and words not in texts:
                parts = zip(("likelihood", "prior", "pmi"), values, strict=True)
                texts[words] = Candidate(words, score, tuple(part for part in parts if not math.isnan(part[1])))
        return tuple(texts.values())


def rank_texts(
    decoded: DecodedTexts,
    likelihood: Float[Tensor, "units texts"],
    prior: Float[Tensor, "units texts"],
    *,
    weight: float,
    by: str,
) -> RankedTexts:
    """Sort the texts of each unit.

    Args:
        decoded: the texts.
        likelihood: log p(d|E) of each text.
        prior: log p(d) of each text.
        weight: λ of PMI = log p(d|E) - λ log p(d), MILAN's objective (Hernandez et al. 2022, equation 3); 0.2 in the
            paper.
        by: ``pmi``, ``likelihood``, or ``found`` for the scores of the search.
    """
    possible = decoded.scores.isfinite()
    pmi = torch.where(possible, likelihood - weight * prior, -torch.inf)
    scores = {"pmi": pmi, "likelihood": torch.where(possible, likelihood, -torch.inf), "found": decoded.scores}[by]
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    tokens = decoded.tokens.gather(1, order.unsqueeze(-1).expand_as(decoded.tokens))
    return RankedTexts(tokens, likelihood.gather(1, order), prior.gather(1, order), pmi.gather(1, order), scores)

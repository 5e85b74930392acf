"""Choosing among likely texts: what is likelier of this unit than of units in general."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.models.decoding import DecodedTexts
from milan.models.vocabulary import Vocabulary
from milan.units import Candidate


class RankedTexts(NamedTuple):
    """Texts of each unit with their scores, in the order of ``scores``, best first."""

    tokens: Int[Tensor, "units texts steps"]
    likelihood: Float[Tensor, "units texts"]  # log p(d|E)
    prior: Float[Tensor, "units texts"]  # log p(d); NaN where there is no prior
    pmi: Float[Tensor, "units texts"]  # log p(d|E) - weight * log p(d)
    scores: Float[Tensor, "units texts"]  # what they are ranked by

    def make_candidates(self, unit: int, vocabulary: Vocabulary) -> tuple[Candidate, ...]:
        """The possible texts of one unit, each once, best first, with their three scores."""
        texts: dict[str, Candidate] = {}
        for text in range(self.tokens.shape[1]):
            score = float(self.scores[unit, text])
            words = vocabulary.decode(self.tokens[unit, text].tolist())
            if score > float("-inf") and words not in texts:
                parts = {"likelihood": self.likelihood, "prior": self.prior, "pmi": self.pmi}
                values = {name: float(part[unit, text]) for name, part in parts.items()}
                known = tuple((name, value) for name, value in values.items() if not math.isnan(value))
                texts[words] = Candidate(words, score, known)
        return tuple(texts.values())


def rank_texts(
    decoded: DecodedTexts,
    likelihood: Float[Tensor, "units texts"],
    prior: Float[Tensor, "units texts"],
    *,
    weight: float,
    by: str,
) -> RankedTexts:
    """Texts in the order of their PMI (``by="pmi"``), of their likelihood, or as they were found (``by="found"``).

    PMI is MILAN's objective, log p(d|E) - λ log p(d) (Hernandez et al. 2022, equation 3); the paper's λ is 0.2.
    """
    possible = decoded.scores.isfinite()
    pmi = torch.where(possible, likelihood - weight * prior, -torch.inf)
    scores = {"pmi": pmi, "likelihood": torch.where(possible, likelihood, -torch.inf), "found": decoded.scores}[by]
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    tokens = decoded.tokens.gather(1, order.unsqueeze(-1).expand_as(decoded.tokens))
    return RankedTexts(tokens, likelihood.gather(1, order), prior.gather(1, order), pmi.gather(1, order), scores)

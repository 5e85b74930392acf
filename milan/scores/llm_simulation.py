"""How well an explanation predicts integers that its author did not see (*Tell me what you see*, algorithm 1).

A language model reads the explanation and some texts, and predicts the integer of each. The correlation with the true
ones is the score. It is taken on other texts again and again until its mean is known well enough. The paper prints the
condition of its loop the wrong way round; here the loop goes on while the interval is too wide.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from milan.errors import BadInput
from milan.pretrained.llm_client import LlmClient, NoAnswer
from milan.pretrained.prompts import Prompt, Shot
from milan.pretrained.reply_parsing import make_integer_parser
from milan.scores.prediction_pairs import (
    JUDGING,
    MAX_VALUE,
    DescribedUnit,
    PredictionPairs,
    divide_pairs,
    format_items,
    make_simulation_question,
)
from milan.units import Unit

LEVEL = 0.90
MAX_HALF_WIDTH = 0.05  # half of the interval, in units of correlation: the paper's 5 points of 100
MIN_ROUNDS, MAX_ROUNDS = 3, 25  # rounds; the paper sets no end
PAIRS_PER_ROUND = 50  # pairs of a round (appendix B)


@dataclass(frozen=True)
class PredictionRound:
    """The predicted and the true integers of one round."""

    correlation: float
    accuracy: float  # share of integers that are right
    squared: float  # mean squared error
    absolute: float  # mean absolute error


@dataclass(frozen=True)
class LlmSimulationResult:
    """The scores of all rounds of an explanation."""

    rounds: tuple[PredictionRound, ...]

    @property
    def correlation(self) -> float:
        """Mean correlation over the rounds."""
        return float(np.mean([each.correlation for each in self.rounds]))

    @property
    def half_width(self) -> float:
        """Half of the 90% interval of the mean correlation, by Student's t."""
        return compute_half_width([each.correlation for each in self.rounds])

    def mean(self, name: str) -> float:
        """Return the mean of one of the rounds' scores."""
        return float(np.mean([getattr(each, name) for each in self.rounds]))


@dataclass(frozen=True)
class LlmSimulation:
    """How integers are predicted by a language model.

    llm_client: the language model, the paper's "independent second LLM"; prompt: of simulation; examples: units
    described by hand, with their pairs; signed: whether integers below 0 are asked for.
    """

    llm_client: LlmClient
    prompt: Prompt
    examples: Sequence[tuple[DescribedUnit, PredictionPairs]] = ()
    signed: bool = False
    count: int = PAIRS_PER_ROUND
    max_rounds: int = MAX_ROUNDS
    seed: int = 0

    def has_enough_pairs(self, pairs: PredictionPairs, share: float, seed: int) -> bool:
        """Return whether enough held-out pairs with different integers are left."""
        kept = pairs.values[divide_pairs(len(pairs.values), share, seed) == JUDGING]
        return len(kept) >= MIN_ROUNDS and len(set(kept.tolist())) > 1

    def run(
        self, explanation: str, unit: Unit, pairs: PredictionPairs, places: Sequence[int]
    ) -> LlmSimulationResult | NoAnswer:
        """Return rounds of prediction on pairs at those places; rounds share no pair if there are enough.

        Raises:
            BadInput: there are fewer than three places, or all have the same integer.
        """
        if len(places) < MIN_ROUNDS or len(set(pairs.values[list(places)].tolist())) < 2:
            raise BadInput(
                f"{len(places)} pairs of {unit} to predict, which do not differ; explain from a smaller share of them"
            )
        rounds: list[PredictionRound] = []
        for number in range(self.max_rounds):
            rng = _make_rng(self.seed, unit, number)
            some = rng.permutation(np.array(places))[: self.count].tolist()
            true = pairs.values[some]
            if len(set(true.tolist())) < 2:
                continue  # there is no correlation with what does not vary
            items = pairs.make_items(some)
            question = make_simulation_question(self.prompt, unit, explanation, items, self._make_shots(rng), number)
            (found,) = self.llm_client.ask(
                [question], make_integer_parser([text for text, _ in items], -MAX_VALUE * self.signed, MAX_VALUE)
            )
            if isinstance(found, NoAnswer):
                return found
            rounds.append(score_round(np.array(found), true))
            if len(rounds) >= MIN_ROUNDS and compute_half_width([each.correlation for each in rounds]) < MAX_HALF_WIDTH:
                break
        return (
            LlmSimulationResult(tuple(rounds))
            if rounds
            else NoAnswer(f"no {self.count} pairs of {unit} that were drawn differ")
        )

    def _make_shots(self, rng: np.random.Generator) -> list[Shot]:
        found = []
        for example, pairs in self.examples:
            items = pairs.make_items(pairs.select_mixed(self.count, rng))
            hidden = tuple(f"{text}\tunknown" for text, _ in items)
            found.append(Shot(hidden, "\n".join(format_items(items)), str(example.unit.index), example.text))
        return found


def score_round(predicted: Int[np.ndarray, " n"], true: Int[np.ndarray, " n"]) -> PredictionRound:
    """Return one round's scores; a constant prediction has correlation 0.

    >>> score_round(np.array([0, 5, 10]), np.array([0, 5, 8])).accuracy
    0.6666666666666666
    """
    constant = len(set(predicted.tolist())) < 2
    correlation = 0.0 if constant else float(np.corrcoef(predicted, true)[0, 1])
    apart = (predicted - true).astype(np.float64)
    return PredictionRound(
        correlation, float((apart == 0).mean()), float((apart**2).mean()), float(np.abs(apart).mean())
    )


def compute_half_width(values: Sequence[float]) -> float:
    """Return half of the 90% interval of the mean; infinite for fewer than two values.

    >>> round(compute_half_width([0.1, 0.2, 0.3]), 4)
    0.1686
    """
    from scipy.stats import t

    if len(values) < 2:
        return math.inf
    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _make_rng(seed: int, unit: Unit, number: int) -> np.random.Generator:
    """Return the random generator of a unit and a round, independent of other requests."""
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256(f"{seed} {unit} {number}".encode()).digest()[:8], "little")
    )

"""How well an explanation predicts integers that its writer was not shown (*Tell me what you see*, algorithm 1).

A language model is told the explanation and some texts, and guesses the integer of each. The correlation with the true ones is the score.
It is taken on other texts again and again until its mean is known well enough. The paper prints the condition of its loop the wrong way
round; here the loop goes on while the interval is too wide.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from milan.errors import BadInput
from milan.pairs import HIGHEST, JUDGING, Example, Pairs, lines, parts, simulating
from milan.pretrained.asking import Asker, NoAnswer
from milan.pretrained.prompts import Prompt, Shot
from milan.pretrained.reading import integers
from milan.units import Unit

LEVEL = 0.90
WIDTH = 0.05  # half of the interval, in units of correlation: the paper's 5 points of 100
FEWEST, MOST = 3, 25  # rounds; the paper sets no end
COUNT = 50  # pairs of a round (appendix B)


@dataclass(frozen=True)
class Round:
    """One prediction of some integers, beside the truth."""

    correlation: float
    accuracy: float  # share of integers that are right
    squared: float  # mean squared error
    absolute: float  # mean absolute error


@dataclass(frozen=True)
class Simulated:
    """What the rounds say together."""

    rounds: tuple[Round, ...]

    @property
    def correlation(self) -> float:
        return float(np.mean([each.correlation for each in self.rounds]))

    @property
    def half_width(self) -> float:
        """Half of the 90% interval of the mean correlation, by Student's t."""
        return half_width([each.correlation for each in self.rounds])

    def mean(self, name: str) -> float:
        """The mean of one of a round's figures."""
        return float(np.mean([getattr(each, name) for each in self.rounds]))


@dataclass(frozen=True)
class Simulation:
    """How integers are predicted.

    asker: the language model, the paper's "independent second LLM"; prompt: of simulation; examples: units described by hand, with their
    pairs; signed: whether integers below 0 are asked for.
    """

    asker: Asker
    prompt: Prompt
    examples: Sequence[tuple[Example, Pairs]] = ()
    signed: bool = False
    count: int = COUNT
    most: int = MOST
    seed: int = 0

    def enough(self, pairs: Pairs, share: float, seed: int) -> bool:
        """Whether pairs are left to be judged by that differ."""
        kept = pairs.values[parts(len(pairs.values), share, seed) == JUDGING]
        return len(kept) >= FEWEST and len(set(kept.tolist())) > 1

    def of(self, explanation: str, unit: Unit, pairs: Pairs, places: Sequence[int]) -> Simulated | NoAnswer:
        """Rounds of prediction on pairs at those places, each on others as far as there are enough.

        Raises:
            BadInput: there are fewer than three places, or all have the same integer.
        """
        if len(places) < FEWEST or len(set(pairs.values[list(places)].tolist())) < 2:
            raise BadInput(f"{len(places)} pairs of {unit} to predict, which do not differ; explain from a smaller share of them")
        rounds: list[Round] = []
        for number in range(self.most):
            dice = _dice(self.seed, unit, number)
            some = dice.permutation(np.array(places))[: self.count].tolist()
            true = pairs.values[some]
            if len(set(true.tolist())) < 2:
                continue  # there is no correlation with what does not vary
            items = pairs.items(some)
            question = simulating(self.prompt, unit, explanation, items, self._shots(dice), number)
            (found,) = self.asker.ask([question], integers([text for text, _ in items], -HIGHEST * self.signed, HIGHEST))
            if isinstance(found, NoAnswer):
                return found
            rounds.append(compared(np.array(found), true))
            if len(rounds) >= FEWEST and half_width([each.correlation for each in rounds]) < WIDTH:
                break
        return Simulated(tuple(rounds)) if rounds else NoAnswer(f"no {self.count} pairs of {unit} that were drawn differ")

    def _shots(self, dice: np.random.Generator) -> list[Shot]:
        found = []
        for example, pairs in self.examples:
            items = pairs.items(pairs.mixed(self.count, dice))
            hidden = tuple(f"{text}\tunknown" for text, _ in items)
            found.append(Shot(hidden, "\n".join(lines(items)), str(example.unit.index), example.text))
        return found


def compared(found: Int[np.ndarray, " n"], true: Int[np.ndarray, " n"]) -> Round:
    """One round's figures; a prediction that does not vary has a correlation of 0, since it tells nothing.

    >>> compared(np.array([0, 5, 10]), np.array([0, 5, 8])).accuracy
    0.6666666666666666
    """
    constant = len(set(found.tolist())) < 2
    correlation = 0.0 if constant else float(np.corrcoef(found, true)[0, 1])
    apart = (found - true).astype(np.float64)
    return Round(correlation, float((apart == 0).mean()), float((apart**2).mean()), float(np.abs(apart).mean()))


def half_width(values: Sequence[float]) -> float:
    """Half of the 90% interval of the mean; infinite for fewer than two.

    >>> round(half_width([0.1, 0.2, 0.3]), 4)
    0.1686
    """
    from scipy.stats import t

    if len(values) < 2:
        return math.inf
    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _dice(seed: int, unit: Unit, number: int) -> np.random.Generator:
    """For a unit and a round, whatever else is asked."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {unit} {number}".encode()).digest()[:8], "little"))

"""Three simulated annotators, who say what they see inside the masks of a unit's exemplars.

An annotator weighs how much more often each concept, or two of them together, occurs inside the masks than in the probe at large, and
puts what weighs most into words. The three differ in what they look at, how finely, in their vocabulary, and in how often they are
vague or wrong.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from scipy import sparse

from milan.diorama.census import Census
from milan.diorama.concepts import Concept, concepts
from milan.diorama.dice import Dice
from milan.diorama.phrases import FINE, phrase

VAGUE = (
    "various things",
    "different shapes",
    "many colors and shapes",
    "parts of pictures",
    "edges of things",
    "colorful areas",
    "random details",
    "bright and shaded places",
)
DULL = {"plain", "outdoors", "backgrounds", "objects"}  # true of nearly everything; said only when nothing else can be


@dataclass(frozen=True)
class Annotator:
    """How one of them looks and speaks."""

    name: str
    weights: tuple[tuple[str, float], ...]  # how much each kind of concept catches the eye; 1 if not listed
    fine: float  # how much two concepts together count against one
    broad: float  # how much a group of names counts against a single one
    synonyms: int  # percent
    vague: int  # percent of units
    wrong: int  # percent of units of which not the best is said

    def weight(self, concept: Concept, groups: frozenset[str]) -> float:
        value = dict(self.weights).get(concept.kind, 1.0) * (self.broad if concept.name in groups else 1.0)
        return value * (0.4 if concept.name in DULL else 1.0)


ANNOTATORS = (
    Annotator("exact", (("setting", 0.7), ("text", 1.2)), fine=1.2, broad=0.8, synonyms=10, vague=2, wrong=5),
    Annotator("plain", (("part", 0.8), ("pattern", 0.9), ("setting", 0.9)), fine=0.75, broad=1.1, synonyms=40, vague=6, wrong=8),
    Annotator("painterly", (("colour", 1.9), ("pattern", 1.7), ("part", 0.8)), fine=1.1, broad=0.9, synonyms=25, vague=5, wrong=8),
)
GROUP_NAMES = frozenset(concept.name for concept in concepts() if len({name for _, name in concept.members}) > 1)


@dataclass(frozen=True)
class Evidence:
    """How often concepts, and pairs of them, occur inside a unit's masks and at large.

    Both are shares of pixels, (concepts, concepts), with a concept alone on the diagonal.
    """

    inside: np.ndarray
    at_large: np.ndarray
    position: str = ""  # where in the pictures the masks mostly are, in words

    @property
    def surprise(self) -> np.ndarray:
        """The share inside times how much (in bits) that is more than at large; 0 where it is less."""
        ratio = np.maximum(self.inside, 1e-12) / np.maximum(self.at_large, 1e-6)
        return np.where(self.inside > self.at_large, self.inside * np.log2(ratio), 0.0)


def together(counts: np.ndarray, census: Census) -> np.ndarray:
    """The share of pixels that show both of two concepts, float (concepts, concepts), from how many pixels have each signature."""
    shows = census.shows
    weights = sparse.diags(counts / max(1.0, counts.sum()))
    return np.asarray((shows.T @ (weights @ shows)).todense())


def gather(census: Census, ids: np.ndarray, masks: np.ndarray, at_large: np.ndarray | None = None) -> Evidence:
    """What a unit's exemplars show inside their masks; every exemplar counts the same, however large its mask.

    ids: int (k,), rows of the census; masks: bool (k, size, size).
    """
    counts = np.zeros(len(census.table))
    for id, mask in zip(ids, masks, strict=True):
        seen = np.asarray(census.pixels[id])[mask]
        if len(seen):
            counts += np.bincount(seen, minlength=len(census.table)) / len(seen)
    return Evidence(together(counts, census), together(census.area, census) if at_large is None else at_large, _position(masks))


def _position(masks: np.ndarray) -> str:
    """Where three quarters of the masks are, if they all are in one third of the picture."""
    total, third = max(1, int(masks.sum())), masks.shape[-1] // 3
    shares = {
        "at the top": masks[:, :third].sum(), "at the bottom": masks[:, -third:].sum(),
        "on the left": masks[:, :, :third].sum(), "on the right": masks[:, :, -third:].sum(),
    }  # fmt: skip
    place, share = max(shares.items(), key=lambda item: int(item[1]))
    return place if share > 0.85 * total else ""


def annotate(evidence: Evidence, key: str, seed: int = 0) -> list[str]:
    """What each of the three annotators says; ``key`` names the unit, and with ``seed`` decides all that is left to chance."""
    return [_said(annotator, evidence, Dice(seed, 6, number, crc32(key.encode()))) for number, annotator in enumerate(ANNOTATORS)]


def _said(annotator: Annotator, evidence: Evidence, dice: Dice) -> str:
    if dice.chance(annotator.vague):
        return dice.pick(VAGUE)
    ranked = _ranked(annotator, evidence)
    if not ranked:
        return dice.pick(VAGUE)
    wrong = dice.chance(annotator.wrong)
    best = ranked[min(len(ranked) - 1, dice.between(2, 6))] if wrong else ranked[0]
    text = phrase(best[1], dice, annotator.synonyms)
    beside = None if wrong else _beside(best, ranked, evidence)
    if beside is not None:
        return f"{text} and {phrase(beside, dice, annotator.synonyms)}"
    if evidence.position and annotator.name != "plain" and dice.chance(35):
        return f"{text} {evidence.position}"
    return text


Ranked = list[tuple[float, tuple[Concept, ...]]]


def _ranked(annotator: Annotator, evidence: Evidence) -> Ranked:
    """Concepts and pairs with what they weigh, heaviest first."""
    every = concepts()
    weights = np.array([annotator.weight(concept, GROUP_NAMES) for concept in every])
    surprise = evidence.surprise
    alone = np.diag(surprise) * weights
    pairs = surprise * np.sqrt(np.outer(weights, weights)) * annotator.fine
    ranked: Ranked = [(float(alone[i]), (every[i],)) for i in np.argsort(-alone)[:12].tolist() if alone[i] > 0.05]
    shown = [i for i in np.argsort(-np.diag(evidence.inside))[:60].tolist() if evidence.inside[i, i] > 0.15]
    for i in shown:
        for j in shown:
            if (every[i].kind, every[j].kind) in FINE and pairs[i, j] > 0.05 and _adds(evidence, i, j):
                ranked.append((float(pairs[i, j]), (every[i], every[j])))
    return sorted(ranked, key=lambda item: -item[0])[:20]


def _adds(evidence: Evidence, i: int, j: int) -> bool:
    """Whether two concepts say more together than the second alone: not so of "blue sky" where all sky is blue."""
    inside, at_large = evidence.inside, evidence.at_large
    if {concepts()[i].name, concepts()[j].name} & DULL:
        return False
    given_second = inside[i, j] / max(inside[j, j], 1e-9)
    usually = at_large[i, j] / max(at_large[j, j], 1e-9)
    return bool(given_second > usually * 1.15)


def _beside(best: tuple[float, tuple[Concept, ...]], ranked: Ranked, evidence: Evidence) -> tuple[Concept, ...] | None:
    """A second thing worth naming beside the best: of the same kind, elsewhere, and nearly as telling."""
    order = {concept: number for number, concept in enumerate(concepts())}
    score, found = best
    if len(found) > 1 or evidence.inside[order[found[0]], order[found[0]]] > 0.65:
        return None
    for other_score, other in ranked[1:8]:
        if len(other) == 1 and other[0].kind == found[0].kind and other_score > 0.6 * score and not _overlap(found[0], other[0]):
            return other
    return None


def _overlap(one: Concept, other: Concept) -> bool:
    return bool(set(one.members) & set(other.members))

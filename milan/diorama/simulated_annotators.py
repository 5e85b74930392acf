"""Three simulated annotators, who describe what a unit's exemplars show inside their masks.

An annotator weighs how much more often each concept, or two of them together, occurs inside the masks than in the probe
at large, and puts what weighs most into words. The three differ in what they look at, how finely, in their vocabulary,
and in how often they are vague or wrong.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from scipy import sparse

from milan.diorama.concept_phrases import PHRASE_KINDS, make_phrase
from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.rng import PortableRng
from milan.diorama.scene_concepts import Concept, list_concepts

VAGUE_PHRASES = (
    "various things",
    "different shapes",
    "many colors and shapes",
    "parts of pictures",
    "edges of things",
    "colorful areas",
    "random details",
    "bright and shaded places",
)
UNINFORMATIVE_CONCEPTS = {
    "plain",
    "outdoors",
    "backgrounds",
    "objects",
}  # true of nearly everything; used only if no other text is possible


@dataclass(frozen=True)
class SimulatedAnnotator:
    """The habits of one annotator."""

    name: str
    weights: tuple[tuple[str, float], ...]  # weight of each kind of concept; 1 if not listed
    pair_weight: float  # weight of two concepts together, relative to one
    group_weight: float  # weight of a group of names, relative to a single one
    synonym_percent: int  # percent
    vague_percent: int  # percent of units
    error_percent: int  # percent of units whose text is not the best one

    def weight(self, concept: Concept, groups: frozenset[str]) -> float:
        """Return how much a concept counts for this annotator; ``groups`` are the names of groups of concepts."""
        value = dict(self.weights).get(concept.kind, 1.0) * (self.group_weight if concept.name in groups else 1.0)
        return value * (0.4 if concept.name in UNINFORMATIVE_CONCEPTS else 1.0)


ANNOTATORS = (
    SimulatedAnnotator(
        "exact",
        (("setting", 0.7), ("text", 1.2)),
        pair_weight=1.2,
        group_weight=0.8,
        synonym_percent=10,
        vague_percent=2,
        error_percent=5,
    ),
    SimulatedAnnotator(
        "plain",
        (("part", 0.8), ("pattern", 0.9), ("setting", 0.9)),
        pair_weight=0.75,
        group_weight=1.1,
        synonym_percent=40,
        vague_percent=6,
        error_percent=8,
    ),
    SimulatedAnnotator(
        "painterly",
        (("colour", 1.9), ("pattern", 1.7), ("part", 0.8)),
        pair_weight=1.1,
        group_weight=0.9,
        synonym_percent=25,
        vague_percent=5,
        error_percent=8,
    ),
)
GROUP_NAMES = frozenset(concept.name for concept in list_concepts() if len({name for _, name in concept.members}) > 1)


@dataclass(frozen=True)
class ConceptFrequencies:
    """How often concepts, and pairs of them, occur inside a unit's masks and overall.

    Both are shares of pixels, (concepts, concepts), with a concept alone on the diagonal.
    """

    inside: np.ndarray
    overall: np.ndarray
    position: str = ""  # where in the pictures the masks mostly are, in words

    @property
    def surprise(self) -> np.ndarray:
        """The share inside, times its excess over the overall share in bits; 0 where it is lower."""
        ratio = np.maximum(self.inside, 1e-12) / np.maximum(self.overall, 1e-6)
        return np.where(self.inside > self.overall, self.inside * np.log2(ratio), 0.0)


def count_cooccurrence(counts: np.ndarray, signatures: LabelSignatures) -> np.ndarray:
    """Return the share of pixels that show both of two concepts, float (concepts, concepts), from pixel counts by
    signature.
    """
    shows = signatures.has_concept
    weights = sparse.diags(counts / max(1.0, counts.sum()))
    return np.asarray((shows.T @ (weights @ shows)).todense())


def measure_frequencies(
    signatures: LabelSignatures, ids: np.ndarray, masks: np.ndarray, overall: np.ndarray | None = None
) -> ConceptFrequencies:
    """Return what a unit's exemplars show inside their masks; every exemplar has the same weight.

    ids: int (k,), rows of the census; masks: bool (k, size, size).
    """
    counts = np.zeros(len(signatures.table))
    for id, mask in zip(ids, masks, strict=True):
        inside = np.asarray(signatures.pixels[id])[mask]
        if len(inside):
            counts += np.bincount(inside, minlength=len(signatures.table)) / len(inside)
    return ConceptFrequencies(
        count_cooccurrence(counts, signatures),
        count_cooccurrence(signatures.area, signatures) if overall is None else overall,
        _find_position(masks),
    )


def _find_position(masks: np.ndarray) -> str:
    """Return where the masks are, if three quarters of them are in one third of the image."""
    total, third = max(1, int(masks.sum())), masks.shape[-1] // 3
    shares = {
        "at the top": masks[:, :third].sum(), "at the bottom": masks[:, -third:].sum(),
        "on the left": masks[:, :, :third].sum(), "on the right": masks[:, :, -third:].sum(),
    }  # fmt: skip
    place, share = max(shares.items(), key=lambda item: int(item[1]))
    return place if share > 0.85 * total else ""


def annotate(frequencies: ConceptFrequencies, key: str, seed: int = 0) -> list[str]:
    """Return the text of each of the three annotators; ``key`` names the unit and, with ``seed``, determines random
    choices.
    """
    return [
        _annotate_once(annotator, frequencies, PortableRng(seed, 6, number, crc32(key.encode())))
        for number, annotator in enumerate(ANNOTATORS)
    ]


def _annotate_once(annotator: SimulatedAnnotator, evidence: ConceptFrequencies, rng: PortableRng) -> str:
    if rng.chance(annotator.vague_percent):
        return rng.choice(VAGUE_PHRASES)
    ranked = _rank_concepts(annotator, evidence)
    if not ranked:
        return rng.choice(VAGUE_PHRASES)
    wrong = rng.chance(annotator.error_percent)
    best = ranked[min(len(ranked) - 1, rng.randint(2, 6))] if wrong else ranked[0]
    text = make_phrase(best[1], rng, annotator.synonym_percent)
    beside = None if wrong else _find_second_concept(best, ranked, evidence)
    if beside is not None:
        return f"{text} and {make_phrase(beside, rng, annotator.synonym_percent)}"
    if evidence.position and annotator.name != "plain" and rng.chance(35):
        return f"{text} {evidence.position}"
    return text


RankedConcepts = list[tuple[float, tuple[Concept, ...]]]


def _rank_concepts(annotator: SimulatedAnnotator, evidence: ConceptFrequencies) -> RankedConcepts:
    """Return concepts and pairs with their weights, heaviest first."""
    every = list_concepts()
    weights = np.array([annotator.weight(concept, GROUP_NAMES) for concept in every])
    surprise = evidence.surprise
    alone = np.diag(surprise) * weights
    pairs = surprise * np.sqrt(np.outer(weights, weights)) * annotator.pair_weight
    ranked: RankedConcepts = [
        (float(alone[i]), (every[i],)) for i in np.argsort(-alone)[:12].tolist() if alone[i] > 0.05
    ]
    frequent = [i for i in np.argsort(-np.diag(evidence.inside))[:60].tolist() if evidence.inside[i, i] > 0.15]
    for i in frequent:
        for j in frequent:
            if (
                (every[i].kind, every[j].kind) in PHRASE_KINDS
                and pairs[i, j] > 0.05
                and _adds_information(evidence, i, j)
            ):
                ranked.append((float(pairs[i, j]), (every[i], every[j])))
    return sorted(ranked, key=lambda item: -item[0])[:20]


def _adds_information(evidence: ConceptFrequencies, i: int, j: int) -> bool:
    """Whether two concepts say more than the second alone: not "blue sky" where all sky is blue."""
    inside, at_large = evidence.inside, evidence.overall
    if {list_concepts()[i].name, list_concepts()[j].name} & UNINFORMATIVE_CONCEPTS:
        return False
    given_second = inside[i, j] / max(inside[j, j], 1e-9)
    usually = at_large[i, j] / max(at_large[j, j], 1e-9)
    return bool(given_second > usually * 1.15)


def _find_second_concept(
    best: tuple[float, tuple[Concept, ...]], ranked: RankedConcepts, evidence: ConceptFrequencies
) -> tuple[Concept, ...] | None:
    """Return a second concept beside the best: of the same kind, elsewhere, and nearly as informative."""
    order = {concept: number for number, concept in enumerate(list_concepts())}
    score, second = best
    if len(second) > 1 or evidence.inside[order[second[0]], order[second[0]]] > 0.65:
        return None
    for other_score, other in ranked[1:8]:
        if (
            len(other) == 1
            and other[0].kind == second[0].kind
            and other_score > 0.6 * score
            and not _share_members(second[0], other[0])
        ):
            return other
    return None


def _share_members(one: Concept, other: Concept) -> bool:
    return bool(set(one.members) & set(other.members))

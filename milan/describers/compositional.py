"""Compositional Explanations (Mu and Andreas 2020): a unit is named by the formula of concepts that its masks overlap most with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from milan.describers.base import Describer, living
from milan.dissection.overlap import overlap
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.pretrained.labels import pixel_labels, source_key
from milan.probes.labels import IGNORED
from milan.storage import content_key
from milan.units import Candidate, Description, Unit

JOINS = ("and", "or", "and not", "or not")  # what a formula may be lengthened with, the first preferred where IoUs are equal
SHOWN = 10  # candidates kept with a description
BOTH = "both "  # "red and car" alone would be read as either


class Compositional(Describer):
    """The formula of largest IoU with the unit's masks over the whole probe; ``score`` is the IoU.

    Formulas are concepts joined by and, or and not (Mu and Andreas 2020, section 3); the search begins with single concepts, keeps the
    ``beam`` best, and lengthens each by every concept. Of equal IoUs the shorter formula is taken, then the one whose concepts come
    first; formulas that hold at the same pixels of the probe are one. Every formula of up to three concepts can be built in this way,
    so a beam of 0, which keeps all, is an exhaustive search: for small vocabularies only.

    Args:
        labels: ``probe`` (the probe's own pixel labels), ``segmenter`` (Diorama's), or ``segmenter:SPEC``.
        classes: names of the class numbers in the probe's label maps (a file, or names separated by commas); ``classes.txt`` beside
            the data unless given.
        ignored: names, separated by commas, that are no concepts.
        only: concepts or levels of labels (such as colour, object), separated by commas, that alone may be named; empty for all.
        without: concepts or levels that may not be named.
        least_images: in how many of the probe's images a concept must be seen to be named.
        quantile: of a unit's activations, above which a place belongs to its masks: 0.995 in the paper; 0 takes the masks of the
            dissection, whatever its quantile is.
        length: concepts in a formula, at most.
        beam: formulas kept at each length; 0 for all.
        device: where a segmenter runs.
    """

    name: ClassVar[str] = "compositional"

    def __init__(
        self,
        labels: str = "probe",
        classes: str = "",
        ignored: str = IGNORED,
        only: str = "",
        without: str = "",
        least_images: int = 1,
        quantile: float = 0.0,
        length: int = 3,
        beam: int = 5,
        device: str = "cpu",
    ):
        if length < 1 or beam < 0:
            raise BadInput(f"formulas of {length} concepts by a beam of {beam}; give a length of at least 1 and a beam of 0 or more")
        self.labels, self.classes, self.ignored = labels, classes, ignored
        self.only, self.without, self.least_images = only, without, least_images
        self.quantile, self.length, self.beam, self.device = quantile, length, beam, device

    @property
    def key(self) -> str:
        """Content key of the settings that change answers, and of a segmenter's weights."""
        settings = {name: value for name, value in self.settings.items() if name not in ("device", "classes")}
        return content_key(describer=self.name, labels_of=source_key(self.labels, self.classes, self.device), **settings)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        alive = living(dissection, units)
        if not alive:
            return
        labels = pixel_labels(dissection.open_probe(), self.labels, classes=self.classes, ignored=self.ignored, device=self.device)
        found = overlap(dissection, labels, self.quantile or None)
        allowed = np.flatnonzero(found.allowed(self.only, self.without, self.least_images))
        concepts = Concepts([found.concepts[place] for place in allowed], found.shows[:, allowed], found.area)
        for unit in alive:
            best = search(concepts, found.inside(unit), self.length, self.beam)[:SHOWN]
            candidates = tuple(concepts.candidate(formula) for formula in best)
            yield Description(unit, candidates[0].text, candidates[0].score, candidates=candidates)


class Term(NamedTuple):
    """One more concept of a formula, and how it joins what stands before it."""

    join: str  # "and" or "or"; of the first term it means nothing
    holds: bool  # False for "not"
    concept: int


@dataclass(frozen=True, eq=False)
class Formula:
    """Concepts joined from left to right: ``((first second) third)``."""

    terms: tuple[Term, ...]
    where: Bool[np.ndarray, " signatures"]  # at which signatures it holds
    iou: float


class Concepts:
    """What formulas are made of, and where each holds.

    shows: 0 or 1, (signatures, concepts); area: how many pixels of the probe have each signature.
    """

    def __init__(self, names: Sequence[str], shows: sparse.csr_matrix, area: Int[np.ndarray, " signatures"]):
        self.names, self.area = list(names), area.astype(np.float64)
        self.columns = sparse.csc_matrix(shows)
        self._by_concept = self.columns.T.tocsr()

    def where(self, concept: int, holds: bool = True) -> Bool[np.ndarray, " signatures"]:
        found = np.zeros(len(self.area), dtype=bool)
        found[self.columns.indices[self.columns.indptr[concept] : self.columns.indptr[concept + 1]]] = True
        return found if holds else ~found

    def sums(self, weights: Float[np.ndarray, " signatures"]) -> Float[np.ndarray, " concepts"]:
        """Of the weights of the signatures that show each concept."""
        return self._by_concept @ weights

    def candidate(self, formula: Formula) -> Candidate:
        parts = (("iou", formula.iou), ("length", float(len(formula.terms))))
        return Candidate(spelled(formula.terms, self.names), formula.iou, parts)


def search(concepts: Concepts, inside: Float[np.ndarray, " signatures"], length: int = 3, beam: int = 5) -> list[Formula]:
    """The best formulas that were met, best first, for a unit whose masks have ``inside`` pixels of each signature."""
    kept = _kept(concepts, inside, [None], beam, set())
    found = list(kept)
    seen = {formula.where.tobytes() for formula in found}
    for _ in range(length - 1):
        kept = _kept(concepts, inside, kept, beam, seen)
        found += kept
        seen |= {formula.where.tobytes() for formula in kept}
    return sorted(found, key=lambda formula: -formula.iou)  # a stable sort: of equals the shorter, as they were found


def _kept(
    concepts: Concepts, inside: Float[np.ndarray, " signatures"], starts: Sequence[Formula | None], beam: int, seen: set[bytes]
) -> list[Formula]:
    """The best formulas that one more concept makes of some; none that holds where another one does."""
    overlaps = np.stack([_lengthened(concepts, inside, start) for start in starts], axis=1)  # joins, starts, concepts
    found: list[Formula] = []
    met = set(seen)
    for place in np.argsort(-overlaps, axis=None, kind="stable"):
        join, start, concept = np.unravel_index(place, overlaps.shape)
        formula = _joined(concepts, starts[start], JOINS[join], int(concept), float(overlaps[join, start, concept]))
        if formula.where.tobytes() not in met:
            met.add(formula.where.tobytes())
            found.append(formula)
        if len(found) == beam:
            break
    return found


def _lengthened(concepts: Concepts, inside: Float[np.ndarray, " signatures"], start: Formula | None) -> Float[np.ndarray, "joins concepts"]:
    """The IoU of a formula joined with each concept in each way; of nothing, that of each concept and of each negated."""
    total, area = inside.sum(), concepts.area.sum()
    each, wide = concepts.sums(inside), concepts.sums(concepts.area)
    if start is None:
        both, shown = np.stack([each, total - each]), np.stack([wide, area - wide])
        return _iou(both, shown, total)
    common, narrow = concepts.sums(inside * start.where), concepts.sums(concepts.area * start.where)
    mine, width = inside[start.where].sum(), concepts.area[start.where].sum()
    both = np.stack([common, mine + each - common, mine - common, total - each + common])
    shown = np.stack([narrow, width + wide - narrow, width - narrow, area - wide + narrow])
    return _iou(both, shown, total)


def _joined(concepts: Concepts, start: Formula | None, join: str, concept: int, iou: float) -> Formula:
    if start is None:
        holds = join == "and"  # in place of joining, "or" negates
        return Formula((Term("", holds, concept),), concepts.where(concept, holds), iou)
    word, _, negated = join.partition(" ")
    other = concepts.where(concept, not negated)
    where = start.where & other if word == "and" else start.where | other
    return Formula((*start.terms, Term(word, not negated, concept)), where, iou)


def _iou(both: np.ndarray, shown: np.ndarray, total: float) -> np.ndarray:
    either = total + shown - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def spelled(terms: Sequence[Term], names: Sequence[str]) -> str:
    """A formula in words, always the same for the same terms, whatever order they were found in.

    >>> names = ["red", "car", "boat"]
    >>> spelled([Term("", True, 1), Term("or", True, 2), Term("and", True, 0)], names)
    'red and (car or boat)'
    >>> spelled([Term("", True, 1), Term("and", False, 0)], names)
    'car but not red'
    """
    join, parts = "", [_literal(terms[0], names)]
    for term in terms[1:]:
        if join and term.join != join:
            parts = [(2, 0, f"({_worded(join, parts).removeprefix(BOTH)})")]  # the brackets tell how it is meant
        join = term.join
        parts.append(_literal(term, names))
    return _worded(join, parts)


Part = tuple[int, int, str]  # 0 a concept, 1 a negated one, 2 a formula in brackets; its place; its words


def _literal(term: Term, names: Sequence[str]) -> Part:
    return (0 if term.holds else 1, term.concept, names[term.concept])


def _worded(join: str, parts: Sequence[Part]) -> str:
    ordered = sorted(parts, key=lambda part: ((0, 2, 1)[part[0]], part[1]))  # what holds first
    if join == "or":
        return " or ".join(f"not {words}" if kind == 1 else words for kind, _, words in ordered)
    holding = [words for kind, _, words in ordered if kind != 1]
    barred = [words for kind, _, words in ordered if kind == 1]
    bar = f"neither {' nor '.join(barred)}" if len(barred) > 1 else "".join(f"not {words}" for words in barred)
    if not holding or not barred:
        plain = len(holding) > 1 and all(kind == 0 for kind, _, _ in ordered)
        return (BOTH if plain else "") + " and ".join(holding) + bar
    return f"{' and '.join(holding)} but {bar}"

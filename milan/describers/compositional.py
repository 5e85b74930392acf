"""Compositional Explanations (Mu and Andreas 2020): the formula of concepts that overlaps most with a unit's masks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from milan.describers._shared.base import select_active
from milan.describers._shared.pixel_label_describer import PixelLabelDescriber
from milan.dissection.concept_overlap import count_overlap
from milan.dissection.dissection import Dissection
from milan.dissection.pass_options import check_quantile
from milan.errors import BadInput, require_at_least
from milan.probes.pixel_labels import IGNORED_NAMES
from milan.units import Candidate, Description, Unit

SIGNS = ((True, True), (True, False), (False, True), (False, False))  # of two concepts: do they hold?
EXHAUSTIVE_CONCEPTS = 16  # concepts of which all formulas of two are kept, so that all of three are tried
KEPT_CANDIDATES = 10  # candidates kept with a description
BOTH = "both "  # "red and car" alone would be read as either


class Compositional(PixelLabelDescriber):
    """Names the formula of concepts with the largest intersection over union (IoU) with the unit's masks.

    Formulas are concepts joined by and, or and not (Mu and Andreas 2020, section 3). Every formula of one and of two
    concepts is tried; the ``beam`` best that join by and, and as many that join by or, are extended by every concept,
    and so on. (The paper also keeps the best single concepts, and misses formulas that contain none of them.) With up
    to 16 concepts every formula of three is tried. Among equal IoUs the shorter formula is taken, then the one with
    fewer negations, then the one whose concepts come first; formulas that hold at the same pixels count as one.
    ``score`` is the IoU.

    Args:
        labels: ``probe`` (the probe's own pixel labels), ``segmenter`` (the stand-in that comes with the package), or
            ``segmenter:SPEC``, as ``milan.pretrained.segmenter.load_segmenter`` takes it.
        classes: names of the class numbers in the probe's label maps (a file, or names separated by commas);
            ``classes.txt`` beside the data if empty.
        ignored: names, separated by commas, that are no concepts.
        only: concepts or levels of labels (such as colour, object), separated by commas, that alone may be named; empty
            for all.
        without: concepts or levels that may not be named.
        least_images: minimum number of images that must show a concept.
        quantile: activation quantile used as the mask threshold, 0.995 in the paper; 0 for the dissection's own masks.
        length: maximum number of concepts in a formula.
        beam: number of formulas of each kind that are kept at each length.
        tolerance: share of the best formula's IoU that may be lost for a shorter formula; 0 in the paper.
        device: device of a segmenter.
    """

    name: ClassVar[str] = "compositional"
    version: ClassVar[int] = 1
    words = "names of pixel labels, joined by and, or, not"

    def __init__(
        self,
        labels: str = "probe",
        classes: str = "",
        ignored: str = IGNORED_NAMES,
        only: str = "",
        without: str = "",
        least_images: int = 1,
        quantile: float = 0.995,
        length: int = 3,
        beam: int = 5,
        tolerance: float = 0.0,
        device: str = "cpu",
    ):
        require_at_least(1, length=length, beam=beam)
        check_quantile(quantile)
        self.labels, self.classes, self.ignored = labels, classes, ignored
        self.only, self.without, self.least_images = only, without, least_images
        if not 0 <= tolerance < 1:
            raise BadInput(
                f"a tolerance of {tolerance}; give a share of the best formula's IoU, at least 0 and below 1"
            )
        self.quantile, self.length, self.beam, self.device = quantile, length, beam, device
        self.tolerance = tolerance

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the formula with the largest IoU for each active unit."""
        active = select_active(dissection, units)
        if not active:
            return
        found = count_overlap(dissection, self._load_labels(dissection), self.quantile or None)
        allowed = np.flatnonzero(found.select_concepts(self.only, self.without, self.least_images))
        concepts = ConceptSignatures(
            [found.concepts[place] for place in allowed], found.has_concept[:, allowed], found.area
        )
        for unit in active:
            ranked = search_formulas(concepts, found.pixels_inside(unit), self.length, self.beam)
            best = prefer_short(ranked, self.tolerance)[:KEPT_CANDIDATES]
            candidates = tuple(concepts.make_candidate(formula) for formula in best)
            yield Description(unit, candidates[0].text, candidates[0].score, candidates=candidates)


class Term(NamedTuple):
    """A concept of a formula, and how it joins the terms before it."""

    join: str  # "and" or "or"; unused in the first term
    holds: bool  # False for "not"
    concept: int


@dataclass(frozen=True, eq=False)
class Formula:
    """Concepts joined from left to right: ``((first second) third)``."""

    terms: tuple[Term, ...]
    holds_at: Bool[np.ndarray, " signatures"]  # at which signatures it holds
    iou: float


class ConceptSignatures:
    """The concepts that formulas are made of, and the pixels that show each.

    has_concept: 0 or 1, (signatures, concepts); area: how many pixels of the probe have each signature.
    """

    def __init__(self, names: Sequence[str], has_concept: sparse.csr_matrix, area: Int[np.ndarray, " signatures"]):
        self.names, self.has_concept, self.area = list(names), sparse.csr_matrix(has_concept), area.astype(np.float64)
        self._columns = sparse.csc_matrix(has_concept)
        self.alone, self.together = count_concepts(self.has_concept, self.area)

    def find_where(self, terms: Sequence[Term]) -> Bool[np.ndarray, " signatures"]:
        """Return at which signatures the terms hold, joined from left to right."""
        found = self._holds_at(terms[0])
        for term in terms[1:]:
            found = found & self._holds_at(term) if term.join == "and" else found | self._holds_at(term)
        return found

    def _holds_at(self, term: Term) -> Bool[np.ndarray, " signatures"]:
        shown = np.zeros(len(self.area), dtype=bool)
        shown[self._columns.indices[self._columns.indptr[term.concept] : self._columns.indptr[term.concept + 1]]] = True
        return shown if term.holds else ~shown

    def make_candidate(self, formula: Formula) -> Candidate:
        """Return a formula as a candidate, with its IoU as score and its number of concepts."""
        parts = (("iou", formula.iou), ("length", float(len(formula.terms))))
        return Candidate(format_formula(formula.terms, self.names), formula.iou, parts)


def count_concepts(
    has_concept: sparse.csr_matrix, weights: Float[np.ndarray, " signatures"]
) -> tuple[Float[np.ndarray, " concepts"], Float[np.ndarray, "concepts concepts"]]:
    """Return the summed weights of the signatures that show each concept, and that show both of two."""
    rows = np.flatnonzero(weights)
    shown = has_concept[rows]
    both = np.asarray((shown.T @ sparse.diags(weights[rows]) @ shown).todense())
    return np.diag(both).copy(), both


def search_formulas(
    concepts: ConceptSignatures, inside: Float[np.ndarray, " signatures"], length: int = 3, beam: int = 5
) -> list[Formula]:
    """Return the best formulas of the search, best first.

    Args:
        inside: number of pixels of each signature in the unit's masks.
    """
    alone, together = count_concepts(concepts.has_concept, inside)
    found: list[Formula] = []
    kept: list[Formula] = []
    for number in range(1, length + 1):
        if number <= 2:
            scored = _list_singles(concepts, inside, alone) if number == 1 else _list_pairs(concepts, inside, together)
        else:
            scored = _extend_formulas(concepts, inside, alone, kept)
        whole = number == 2 and len(concepts.names) <= EXHAUSTIVE_CONCEPTS
        kept = _select_best(concepts, scored, sum(overlaps.size for overlaps, _ in scored) if whole else beam, found)
        found += kept
        if not kept:
            break
    return sorted(found, key=_make_sort_key)  # a stable sort: of equals the one whose concepts come first


def prefer_short(ranked: Sequence[Formula], tolerance: float) -> list[Formula]:
    """Move the shortest formula whose IoU is within ``tolerance`` of the best, as a share of it, to the front.

    A longer formula always overlaps at least as well with the images that it is sought on, be it by chance.
    """
    least = (1 - tolerance) * ranked[0].iou
    short = min((each for each in ranked if each.iou >= least), key=lambda each: _make_sort_key(each)[1:])
    return [short, *(each for each in ranked if each is not short)]


FormulaOverlaps = list[
    tuple[np.ndarray, Callable[[int], tuple[Term, ...]]]
]  # overlaps of possible formulas, and the formula at each place


def _list_singles(concepts: ConceptSignatures, inside: np.ndarray, alone: np.ndarray) -> FormulaOverlaps:
    """List every concept, plain and negated."""
    total, area = inside.sum(), concepts.area.sum()
    overlaps = _compute_iou(np.stack([alone, total - alone]), np.stack([concepts.alone, area - concepts.alone]), total)
    count = len(concepts.names)
    return [(overlaps.ravel(), lambda place: (Term("", place < count, place % count),))]


def _list_pairs(concepts: ConceptSignatures, inside: np.ndarray, overlaps: np.ndarray) -> FormulaOverlaps:
    """List every two concepts, negated or not, joined by and, and by or."""
    one, other = np.triu_indices(len(concepts.names), 1)
    both, shown = (
        _signed_overlaps(overlaps, inside.sum(), one, other),
        _signed_overlaps(concepts.together, concepts.area.sum(), one, other),
    )
    total = inside.sum()

    def terms(join: str) -> Callable[[int], tuple[Term, ...]]:
        def at(place: int) -> tuple[Term, ...]:
            signs, pair = divmod(place, len(one))
            return Term("", SIGNS[signs][0], int(one[pair])), Term(join, SIGNS[signs][1], int(other[pair]))

        return at

    either = total - both[::-1]  # where not neither of the two, each the other way round, holds
    return [
        (_compute_iou(both, shown, total).ravel(), terms("and")),
        (_compute_iou(either, concepts.area.sum() - shown[::-1], total).ravel(), terms("or")),
    ]


def _signed_overlaps(
    overlaps: np.ndarray, total: float, one: np.ndarray, other: np.ndarray
) -> Float[np.ndarray, "signs pairs"]:
    """Return how many pixels show both of two concepts, each negated or not, in the order of SIGNS."""
    alone, both = np.diag(overlaps), overlaps[one, other]
    return np.stack([both, alone[one] - both, alone[other] - both, total - alone[one] - alone[other] + both])


def _extend_formulas(
    concepts: ConceptSignatures, inside: np.ndarray, alone: np.ndarray, starts: list[Formula]
) -> FormulaOverlaps:
    """Return each formula joined with one more concept, negated or not, by and, and by or."""
    holds = np.stack([start.holds_at for start in starts], axis=1).astype(np.float64)  # signatures, starts
    total, count = inside.sum(), len(concepts.names)
    both = _count_joined(concepts.has_concept, inside, holds, alone)
    shown = _count_joined(concepts.has_concept, concepts.area, holds, concepts.alone)

    def terms(join: str) -> Callable[[int], tuple[Term, ...]]:
        def at(place: int) -> tuple[Term, ...]:
            sign, start, concept = np.unravel_index(place, (2, len(starts), count))
            return (*starts[start].terms, Term(join, bool(sign == 0), int(concept)))

        return at

    return [(_compute_iou(both[join], shown[join], total).ravel(), terms(join)) for join in ("and", "or")]


def _count_joined(
    has_concept: sparse.csr_matrix, weights: np.ndarray, holds: np.ndarray, alone: np.ndarray
) -> dict[str, np.ndarray]:
    """Return how many pixels satisfy formulas joined with each concept and each negated one, (2, starts, concepts)."""
    rows = np.flatnonzero(weights)
    inner = holds[rows] * weights[rows, None]
    common, mine = (has_concept[rows].T @ inner).T, inner.sum(axis=0)[:, None]
    joined = {"and": [common, mine - common], "or": [mine + alone - common, weights.sum() - alone + common]}
    return {join: np.stack(found) for join, found in joined.items()}


def _select_best(
    concepts: ConceptSignatures, scored: FormulaOverlaps, max_formulas: int, known: Sequence[Formula]
) -> list[Formula]:
    """Return the best formulas of each kind that denote different pixels, best first, ties by index."""
    found: list[Formula] = []
    seen = {formula.holds_at.tobytes() for formula in known}
    for overlaps, terms in scored:
        left = max_formulas
        for place in _iter_descending(overlaps, 8 * max_formulas):
            joined = terms(place)
            where = concepts.find_where(joined)
            if where.tobytes() not in seen:
                seen.add(where.tobytes())
                found.append(Formula(joined, where, float(overlaps[place])))
                left -= 1
            if not left:
                break
    return sorted(found, key=_make_sort_key)


def _make_sort_key(formula: Formula) -> tuple[float, int, int]:
    """Return a key that is smaller for a larger IoU, then for fewer concepts and fewer negations."""
    return -formula.iou, len(formula.terms), sum(not term.holds for term in formula.terms)


def _iter_descending(values: np.ndarray, first: int) -> Iterator[int]:
    """Yield indices by descending value, ties by index; more than the first ones are sorted only when needed."""
    if first < len(values):
        level = np.partition(values, len(values) - first)[len(values) - first]
        above = np.flatnonzero(values >= level)
        yield from above[np.argsort(-values[above], kind="stable")].tolist()
        below = np.flatnonzero(values < level)
        yield from below[np.argsort(-values[below], kind="stable")].tolist()
    else:
        yield from np.argsort(-values, kind="stable").tolist()


def _compute_iou(both: np.ndarray, shown: np.ndarray, total: float) -> np.ndarray:
    either = total + shown - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def format_formula(terms: Sequence[Term], names: Sequence[str]) -> str:
    """A formula in words, always the same for the same terms, whatever order they were found in.

    >>> names = ["red", "car", "boat"]
    >>> format_formula([Term("", True, 1), Term("or", True, 2), Term("and", True, 0)], names)
    'red and (car or boat)'
    >>> format_formula([Term("", True, 1), Term("and", False, 0)], names)
    'car but not red'
    """
    join, parts = "", [_format_literal(terms[0], names)]
    for term in terms[1:]:
        if join and term.join != join:
            parts = [(2, 0, f"({_join_parts(join, parts).removeprefix(BOTH)})")]  # the brackets tell how it is meant
        join = term.join
        parts.append(_format_literal(term, names))
    return _join_parts(join, parts)


FormulaText = tuple[int, int, str]  # 0 a concept, 1 a negated one, 2 a formula in brackets; its place; its words


def _format_literal(term: Term, names: Sequence[str]) -> FormulaText:
    return (0 if term.holds else 1, term.concept, names[term.concept])


def _join_parts(join: str, parts: Sequence[FormulaText]) -> str:
    ordered = sorted(parts, key=lambda part: ((0, 2, 1)[part[0]], part[1]))  # what holds first
    if join == "or":
        return " or ".join(f"not {words}" if kind == 1 else words for kind, _, words in ordered)
    holding = [words for kind, _, words in ordered if kind != 1]
    barred = [words for kind, _, words in ordered if kind == 1]
    bar = f"neither {' nor '.join(barred)}" if len(barred) > 1 else "".join(f"not {words}" for words in barred)
    both = BOTH if len(holding) > 1 and all(kind != 2 for kind, _, _ in ordered) else ""
    return both + " and ".join(holding) + (" but " if holding and barred else "") + bar

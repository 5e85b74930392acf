"""Compositional Explanations: the best formula, the same as by trying every one, in words that say it."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from milan.describers import compositional as module
from milan.describers.compositional import (
    ConceptSignatures,
    Formula,
    Term,
    format_formula,
    prefer_short,
    search_formulas,
)
from milan.dissection.dissect import dissect
from milan.errors import BadInput
from milan.probes import load_probe
from milan.targets.loading import load_target
from tests.describers.labelled import labelled
from tests.describers.makers import load_simulated
from tests.describers.test_netdissect import measure_overlaps

NAMES = ["red", "car", "boat", "wheel"]


def world(seed: int, concepts: int = 4, signatures: int = 14) -> tuple[ConceptSignatures, np.ndarray]:
    """A small vocabulary, and how many pixels of each signature lie inside a unit's masks."""
    rng = np.random.default_rng(seed)
    shows = sparse.csr_matrix((rng.random((signatures, concepts)) < 0.4).astype(float))
    area = rng.integers(1, 100, signatures)
    inside = np.minimum(area, rng.integers(0, 100, signatures) * (rng.random(signatures) < 0.5)).astype(float)
    return ConceptSignatures(NAMES[:concepts], shows, area), inside


def formulas(concepts: ConceptSignatures, length: int) -> Iterator[np.ndarray]:
    """Where every formula of so many concepts holds, however its brackets are set and whatever is negated in it."""
    if length == 1:
        for concept in range(len(concepts.names)):
            shown = concepts.has_concept[:, [concept]].toarray().ravel() > 0
            yield shown
            yield ~shown
        return
    for left in range(1, length):
        for one, other in product(formulas(concepts, left), list(formulas(concepts, length - left))):
            for found in (one & other, one | other):
                yield found
                yield ~found


def iou(concepts: ConceptSignatures, inside: np.ndarray, where: np.ndarray) -> float:
    both = inside[where].sum()
    either = inside.sum() + concepts.area[where].sum() - both
    return both / either if either else 0.0


def exhaustive(concepts: ConceptSignatures, inside: np.ndarray, length: int) -> float:
    every = (where for each in range(1, length + 1) for where in formulas(concepts, each))
    return max(iou(concepts, inside, where) for where in every)


@pytest.mark.parametrize("seed", range(10))
def test_of_a_small_vocabulary_the_search_finds_what_trying_every_formula_finds(seed: int) -> None:
    concepts, inside = world(seed, concepts=4)
    for length in (1, 2, 3):
        assert search_formulas(concepts, inside, length, beam=1)[0].iou == exhaustive(concepts, inside, length)


@pytest.mark.parametrize("seed", range(4))
def test_of_a_large_vocabulary_every_pair_is_tried(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXHAUSTIVE_CONCEPTS", 3)
    concepts, inside = world(seed, concepts=4, signatures=30)
    assert search_formulas(concepts, inside, 2, beam=1)[0].iou == exhaustive(concepts, inside, 2)
    assert (
        search_formulas(concepts, inside, 2, beam=1)[0].iou
        <= search_formulas(concepts, inside, 3, beam=5)[0].iou
        <= exhaustive(concepts, inside, 3)
    )


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
def test_each_formula_has_the_overlap_it_claims(seed: int, length: int, beam: int) -> None:
    concepts, inside = world(seed)
    found = search_formulas(concepts, inside, length, beam)
    overlaps = [formula.iou for formula in found]
    assert overlaps == sorted(overlaps, reverse=True)
    assert len({formula.holds_at.tobytes() for formula in found}) == len(found)
    for formula in found:
        assert np.array_equal(concepts.find_where(formula.terms), formula.holds_at)
        assert formula.iou == iou(concepts, inside, formula.holds_at)
        assert 1 <= len(formula.terms) <= length


@pytest.mark.parametrize(
    ("planted", "text"),
    [
        (lambda red, car, boat, wheel: car, "car"),
        (lambda red, car, boat, wheel: red & (car | boat), "red and (car or boat)"),
        (lambda red, car, boat, wheel: car & ~wheel, "car but not wheel"),
        (lambda red, car, boat, wheel: car & ~wheel & ~red, "car but neither red nor wheel"),
        (lambda red, car, boat, wheel: red & wheel, "both red and wheel"),
        (lambda red, car, boat, wheel: (red & wheel) | boat, "boat or (red and wheel)"),
        (lambda red, car, boat, wheel: (car | boat) & ~wheel, "(car or boat) but not wheel"),
        (lambda red, car, boat, wheel: wheel | red | boat, "red or boat or wheel"),
        (lambda red, car, boat, wheel: ~wheel, "not wheel"),
    ],
)
def test_what_was_planted_is_found_and_said(planted, text: str) -> None:
    shows = np.array(list(product([0, 1], repeat=4)), dtype=float)  # every combination once
    concepts = ConceptSignatures(NAMES, sparse.csr_matrix(shows), np.full(16, 10))
    best = search_formulas(concepts, planted(*shows.astype(bool).T) * 10.0)[0]
    assert (best.iou, format_formula(best.terms, NAMES)) == (1.0, text)


def test_words_do_not_depend_on_the_order_of_finding() -> None:
    one = [Term("", True, 1), Term("or", True, 2), Term("and", False, 3)]
    assert (
        format_formula(one, NAMES)
        == format_formula([one[1], Term("or", True, 1), one[2]], NAMES)
        == "(car or boat) but not wheel"
    )
    assert format_formula([Term("", False, 1), Term("and", False, 0)], NAMES) == "neither red nor car"
    assert format_formula([Term("", False, 1), Term("or", True, 0)], NAMES) == "red or not car"


def test_of_equal_formulas_the_shorter_and_the_first_is_taken() -> None:
    concepts = ConceptSignatures(NAMES, sparse.csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 1, 1.0]])), np.array([4, 4]))
    found = search_formulas(concepts, np.array([2.0, 2.0]), beam=5)
    assert (found[0].iou, format_formula(found[0].terms, NAMES)) == (0.5, "red or boat")
    alone = search_formulas(concepts, np.array([4.0, 0.0]), beam=5)
    assert (alone[0].iou, format_formula(alone[0].terms, NAMES)) == (1.0, "red")


@pytest.mark.parametrize(("tolerance", "chosen"), [(0.0, 2), (0.05, 1), (0.2, 0)])
def test_a_shorter_formula_is_preferred_within_the_tolerance(tolerance: float, chosen: int) -> None:
    lengths = [Formula(tuple(Term("and", True, each) for each in range(count)), np.ones(1, bool), iou)
               for count, iou in ((3, 0.50), (2, 0.48), (1, 0.42))]  # fmt: skip
    assert prefer_short(lengths, tolerance)[0] is lengths[::-1][chosen]
    assert len(prefer_short(lengths, tolerance)) == 3


def test_formulas_counted_on_fingers(tmp_path: Path, cache: Path) -> None:
    layer = labelled(tmp_path)
    first, second = load_simulated("compositional", tolerance=0.0).describe(layer, layer.units)
    assert (first.text, first.score) == ("cat or dog", 32 / 40)
    assert {each.text: each.score for each in first.candidates}["cat"] == 24 / 32
    assert first.candidates == second.candidates


def test_its_text_is_read_as_the_formula_that_was_found(tmp_path: Path, cache: Path) -> None:
    probe = load_probe("diorama:objects", limit=40)
    layer = dissect(load_target("diorama:resnet-objects"), probe, ["layer3"], tmp_path, k=3)["layer3"]
    said = list(load_simulated("compositional", tolerance=0.0).describe(layer, layer.units))
    single = list(load_simulated("netdissect").describe(layer, layer.units))
    assert measure_overlaps(layer, said, tmp_path) == pytest.approx([each.score for each in said], abs=1e-12)
    assert all(one.score >= other.score for one, other in zip(said, single, strict=True))
    assert len({each.text for each in said}) > 40
    assert {word for each in said for word in ("but not", "or", "and (", "both") if word in each.text} >= {
        "but not",
        "or",
    }


def test_settings_that_cannot_be() -> None:
    with pytest.raises(BadInput, match="length is 0"):
        load_simulated("compositional", length=0)

"""What counts as naming a unit exactly, and intervals by hand."""

import math

import numpy as np
import pytest

from milan.diorama.planted_network import load_planted_truth
from milan.scores.confidence_intervals import estimate_mean, estimate_share
from milan.scores.exact_naming import compute_named_share, is_named_exactly, parse_concept_formula


@pytest.mark.parametrize(
    ("text", "planted", "exact"),
    [
        ("wheels", "wheel", True),
        ("the tyres", "wheel", True),
        ("wheels of cars", "wheel", False),  # more than was planted
        ("wheels and wheels", "wheel", True),
        ("wheels, and wheels of cars", "wheel", True),  # the second adds nothing
        ("striped red things", "red stripes", True),
        ("red", "red stripes", False),
        ("red and stripes", "red stripes", False),  # either, not both at once
        ("windows or tires", "wheel or window", True),
        ("windows", "wheel or window", False),
        ("red and blue stripes", "red stripes or blue stripes", True),
        ("red or blue", "blue or red", True),
        ("various things", "wheel", False),
        ("various things", "nothing in particular", False),  # neither says anything
        ("", "wheel", False),
    ],
)
def test_named_exactly(text: str, planted: str, exact: bool) -> None:
    assert is_named_exactly(text, planted) is exact


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("wheel or (window but not room)", 1.0),
        ("both wheel and window", 0.0),
        ("4.60 wheel + 3.03 window + 0.76 clock - 0.5 roof", 1.0),
        ("not wheel or not window", 0.0),
        ("wheels or windows", 1.0),
        ("windows, wheels and roofs", 1.0),
        ("red wheels and windows", 0.5),
        ("roofs", 0.0),
        ("", 0.0),
    ],
)
def test_named_parts_of_an_either_or_unit(text: str, parts: float) -> None:
    assert compute_named_share(text, "wheel or window") == parts


def test_a_formula_is_the_shortest() -> None:
    assert parse_concept_formula("red stripes, or red") == {frozenset({"red"})}
    assert parse_concept_formula("nothing much") == frozenset()


def test_wilsons_interval_is_as_in_the_textbook() -> None:
    found = estimate_share([True] * 3 + [False] * 7)
    z, p, n = 1.959964, 0.3, 10
    centre, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)),
    )
    assert (found.value, found.units) == (0.3, 10)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert estimate_share([False] * 20).low == 0 < estimate_share([False] * 20).high
    assert math.isnan(estimate_share([]).value)


def test_the_mean_leaves_out_what_is_unknown_and_its_interval_holds_it() -> None:
    values = np.random.default_rng(3).normal(0.4, 0.1, 400).tolist()
    found = estimate_mean([*values, math.nan])
    assert found.units == 400
    assert found.value == pytest.approx(np.mean(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.error, rel=0.15)
    assert estimate_mean(values, seed=1).low != found.low
    assert math.isnan(estimate_mean([math.nan]).value)


def test_every_planted_text_has_the_formula_of_the_planted_concepts() -> None:
    kinds: dict[str, int] = {}
    for planted in load_planted_truth().values():
        parts = (
            [planted.concepts] if planted.kind in ("single", "conjunction") else [(name,) for name in planted.concepts]
        )
        assert parse_concept_formula(planted.text) == {frozenset(part) for part in parts}
        kinds[planted.kind] = kinds.get(planted.kind, 0) + 1
    assert kinds["single"] >= 60
    assert min(kinds["conjunction"], kinds["either"]) >= 20
    assert kinds["nothing"] >= 10

"""Intervals of shares and means, by hand."""

import math

import numpy as np
import pytest

from milan.scores.confidence_intervals import estimate_mean, estimate_share


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

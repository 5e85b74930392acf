"""Scores over several rounds: sums and intervals by hand."""

import math

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from milan.scores.bootstrap import bootstrap_mean, bootstrap_pooled
from milan.scores.text_similarity import bleu_counts, bleu_from_counts, bleu_score


def test_a_mean_counts_each_value_once_and_leaves_out_what_is_unknown() -> None:
    found = bootstrap_mean([{"a": 1.0, "b": 0.0}, {"b": 0.5, "c": math.nan}])
    assert found.value == pytest.approx(0.5)
    assert found.units == 2
    assert found.low <= 0.5 <= found.high


def test_a_unit_is_drawn_under_all_rounds_together() -> None:
    """Ten rounds that agree on two units are no more certain than one: the interval is that of two units."""
    one = {"a": 1.0, "b": 0.0}
    alone, often = bootstrap_mean([one]), bootstrap_mean([one] * 10)
    assert (alone.low, alone.high) == (often.low, often.high) == (0.0, 1.0)


def test_rounds_are_drawn_too() -> None:
    """Within a round nothing differs, so all that is uncertain is which rounds there were."""
    units = [f"unit {number}" for number in range(50)]
    found = bootstrap_mean([dict.fromkeys(units, value) for value in (0.0, 1.0)])
    assert found.value == 0.5
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.error == pytest.approx(math.sqrt(0.125), abs=0.03)  # of the mean of two tosses of a coin


def test_the_interval_of_a_mean_is_as_wide_as_theory_has_it() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap_mean([{str(place): value for place, value in enumerate(values.tolist())}])
    assert found.error == pytest.approx(values.std() / 20, rel=0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_bleu_adds_up_over_rounds() -> None:
    said, known = (
        ["red dots and things", "a cat on the mat", "clocks"],
        [["red dots and cars"], ["a cat on a mat"], ["clocks", "a clock"]],
    )
    counts = bleu_counts(said, known).astype(float).tolist()
    rounds = [{"a": counts[0], "b": counts[1]}, {"c": counts[2]}]
    assert bootstrap_pooled(rounds, bleu_from_counts).value == pytest.approx(bleu_score(said, known).value)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_bleu_of_sums_is_sacrebleus(order: int) -> None:
    rng = np.random.default_rng(0)
    total = np.sort(rng.integers(0, 30, (200, order)))[:, ::-1]
    correct = np.minimum(total, rng.integers(0, 6, (200, order)) * rng.integers(0, 2, (200, order)))
    sums = np.concatenate([correct, total, rng.integers(1, 40, (200, 2))], 1)
    found = bleu_from_counts(sums)
    for row, value in zip(sums.tolist(), found.tolist(), strict=True):
        known = BLEU.compute_bleu(row[:order], row[order:-2], row[-2], row[-1], "exp", max_ngram_order=order).score
        assert value == pytest.approx(known), row
    assert (found == 0).any()
    assert (found > 0).any()


def test_nothing_has_no_value() -> None:
    assert math.isnan(bootstrap_mean([{}, {"a": math.nan}]).value)

"""Nearest units and antagonists where the right answer is known."""

import numpy as np
import pytest
import torch

from milan.results import neighbours
from milan.results.catalogue import read_catalogue
from milan.results.neighbours import (
    Neighbour,
    StandardizedActivations,
    find_neighbours,
    make_neighbours_data,
    standardize_activations,
)
from milan.units import Unit

A0, A1, A2, B0, B1 = Unit("a", 0), Unit("a", 1), Unit("a", 2), Unit("b", 0), Unit("b", 1)
EXEMPLARS = {A0: [1, 2, 3], A1: [3, 4, 5], A2: [9], B0: [3, 2, 1], B1: [9, 8, 7]}


def activations() -> StandardizedActivations:
    """Five units: a:1 correlates 0.8 with a:0, b:0 0.6, a:2 -0.8; b:1 with none of these four."""
    one, two, three = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 3)) @ np.eye(3))[0].T
    columns = [one, 0.8 * one + 0.6 * two, -0.8 * one + 0.6 * two, 0.6 * one + 0.8 * two, three]
    return StandardizedActivations([A0, A1, A2, B0, B1], torch.tensor(np.array(columns).T * 60**0.5).float())


def named(found: tuple[Neighbour, ...]) -> list[tuple[str, float, float]]:
    return [(str(each.unit), round(each.correlation, 4) + 0.0, round(each.exemplars, 4)) for each in found]


@pytest.mark.parametrize("block", [512, 1])
def test_nearest_units_and_antagonists_by_both_measures(monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK_UNITS", block)
    found = find_neighbours(activations(), EXEMPLARS)
    own = found[A0]
    assert named(own.same_layer) == [("a:1", 0.8, 0.2)]
    assert named(own.other_layers)[0] == ("b:0", 0.6, 1.0)
    assert named(own.exemplars) == [("b:0", 0.6, 1.0), ("a:1", 0.8, 0.2)]
    assert named(own.antagonists)[0] == ("a:2", -0.8, 0.0)
    assert named(found[B1].exemplars)[0] == ("a:2", 0.0, 0.3333)
    assert make_neighbours_data(own, {"b": 0, "a": 1})[:3] == [
        [1, 1, 80, 20],
        make_neighbours_data(own, {"b": 0, "a": 1})[1],
        [0, 0, 60, 100, 1, 1, 80, 20],
    ]


def test_without_activations_units_are_compared_by_exemplars():
    found = find_neighbours(None, EXEMPLARS)
    assert [[str(each.unit) for each in own] for own in (found[A0].exemplars, found[A0].same_layer)] == [
        ["b:0", "a:1"],
        [],
    ]
    assert make_neighbours_data(found[A0], {"b": 0}) == [[], [], [0, 0, -101, 100], []]


def test_activations_of_a_run_are_standardized_and_large_ones_subsampled(run_folder, monkeypatch):
    catalogue = read_catalogue(run_folder)
    units = [entry.unit for entry in catalogue.entries]
    found = standardize_activations(catalogue.dissections, units)
    # Unit 4 is dead.
    assert [unit.index for unit in found.units] == [0, 1, 2, 3, 5, 6]
    assert found.values.shape == (33, 6)
    torch.testing.assert_close(found.values.square().mean(0), torch.ones(6))
    monkeypatch.setattr(neighbours, "MAX_VALUES", 6 * 11)
    assert len(standardize_activations(catalogue.dissections, units).values) == 11


def test_the_page_of_a_run_lists_neighbours_that_open(run_folder, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto((run_folder / "page" / "index.html").as_uri() + "#answers:0")
    # Unit 6 answers to red or blue.
    nearest = page.locator("#plate-neighbours ol").first.locator("li")
    assert "answers:6 · r 0." in nearest.first.inner_text()
    nearest.first.locator("a").click()
    page.wait_for_function("document.getElementById('plate-unit').textContent === 'answers:6'")
    # Seven units are too few for a map.
    assert page.locator("a[href='map.html']").count() == 0
    context.close()

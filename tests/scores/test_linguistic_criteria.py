"""Linguistic criteria, orders and groups, counted by hand."""

import numpy as np
import pytest

from milan.errors import BadInput
from milan.language.text_parsing import parse_texts
from milan.scores.description_groups import compute_similarities, find_units_with, group_units, index_terms
from milan.scores.linguistic_criteria import (
    CRITERIA,
    compute_criteria,
    load_word_vectors,
    shuffle_within_layers,
    sort_units,
)
from milan.units import Unit
from tests.describers import colour_embedder

TEXTS = {
    Unit("a", 0): "a red car on the road",
    Unit("a", 1): "people wearing hats",
    Unit("b", 0): "dogs",
    Unit("b", 1): "dogs",
}
PLACES = {
    "red": (0.0, 0.0),
    "car": (3.0, 4.0),
    "on": (0.0, 1.0),
    "road": (0.0, 2.0),
    "people": (1.0, 1.0),
    "dogs": (9.0, 9.0),
}


def vectors(words: list[str]) -> np.ndarray:
    return np.array([PLACES.get(word, (np.nan, np.nan)) for word in words])


def test_criteria_by_hand() -> None:
    found = compute_criteria(TEXTS, vectors, "ours")
    assert list(found) == list(CRITERIA)
    first, second, third, _ = TEXTS
    assert [found[name][first] for name in CRITERIA] == [
        2,
        0,
        1,
        1,
        6,
        3,
        5.0,
    ]  # "a" and "the" have no vector and are left out
    assert [found[name][second] for name in CRITERIA] == [2, 1, 0, 0, 3, 2, 0.0]  # one word with a vector
    assert found["word difference"][third] == 0


def test_ties_are_broken_by_lot_and_not_by_layer() -> None:
    values = {Unit(layer, index): float(index == 0) for layer in ("a", "b") for index in range(20)}
    orders = {tuple(sort_units(values, seed)) for seed in range(5)}
    assert len(orders) == 5
    assert all({unit.index for unit in order[:2]} == {0} for order in orders)
    share = np.mean([[unit.layer == "a" for unit in order[2:12]] for order in orders])
    assert 0.2 < share < 0.8
    assert sort_units(values, 3) == sort_units(values, 3)


def test_orders_that_keep_to_the_layers() -> None:
    order = [Unit("a", 0), Unit("b", 0), Unit("a", 1), Unit("a", 2)]
    found = shuffle_within_layers(order, 1)
    assert [unit.layer for unit in found] == ["a", "b", "a", "a"]
    assert set(found) == set(order)


def test_words_of_a_pipeline_without_vectors() -> None:
    with pytest.raises(BadInput, match=r"en_milan_ewt 1 has no word vectors"):
        load_word_vectors("pipeline", "ours")
    known, message = load_word_vectors(f"{colour_embedder.__file__}:ColourEmbedder", "ours")
    assert known(["red", "car"])[1].tolist() == [0, 0, 0, 1]
    assert message.endswith("colour_embedder.py:ColourEmbedder")


def test_every_two_units_of_a_group_are_alike() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    similar = compute_similarities([[row] for row in range(30)], points)
    groups = group_units(similar, 0.8)
    assert sorted(unit for group in groups for unit in group) == list(range(30))
    assert all(similar[one, other] >= 0.8 for group in groups for one in group for other in group)
    assert len(groups) < 30
    assert group_units(np.ones((1, 1))) == [[0]]


def test_terms_are_whole_words() -> None:
    assert {term: len(units) for term, units in index_terms(TEXTS, "ours").items()}["dogs"] == 2
    assert "on" not in index_terms(TEXTS, "ours")
    assert find_units_with(TEXTS, ["car", "dogs"], "ours") == [Unit("a", 0), Unit("b", 0), Unit("b", 1)]
    assert find_units_with(TEXTS, ["hat"], "ours") == []
    assert parse_texts(["Red things, and more."], "ours")["Red things, and more."].words == (
        "red",
        "things",
        "and",
        "more",
    )

"""The comparison of better describers: choosing among texts, and choosing settings, by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.better_describer import BeamTexts, Change, evaluate
from milan.experiments.core.description_scores import DescriptionScorer
from milan.experiments.generalization.config import GeneralizationConfig
from milan.models.annotated_units import AnnotatedUnit
from milan.units import Unit

UNITS = tuple(AnnotatedUnit(Path("layer"), Unit("layer", index), ("dots",)) for index in range(2))


def test_each_rule_chooses_by_its_own_sum() -> None:
    texts = ["dots", "red dots", "red and blue dots"]
    found = BeamTexts(UNITS[:1], [texts], [np.array([-3.0, -3.2, -5.0])], [np.array([-2.0, -4.0, -10.0])])
    assert found.choose(0.0) == ["dots"]
    assert found.choose(0.2) == ["red dots"], "-2.6, -2.4, -3.0"
    assert found.choose(0.5) == ["red and blue dots"], "-2.0, -1.2, 0.0"
    assert found.choose(0.0, 10.0, [np.array([0.1, 0.0, 0.0])]) == ["dots"]
    assert found.choose(0.0, 10.0, [np.array([0.0, 0.1, 0.0])]) == ["red dots"]


def test_the_setting_that_is_best_where_it_is_chosen_is_evaluated_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """The other setting would be truer on the network that evaluates."""
    truth = {"red": 1.0, "blue": 0.5, "none": 0.0}

    class FixedTexts:
        units, config, scorer = UNITS, GeneralizationConfig(seeds=1, seed=1), DescriptionScorer()

        def __init__(self, is_for_choosing: bool, texts: dict[str, list[str]]):
            self.is_for_choosing, self.texts = is_for_choosing, texts

        def compute_truth(self, _units: object, texts: list[str]) -> np.ndarray:
            return np.array([truth[text] for text in texts])

        def search(self, _seed: int) -> BeamTexts:
            return BeamTexts(self.units, [["blue"], ["none"]], [np.zeros(1)] * 2, [np.zeros(1)] * 2)

    networks = [
        FixedTexts(True, {"a": ["red", "red"], "b": ["none", "blue"]}),
        FixedTexts(False, {"a": ["blue", "blue"], "b": ["red", "red"]}),
    ]
    change = Change("words", {name: lambda network, _seed, name=name: network.texts[name] for name in "ab"})
    (row,) = evaluate(networks, [change])
    assert row.startswith("| words | a | 1.000 | 0.500 | +0.250 (")
    assert "a 1.000, b 0.250" in capsys.readouterr().out

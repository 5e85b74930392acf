"""Pruning on a network whose units are known, grouped by an embedder that knows colours alone."""

from pathlib import Path

import numpy as np
import pytest

from milan.errors import UnknownName
from milan.experiments.core.report import Report
from milan.experiments.pruning.config import PruningConfig
from milan.experiments.pruning.pruning import pruning
from milan.experiments.pruning.retraining import retrain_classifier
from tests.describers import colour_embedder
from tests.experiments import coloured
from tests.experiments.test_ablation import TARGET, folder, rows  # noqa: F401
from tests.experiments.test_bench import options

WORDS = "red things;green things;blue things;a house;houses;a house"
EMBEDDER = f"{colour_embedder.__file__}:ColourEmbedder"


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:  # noqa: F811
    given = {
        "target": TARGET,
        "probe": str(folder / "pictures"),
        "evaluation_probe": str(folder / "pictures"),
        "layers": ["units"],
        "k": 2,
    }
    config = PruningConfig(
        describer=options(folder, "pruned", WORDS),
        out=folder / "pruned",
        embedder=EMBEDDER,
        random_sets=4,
        terms=["red", "green/blue"],
        **given,  # type: ignore[arg-type]
    )
    return pruning(config)


def test_groups(report: Report) -> None:
    assert rows(report, "groups")["units"] == {"units": 6, "groups": 4, "alone": 3, "in the largest": 3}
    largest = rows(report, "largest groups")
    assert largest["units, 1"] == {"units": 3, "share": 0.5, "text": "a house"}


def test_accuracy_without_colour_units_is_chance(report: Report) -> None:
    found = rows(report, "groups of one")
    assert found["units"]["pruned"] == 0.5
    assert found["no pruning"]["fixed"].value == found["no pruning"]["retrained"].value == 1.0
    for kind in ("fixed", "retrained"):
        assert (
            found["units"][kind].value == found["all pruned"][kind].value == pytest.approx(1 / 3)
        )  # one class of three
        assert found["units"][f"{kind}, difference"].value == pytest.approx(
            1 / 3 - found["units"][f"{kind}, random"].value
        )
    assert found["all layers"] == found["units"]


def test_terms_by_class(report: Report) -> None:
    assert rows(report, "terms of units pruned")["green/blue"]["units"] == 2
    classes = rows(report, "classes")
    assert list(classes) == list(coloured.COLOURS)
    assert classes["red"] == {
        "images": 6,
        "no pruning": 1.0,
        "red": 0.0,
        "green/blue": 1.0,
    }  # with nothing to say it says blue
    assert classes["green"]["green/blue"] == 0.0
    assert rows(report, "term frequencies")["1"]["units"] == "things 50%"


def test_retrained_classifiers() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 300) * 10
    features = (np.eye(3)[classes // 10] + rng.normal(0, 0.2, (300, 3))).astype(np.float32)
    features = np.concatenate([features, np.ones((300, 1), np.float32)], axis=1)  # one that never changes
    for kind in ("linear", "forest"):
        found = retrain_classifier((features[:200], classes[:200]), features[200:], kind)
        assert (found == classes[200:]).mean() > 0.95
    with pytest.raises(UnknownName, match="unknown classifier 'tree'"):
        retrain_classifier((features, classes), features, "tree")

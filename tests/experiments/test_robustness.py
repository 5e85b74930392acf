"""Robustness of a describer each of whose units depends on one thing alone."""

from pathlib import Path

import pytest

from milan.errors import BadInput
from milan.experiments.core.report import Report
from milan.experiments.robustness.config import RobustnessConfig
from milan.experiments.robustness.robustness import robustness
from tests.describers import colour_embedder
from tests.experiments import coloured
from tests.experiments.test_ablation import TARGET, folder, rows  # noqa: F401

EMBEDDER = f"{colour_embedder.__file__}:ColourEmbedder"
SWAYED = f"{coloured.__file__}:Swayed"


def run(folder: Path, name: str, **more: object) -> Report:  # noqa: F811
    given = {
        "target": TARGET,
        "probe": str(folder / "pictures"),
        "layers": ["units"],
        "k": 2,
        "ks": [1, 3],
        "quantiles": [0.5],
    }
    given |= {"probe_halves": 1, "seeds": [7], "embedder": EMBEDDER, "out": folder / name, "quantile": 0.9}
    return robustness(RobustnessConfig(describer=SWAYED, **given | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:  # noqa: F811
    return run(folder, "steady")


def test_each_perturbation_changes_the_one_unit_that_depends_on_it(report: Report) -> None:
    found = rows(report, "all layers")
    moved = ["half 1", "k 1", "k 3", "quantile 0.5", "seed 7", "eta 0.05", "eta 0.15", "eta 0.2"]
    assert list(found) == ["unchanged", "again", *moved, "of another unit"]
    assert found["again"]["same"].value == 1.0
    for name in moved:
        assert (found[name]["same"].value, found[name]["units"]) == (5 / 6, 6), name
    assert found["eta 0.05"]["paper"] == "0.980, 86 %; 0.967, 76 %"
    assert found["unchanged"]["distinct"] == 6


def test_similarity_of_other_words_for_the_same_colour(report: Report) -> None:
    found = rows(report, "all layers")
    assert found["k 3"]["cosine"].value == pytest.approx(1.0)
    assert found["of another unit"]["same"].value == 0
    assert found["of another unit"]["cosine"].value == pytest.approx(
        4 / 6
    )  # five name red; the sixth is dealt away and gets one of them


def test_the_page_shows_what_changed(report: Report, folder: Path) -> None:  # noqa: F811
    page = (folder / "steady" / "page" / "index.html").read_text()
    assert page.count('<article class="case"') == 6
    assert page.count(">changed</td>") == 8
    assert ("100.0 %", "(61.0 to 100.0) have the same words: again") in report.headlines
    assert any(text.endswith("the same words: half 1") for _, text in report.headlines)


def test_an_unknown_setting_is_an_error(folder: Path) -> None:  # noqa: F811
    with pytest.raises(BadInput, match="swayed has no setting 'beam'; it has eta, seed"):
        run(folder, "wrong", setting_values={"beam": [1.0]}, probe_halves=0, ks=[], quantiles=[])

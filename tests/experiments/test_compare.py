"""Comparison of two runs and a published table on a network whose units are known."""

import json
from pathlib import Path

import pytest

from milan.dissection.dissect import dissect
from milan.errors import BadInput
from milan.experiments.__main__ import main
from milan.experiments.compare.compare import compare
from milan.experiments.compare.config import CompareConfig
from milan.experiments.core.described_runs import load_runs
from milan.experiments.core.report import Report
from milan.probes import load_probe
from milan.results.catalogue import Catalogue
from milan.targets.loading import load_target
from milan.units import Description, Unit
from tests.experiments import worlds

HARM = "<img src=x onerror=alert(1)>"
PUBLISHED = "layer,unit,description\nlooks,0,Red things.\nlooks,7,a unit that nobody else knows\n"


def said(folder: Path, name: str, texts: dict[int, str], describer: str = "") -> None:
    (folder / name).mkdir(exist_ok=True)
    Catalogue.from_descriptions(
        [Description(Unit("looks", index), text, 1.0) for index, text in texts.items()], describer=describer or name
    ).write(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    target = load_target(f"{worlds.__file__}:looks")
    dissect(target, load_probe("diorama:objects", limit=30), ["looks"], folder / "dissection", k=3, quantile=0.9)
    said(folder, "right", {0: "red things", 1: "green things", 2: "blue things"})
    said(folder, "wrong", {0: "blue things", 1: HARM, 3: "blue things"})
    (folder / "published.csv").write_text(PUBLISHED)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return compare(
        CompareConfig(
            runs=[str(folder / "right"), str(folder / "wrong"), f"paper={folder / 'published.csv'}"], out=folder / "out"
        )
    )


def values(report: Report, name: str, table: int = 0) -> dict:
    return dict(next(row.values for row in report.tables[table].rows if row.name == name))


def test_each_run_has_its_row(report: Report) -> None:
    right, wrong, paper = (values(report, name) for name in ("right", "wrong", "paper"))
    assert [(one["described"], one["distinct"]) for one in (right, wrong, paper)] == [(3, 3), (3, 2), (2, 2)]
    assert right["truth"].value > wrong["truth"].value
    assert right["same"].value == pytest.approx(
        1 / 3
    )  # of units 0 and 1 (wrong) and 0 (paper) the last, but for its full stop
    assert values(report, "right", 1)["wrong"].value == pytest.approx(0.25)  # "blue things" of "red things": 1/2, and 0


def test_the_page_shows_all_descriptions_escaped(report: Report, folder: Path) -> None:
    page = (folder / "out" / "page" / "index.html").read_text()
    assert report.sources == {"target": f"{worlds.__file__}:looks", "probe": "diorama:objects"}
    assert report.simulated in page
    assert page.count('<article class="case"') == 5  # 0, 1, 2, 3 and 7
    assert "&lt;img src=x onerror" in page
    assert HARM not in page
    assert "a unit that nobody else knows" in page
    assert page.count('class="strip"') == 4  # unit 7 was not dissected


def test_numbers_are_written(report: Report, folder: Path) -> None:
    written = json.loads((folder / "out" / "report.json").read_text())
    assert written["facts"]["units"] == 5
    assert [row["run"] for row in written["tables"][0]["rows"]] == ["right", "wrong", "paper"]


def test_places_of_one_name_are_merged_and_equal_names_get_the_folder(folder: Path, tmp_path: Path) -> None:
    said(tmp_path, "right", {5: "more"})
    together = load_runs([f"all={folder / 'right'}", f"all={tmp_path / 'right'}"])
    assert [(run.name, len(run.descriptions)) for run in together] == [("all", 4)]
    said(tmp_path, "other", {0: "red"}, describer="right")
    assert [run.name for run in load_runs([str(folder / "right"), str(tmp_path / "other")])] == [
        "right (right)",
        "right (other)",
    ]


def test_wrong_runs_and_units_are_errors(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(BadInput, match="two tables of 'all' describe looks:0"):
        load_runs([f"all={folder / 'right'}", f"all={folder / 'wrong'}"])
    with pytest.raises(BadInput, match="no table of descriptions"):
        load_runs([str(folder)])
    with pytest.raises(BadInput, match="described looks:9"):
        compare(CompareConfig(runs=[str(folder / "right")], units=["looks:9"], out=folder / "none"))
    assert main(["compare", str(folder / "nothing"), "--out", str(folder / "no")]) == 2
    assert "nothing" in capsys.readouterr().err

"""Scores of descriptions by generated images, on a network with known weights."""

import json
from pathlib import Path

import pytest

from milan.experiments.core.report import Report
from milan.experiments.painted.config import PaintedConfig
from milan.experiments.painted.painted import painted
from tests.experiments.test_bench import RIGHT, TARGET, options
from tests.experiments.test_simulation import WRONG, values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("painted")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    table = folder / "table.csv"
    table.write_text("layer,unit,description\nlooks,0,red\nlooks,1,green\nlooks,2,blue\n")
    names = [options(folder, "right", RIGHT), options(folder, "wrong", WRONG), str(table)]
    return painted(
        PaintedConfig(
            describers=names,
            target=TARGET,
            probe="diorama:objects",
            limit=40,
            layers=["looks"],
            images_per_text=3,
            out=folder / "out",
        )
    )


def test_images_of_right_words_activate_the_units(report: Report) -> None:
    right, wrong = (values(report, name) for name in ("right", "wrong"))
    for score in ("AUC", "MAD", "fraction 1%", "own before others", "own less others"):
        assert right[score].value > wrong[score].value, score
    assert right["own before others"].value > 0.6


def test_rows_of_floors_and_of_an_imported_table(report: Report, folder: Path) -> None:
    assert [(row.name, row.role) for row in report.tables[0].rows] == [
        ("right", ""), ("wrong", ""), ("table", ""), ("shuffled", "floor"), ("random", "floor"), ("constant", "floor"),
    ]  # fmt: skip
    table = values(report, "table")
    assert (table["described"], table["distinct"], table["words"].value) == (3, 3, 1.0)
    assert table["AUC"].low <= table["AUC"].value <= table["AUC"].high
    assert json.loads((folder / "out" / "report.json").read_text())["facts"]["seed"] == 0

"""The detection experiment on a network with known weights."""

from pathlib import Path

import pytest

from milan.errors import BadInput
from milan.experiments.detection.config import DetectionConfig
from milan.experiments.detection.detection import detection
from tests.experiments.test_bench import RIGHT, TARGET, options
from tests.experiments.test_simulation import WRONG, values


def test_right_words_are_detected_and_wrong_ones_are_not(tmp_path: Path) -> None:
    report = detection(
        DetectionConfig(
            describers=[options(tmp_path, "right", RIGHT), options(tmp_path, "wrong", WRONG)],
            target=TARGET,
            probe="diorama:objects",
            limit=150,
            layers=["mixed"],
            units="0-2",
            judge="labels",
            out=tmp_path / "out",
        )
    )
    right, wrong = (values(report, name) for name in ("right", "wrong"))
    for score in ("detection", "fuzzing"):
        assert right[score].value > 0.75 > wrong[score].value
    assert [row.role for row in report.tables[1].rows] == ["", "", "floor", "floor", "floor"]
    assert "of 6 groups" in " ".join(report.notes)


@pytest.mark.parametrize("wrong", [{"examples": 1}, {"probe": str(Path(__file__).parent)}])
def test_options_that_cannot_be_used(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        detection(DetectionConfig(describers=["constant"], target=TARGET, out=tmp_path, **wrong))

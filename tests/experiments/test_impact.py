"""Top Impact of a classifier whose loss only a few images change."""

import json
from pathlib import Path

import pytest

from milan.errors import MissingEvidence
from milan.experiments.impact.config import ImpactConfig
from milan.experiments.impact.impact import impact
from milan.scores import ablation_score as causal
from tests.experiments.test_bench import TARGET


def test_a_row_for_each_layer_that_a_second_run_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[dict]:
        given = {
            "layers": ["layer3", "layer4"],
            "units_per_layer": 2,
            "max_images": 30,
            "top_shares": [0.1, 1.0],
            "out": tmp_path / "out",
        }
        return [dict(row.values) for row in impact(ImpactConfig(**given)).tables[0].rows]

    first = run()
    assert len(first) == 2
    for row in first:
        assert row["100%"].value == pytest.approx(1.0)
        assert 0 < row["10%"].low <= row["10%"].value <= row["10%"].high < 1
    monkeypatch.setattr(causal, "record_replays", None)  # nothing is run again
    assert run() == first
    assert json.loads((tmp_path / "out" / "report.json").read_text())["facts"]["seed"] == 0


def test_a_network_without_class_logits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingEvidence, match="6 outputs for the 35 classes"):
        impact(ImpactConfig(target=TARGET, probe="diorama:objects", limit=20, layers=["looks"], out=tmp_path))

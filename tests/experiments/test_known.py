"""Known answers on one of Diorama's networks: an imported table of right names, and one of wrong names."""

import pytest

from milan.experiments.core.report import Report
from milan.experiments.known.config import KnownConfig
from milan.experiments.known.known import known
from milan.probes import load_probe
from tests.experiments.test_simulation import values


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("known")
    classes = load_probe("diorama:objects").classes or []
    for name, shift in (("right", 0), ("wrong", 1)):
        rows = [f"fc,{unit},{classes[(unit + shift) % 35]}\n" for unit in range(35)]
        rows += [f"layer4,{unit},{('night sky', 'a house')[unit % 2]}\n" for unit in range(4)]
        (folder / f"{name}.csv").write_text("layer,unit,description\n" + "".join(rows))
    return known(
        KnownConfig(describers=[str(folder / "right.csv"), str(folder / "wrong.csv")], limit=40, out=folder / "out")
    )


def test_the_final_layer_is_named(report: Report) -> None:
    right, wrong, dealt = (values(report, name) for name in ("right", "wrong", "shuffled"))
    assert (right["named"].value, wrong["named"].value, dealt["named"].value) == (1.0, 0.0, 0.0)
    assert right["distinct"] == right["described"]
    assert values(report, "constant")["distinct"] == 1


def test_a_classifier_of_unseen_classes_is_no_better_than_the_best_unit(report: Report) -> None:
    assert report.tables[1].name == "unseen classes"
    assert list(report.facts["describers"]) == ["right", "wrong"]
    right, best = values(report, "right", 1)["AUROC"], values(report, "the best unit", 1)["AUROC"]
    assert 0.2 < right.value < best.value <= 1.0
    assert values(report, "right", 2)["truth"].units == 4

"""Predictions of activations from right and wrong descriptions, on a network with known weights."""

import json
from pathlib import Path

import pytest

from milan.dissection.loading import load_dissection
from milan.errors import MilanWarning
from milan.experiments.core.report import Report
from milan.experiments.simulation.config import SimulationConfig
from milan.experiments.simulation.dead_units import find_dead_units
from milan.experiments.simulation.simulation import simulation
from tests.experiments.test_bench import RIGHT, TARGET, options

LOOKS = {"target": TARGET, "probe": "diorama:objects", "layers": ["looks"], "limit": 40}
WRONG = "night sky;letter a;wheel;boat;flames;"


def run(describers: list[str], out: Path, **more: object) -> Report:
    config = SimulationConfig(describers=describers, simulator="labels", out=out, **LOOKS | more)  # type: ignore[arg-type]
    return simulation(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulation")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    names = [options(folder, "right", RIGHT), options(folder, "wrong", WRONG), "random_concept"]
    return run(names, limit=60, out=folder / "out")


def values(report: Report, name: str, table: int = 0) -> dict:
    return dict(next(row.values for row in report.tables[table].rows if row.name == name))


def test_right_words_predict_and_wrong_ones_do_not(report: Report) -> None:
    right, wrong, dealt = (values(report, name) for name in ("right", "wrong", "shuffled"))
    assert right["correlation"].value > max(wrong["correlation"].value, dealt["correlation"].value) + 0.1
    for metric in ("auprc", "f1", "iou"):  # few images are the strongest 5% of what many show: these stay low
        assert right[metric].value > wrong[metric].value, metric
    assert abs(wrong["correlation"].value) < 0.3
    assert (right["described"], right["distinct"], right["concepts"]) == (5, 5, 1.0)
    bands = [value.value for value in values(report, "right", 2).values()]
    assert bands[0] < bands[-1]
    assert values(report, "right", 1)["looks"].value == right["correlation"].value


def test_rows_end_with_the_floors(report: Report) -> None:
    assert [(row.name, row.role) for row in report.tables[0].rows] == [
        ("right", ""),
        ("wrong", ""),
        ("random_concept", "floor"),
        ("shuffled", "floor"),
        ("random", "floor"),
        ("constant", "floor"),
    ]


def test_no_describer_saw_the_evaluation_images(report: Report, folder: Path) -> None:
    explained, judged = (
        load_dissection(folder / "out" / part / "looks").open_probe() for part in ("dissection", "evaluation")
    )
    assert explained.fingerprint != judged.fingerprint
    seen = {explained.image(index).numpy().tobytes() for index in range(len(explained))}
    assert all(judged.image(index).numpy().tobytes() not in seen for index in range(len(judged)))


def test_written_sources_and_notes(report: Report, folder: Path) -> None:
    facts = json.loads((folder / "out" / "report.json").read_text())
    assert facts["facts"]["simulator"] == "labels"
    judge = {"evaluation images": "diorama:objects@judge", "simulator": "labels"}
    sources = {"target": TARGET, "probe": "diorama:objects@learn", **judge}
    assert facts["facts"]["sources"].items() >= sources.items()
    assert report.simulated in (folder / "out" / "page" / "index.html").read_text()
    assert any("diorama:objects@judge" in note for note in facts["notes"])
    assert (folder / "out" / "page" / "index.html").is_file()


def test_a_source_that_simulator_and_describer_share_is_a_warning(folder: Path) -> None:
    with pytest.warns(MilanWarning, match="netdissect and the simulator labels"):
        report = run(["netdissect"], out=folder / "shared")
    assert any(note.startswith("netdissect: ") for note in report.notes)


def test_a_describer_without_descriptions_has_no_scores(folder: Path) -> None:
    silent = options(folder, "silent", ";;;;")
    report = run([silent], out=folder / "silent-out")
    assert values(report, "silent")["described"] == 0
    assert "correlation" not in values(report, "silent")
    assert report.headlines == ()


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Report:
    """A network of Diorama's, of which somebody wrote a table."""
    table = folder / "table.csv"
    table.write_text(
        "layer,unit,description\n"
        + "".join(f"layer4,{unit},{word}\n" for unit, word in enumerate(["red", "tree", "sky", "red"]))
    )
    network = {"target": "diorama:resnet-objects", "layers": ["layer4"], "units": "0-3"}
    return run([str(table)], folder / "classifier", replaced_units=2, replaced_images=16, **network)


def test_linear_explanations_are_compared_with_and_without_their_search(folder: Path) -> None:
    report = run(["linear_explanations"], folder / "searching", search_ablation_lengths=[2])
    table = next(table for table in report.tables if table.name == "without greedy search")
    assert [row.name for row in table.rows] == ["linear_explanations", "linear_explanations, the 2 largest weights"]
    assert table.rows[0].values["correlation"] == values(report, "linear_explanations")["correlation"]
    assert table.rows[1].values["concepts"] == 2.0


def test_ablation_scores_of_replaced_units(classifier: Report) -> None:
    table = next(table for table in classifier.tables if table.name == "ablation score of layer4")
    assert [row.name for row in table.rows] == ["table", "shuffled", "random", "constant"]
    for row in table.rows:
        assert row.values["units"] <= 2
        assert row.values["closed"].value < 1
        assert row.values["optimised"].low <= row.values["optimised"].value <= row.values["optimised"].high < 1


def test_correlation_is_drawn_against_the_ablation_score(classifier: Report) -> None:
    (caption, figure) = classifier.figures[0]
    assert "Figure 5" in caption
    assert "ablation score" in figure
    assert any("r² explains" in note for note in classifier.notes)


def test_dead_units_are_below_a_hundredth_in_every_image(report: Report, classifier: Report, folder: Path) -> None:
    dissection = load_dissection(folder / "out" / "dissection" / "looks")
    highest = dissection.activations("mean").amax(0)
    limit = float(highest.sort().values[2]) + 1e-6
    weak = {unit for unit, value in zip(dissection.units, highest.tolist(), strict=True) if value < limit}
    assert find_dead_units(dissection, dissection.units, limit) == weak != set()
    table = next(table for table in classifier.tables if table.name == "dead units")
    (row,) = table.rows
    assert (row.name, row.values["units"], row.values["dead"]) == ("layer4", 4, 0.0)
    assert row.values["table"].value == values(classifier, "table")["correlation"].value


def test_an_imported_table_is_scored(classifier: Report) -> None:
    found = values(classifier, "table")
    assert (found["described"], found["distinct"], found["concepts"]) == (4, 3, 1.0)
    assert -1 <= found["correlation"].low <= found["correlation"].high <= 1
    assert dict(values(classifier, "table", 1))["layer4 concepts"] == 1.0


def test_a_network_without_class_logits_has_no_ablation_scores(report: Report) -> None:
    assert any(note.startswith("No ablation scores: 6 outputs for the 35 classes") for note in report.notes)

"""The bench on a network with known weights: scores, resuming, and errors of options."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from milan import Dictionary
from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from milan.experiments.__main__ import experiment_names, load_experiment, main
from milan.experiments.bench.bench import bench
from milan.experiments.bench.config import BenchConfig
from milan.experiments.bench.tables import read_planted_units
from milan.experiments.core.report import Report
from milan.probes import load_probe
from milan.scores.truth_score import Truth
from milan.targets.loading import load_target
from milan.targets.preprocessing import TargetOptions
from milan.targets.unit_selection import get_default_probe
from milan.units import Unit
from tests.experiments import worlds

TARGET = f"{worlds.__file__}:looks"
SAYING = f"{worlds.__file__}:Saying"
RIGHT = "red;green;blue;blue or red;things"
WRONG = "red cars;green;;red;red;"


def options(folder: Path, name: str, words: str, **more: object) -> str:
    """A file of options for a describer that says those words."""
    file = folder / f"{name}.yaml"
    settings = {"words": words, "asked": str(folder / f"{name}.asked")}
    file.write_text(yaml.safe_dump({"describer": SAYING, "settings": settings} | more))
    return str(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "planted.csv").write_text(worlds.PLANTED)
    return folder


def run(folder: Path, out: str = "out", **more: object) -> Report:
    names = [options(folder, "right", RIGHT), options(folder, "wrong", WRONG)]
    given = {
        "target": TARGET,
        "probe": "diorama:objects",
        "limit": 40,
        "layers": ["looks"],
        "planted_units": folder / "planted.csv",
    }
    return bench(BenchConfig(describers=names, out=folder / out, **given | more))


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return run(folder)


def values(report: Report, name: str, table: int = 0) -> dict:
    return dict(next(row.values for row in report.tables[table].rows if row.name == name))


def test_order_of_describers_ceiling_and_floors(report: Report) -> None:
    assert [(row.name, row.role) for row in report.tables[0].rows] == [
        ("right", ""),
        ("wrong", ""),
        ("annotators", "ceiling"),
        ("shuffled", "floor"),
        ("random_concept", "floor"),
        ("constant", "floor"),
    ]


def test_dead_units_are_not_counted(report: Report) -> None:
    assert report.facts["units"] == 5


@pytest.mark.parametrize(
    ("name", "exact", "both", "described", "distinct", "words"),
    [
        ("right", 4 / 4, 1.0, 5, 5, 7 / 5),
        ("wrong", 1 / 4, 0.0, 4, 3, 5 / 4),
    ],  # "red" alone is one half of what unit 3 means
)
def test_shares_by_hand(
    report: Report, name: str, exact: float, both: float, described: int, distinct: int, words: float
) -> None:
    found = values(report, name)
    assert (found["exact"].value, found["exact"].units) == (exact, 4)  # "nothing in particular" cannot be named
    assert (found["both halves"].value, found["both halves"].units) == (both, 1)
    assert (found["described"], found["distinct"]) == (described, distinct)
    assert found["words"].value == pytest.approx(words)


def test_a_missing_description_has_truth_score_0(report: Report, folder: Path) -> None:
    from milan.dissection.loading import load_dissection

    truth = Truth.measure(load_dissection(folder / "out" / "dissection" / "looks"), load_target(TARGET))
    words = ["red cars", "green", "", "red", "red"]
    by_hand = [truth.score(Unit("looks", index), text) for index, text in enumerate(words)]
    assert by_hand[2] == 0
    assert values(report, "wrong")["truth"].value == pytest.approx(sum(by_hand) / 5)
    assert (
        values(report, "right")["truth"].value
        > values(report, "wrong")["truth"].value
        > values(report, "random_concept")["truth"].value
    )
    assert values(report, "wrong", 1)["either"].value == pytest.approx(by_hand[3])
    assert values(report, "wrong", 1)["single exact"].value == 1 / 3


def test_everything_is_written_and_the_table_reads_back(report: Report, folder: Path) -> None:
    with (folder / "out" / "table.csv").open() as file:
        rows = {row["describer"]: row for row in csv.DictReader(file)}
    assert float(rows["wrong"]["exact"]) == 0.25
    assert float(rows["wrong"]["exact low"]) < 0.25 < float(rows["wrong"]["exact high"])
    facts = json.loads((folder / "out" / "report.json").read_text())
    assert facts["tables"][0]["rows"][1]["exact"] == 0.25
    assert facts["facts"]["describers"]["wrong"]["words"] == WRONG
    assert "| wrong |" in (folder / "out" / "table.md").read_text()
    assert {file.name for file in (folder / "out" / "describers").iterdir()} == {
        row.name for row in report.tables[0].rows
    }


def test_the_page_shows_all_descriptions_of_each_unit(report: Report, folder: Path) -> None:
    page = (folder / "out" / "page" / "index.html").read_text()
    cases = page.split('<article class="case"')[1:]
    assert len(cases) == 5
    assert all(case.count('<th scope="row">') == 6 for case in cases)
    assert "red or blue" in cases[3]
    assert ">blue or red<" in cases[3]
    assert 'blue or red</td><td class="mark">exact' in cases[3]
    assert 'green</td><td class="mark">exact' in cases[1]
    assert ">exact<" not in cases[4], "nothing in particular cannot be named"
    assert "it has no word for it" in cases[2]
    assert all(case.count("<canvas") == 1 for case in cases)
    assert any((folder / "out" / "page").glob("images/*/*.webp"))
    assert "as milan.diorama.text_reader reads it" in page, "how exact is defined is stated"


def test_only_failed_units_are_described_again(report: Report, folder: Path) -> None:
    asked = folder / "right.asked"
    before = asked.read_text().splitlines()
    assert sorted(before) == sorted({*before}) == [f"looks:{index}" for index in range(5)]
    seconds = json.loads((folder / "out" / "describers" / "right" / "seconds.json").read_text())
    again = run(folder)
    assert asked.read_text().splitlines() == before
    assert json.loads((folder / "out" / "describers" / "right" / "seconds.json").read_text()) == seconds
    assert values(again, "right")["truth"] == values(report, "right")["truth"]
    assert (folder / "wrong.asked").read_text().splitlines().count("looks:2") == 2  # it had failed there


def test_an_interrupted_run_is_resumed(folder: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "right.asked").unlink()
    monkeypatch.setenv("STOP_AT", "looks:3")
    with pytest.raises(KeyboardInterrupt):
        run(folder, "stopped")
    monkeypatch.delenv("STOP_AT")
    found = run(folder, "stopped")
    assert (folder / "right.asked").read_text().split() == [f"looks:{index}" for index in (0, 1, 2, 3, 3, 4)]
    for name in ("truth", "exact", "described"):
        assert values(found, "wrong")[name] == values(report, "wrong")[name]


def test_columns_without_planted_units(folder: Path) -> None:
    found = run(folder, "plain", planted_units=None, units="0-2")
    scores = ["truth", "correlation", "overlap", "described", "distinct", "words", "time"]
    assert [column.name for column in found.tables[0].columns] == scores
    assert [column.name for column in found.tables[1].columns] == ["looks"]
    assert values(found, "right")["described"] == 3


def test_neurons_and_latents_are_compared(folder: Path, tmp_path: Path) -> None:
    """Latents are red, green and blue; each neuron mixes two of them."""
    names = {f"looks@sae:{index}": text for index, text in enumerate(("red", "green", "blue"))}
    rows = [f"{unit.partition(':')[0]},{unit[-1]},single,{text}" for unit, text in names.items()]
    (tmp_path / "planted.csv").write_text("\n".join(["layer,unit,kind,text", *rows]) + "\n")
    save_file({"directions": torch.eye(6)[:3]}, tmp_path / "directions.safetensors")
    options = TargetOptions(dictionary=str(tmp_path / "directions.safetensors"), dictionary_layer="looks")
    layers = {"layers": ["looks", "looks@sae"], "planted_units": tmp_path / "planted.csv"}
    found = run(folder, "latents", target_options=options, units="0-4", **layers)
    assert [table.name for table in found.tables] == ["all units", "by layer", "neurons and latents"]
    right = values(found, "right", 2)
    latents, neurons = (right[f"{layer} truth"] for layer in ("looks@sae", "looks"))
    assert (latents.units, neurons.units) == (3, 5)
    difference = right["looks@sae minus looks truth"]
    assert difference.value == pytest.approx(latents.value - neurons.value)
    assert difference.low < difference.value < difference.high
    best = values(found, "best formula", 2)
    assert set(best) == {name for name in right if name.endswith("correlation")}
    assert best["looks@sae correlation"].value >= right["looks@sae correlation"].value - 0.05
    assert values(found, "right", 1)["looks@sae exact"].value == 1
    assert "looks@sae: 3 of 3 units are active" in " ".join(found.notes)


def test_meanings_in_the_rotated_network_are_those_of_its_directions() -> None:
    target = load_target("diorama:planted-rotated", dictionary="diorama:planted-rotated")
    found = read_planted_units(target)
    assert {unit.layer for unit in found} == {"units.concepts", "units@sae"}
    planted = read_planted_units(load_target("diorama:planted"))
    assert {unit.index: meaning for unit, meaning in found.items()} == {
        unit.index: meaning for unit, meaning in planted.items()
    }
    other = Dictionary(torch.eye(122), torch.eye(122))
    found = read_planted_units(load_target("diorama:planted-rotated").with_dictionary(other, "units"))
    assert {unit.layer for unit in found} == {"units.concepts"}


def test_wrong_options_are_errors_before_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown describer 'milam'; nearest: milan"):
        bench(BenchConfig(describers=["milam"], out=tmp_path / "out"))
    with pytest.raises(BadInput, match="have the same name"):
        bench(BenchConfig(describers=["constant", "constant"], out=tmp_path / "out"))
    (tmp_path / "broken.yaml").write_text("settings: {}\n")
    with pytest.raises(BadInput, match=r"broken\.yaml .* KeyError 'describer'"):
        bench(BenchConfig(describers=[str(tmp_path / "broken.yaml")], out=tmp_path / "out"))
    (tmp_path / "planted.csv").write_text("layer,unit\nlooks,0\n")
    with pytest.raises(BadInput, match=r"planted\.csv has the columns layer, unit and needs layer, unit, kind, text"):
        run(folder, "out", planted_units=tmp_path / "planted.csv")
    assert not (tmp_path / "out" / "dissection").exists()


def sources():
    return load_target("diorama:resnet-objects"), load_probe("diorama:objects", limit=2)


def test_dissection_options_of_a_describer_file_are_ignored_with_a_warning(folder: Path, tmp_path: Path) -> None:
    from milan.experiments.core.evaluated_describers import load_evaluated_describers

    with pytest.warns(MilanWarning, match="quantile"):
        load_evaluated_describers([options(tmp_path, "own", RIGHT, quantile=0.995)], *sources(), 0, "cpu")


def test_settings_of_a_describer_name_on_diorama() -> None:
    from milan.experiments.core.evaluated_describers import load_evaluated_describers

    config = Path(__file__).parents[2] / "configs" / "describe" / "linear_explanations-diorama.yaml"
    named, *others = load_evaluated_describers(["linear_explanations"], *sources(), 0, "cpu")
    file, *_ = load_evaluated_describers([str(config)], *sources(), 0, "cpu")
    assert named.name == file.name == "linear_explanations"
    assert named.describer.settings == file.describer.settings
    assert named.describer.settings["evidence"] == yaml.safe_load(config.read_text())["settings"]["evidence"]
    assert [other.name for other in others] == ["annotators", "shuffled", "random_concept", "constant"]


def test_a_probe_without_known_truth_is_an_error(folder: Path, tmp_path: Path) -> None:
    from milan.describers._shared.contract import make_toy_dissection

    make_toy_dissection(tmp_path)
    with pytest.raises(MissingEvidence, match=r"/probe' is not known"):
        run(folder, "unknown", probe=str(tmp_path / "probe"), limit=None)
    assert not (folder / "unknown").exists()


def test_default_probes_of_networks() -> None:
    assert get_default_probe(load_target("diorama:alexnet-scenes", weights="random")) == "diorama:scenes"
    assert get_default_probe(load_target("diorama:encoder", weights="random")) == "diorama:objects"


def test_experiments_are_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in experiment_names():
        assert load_experiment(name).__name__ == name
    assert main([]) == 0
    assert "bench           Compare describers" in capsys.readouterr().out
    assert main(["bemch"]) == 2
    assert "unknown experiment 'bemch'; nearest: bench" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["bench", "--describer", "milan"])
    assert "nearest: --describers" in capsys.readouterr().err

"""describe.py from the command line to the table and the page, and whatever can go wrong on the way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import milan
from milan.cli.describe import main
from milan.describers._shared.contract import make_toy_dissection
from milan.errors import BadInput, UnknownName
from milan.targets.unit_selection import parse_unit_selection
from tests.describers import worlds
from tests.programs import Program

ROOT = Path(__file__).parents[2]
TABLES = ("descriptions.csv", "descriptions.jsonl", "descriptions.parquet")
DETECTORS = f"{ROOT / 'milan/describers/_shared/contract.py'}:make_detectors"
COLOUR = f"{worlds.__file__}:Colour"
SLOW = """
import os, time
from tests.describers.worlds import Colour

class Slow(Colour):
    name = "slow"

    def one(self, dissection, unit):
        time.sleep(float(os.environ["PAUSE"]))
        with open(os.environ["ASKED"], "a") as file:
            print(unit, file=file)
        return super().one(dissection, unit)
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_toy_dissection(folder)
    return str(folder / "probe")


@pytest.fixture
def words(probe):
    """The options of a small run."""
    where = ["--target", DETECTORS, "--probe", probe, "--layers", "detectors", "answers"]
    return [*where, "--describer", COLOUR, "--k", "5", "--quantile", "0.9"]


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


def test_a_run_leaves_table_page_config_and_facts(words, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "11 of 14 units described (2 dead, 1 sparse)" in shown
    assert str(tmp_path / "out/page/index.html") in shown.replace("\n", "")
    assert {unit.layer for unit in (each.unit for each in milan.read_descriptions(tmp_path / "out"))} == {
        "answers",
        "detectors",
    }
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["layers"] == ["detectors", "answers"]
    assert {"target", "probe", "describer", "answers"} <= facts["hashes"].keys()
    assert {"python", "torch", "milan"} <= facts["versions"].keys()
    assert facts["seconds"].keys() == {"dissecting", "describing", "page"}
    assert (tmp_path / "out/page/index.html").exists()


def test_the_first_lines_of_the_table_are_as_always(words, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/descriptions.jsonl").read_text().splitlines()]
    first = {name: rows[0][name] for name in ("layer", "unit", "description", "describer", "status")}
    assert first == {"layer": "answers", "unit": 0, "description": "red", "describer": "colour", "status": "ok"}
    assert rows[0]["candidates"][0]["text"] == "red"
    assert set(rows[0]["candidates"][0]) == {"text", "score", "likelihood", "prior"}
    assert [row["status"] for row in rows] == [
        "ok",
        "ok",
        "ok",
        "ok",
        "dead",
        "sparse",
        "ok",
        "ok",
        "ok",
        "ok",
        "ok",
        "dead",
        "ok",
        "ok",
    ]
    assert [row["description"] for row in rows if row["status"] != "ok"] == ["", "", ""]


def test_its_config_makes_it_again(words, tmp_path):
    assert main([*words, "--settings.prefix", "very ", "--units", "0-3", "--out", str(tmp_path / "out")]) == 0
    assert main(["--config", str(tmp_path / "out/config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "again")
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["settings"] == {"prefix": "very "}
    assert (tmp_path / "out/page/index.html").read_text() == (tmp_path / "again/page/index.html").read_text()


def test_results_do_not_depend_on_batches_workers_or_threads(words, tmp_path):
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    torch.set_num_threads(2)
    try:
        assert main([*words, "--batch_size", "7", "--workers", "3", "--out", str(tmp_path / "other")]) == 0
    finally:
        torch.set_num_threads(1)
    assert tables(tmp_path / "one") == tables(tmp_path / "other")


def test_units_choose_and_layers_are_whole_beneath(words, tmp_path):
    assert main([*words, "--units", "answers:0-1,answers:6", "--out", str(tmp_path / "few")]) == 0
    assert main([*words, "--out", str(tmp_path / "all")]) == 0
    few, everything = milan.read_descriptions(tmp_path / "few"), milan.read_descriptions(tmp_path / "all")
    assert [str(each.unit) for each in few] == ["answers:0", "answers:1", "answers:6"]
    assert few == [each for each in everything if each.unit in {other.unit for other in few}]


def test_units_by_layer_and_range():
    counts = {"one": 10, "two": 4}
    assert parse_unit_selection("", counts) == {"one": list(range(10)), "two": [0, 1, 2, 3]}
    assert parse_unit_selection("two:1-2, one:9", counts) == {"one": [9], "two": [1, 2]}
    with pytest.warns(milan.errors.MilanWarning, match="two has 4 units; '2-5' .* 3"):
        assert parse_unit_selection("2-5", counts) == {"one": [2, 3, 4, 5], "two": [2, 3]}
    faults = {
        "7-8": "units of two lie between 0 and 3",
        "5-2": "not units: '5-2'",
        "x": "not units",
        "two:4": "0 and 3; 'two:4'",
    }
    for wrong, message in faults.items():
        with pytest.raises(BadInput, match=message):
            parse_unit_selection(wrong, counts)
    with pytest.raises(UnknownName, match="unknown layer of units 'tow'; nearest: two"):
        parse_unit_selection("tow:1", counts)


def test_a_dry_run_tells_the_size_and_writes_nothing(words, tmp_path, capsys):
    assert main([*words, "--units", "0-2", "--out", str(tmp_path / "out"), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "33 images of 64 x 64 pixels" in shown
    assert "6 units by colour" in shown
    assert "16 x 16" in shown
    assert "nothing was written" in shown
    assert list(tmp_path.iterdir()) == []


def test_layers_are_listed(capsys):
    assert main(["--target", DETECTORS, "--list_layers"]) == 0
    assert "detectors  7x16x16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layers", "answer"], "unknown layer 'answer'; nearest: answers"),
        (["--describer", "milam"], "unknown describer 'milam'; nearest: milan"),
        (["--settings.prefx", "a"], "'prefx'; nearest: prefix"),
        (["--settings.times", "many"], "Got value: many"),
        (["--units", "3-1"], "not units: '3-1'"),
        (["--probe", "/nowhere/pictures"], "/nowhere/pictures"),
        (["--target", "torchvision:resnet81"], "unknown"),
        (["--k", "0"], "k is 0"),
        (["--memory", "lots"], "not a size: memory='lots'"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(words, tmp_path, capsys, more, message):
    assert main([*words, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert len([line for line in error if line.startswith("error")]) == 1
    assert not (tmp_path / "out/descriptions.csv").exists()


@pytest.mark.parametrize("option", [["--setings.a", "1"], ["--layer", "a"], ["--k", "many"]])
def test_options_that_are_none_end_with_two(words, option, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, *option])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_no_layers_named_for_another_network(words, capsys):
    assert main(["--target", DETECTORS]) == 2
    assert "--list_layers" in capsys.readouterr().err


def test_an_out_that_cannot_be(words, tmp_path, capsys):
    (tmp_path / "file").write_text("here")
    assert main([*words, "--out", str(tmp_path / "file")]) == 2
    assert "is a file; " in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "here"


def test_two_runs_do_not_share_a_folder(words, tmp_path, capsys):
    from milan.storage.files import lock_folder

    with lock_folder(tmp_path / "out"):
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "is being written by this process" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_bytes(words, tmp_path, monkeypatch, number, status):
    (tmp_path / "slow.py").write_text(SLOW)
    slow = [*words[:-6], "--describer", f"{tmp_path / 'slow.py'}:Slow", *words[-4:], "--out", str(tmp_path / "out")]
    asked = tmp_path / "asked"
    first = Program(main, slow, folder=tmp_path / "first", ASKED=str(asked), PAUSE="0.4")
    for _ in range(9000):
        if asked.exists() and len(asked.read_text().splitlines()) >= 3:
            break
        time.sleep(0.01)
    first.send(number)
    assert first.wait() == status, first.err
    assert status < 0 or "run the same command again to continue" in first.err
    assert not (tmp_path / "out/descriptions.csv").exists()
    before = asked.read_text().splitlines()
    assert 3 <= len(before) < 11
    again = Program(main, slow, folder=tmp_path / "again", ASKED=str(asked), PAUSE="0")
    assert again.wait() == 0, again.err
    after = asked.read_text().splitlines()[len(before) :]
    assert len(set(before) & set(after)) <= 1  # the one that was being said when the run was killed
    assert len({*before, *after}) == 11
    monkeypatch.setenv("ASKED", str(tmp_path / "other"))
    monkeypatch.setenv("PAUSE", "0")
    assert main([*slow[:-1], str(tmp_path / "whole")]) == 0
    assert tables(tmp_path / "whole") == tables(tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".partial-*"))


def test_a_rerun_asks_nothing_again_and_a_changed_image_is_no_hit(words, tmp_path, probe, monkeypatch):
    monkeypatch.setattr(worlds.Counting, "asked", [])
    describer = worlds.Counting()
    options = {"layers": ["answers"], "out": tmp_path / "out", "k": 5}
    images = milan.load_probe(probe, size=64)
    first = milan.describe(milan.load_target(DETECTORS), images, describer, **options)
    assert milan.describe(milan.load_target(DETECTORS), images, describer, **options).entries == first.entries
    assert len(worlds.Counting.asked) == len(first.descriptions)
    other = milan.load_probe(probe, size=64, limit=30)
    milan.describe(milan.load_target(DETECTORS), other, describer, **options)
    assert len(worlds.Counting.asked) > len(first.descriptions)


def test_failures_are_told_and_tried_again(words, tmp_path, probe, monkeypatch):
    monkeypatch.setattr(worlds.Counting, "asked", [])
    monkeypatch.setattr(worlds.Counting, "failing", {2})
    options = {"layers": ["answers"], "out": tmp_path / "out", "k": 5}
    first = milan.describe(DETECTORS, probe, worlds.Counting(), **options)
    assert first.counts == {"dead": 1, "failed": 1, "ok": 4, "sparse": 1}
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert any("answers:2: HTTP 500" in warning for warning in facts["warnings"])
    assert "HTTP" not in json.dumps(
        [each["description"] for each in map(json.loads, (tmp_path / "out/descriptions.jsonl").open())]
    )
    monkeypatch.setattr(worlds.Counting, "failing", set())
    assert milan.describe(DETECTORS, probe, worlds.Counting(), **options).counts == {
        "dead": 1,
        "ok": 5,
        "sparse": 1,
    }
    assert len(worlds.Counting.asked) == 6


def test_a_module_and_pixels_from_python(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    network.train()
    images = milan.Probe.from_tensor(torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8))
    target = milan.Target(network, name="mine", image_size=64)
    found = milan.describe(
        target, images, worlds.Colour(), layers=["1"], units=[milan.Unit("1", 2)], out=tmp_path / "out", k=3
    )
    assert [each.unit for each in found] == [milan.Unit("1", 2)]
    assert network.training
    assert not (tmp_path / "out/config.yaml").exists()  # nothing that could be written makes a module of Python's again
    assert "mine" in (tmp_path / "out/page/index.html").read_text()


NAMES = ("a#1", "A#1", "a", "a/b", "é", "a:b", "a,b:3", " a b", "a\nb", "x" * 300, "层" * 60, "con", "..", "=1")


class Named(nn.Module):
    """One layer of each name, the one called ``a`` being called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in NAMES:
            self._modules[name] = nn.Conv2d(3, 2, 3)

    def forward(self, images):
        return sum(self._modules[name](images).mean() for name in ("a", *NAMES))


def test_a_layer_may_have_any_name(tmp_path):
    target = milan.Target(Named(), name="named", image_size=16)
    images = milan.Probe.from_tensor(torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8))
    layers = ["a#0", "a##1", *(name for name in NAMES if name != "a")]
    options = {"layers": layers, "out": tmp_path / "out" / "run", "k": 2}
    catalogue = milan.describe(target, images, "constant:text=things", **options)
    assert set(catalogue.layers) == set(layers)
    units = {each.unit for each in catalogue}
    for table in TABLES:
        assert {each.unit for each in milan.read_descriptions(tmp_path / "out" / "run" / table)} == units
    folders = [file.parent for file in tmp_path.glob("out/run/dissection/*/dissection.json")]
    assert {milan.load_dissection(folder).layer for folder in folders} == set(layers)
    assert len({folder.name.casefold() for folder in folders}) == len(layers)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["run"]
    fewer = {"units": "a,b:3:0-1, =1:1,a\nb:0", "out": tmp_path / "few"}
    few = milan.describe(target, images, "constant:text=things", **options | fewer)
    assert {str(each.unit) for each in few} == {"a,b:3:0", "a,b:3:1", "=1:1", "a\nb:0"}


def test_help_answers_in_a_second_without_torch():
    start = time.monotonic()
    message = subprocess.run(
        [sys.executable, str(ROOT / "describe.py"), "--help"], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - start
    assert "--settings.KEY VALUE" in " ".join(message.stdout.split())
    assert seconds < 10  # about 0.4 on a free core
    without = "import sys; sys.modules['torch'] = None; from milan.cli.describe import main; main(['--help'])"
    assert subprocess.run([sys.executable, "-c", without], capture_output=True, cwd=ROOT, check=False).returncode == 0

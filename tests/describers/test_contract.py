"""Every describer of the package keeps the contract; the check finds those that do not."""

from pathlib import Path

import pytest
import torch
import yaml

import milan
from milan.cli.describe import run_describe
from milan.console.command_line import build_parser
from milan.describers import (
    Describer,
    check_describer,
    find_describer_class,
    list_describers,
    load_describer,
    parse_settings,
)
from milan.describers._shared.contract import UNITS, make_toy_dissection, watch_writes
from milan.errors import BadInput, MilanError, UnknownName
from milan.pretrained.embedder import load_embedder
from tests.describers import worlds
from tests.describers.makers import MAKERS


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


def test_the_toy_world_is_as_its_names_say(toys):
    said = {each.unit.index: each.text for each in worlds.Colour().describe(toys, toys.units)}
    assert {UNITS[index]: text.strip() for index, text in said.items()}.items() >= {
        "red": "red",
        "green": "green",
        "blue": "blue",
    }.items()
    assert [toys.status[unit] for unit in toys.units] == ["ok", "ok", "ok", "ok", "dead", "sparse", "ok"]


@pytest.mark.parametrize("name", list_describers())
def test_every_describer_of_the_package_keeps_it(name, tmp_path, toys):
    assert name in MAKERS, f"tests/describers/makers.py does not say how {name} is made for this test"
    MAKERS[name](tmp_path)  # writes what it needs before the watch begins
    check_describer(lambda: MAKERS[name](tmp_path))


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The toy layer, and the latents of a dictionary that copies it."""
    folder = tmp_path_factory.mktemp("twins")
    toys = make_toy_dissection(folder)
    target = toys.open_target().with_dictionary(milan.Dictionary(torch.eye(7), torch.eye(7)), "answers")
    latents = milan.dissect(target, toys.open_probe(), ["answers@sae"], folder / "latents", k=5, quantile=0.9)
    return toys, latents["answers@sae"]


@pytest.mark.parametrize("name", list_describers())
def test_latents_that_copy_neurons_are_described_as_these(name, tmp_path, twins):
    texts = []
    for layer in twins:
        units = [layer.units[0], layer.units[3]]
        texts.append({each.unit.index: each.text for each in MAKERS[name](tmp_path).describe(layer, units)})
    assert texts[0].keys() == texts[1].keys() == {0, 3}
    # Those that draw at random draw by the names of the units.
    assert texts[0] == texts[1] or name in ("random_concept", "shuffled")


def test_a_describer_that_keeps_it_passes(toys):
    milan.check_describer(worlds.Colour, toys)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (worlds.Peeking, "one by one"),
        (worlds.Morbid, "it described answers:0.*answers:4"),
        (worlds.Fickle, "another state of torch's generator"),
        (worlds.Shuffling, "asked in another order"),
        (worlds.Mute, "empty description"),
    ],
)
def test_the_check_finds_what_breaks_it(broken, message, toys):
    with pytest.raises(AssertionError, match=message):
        check_describer(broken, toys)


def test_the_check_finds_files_left_behind(tmp_path, toys):
    left = tmp_path / "left.txt"
    with pytest.raises(AssertionError, match=r"outside its caches: .*left\.txt"):
        check_describer(lambda: worlds.Littering(str(left)), toys)
    assert left.exists()


def test_watching_sees_folders_renames_and_deletions(tmp_path):
    (tmp_path / "old").write_text("x")
    with watch_writes() as written:
        (tmp_path / "made").mkdir()
        (tmp_path / "old").rename(tmp_path / "new")
        (tmp_path / "new").unlink()
        (tmp_path / "read").exists()
    (tmp_path / "later").write_text("x")
    assert {Path(each).name for each in written} == {"made", "new"}


def test_unknown_describers_and_settings_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown describer 'milam'; nearest: milan"):
        load_describer("milam")
    with pytest.raises(UnknownName, match=r"unknown setting of milan 'baem'; nearest: beam"):
        load_describer("milan", baem=3)


def test_a_describer_from_a_file():
    cls = find_describer_class(f"{worlds.__file__}:Colour")
    assert issubclass(cls, Describer)
    assert cls(times=2).settings == {"prefix": "", "times": 2}
    with pytest.raises(UnknownName, match="nearest: Colour"):
        find_describer_class(f"{worlds.__file__}:Color")
    with pytest.raises(BadInput, match=r"no file nowhere\.py"):
        find_describer_class("nowhere.py:Colour")


OWN = """
from __future__ import annotations
from dataclasses import dataclass
from milan.describers import Describer
import beside_describer
@dataclass
class Facts: number: int
class Whole(Describer):
    def describe(self, dissection, units): yield
class Half(Describer): pass
class Forgets(Whole):
    def __init__(self, depth: int = 1): pass
class Fails(Whole):
    def __init__(self, depth: int = 1): raise OSError("no depth")
"""


def test_a_describer_of_ones_own_may_be_short_and_its_faults_are_told(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside_describer.py").write_text("")
    made = load_describer(f"{tmp_path}/own.py:Whole")
    assert (made.name, made.settings) == ("whole", {})
    assert made.key == load_describer(f"{tmp_path}/own.py:Whole").key
    faults = {"Half": "lacks describe", "Facts": "no subclass of milan.Describer", "Fails": "OSError: no depth"}
    for name, message in faults.items():
        with pytest.raises(MilanError, match=message):
            load_describer(f"{tmp_path}/own.py:{name}")
    with pytest.raises(UnknownName, match="it has no settings"):
        load_describer(f"{tmp_path}/own.py:Whole", depth=1)
    with pytest.raises(BadInput, match="is not stored; store it in the constructor"):
        _ = load_describer(f"{tmp_path}/own.py:Forgets").settings


@pytest.mark.parametrize(
    ("code", "message"),
    [("def x(:", r"SyntaxError: .* \(own.py, line 1\)"), ("1 / 0", "ZeroDivisionError"), ("exit()", "SystemExit")],
)
@pytest.mark.parametrize("load", [load_describer, milan.load_target, load_embedder])
def test_a_file_of_ones_own_that_does_not_run_is_one_line(load, code, message, tmp_path):
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(BadInput, match=message):
        load(f"{tmp_path}/own.py:Mine")


def test_the_key_follows_settings_and_code():
    assert worlds.Colour().key == worlds.Colour().key
    assert worlds.Colour().key != worlds.Colour(times=2).key


VERSIONED = """
from milan import Description
from milan.describers import Describer

class Own(Describer):
    name = "own"{version}

    def __init__(self):
        pass

    def describe(self, dissection, units):
        return (Description(unit, "{text}", 0.0) for unit in units)
"""


@pytest.mark.parametrize("stated", [True, False])
def test_a_stated_version_stands_for_the_code_else_its_text_does(stated, tmp_path):
    def key(text, version):
        file = tmp_path / "own.py"
        file.write_text(VERSIONED.format(text=text, version=f"\n    version = {version}" if stated else ""))
        return find_describer_class(f"{file}:Own")().key

    assert key("a", 1) == key("a", 1)
    assert (key("a", 1) == key("another", 1)) == stated
    assert (key("a", 1) == key("a", 2)) == (not stated)


def test_a_class_made_at_a_prompt_is_known_by_its_code():
    def key(text):
        place: dict = {}
        exec(VERSIONED.format(text=text, version=""), place)
        return place["Own"]().key

    assert key("a") == key("a") != key("b")


@pytest.mark.parametrize("name", list_describers())
def test_every_describer_of_the_package_states_its_version(name):
    assert isinstance(vars(find_describer_class(name)).get("version"), int)


CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "describe").glob("*.yaml"))


@pytest.fixture(scope="module")
def parser():
    return build_parser("describe.py", "", run_describe)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_configuration_is_made_of_options_and_settings_that_there_are(config, parser):
    options = parser.parse_args(["--config", str(config)])
    assert config.stem.partition("-")[0] == options.describer, "named for its describer"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")).get("settings", {})
    made = load_describer(options.describer, **parse_settings(options.describer, options.settings or {}))
    assert {name: made.settings[name] for name in settings} == settings


def test_every_describer_has_its_published_setting_but_ceiling_and_floors():
    assert set(list_describers()) - {config.stem for config in CONFIGS} <= {
        "annotators",
        "constant",
        "imported",
        "random_concept",
        "shuffled",
    }

"""Ceiling and floors: whose words they say, by what rule, and that chance follows the seed and the unit alone."""

from collections import Counter
from pathlib import Path

import pytest

from milan.concepts.concept_sets import load_concept_set
from milan.describers import DescriptionFailure
from milan.describers._shared.contract import make_toy_dissection
from milan.describers.annotators import compute_agreement
from milan.describers.constant import find_most_frequent_text
from milan.describers.random_concept import choose_index
from milan.describers.shuffled import permute_units
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import export_milannotations, read_unit_annotations
from milan.errors import BadInput, MissingEvidence
from milan.probes import load_probe
from milan.results.catalogue import Catalogue
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.loading import load_target
from milan.units import Description, Unit
from tests.describers import worlds
from tests.describers.makers import load_simulated

EMBEDDED = locate_packaged_data("data/diorama/annotations") / "resnet-objects" / "layer4"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Dissection:
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


@pytest.fixture
def table(tmp_path: Path) -> str:
    """What two or three annotators said of the first units of the toy world; unit 3 has one text, unit 6 none."""
    rows = [
        "0,a red square",
        "0,red squares",
        "0,red squares",
        "1,green",
        "1,green things",
        "3,squares",
        "4,of a dead unit",
    ]
    file = tmp_path / "annotations.csv"
    file.write_text("\n".join(["layer,unit,summary", *(f"answers,{row}" for row in rows)]) + "\n")
    return str(file)


def texts(describer, dissection: Dissection, units=None) -> dict[int, str]:
    return {
        each.unit.index: each.text
        for each in describer.describe(dissection, units or dissection.units)
        if isinstance(each, Description)
    }


def test_the_annotator_who_speaks_is_chosen(toys: Dissection, table: str) -> None:
    said = {who: texts(load_simulated("annotators", source=table, who=who), toys) for who in ("first", "agreed", 1, 2)}
    assert said["first"] == {0: "a red square", 1: "green", 3: "squares"}
    assert said["agreed"] == {0: "red squares", 1: "green things", 3: "squares"}  # BLEU is harder on what is short
    assert said[1] == {0: "red squares", 1: "green things", 3: "squares"}
    assert said[2] == {0: "red squares", 1: "green things", 3: "squares"}


def test_a_unit_that_nobody_annotated_is_a_failure(toys: Dissection, table: str) -> None:
    failed = [
        each
        for each in load_simulated("annotators", source=table).describe(toys, toys.units)
        if isinstance(each, DescriptionFailure)
    ]
    assert failed == [
        DescriptionFailure(Unit("answers", index), f"nobody annotated answers:{index}") for index in (2, 6)
    ]


def test_agreement_is_the_mean_of_sentence_bleus() -> None:
    assert compute_agreement("Red squares", ["red squares", "blue circles"]) == pytest.approx(0.5)
    assert compute_agreement("red squares", []) == 0
    assert 0 < compute_agreement("red squares", ["red squares and more"]) < 1  # too short, as BLEU has it


def test_released_annotations_speak_for_their_own_folder(toys: Dissection, tmp_path: Path) -> None:
    said = {unit: [f"text of {unit.index}", "other"] for unit in toys.units}
    released = load_dissection(export_milannotations(toys, tmp_path / "set", said))
    assert texts(load_simulated("annotators"), released) == {index: f"text of {index}" for index in range(7)}


def test_dioramas_own_annotations_are_found_by_network_layer_and_probe(tmp_path: Path) -> None:
    known = read_unit_annotations(EMBEDDED)
    dissection = dissect(
        load_target("diorama:resnet-objects"), load_probe("diorama:objects", limit=60), ["layer4"], tmp_path
    )["layer4"]
    units = dissection.active_units()[:4]
    assert texts(load_simulated("annotators"), dissection, units) == {unit.index: known[unit][0] for unit in units}
    simulated = load_simulated("annotators", source="simulated")
    first = texts(simulated, dissection, units)
    assert first == texts(load_simulated("annotators", source="simulated"), dissection, units)
    assert all(first.values())
    assert first != texts(load_simulated("annotators", source="simulated", seed=1), dissection, units)


def test_annotators_simulated_again_say_what_the_embedded_ones_said() -> None:
    layer = load_dissection(EMBEDDED)
    units = layer.active_units()[:6]
    known = read_unit_annotations(EMBEDDED)
    said = load_simulated("annotators", source="simulated").describe(layer, units)
    assert [{each.text for each in one.candidates} for one in said] == [set(known[unit]) for unit in units]


def test_nobody_is_simulated_on_pictures_that_nobody_knows(toys: Dissection) -> None:
    with pytest.raises(MissingEvidence, match="nobody annotated answers, and none can be simulated on the probe"):
        list(load_simulated("annotators").describe(toys, toys.units))
    with pytest.raises(BadInput, match="no annotations at nowhere"):
        _ = load_simulated("annotators", source="nowhere").key


def test_its_key_follows_the_texts(table: str) -> None:
    key = load_simulated("annotators", source=table).key
    assert key == load_simulated("annotators", source=table).key
    assert key != load_simulated("annotators", source=table, who="agreed").key
    Path(table).write_text(Path(table).read_text().replace("green", "lime"))
    assert key != load_simulated("annotators", source=table).key


def test_the_constant_is_the_commonest_annotation(toys: Dissection, table: str) -> None:
    counted = Counter(
        " ".join(text.lower().split())
        for file in locate_packaged_data("data/diorama/annotations").glob("*/*/annotations.csv")
        for said in read_unit_annotations(file).values()
        for text in said
    )
    assert counted[find_most_frequent_text("diorama")] == max(counted.values())
    assert find_most_frequent_text(table) == "red squares"
    assert texts(load_simulated("constant", annotations=table), toys) == dict.fromkeys((0, 1, 2, 3, 6), "red squares")
    assert set(texts(load_simulated("constant", text=" things "), toys).values()) == {"things"}
    with pytest.raises(BadInput, match="no annotations at nowhere"):
        _ = load_simulated("constant", annotations="nowhere").key


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_no_unit_keeps_its_own_and_each_text_is_used_once(count: int) -> None:
    units = [Unit("layer", index) for index in range(count)]
    for seed in range(5):
        found = permute_units(units, seed)
        assert list(found) == units
        assert sorted(found.values()) == units
        assert all(unit != other for unit, other in found.items())
    assert permute_units(units, 0) == {unit: permute_units(units[::-1], 0)[unit] for unit in units}
    if count > 3:
        assert permute_units(units, 0) != permute_units(units, 1)


def test_shuffled_gives_away_what_another_describer_says(toys: Dissection) -> None:
    colour = f"{worlds.__file__}:Colour"
    own = texts(worlds.Colour(prefix="very "), toys)
    exchange = permute_units(toys.active_units(), 0)
    assert texts(load_simulated("shuffled", of=colour, options={"prefix": "very "}), toys) == {
        unit.index: own[exchange[unit].index] for unit in toys.active_units()
    }
    assert (
        load_simulated("shuffled", of=colour).key
        != load_simulated("shuffled", of=colour, options={"prefix": "very "}).key
    )


def test_shuffled_takes_a_table(toys: Dissection, tmp_path: Path) -> None:
    said = [Description(unit, f"text {unit.index}", 1.0) for unit in toys.active_units()[:-1]]
    Catalogue.from_descriptions(said, describer="x").write(tmp_path)
    found = list(load_simulated("shuffled", of=str(tmp_path)).describe(toys, toys.units))
    exchange = permute_units(toys.active_units(), 0)
    assert {each.unit: each.text for each in found if isinstance(each, Description)} == {
        unit: f"text {other.index}" for unit, other in exchange.items() if other != toys.active_units()[-1]
    }
    assert [each.unit for each in found if isinstance(each, DescriptionFailure)] == [
        unit for unit, other in exchange.items() if other == toys.active_units()[-1]
    ]


def test_random_concepts_are_of_the_set_and_follow_the_seed(toys: Dissection, tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("zebra\nlion\n")
    said = texts(load_simulated("random_concept", concepts=str(tmp_path / "set.txt")), toys)
    assert set(said) == {0, 1, 2, 3, 6}
    assert set(said.values()) <= {"zebra", "lion"}
    ours = texts(load_simulated("random_concept"), toys)
    assert set(ours.values()) <= set(load_concept_set("diorama"))
    assert ours != texts(load_simulated("random_concept", seed=1), toys)


def test_lots_are_equally_likely() -> None:
    counts = Counter(choose_index(f"0 layer:{index}", 5) for index in range(5000))
    assert all(abs(count - 1000) < 100 for count in counts.values())  # 3.5 standard errors

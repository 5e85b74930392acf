"""The exam of the truth score: what it must say of right, half right, negated, padded and empty descriptions.

Units are active on the pixels of a known formula, with noise, over rendered scenes; nobody has to be believed.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from milan.diorama import DioramaImages
from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.scene_concepts import get_readable_name, list_concepts
from milan.diorama.text_reader import parse_description
from milan.dissection.dissect import dissect
from milan.errors import MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.scores import activation_sums
from milan.scores.activation_sums import ActivationSums, LabelledScenes
from milan.scores.truth_score import Truth, find_best_constant
from milan.targets.target import Target
from milan.units import Unit

SCENES, NOISE = 500, 0.02
PLANTED = (
    "sky", "person", "red car", "tree or house", "water but not blue", "vehicles", "wheel", "striped water",
    "2 outdoors - 1 sky", "red and (car or boat)",
)  # fmt: skip
UNITS = {text: Unit("layer", index) for index, text in enumerate((*PLANTED, "noise", "dead"))}
ALL_NAMES = [get_readable_name(concept) for concept in list_concepts()]


def make_truth(first: int) -> Truth:
    images = DioramaImages("objects", length=SCENES, first=first)
    signatures = LabelSignatures.from_images(images)
    probe = Probe.from_tensor(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    scenes = LabelledScenes.from_signatures(probe, signatures, images.fingerprint)
    meant = np.stack([signatures.text_values(parse_description(text)) for text in PLANTED], axis=1)

    def maps() -> Iterator[tuple[int, np.ndarray]]:
        rng = np.random.default_rng(first)
        for index, row in enumerate(signatures.pixels.reshape(SCENES, -1)):
            values = np.concatenate([meant[row], np.zeros((len(row), 2))], axis=1)
            values[:, :-1] += rng.normal(0, NOISE, (len(row), len(UNITS) - 1))
            yield index, values.astype(np.float32)

    return Truth(list(UNITS.values()), scenes, ActivationSums.from_maps(scenes, maps(), np.full(len(UNITS), 0.5)))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return make_truth(6_000_000)


Check = Callable[[float], bool]


def same(score: float) -> bool:
    return score >= 0.95


def nothing(score: float) -> bool:
    return score == 0


def at_most(limit: float) -> Check:
    return lambda score: score <= limit


def between(low: float, high: float) -> Check:
    return lambda score: low <= score <= high


@pytest.mark.parametrize(
    ("unit", "texts", "check"),
    [
        # The formula itself, in any form of its words, is the best that can be said.
        ("sky", ("sky", "Skies", "the SKY", "a picture of the sky", "sky, sky and sky", "views of the sky"), same),
        ("person", ("person", "people", "a man", "men", "women", "a child", "children", "humans"), same),
        ("vehicles", ("vehicle", "vehicles", "a vehicle"), same),
        ("wheel", ("wheels", "tyres", "the tires", "wheel"), same),
        ("red car", ("red cars", "a scarlet automobile", "both red and car", "red & car", "cars that are red"), same),
        ("tree or house", ("trees and houses", "houses or trees", "house, tree", "tree | house"), same),
        ("water but not blue", ("water that is not blue", "non-blue lakes", "water, but not blue"), same),
        ("red and (car or boat)", ("red cars and red boats", "red boats or red cars", "red and (boat or car)"), same),
        ("striped water", ("striped water", "water with stripes", "a stripy lake"), same),
        # Negations of the truth, contradictions, and texts without meaning here are worth nothing.
        ("sky", ("no sky", "not the sky", "without sky", "anything but the sky", "everything except sky"), nothing),
        ("red car", ("no red cars", "anything but red cars", "red cars but not cars", "neither red nor car"), nothing),
        ("sky", ("sky but not sky", "", "nothing in particular", "glimmering whatnots", "sky shimmer gloss"), nothing),
        # Silence about a unit that can be described is wrong.
        ("wheel", ("", "nothing"), nothing),
        # Everything at once says nothing.
        ("red car", (", ".join(ALL_NAMES), " ".join(ALL_NAMES), "everything", "objects", "things"), at_most(0.1)),
        ("wheel", (", ".join(ALL_NAMES), " ".join(ALL_NAMES), "anything", "outdoors"), at_most(0.1)),
        # Wheels lie within the quarter of all pixels that show things, so that "objects" does tell a little.
        ("wheel", ("objects",), at_most(0.2)),
        ("tree or house", (", ".join(ALL_NAMES), " ".join(ALL_NAMES), "everything"), at_most(0.1)),
        # Half of a conjunction or of an either-or unit, an attribute that is missing: part of the way.
        ("red car", ("cars",), between(0.2, 0.9)),
        ("red car", ("red",), between(0.05, 0.9)),
        ("tree or house", ("tree", "houses"), between(0.2, 0.9)),
        ("striped water", ("water",), between(0.1, 0.9)),
        # An attribute that is wrong leaves nothing that holds.
        ("red car", ("blue cars", "red boats"), at_most(0.05)),
        # Attributes bind to the thing that they stand with.
        ("red car", ("red cars with blue wheels", "red cars and blue wheels of cars"), between(0.6, 1)),
        ("red car", ("blue cars with red wheels",), at_most(0.4)),
        # Suppression counts.
        ("2 outdoors - 1 sky", ("2 outdoors - 1 sky",), same),
        # Nothing can be said of noise but that there is nothing to say.
        ("noise", ("", "nothing", "nothing in particular"), same),
        ("noise", ("sky", "red cars", "everything", "glimmering"), nothing),
        ("dead", ("sky", ""), math.isnan),
    ],
)  # fmt: skip
def test_exam(truth: Truth, unit: str, texts: tuple[str, ...], check: Check) -> None:
    scores = {text: truth.score(UNITS[unit], text) for text in texts}
    assert all(map(check, scores.values())), scores


@pytest.mark.parametrize("unit", PLANTED)
def test_what_is_planted_and_what_is_printed_as_best_score_one(truth: Truth, unit: str) -> None:
    assert truth.is_describable(UNITS[unit])
    assert truth.score(UNITS[unit], unit) >= 0.95
    best = truth.find_best(UNITS[unit])
    assert truth.score(UNITS[unit], best.text) == pytest.approx(1)
    assert truth.correlation(UNITS[unit], best.text) == pytest.approx(best.correlation) == truth.ceiling(UNITS[unit])


@pytest.mark.parametrize("unit", ["sky", "person", "red car", "wheel"])
def test_other_things_added_lower_the_score_step_by_step(truth: Truth, unit: str) -> None:
    others = ["grass", "clouds", "dogs", "chairs", "boats", "lamps", "fences", "clocks", "hills"]
    scores = [truth.score(UNITS[unit], ", ".join([unit, *others[:count]])) for count in (0, 1, 2, 4, 9)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_binding_and_suppression_order_texts(truth: Truth) -> None:
    red_car, mixed = UNITS["red car"], UNITS["2 outdoors - 1 sky"]
    right, wrong = (truth.score(red_car, f"{a} cars with {b} wheels") for a, b in (("red", "blue"), ("blue", "red")))
    assert right >= wrong + 0.5
    assert truth.score(mixed, "2 outdoors - 1 sky") > truth.score(mixed, "2 outdoors") + 0.02


def test_figures_beside_the_score(truth: Truth) -> None:
    found = truth.judge(UNITS["tree or house"], "trees")
    assert found.floor < found.correlation < found.ceiling
    assert found.truth.value == pytest.approx((found.correlation - found.floor) / (found.ceiling - found.floor))
    assert 0 < found.overlap < truth.overlap(UNITS["tree or house"], "tree or house")
    assert found.truth.low < found.truth.value < found.truth.high
    assert not truth.judge(UNITS["sky"], "glimmering whatnots").is_understood
    assert truth.chance_level(UNITS["wheel"]) < 0.1 < truth.chance_level(UNITS["sky"])
    assert find_best_constant([(truth, UNITS["sky"]), (truth, UNITS["noise"])])[0] == "sky"
    with pytest.raises(UnknownName, match="layer:99"):
        truth.score(Unit("layer", 99), "cars")


def test_other_scenes_give_a_score_within_the_intervals(truth: Truth) -> None:
    other = make_truth(7_000_000)
    outside = []
    for unit, texts in {
        "sky": ("blue", "sky and clouds"), "person": ("faces", "person or dog"), "tree or house": ("trees", "houses"),
        "striped water": ("water", "stripes"), "vehicles": ("cars", "boats and trains"), "wheel": ("black", "cars"),
        "water but not blue": ("water", "white"), "red and (car or boat)": ("red", "boats"),
    }.items():  # fmt: skip
        for text in texts:
            one, two = (each.judge(UNITS[unit], text).truth for each in (truth, other))
            width = math.hypot((one.high - one.low) / 2, (two.high - two.low) / 2)
            outside.append(abs(one.value - two.value) > width)
    assert sum(outside) <= 2


@pytest.mark.parametrize(
    ("text", "planted", "is_exact", "has_all_parts"),
    [
        ("tyres", "wheel", True, True),
        ("wheels of cars", "wheel", False, False),
        ("wheels, and wheels of cars", "wheel", True, True),
        ("striped red things", "red stripes", True, True),
        ("red", "red stripes", False, False),
        ("red and stripes", "red stripes", False, False),
        ("windows or tires", "wheel or window", True, True),
        ("windows", "wheel or window", False, False),
        ("(wheel or window) but not room", "wheel or window", False, True),
        ("red and blue stripes", "red stripes or blue stripes", True, True),
        ("4.60 wheel + 3.03 window", "wheel or window", True, True),
        (", ".join(ALL_NAMES), "wheel or window", False, False),
        ("not wheel or not window", "wheel or window", False, False),
        ("", "wheel", False, False),
    ],
)
def test_what_is_named_exactly(truth: Truth, text: str, planted: str, is_exact: bool, has_all_parts: bool) -> None:
    assert (truth.is_exact(text, planted), truth.names_all_parts(text, planted)) == (is_exact, has_all_parts)


def test_truth_of_a_network_that_sees_red(tmp_path, monkeypatch) -> None:
    conv = torch.nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 2.0]])[:, :, None, None])
        conv.bias.zero_()
    target = Target(torch.nn.Sequential(conv, torch.nn.ReLU()), image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    target.spec = "toy"
    layers = dissect(target, load_probe("diorama:objects", limit=60), ["0", "1"], tmp_path / "out", quantile=0.95)
    dissection = layers["1"]
    measured = Truth.measure(dissection, target, tmp_path)
    red, blue = dissection.units
    assert (measured.find_best(red, 1).text, measured.find_best(blue, 1).text) == ("red", "blue")
    assert measured.score(red, "crimson things") > 0.4 > 0.1 > measured.score(red, "blue areas")
    # Read from the folder: no target is loaded.
    again = Truth.measure(dissection, None, tmp_path)
    assert np.array_equal(again.sums.sums, measured.sums.sums)
    assert (again.sums.masked != measured.sums.masked).nnz == 0
    passes = []
    real = activation_sums.map_blocks
    monkeypatch.setattr(activation_sums, "map_blocks", lambda *given: (passes.append(given[1]), real(*given))[1])
    both = Truth.measure_layers(layers, target, tmp_path / "both")
    assert passes == [["0", "1"]]
    assert np.array_equal(both["1"].sums.sums, measured.sums.sums)
    assert np.array_equal(both["1"].sums.squares, measured.sums.squares)


def test_truth_needs_labels(tmp_path) -> None:
    probe = Probe.from_tensor(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    target = Target(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), image_size=64)
    dissection = dissect(target, probe, ["0"], tmp_path / "out", k=2)["0"]
    with pytest.raises(MissingEvidence, match="diorama:objects"):
        Truth.measure(dissection, target)

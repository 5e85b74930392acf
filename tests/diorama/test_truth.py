"""Truth on hand-made masks, whose overlaps can be counted on fingers."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from milan.diorama import DioramaImages
from milan.diorama.label_signatures import KIND_SIZES, KINDS, LabelSignatures, encode_labels
from milan.diorama.scene_concepts import ALL_KINDS, get_concepts_by_name, list_concepts, parse_concepts
from milan.diorama.scenes import draw_scene
from milan.diorama.simulated_annotators import (
    ANNOTATORS,
    VAGUE_PHRASES,
    ConceptFrequencies,
    annotate,
    count_cooccurrence,
    measure_frequencies,
)
from milan.dissection.dissect import dissect
from milan.dissection.masks import iter_unit_masks
from milan.errors import MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.scores.truth_score import Truth
from milan.targets.target import Target
from milan.units import Unit


def pixel(**names: str) -> int:
    """The code of a pixel with these labels."""
    values = [ALL_KINDS[kind].index(names[kind]) + 1 if kind in names else 0 for kind in KINDS]
    return int(np.ravel_multi_index(values, KIND_SIZES))


CAR = pixel(colour="red", pattern="plain", object="car", part="body", setting="street")
WHEEL = pixel(colour="black", pattern="plain", object="car", part="wheel", setting="street")
SKY = pixel(colour="blue", pattern="plain", object="sky", setting="street")
ROAD = pixel(colour="grey", pattern="plain", object="road", setting="street")
SCENE = np.array([[SKY] * 4, [CAR] * 4, [WHEEL, CAR, CAR, WHEEL], [ROAD] * 4])  # 4 sky, 6 red car, 2 wheel, 4 road
CENSUS = LabelSignatures.from_codes(SCENE[None])
MASKS = {
    "the wheels": [(2, 0), (2, 3)],
    "half the sky": [(0, 0), (0, 1)],
    "the car": [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)],
    "sky and road": [(0, 0), (0, 1), (0, 2), (0, 3), (3, 0), (3, 1), (3, 2), (3, 3)],
    "nothing": [],
    "sky and wheels": [(0, 0), (0, 1), (0, 2), (0, 3), (2, 0), (2, 3)],
}
UNITS = {name: Unit("layer", number) for number, name in enumerate(MASKS)}


@pytest.fixture(scope="module")
def truth() -> Truth:
    masks = np.zeros((1, len(MASKS), 4, 4), dtype=bool)
    for number, places in enumerate(MASKS.values()):
        for row, column in places:
            masks[0, number, row, column] = True
    return Truth(list(UNITS.values()), CENSUS.count_pixels(np.array([0]), masks), CENSUS)


@pytest.mark.parametrize(
    ("unit", "text", "overlap"),
    [
        ("the wheels", "wheels", 1.0),
        ("the wheels", "tires of a car", 1.0),
        ("the wheels", "a car", 2 / 8),
        ("the wheels", "black and red things", 2 / 8),
        ("the wheels", "wheels and the sky", 2 / 6),
        ("the wheels", "red wheels", 0.0),
        ("half the sky", "blue sky", 2 / 4),
        ("half the sky", "street scenes", 2 / 16),
        ("half the sky", "something or other", 0.0),
        ("the car", "cars", 1.0),
        ("the car", "a red car", 6 / 8),
        ("sky and road", "blue or gray areas", 1.0),
        ("sky and road", "the road", 4 / 8),
    ],
)
def test_overlap(truth: Truth, unit: str, text: str, overlap: float) -> None:
    assert truth.overlap(UNITS[unit], text) == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("unit", "text", "score"),
    [
        ("the wheels", "wheels", 1.0),
        ("the wheels", "cars", 2 / 8),
        ("half the sky", "blue", 1.0),  # the sky is but half its masks, yet nothing better can be said
        ("half the sky", "street scenes", (2 / 16) / (2 / 4)),
        ("sky and road", "sky", 0.5),  # "backgrounds", of which a sky is one, would have been perfect
        ("sky and road", "sky and road", 1.0),
        ("sky and road", "the road of the street", 0.5),  # of two concepts, "sky or road" would have been perfect
        ("the car", "fish", 0.0),
        ("the car", "", 0.0),
    ],
)
def test_score(truth: Truth, unit: str, text: str, score: float) -> None:
    assert truth.score(UNITS[unit], text) == pytest.approx(score)


def test_best(truth: Truth) -> None:
    assert truth.find_best(UNITS["half the sky"], 1).overlap == 0.5
    assert truth.find_best(UNITS["sky and road"], 1).text == "backgrounds"
    found = truth.find_best(Unit("layer", 5), 2)
    assert found.overlap == 1.0
    assert set(found.text.split(" | ")) in ({"wheel", "sky"}, {"black", "sky"}, {"black", "blue"}, {"wheel", "blue"})
    assert truth.find_best(UNITS["the wheels"], 1).text in ("wheel", "black")
    overlaps = [truth.find_best(UNITS["sky and road"], length).overlap for length in (1, 2, 3, 4)]
    assert overlaps == sorted(overlaps)


def test_best_of_two_is_that_of_trying_every_pair(truth: Truth) -> None:
    rng = np.random.default_rng(0)
    ranges = ((1, 4), (1, 3), (0, 4), (0, 5), (0, 1), (1, 3))
    signatures = np.array([[rng.integers(*ends) for ends in ranges] for _ in range(60)])
    census = LabelSignatures.from_codes(np.ravel_multi_index(signatures.T, KIND_SIZES).reshape(1, 6, 10))
    masks = rng.random((1, 3, 60)) < 0.3
    several = Truth(
        [Unit("a", i) for i in range(3)], census.count_pixels(np.array([0]), masks.reshape(1, 3, 6, 10)), census
    )
    where = [census.concept_mask(concept)[census.pixels[0].ravel()] for concept in list_concepts()]
    for i, unit in enumerate(several.units):
        inside = masks[0, i]
        every = [join(one, other) for one in where for other in where for join in (np.logical_and, np.logical_or)]
        brute = max((inside & shown).sum() / (inside | shown).sum() for shown in every)
        assert several.find_best(unit, 2).overlap == pytest.approx(brute)
        assert several.find_best(unit, 3).overlap >= brute


def test_units_without_masks_have_no_score(truth: Truth) -> None:
    assert math.isnan(truth.score(UNITS["nothing"], "cars"))
    mean = truth.mean({UNITS["the car"]: "cars", UNITS["the wheels"]: "fish", UNITS["nothing"]: "cars"})
    assert (mean.mean, mean.units) == (0.5, 2)
    assert mean.error == pytest.approx(0.5)  # of 1 and 0: deviation 0.707 over the root of 2
    with pytest.raises(UnknownName, match="layer:99"):
        truth.score(Unit("layer", 99), "cars")


def test_the_census_counts_what_is_drawn() -> None:
    images = DioramaImages("objects", length=3)
    signatures = LabelSignatures.from_images(images)
    scene = images.scene(1)
    shown = signatures.concept_mask(get_concepts_by_name()["red"])[signatures.pixels[1]]
    assert np.array_equal(shown, scene.labels["colour"] == 1)
    assert signatures.area.sum() == 3 * 64 * 64
    house = signatures.concept_mask(get_concepts_by_name()[scene.setting])[signatures.pixels[1]]
    assert house.all()
    assert encode_labels(scene).shape == (64, 64)


def test_the_census_is_kept(tmp_path) -> None:
    images = DioramaImages("scenes", length=2)
    made = LabelSignatures.from_images(images, tmp_path)
    for file in (None, *tmp_path.rglob("*.npy")):
        if file is not None:
            file.write_bytes(file.read_bytes()[:-1])
        found = LabelSignatures.from_images(images, tmp_path)
        assert np.array_equal(made.pixels, found.pixels)
        assert np.array_equal(made.table, found.table)


def test_counts_by_unit_and_signature() -> None:
    masks = np.zeros((1, 2, 4, 4), dtype=bool)
    masks[0, 1, 2] = True  # a row of two wheels and two bits of red car
    counts = CENSUS.count_pixels(np.array([0]), masks)
    assert isinstance(counts, sparse.csr_matrix)
    assert counts[0].sum() == 0
    wheel = CENSUS.concept_mask(get_concepts_by_name()["wheel"])
    assert counts[1].toarray()[0, wheel].sum() == 2


def test_truth_of_a_network_that_sees_red(tmp_path) -> None:
    """A network whose one unit is how red a pixel is: red must be the best single word, and the count is that of the
    masks themselves.
    """
    conv = torch.nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 2.0]])[:, :, None, None])
        conv.bias.zero_()
    target = Target(torch.nn.Sequential(conv), image_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    target.spec = "made here"
    probe = load_probe("diorama:objects", limit=60)
    dissection = dissect(target, probe, ["0"], tmp_path / "out", quantile=0.95)["0"]
    truth = Truth.measure(dissection, target, tmp_path)
    red, blue = dissection.units
    assert truth.find_best(red, 1).text == "red"
    assert truth.find_best(blue, 1).text == "blue"
    assert truth.score(red, "crimson things") == 1.0
    assert truth.score(red, "blue areas") < 0.05
    inside = sum(int(masks[:, 0].sum()) for _, masks in iter_unit_masks(target, probe, "0", dissection.thresholds()))
    assert truth.counts[0].sum() == inside
    again = Truth.measure(dissection, None, tmp_path)  # read from the folder: no target is loaded
    assert (again.counts != truth.counts).nnz == 0


def test_truth_needs_a_world_that_is_known(tmp_path) -> None:
    probe = Probe.from_tensor(torch.zeros(4, 3, 64, 64, dtype=torch.uint8))
    target = Target(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), image_size=64)
    dissection = dissect(target, probe, ["0"], tmp_path / "out", k=2)["0"]
    with pytest.raises(MissingEvidence, match="diorama:objects"):
        Truth.measure(dissection, target)


def evidence(masks: list[tuple[int, int]]) -> ConceptFrequencies:
    mask = np.zeros((1, 4, 4), dtype=bool)
    for row, column in masks:
        mask[0, row, column] = True
    return measure_frequencies(CENSUS, np.array([0]), mask)


def test_evidence_compares_inside_with_at_large() -> None:
    order = {concept.name: number for number, concept in enumerate(list_concepts())}
    found = evidence([(2, 0), (2, 1), (0, 0), (0, 1)])
    black, car, sky, wheel = order["black"], order["car"], order["sky"], order["wheel"]
    assert found.inside[black, black] == 0.25
    assert found.overall[black, black] == pytest.approx(2 / 16)
    assert found.inside[car, wheel] == 0.25
    assert found.inside[car, sky] == 0
    assert found.surprise[black, black] == pytest.approx(0.25)  # a quarter, twice as often as at large: one bit
    assert found.surprise[car, car] == 0  # as often as at large


def test_annotators_say_what_is_inside_the_masks() -> None:
    """Most of thirty units that see wheels are called wheels, and nobody who is not vague speaks of what is outside."""
    found = evidence(MASKS["the wheels"])
    said = [annotate(found, f"unit {number}") for number in range(30)]
    assert all(len(texts) == len(ANNOTATORS) == 3 for texts in said)
    clear = [text for texts in said for text in texts if not text.startswith(VAGUE_PHRASES)]
    named = [
        {concept.name for phrase in parse_concepts(text).phrases for group in phrase for concept in group}
        for text in clear
    ]
    assert sum(bool(names & {"wheel", "black", "car"}) for names in named) > 0.9 * len(named)
    assert not any(names & {"sky", "blue", "road", "red"} for names in named)
    assert len({text for texts in said for text in texts}) > 8
    assert annotate(found, "unit 3") == said[3]
    assert annotate(found, "unit 3", seed=1) != annotate(found, "unit 4", seed=1) or said[3] != said[4]


def test_position_is_told_of_what_is_in_one_third() -> None:
    top, left = np.zeros((2, 9, 9), dtype=bool), np.zeros((2, 9, 9), dtype=bool)
    top[:, :2, :], left[:, :, :2] = True, True
    signatures = LabelSignatures.from_codes(np.full((2, 9, 9), SKY))
    assert measure_frequencies(signatures, np.array([0, 1]), top).position == "at the top"
    assert measure_frequencies(signatures, np.array([0, 1]), left).position == "on the left"
    assert measure_frequencies(signatures, np.array([0, 1]), np.ones((2, 9, 9), dtype=bool)).position == ""


def test_together_is_symmetric_and_holds_single_shares_on_its_diagonal() -> None:
    signatures = LabelSignatures.from_codes(encode_labels(draw_scene(4))[None])
    both = count_cooccurrence(signatures.area, signatures)
    assert np.allclose(both, both.T)
    shares = [signatures.concept_mask(concept)[signatures.pixels].mean() for concept in list_concepts()]
    assert np.allclose(np.diag(both), shares)

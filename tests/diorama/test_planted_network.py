"""Planted units: what the file says of them is found again, by their maps and by a dissection."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from milan.diorama import DioramaImages
from milan.diorama.formulas import AllOf, AnyOf
from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.networks import LAYERS, load_network
from milan.diorama.planted_network import (
    LAYER,
    PLANTED_NETWORKS,
    UNMIXED_LAYER,
    ConceptUnits,
    PlantedUnitTruth,
    compute_log_odds,
    load_planted_network,
    load_planted_truth,
    make_noise,
)
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.scene_concepts import get_concepts_by_name
from milan.diorama.segmenter_network import CLASS_NAMES, count_classes
from milan.diorama.text_reader import parse_description
from milan.diorama_build.planted_units import (
    _both_have_enough,
    _compute_best_overlaps,
    build_recipe,
    make_class_membership,
)
from milan.dissection.dissect import dissect
from milan.errors import MissingEvidence
from milan.probes import load_probe
from milan.scores.truth_score import Truth
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.hooks import record
from milan.targets.loading import load_target
from milan.units import Unit

SCENES = 200


def of_kind(kind: str, name: str = "planted") -> dict[Unit, PlantedUnitTruth]:
    return {unit: planted for unit, planted in load_planted_truth(name=name).items() if planted.kind == kind}


def test_there_are_enough_of_each_kind_and_they_are_good() -> None:
    single, joined, either, nothing = (of_kind(kind) for kind in ("single", "conjunction", "either", "nothing"))
    assert len(single) >= 60
    assert len(joined) >= 20
    assert len(either) >= 20
    assert len(nothing) >= 10
    assert np.mean([planted.iou for planted in single.values()]) > 0.6
    assert min(planted.iou for planted in {**single, **joined, **either}.values()) > 0.25
    assert max(planted.iou for planted in nothing.values()) < 0.25
    assert all(len(planted.halves) == 2 and min(planted.halves) > 0.05 for planted in either.values())
    assert list(load_planted_truth()) == [Unit(LAYER, index) for index in range(len(load_planted_truth()))]


@pytest.mark.parametrize("name", PLANTED_NETWORKS)
def test_texts_say_what_was_planted_and_no_two_the_same(name: str) -> None:
    said = [planted for planted in load_planted_truth(name=name).values() if planted.kind != "nothing"]
    for planted in said:
        concepts = [get_concepts_by_name()[name] for name in planted.concepts]
        formula = parse_description(planted.text).terms[0][1]
        join = AnyOf if planted.kind == "either" else AllOf
        assert formula == concepts[0] if planted.kind == "single" else type(formula) is join, planted
        assert set(parse_description(planted.text).concepts) == set(concepts), planted
    assert len({parse_description(planted.text).terms for planted in said}) == len(said)
    assert all(planted.text == "" and planted.concepts == () for planted in of_kind("nothing", name).values())


def test_the_second_network_has_forty_units_of_each_kind_that_the_first_has_not() -> None:
    kinds = ("single", "conjunction", "either", "nothing")
    assert [len(of_kind(kind, "planted-2")) for kind in kinds] == [40, 40, 40, 40]
    first, second = ({each.concepts for each in load_planted_truth(name=name).values()} for name in PLANTED_NETWORKS)
    assert first & second == {()}
    # Half of its pairs join a conjunction to a thing.
    assert sum(len(each.concepts) == 3 for each in of_kind("either", "planted-2").values()) == 20
    # The best single concept of a unit of noise overlaps with it as noise does.
    assert max(each.iou for each in of_kind("nothing", "planted-2").values()) < 0.02


def test_noise_is_a_function_of_the_image_and_covers_less_than_a_hundredth() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (400, 3, 64, 64), dtype=np.uint8))
    settings = torch.tensor([[0.1, 6.0], [0.6, 2.7]])
    noise = make_noise(normalize_images(images), settings)
    assert torch.equal(noise[7:8], make_noise(normalize_images(images[7:8]), settings))
    is_on = noise.amax((2, 3)) > 0
    assert is_on.float().mean(0).tolist() == pytest.approx([0.1, 0.6], abs=0.06)
    assert ((noise > 0).float().mean((0, 2, 3)) < 0.01).all()
    # A change of one pixel by one level draws anew.
    images[:, 0, 5, 5] ^= 1
    assert not torch.equal(is_on, make_noise(normalize_images(images), settings).amax((2, 3)) > 0)


def test_what_units_answer_to_is_what_the_file_says() -> None:
    """Their maps above 0, against the labels of scenes of the probe."""
    images = DioramaImages("objects", length=SCENES)
    signatures = LabelSignatures.from_images(images)
    truth = load_planted_truth()
    chosen = [unit for unit, planted in truth.items() if planted.kind != "nothing" and planted.area > 0.003]
    assert len(chosen) >= 20
    wanted = np.stack([signatures.text_mask(parse_description(truth[unit].text)) for unit in chosen])
    maps: list[torch.Tensor] = []
    model = load_network("planted")
    model.get_submodule(LAYER).register_forward_hook(
        lambda _, __, out: maps.append(out[:, [unit.index for unit in chosen]])
    )
    both, either = np.zeros(len(chosen)), np.zeros(len(chosen))
    for start in range(0, SCENES, 25):
        with torch.no_grad():
            model(
                normalize_images(
                    torch.from_numpy(np.stack([images.image(index) for index in range(start, start + 25)]))
                )
            )
        found, shown = (maps.pop() > 0).numpy(), wanted[:, signatures.pixels[start : start + 25]].swapaxes(0, 1)
        both += (found & shown).sum(axis=(0, 2, 3))
        either += (found | shown).sum(axis=(0, 2, 3))
    overlaps = both / either
    kept = np.array([truth[unit].iou_own_area for unit in chosen])
    assert np.abs(overlaps - kept).mean() < 0.07
    assert abs((overlaps - kept).mean()) < 0.03


def test_a_dissection_finds_the_masks_that_the_file_tells_of(tmp_path: Path) -> None:
    """The whole way: probe, thresholds at the usual quantile, masks, truth."""
    target, probe = load_target("diorama:planted"), load_probe("diorama:objects", limit=SCENES // 2)
    chosen = [
        unit
        for unit, planted in load_planted_truth().items()
        if planted.kind == "single" and 0.003 < planted.area < 0.008
    ][:6]
    dissection = dissect(
        target, probe, LAYERS["planted"], tmp_path / "out", k=2, units={LAYER: [unit.index for unit in chosen]}
    )[LAYER]
    assert dissection.units == chosen
    assert dissection.active_units() == chosen
    measured = Truth.measure(dissection, target, tmp_path / "truth")
    kept = [load_planted_truth()[unit].iou for unit in chosen]
    found = [measured.overlap(unit, load_planted_truth()[unit].text) for unit in chosen]
    assert np.mean(found) == pytest.approx(np.mean(kept), abs=0.1)
    for unit in chosen:  # and there is nothing else that so many concepts say better
        assert measured.score(unit, load_planted_truth()[unit].text) > 0.7


def test_directions_of_the_rotated_network_are_the_planted_units() -> None:
    target = load_target("diorama:planted-rotated", dictionary="diorama:planted-rotated")
    _, images = next(load_probe("diorama:objects", target=target, limit=8).batches(8))
    with record(target, [LAYER, f"{LAYER}@sae", UNMIXED_LAYER]) as maps:
        target(images)
    planted, neurons, latents = (maps[name].flatten(2) for name in (UNMIXED_LAYER, LAYER, f"{LAYER}@sae"))
    assert (planted > 1).any()
    assert torch.allclose(latents, planted, atol=2e-3)
    assert (latents > 0).float().mean() < 0.06
    assert (neurons != 0).float().mean() > 0.9, "each neuron mixes all concepts"
    assert torch.allclose(neurons.norm(dim=1), planted.norm(dim=1), atol=1e-4)


def test_random_weights_detect_nothing_of_it() -> None:
    images = DioramaImages("objects", length=4)
    pixels = normalize_images(torch.from_numpy(np.stack([images.image(index) for index in range(4)])))
    trained, random = load_network("planted"), load_network("planted", weights=False)
    with torch.no_grad():
        assert trained(pixels).shape == random(pixels).shape == (4, len(load_planted_truth()))
        assert (trained(pixels) > 0).any()
        assert (random(pixels)[:, : len(load_planted_truth()) - len(of_kind("nothing"))] > 0).float().mean() < 0.05


def judged(**likely: dict[str, float]) -> dict[str, torch.Tensor]:
    """Logits of one pixel of which the given names have the given probabilities, the rest being spread over the other
    classes.
    """
    found = {}
    for kind, names in CLASS_NAMES.items():
        known = likely.get(kind, {})
        first = count_classes(kind) - len(names)
        spread = (1 - sum(known.values())) / (count_classes(kind) - len(known))
        values = torch.full((count_classes(kind),), spread)
        for name, value in known.items():
            values[first + names.index(name)] = value
        found[kind] = values.log().view(1, -1, 1, 1)
    return found


def test_log_odds_of_one_concept_a_group_and_two_at_once() -> None:
    pixel = judged(colour={"red": 0.8}, object={"car": 0.5, "boat": 0.25})
    whom, joins = build_recipe([("car",), ("red",), ("vehicles",), ("red", "car")])
    found = compute_log_odds(pixel, whom, joins).flatten().sigmoid().tolist()
    rest = 5 * 0.25 / 52  # of the other five vehicles
    assert found == pytest.approx([0.5, 0.8, 0.75 + rest, 0.4], abs=1e-4)


def test_certainty_stays_a_number() -> None:
    logits = {kind: torch.full((1, count_classes(kind), 1, 1), -200.0) for kind in CLASS_NAMES}
    for values in logits.values():
        values[:, 0] = 200.0
    found = compute_log_odds(logits, *build_recipe([("red",), ("blue",), ("red", "car")]))
    assert torch.isfinite(found).all()
    assert found[0, 0, 0, 0] > 15
    assert found[0, 1, 0, 0] < -15


def test_a_unit_of_either_answers_to_each_and_is_silent_below_its_thresholds() -> None:
    whom, joins = build_recipe([("wheel",), ("door",)])
    recipe = {"members": whom, "joins": joins, "thresholds": torch.tensor([0.0, 1.0]),
        "gains": torch.tensor([2.0, 1.0]),
              "choices": torch.tensor([[0, 0], [0, 1]]), "directions": torch.zeros(1, 48),
              "offsets": torch.tensor([0.5])}  # fmt: skip
    units, trunk = ConceptUnits(recipe), torch.zeros(1, 48, 1, 1)
    odds = float(np.log(0.9 / 0.1))
    wheel = units(trunk, judged(part={"wheel": 0.9})).flatten().tolist()
    door = units(trunk, judged(part={"door": 0.9})).flatten().tolist()
    neither = units(trunk, judged(part={"roof": 0.9})).flatten().tolist()
    assert wheel == pytest.approx([2 * odds, 2 * odds, 0.5], rel=1e-3)
    assert door == pytest.approx([0, odds - 1, 0.5], rel=1e-3)
    assert neither == [0, 0, 0.5]


def test_members_count_classes_as_the_heads_do() -> None:
    found = make_class_membership(["red", "wall", "letter c", "stripes"])
    assert found.sum(1).tolist() == [1, 2, 1, 3]
    assert found[0, 0] == 1  # colours have no class for none
    starts = np.cumsum([0, *map(count_classes, CLASS_NAMES)])
    assert found[2, starts[list(CLASS_NAMES).index("text")] + 3] == 1  # after none, a and b


def test_best_overlap_and_shares_of_exemplars() -> None:
    masks = np.array([[True, True, False, False], [False, False, False, True]])
    shows = np.array([[1, 0], [1, 1], [1, 1], [0, 1]], dtype=float)
    assert _compute_best_overlaps(masks, shows).tolist() == pytest.approx([2 / 3, 1 / 3])
    alternating = np.arange(30, 0, -1.0)
    assert _both_have_enough(np.where(np.arange(30) % 2, alternating, 0), np.where(np.arange(30) % 2, 0, alternating))
    assert not _both_have_enough(alternating, np.where(np.arange(30) == 3, 99.0, 0))


@pytest.mark.parametrize("name", PLANTED_NETWORKS)
def test_the_file_is_what_was_measured_where(name: str) -> None:
    facts = json.loads((locate_packaged_data("data") / "diorama" / "networks" / f"{name}.json").read_text())
    assert (facts["probe"], facts["scenes"], facts["quantile"]) == ("diorama:objects", 2000, 0.99)
    for kind, mean in facts["mean_iou"].items():
        assert mean == pytest.approx(np.mean([planted.iou for planted in of_kind(kind, name).values()]), abs=1e-3)
    assert facts["units"] == {LAYER: len(load_planted_truth(name=name))}


def test_what_was_not_built_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingEvidence, match="--only planted"):
        load_planted_truth(tmp_path)
    with pytest.raises(MissingEvidence, match="--only planted"):
        load_planted_network(tmp_path)

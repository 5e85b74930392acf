"""Signatures of labelled pixels, and annotators who describe what hand-made masks show."""

import numpy as np
import pytest
from scipy import sparse

from milan.diorama import DioramaImages
from milan.diorama.label_signatures import KIND_SIZES, KINDS, LabelSignatures, encode_labels
from milan.diorama.scene_concepts import ALL_KINDS, get_concepts_by_name, list_concepts
from milan.diorama.scenes import draw_scene
from milan.diorama.simulated_annotators import (
    ANNOTATORS,
    VAGUE_PHRASES,
    ConceptFrequencies,
    annotate,
    count_cooccurrence,
    measure_frequencies,
)
from milan.diorama.text_reader import parse_description


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
WHEELS = [(2, 0), (2, 3)]


def test_signatures_have_the_labels_of_the_scenes() -> None:
    images = DioramaImages("objects", length=3)
    signatures = LabelSignatures.from_images(images)
    scene = images.scene(1)
    shown = signatures.concept_mask(get_concepts_by_name()["red"])[signatures.pixels[1]]
    assert np.array_equal(shown, scene.labels["colour"] == 1)
    assert signatures.area.sum() == 3 * 64 * 64
    house = signatures.concept_mask(get_concepts_by_name()[scene.setting])[signatures.pixels[1]]
    assert house.all()
    assert encode_labels(scene).shape == (64, 64)


def test_stored_signatures_are_read_and_damaged_ones_computed_again(tmp_path) -> None:
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
    found = evidence(WHEELS)
    said = [annotate(found, f"unit {number}") for number in range(30)]
    assert all(len(texts) == len(ANNOTATORS) == 3 for texts in said)
    clear = [text for texts in said for text in texts if not text.startswith(VAGUE_PHRASES)]
    named = [{concept.name for concept in parse_description(text).concepts} for text in clear]
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

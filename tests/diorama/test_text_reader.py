"""Texts denote the pixels that people mean by them; formulas in words read back as they were meant."""

import csv

import numpy as np
import pytest

from milan.diorama.formulas import format_formula
from milan.diorama.scene_concepts import get_readable_name, list_concepts
from milan.diorama.text_reader import FORMULA_MARKS, parse_description
from tests.conftest import ROOT
from tests.diorama.test_label_signatures import CAR, CENSUS, ROAD, SCENE, SKY, WHEEL

EVERY = {CAR, WHEEL, SKY, ROAD}


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        # Joined things count in either place; looks bind to the thing in whose phrase they stand.
        ("sky and car", {SKY, CAR, WHEEL}),
        ("sky or car", {SKY, CAR, WHEEL}),
        ("blue sky and red cars", {SKY, CAR}),
        ("blue cars and a red sky", set()),
        ("red cars with black wheels", {CAR, WHEEL}),
        ("black cars with red wheels", {WHEEL}),
        ("red and black cars", {CAR, WHEEL}),
        ("red and car", {CAR, WHEEL}),
        ("the tires of a car", {WHEEL}),
        ("wheels on the road", set()),
        ("a car near a house", {CAR, WHEEL}),
        ("a photo of red cars on the street", {CAR}),
        ("plain black surfaces at the bottom of the picture", {WHEEL}),
        # Negations take away from what stands before them, else from everything.
        ("no car", {SKY, ROAD}),
        ("not a car", {SKY, ROAD}),
        ("anything but cars", {SKY, ROAD}),
        ("everything except cars and the sky", {ROAD}),
        ("all but the road", {SKY, CAR, WHEEL}),
        ("no cars and no sky", {ROAD}),
        ("cars without wheels", {CAR}),
        ("cars with no wheels, and the sky", {CAR, SKY}),
        ("sky and cars but not wheels", {SKY, CAR}),
        ("cars that aren't red", {WHEEL}),
        ("non-red cars", {WHEEL}),
        ("cars but not cars", set()),
        ("nothing but cars", {CAR, WHEEL}),
        ("everything", EVERY),
        # Formulas.
        ("car but not wheel", {CAR}),
        ("both red and car", {CAR}),
        ("red & car", {CAR}),
        ("sky | wheel", {SKY, WHEEL}),
        ("both blue and car", set()),
        ("car and (red or black)", {CAR, WHEEL}),
        ("(road or sky) but neither blue nor car", {ROAD}),
        ("sky or (black and car)", {SKY, WHEEL}),
        ("neither red nor blue", {WHEEL, ROAD}),
        ("road or not street", {ROAD}),
        ("0.5 car + 0.5 sky - 0.6 wheel", {CAR, SKY}),
        # What is no formula, or not closed, is read as words.
        ("sky (or cars", {SKY, CAR, WHEEL}),
        ("car but not shiny", {CAR, WHEEL}),
        ("not", set()),
        ("", set()),
        ("things on the left side of the picture", set()),
    ],
)
def test_denoted_pixels(text: str, pixels: set[int]) -> None:
    where = CENSUS.text_mask(parse_description(text))[CENSUS.pixels[0]]
    assert np.array_equal(where, np.isin(SCENE, list(pixels)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("vehicle", ["vehicles"]),
        ("Polka-dot", ["dots"]),
        ("wave", ["waves"]),
        ("a child", ["person"]),
        ("men and women", ["person"]),
        ("bikes, trains or a locomotive", ["bicycle", "train"]),
        ("the night sky", ["night sky"]),
        ("the letter b", ["letter b"]),
        ("table tops", ["top"]),
    ],
)
def test_words_are_read_as_their_concepts(text: str, names: list[str]) -> None:
    assert [concept.name for concept in parse_description(text).concepts] == names


@pytest.mark.parametrize(
    ("text", "is_silent", "understood"),
    [("", True, 1), ("Nothing in particular.", True, 1), ("glossy car", False, 0.5), ("glimmering", False, 0)],
)
def test_silence_and_unknown_words(text: str, is_silent: bool, understood: float) -> None:
    parsed = parse_description(text)
    assert (parsed.is_silent, parsed.understood) == (is_silent, understood)


def test_every_name_and_every_printed_formula_reads_back() -> None:
    assert all(parse_description(get_readable_name(concept)).concepts == (concept,) for concept in list_concepts())
    for text in (
        "red and (car or boat)",
        "(both red and car) but not wheel",
        "everything but not (sky or road)",
    ):
        formula = parse_description(text).terms[0][1]
        again = parse_description(format_formula(formula))
        assert np.array_equal(CENSUS.text_mask(again), CENSUS.text_mask(parse_description(text)))


@pytest.mark.parametrize("text", ["car but not " * 5000, "(not " * 5000 + "car", "wheels near roofs of " * 5000])
def test_long_and_deep_texts_are_read(text: str) -> None:
    CENSUS.text_mask(parse_description(text))


def test_no_annotation_is_taken_for_a_formula() -> None:
    files = sorted((ROOT / "data" / "diorama").rglob("annotations.csv"))
    texts = {row["summary"] for file in files for row in csv.DictReader(file.open(encoding="utf-8"))}
    assert len(texts) > 500
    assert not [text for text in texts if FORMULA_MARKS.search(text.lower())]

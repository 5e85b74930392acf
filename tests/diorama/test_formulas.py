"""Formulas are read as what they say, and people's words as before."""

import csv

import numpy as np
import pytest

from milan.diorama.formulas import parse_formula
from milan.diorama.scene_concepts import parse_concepts
from tests.conftest import ROOT
from tests.diorama.test_truth import CAR, CENSUS, ROAD, SCENE, SKY, WHEEL


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("car but not wheel", {CAR}),
        ("both red and car", {CAR}),
        ("both blue and car", set()),
        ("car and (red or black)", {CAR, WHEEL}),
        ("(road or sky) but neither blue nor car", {ROAD}),
        ("sky or (black and car)", {SKY, WHEEL}),
        ("not car", {SKY, ROAD}),
        ("neither red nor blue", {WHEEL, ROAD}),
        ("road or not street", {ROAD}),
        ("Both Red and Car", {CAR}),
        ("cars but not wheels", {CAR}),
        ("red and car", {CAR, WHEEL}),  # as people say it: either
        ("sky and car", {SKY, CAR, WHEEL}),
        ("sky or car", {SKY, CAR, WHEEL}),
    ],
)
def test_what_a_formula_means(text: str, pixels: set[int]) -> None:
    where = CENSUS.text_mask(parse_concepts(text))[CENSUS.pixels[0]]
    assert np.array_equal(where, np.isin(SCENE, list(pixels)))


@pytest.mark.parametrize(
    "text",
    [
        "cars and boats",
        "red (stripes)",
        "car but not",
        "not",
        "(car",
        "car)",
        "both",
        "car or (boat and)",
        "",
        "neither car boat",
    ],
)
def test_what_is_no_formula(text: str) -> None:
    found = parse_formula(text)
    assert found is None or text == "neither car boat"  # one name of two words, which no concept has
    assert all(concept.holds for phrase in parse_concepts(text).phrases for group in phrase for concept in group)


def test_a_formula_of_unknown_names_is_read_as_any_text() -> None:
    assert parse_concepts("car but not shiny") == parse_concepts("car shiny")
    assert [
        [[each.name for each in group] for group in phrase] for phrase in parse_concepts("car but not wheel").phrases
    ] == [[["not wheel"], ["car"]]]
    assert parse_concepts("car but not wheel").concept_count == 2


def test_no_annotation_of_dioramas_networks_is_taken_for_a_formula() -> None:
    files = sorted((ROOT / "data" / "diorama").rglob("annotations.csv"))
    texts = {row["summary"] for file in files for row in csv.DictReader(file.open(encoding="utf-8"))}
    assert len(texts) > 500
    assert [text for text in texts if parse_formula(text.lower()) is not None] == []

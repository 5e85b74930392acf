"""Units are found by what their descriptions and exemplars mean, and by a picture."""

import json
import math

import pytest
import torch
from PIL import Image

from milan.cli.find import main
from milan.describers._shared.contract import COLOURS, UNITS
from milan.errors import BadInput, MilanNotice, MissingEvidence
from milan.results.catalogue import read_catalogue
from milan.results.search import SearchedRun, find_by_text
from milan.units import Description, Unit
from tests.describers.colour_embedder import ColourEmbedder

RED, GREEN, BLUE, BRIGHT, DEAD, SPARSE, RED_OR_BLUE = (Unit("answers", index) for index in range(len(UNITS)))


@pytest.fixture
def searched(run_folder):
    catalogue = read_catalogue(run_folder)
    return SearchedRun("toy", catalogue.texts, catalogue.dissections)


class Letters:
    """A sentence encoder that knows synonyms: crimson is red."""

    def encode_texts(self, texts):
        return torch.tensor([[float("red" in text or "crimson" in text), 1e-3] for text in texts])


@pytest.mark.parametrize(("query", "unit"), [("red", RED), ("green", GREEN), ("blue", BLUE)])
def test_the_unit_of_a_colour_is_found_first(searched, cache, query, unit):
    found = find_by_text(query, [searched], embedder=ColourEmbedder(), count=3)
    assert (found[0].unit, len(found)) == (unit, 3)
    assert found[0].parts["exemplar similarity"] == max(each.parts["exemplar similarity"] for each in found)


def test_exemplars_find_units_whose_descriptions_are_wrong(searched, cache):
    lies = SearchedRun("lies", dict.fromkeys(searched.texts, "a thing"), searched.dissections)
    assert find_by_text("green", [lies], embedder=ColourEmbedder())[0].unit == GREEN


def test_exemplars_are_embedded_once_and_dead_units_never(searched, cache):
    embedder = ColourEmbedder()
    first = find_by_text("red", [searched], embedder=embedder)
    seen = embedder.seen
    assert seen == 6 * 5
    again = find_by_text("red", [searched], embedder=embedder)
    assert [each.to_plain() for each in again] == [each.to_plain() for each in first]
    assert embedder.seen == seen
    assert DEAD not in {each.unit for each in first}


def test_the_score_is_the_mean_of_standardized_similarities():
    run = SearchedRun("a", {Unit("x", 0): "red", Unit("x", 1): "red hat", Unit("x", 2): "dog"})
    found = find_by_text("a red dogs", [run])
    # Words are stemmed, so that each text has one of the three.
    assert [each.parts["shared words"] for each in found] == pytest.approx([1 / 3] * 3)
    assert [each.score for each in found] == [0, 0, 0]
    found = find_by_text("red dog hats", [run], count=2)
    assert [(str(each.unit), each.parts["shared words"]) for each in found] == [("x:1", 2 / 3), ("x:0", 1 / 3)]
    assert found[0].score == pytest.approx((2 / 3 - 4 / 9) / math.sqrt(2 / 81))


def test_a_unit_without_a_description_gains_nothing_by_the_lack(searched, cache):
    partly = SearchedRun("partly", {GREEN: searched.texts[GREEN]}, searched.dissections)
    scores = {each.unit: each.score for each in find_by_text("red", [partly], embedder=ColourEmbedder())}
    alone = {each.unit: each.score for each in find_by_text("red", [SearchedRun("a", {}, searched.dissections)],
                                                            embedder=ColourEmbedder())}  # fmt: skip
    assert scores[RED] == pytest.approx(alone[RED] / 2)


def test_a_sentence_encoder_finds_other_words_of_the_same_meaning():
    run = SearchedRun("a", {Unit("x", 0): "a dog", Unit("x", 1): "red things"})
    found = find_by_text("crimson", [run], sentences=Letters(), count=1)
    assert [str(each.unit) for each in found] == ["x:1"]


def test_several_runs_are_searched_together_and_units_keep_their_run():
    runs = [SearchedRun(name, {Unit("x", 0): text}) for name, text in (("a", "cats"), ("b", "dogs"))]
    assert [(each.run, each.text) for each in find_by_text("a dog", runs)] == [("b", "dogs"), ("a", "cats")]


def test_a_picture_finds_the_units_it_activates_and_where(run_folder, tmp_path):
    picture = Image.new("RGB", (64, 64))
    picture.paste(COLOURS["blue"], (0, 0, 32, 64))
    picture.save(tmp_path / "blue.png")
    found = read_catalogue(run_folder).find(image=tmp_path / "blue.png")
    by_unit = {each.unit: each for each in found}
    assert by_unit[BLUE].parts["percentile"] > 75 > by_unit[GREEN].parts["percentile"]
    mask = by_unit[BLUE].picture.masks[0, 0]
    assert mask[:, :28].all()
    assert not mask[:, 36:].any()
    assert not by_unit[GREEN].picture.masks.any()


def test_a_catalogue_without_pictures_is_searched_by_words_and_says_so(run_folder):
    catalogue = read_catalogue(run_folder)
    with pytest.warns(MilanNotice, match="only descriptions are searched"):
        assert catalogue.find("blue things", count=1)[0].unit == BLUE
    plain = type(catalogue).from_descriptions([Description(BLUE, "blue", 1.0)])
    with pytest.raises(MissingEvidence, match="no dissection"):
        plain.find(image="x.png")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"text": " "}, "query is empty"),
        ({"text": "red", "count": 0}, "0 units"),
        ({}, "either a text or an image"),
        ({"image": "missing.png"}, "missing.png"),
    ],
)
def test_what_cannot_be_searched_is_an_error(run_folder, options, named):
    with pytest.raises(BadInput, match=named):
        read_catalogue(run_folder).find(**options)


def test_the_program_writes_a_table_json_and_a_page(run_folder, tmp_path, capsys, cache):
    embedder = f"{__file__.replace('results/test_search', 'describers/colour_embedder')}:ColourEmbedder"
    assert main(["red", str(run_folder), "--embedder", embedder, "--out", str(tmp_path / "out"), "--count", "2"]) == 0
    found = json.loads((tmp_path / "out" / "found.json").read_text())["found"]
    assert (found[0]["layer"], found[0]["unit"], len(found)) == ("answers", 0, 2)
    assert found[0]["description"] == "things coloured red"
    page = (tmp_path / "out" / "page" / "index.html").read_text()
    assert page.count('"images":') == 2
    assert len(list((tmp_path / "out" / "page").glob("images/*/*.webp"))) >= 5
    assert "answers:0" in capsys.readouterr().out


def test_the_program_searches_a_folder_once_and_shows_dashes_for_missing_similarities(
    run_folder, tmp_path, capsys, cache
):
    embedder = f"{__file__.replace('results/test_search', 'describers/colour_embedder')}:ColourEmbedder"
    rest = ["--embedder", embedder, "--out", str(tmp_path / "out"), "--count", "99"]
    assert main(["red", str(run_folder), f"{run_folder}/", *rest]) == 0
    found = json.loads((tmp_path / "out" / "found.json").read_text())["found"]
    units = [(each["run"], each["unit"]) for each in found]
    assert len(units) == len(set(units))
    assert {each["text similarity"] is None for each in found} == {True, False}
    printed = capsys.readouterr().out
    assert ("nan" in printed, "–" in printed) == (False, True)


def test_the_program_refuses_two_questions_at_once(run_folder, tmp_path, capsys):
    assert main([str(run_folder), "--image", "a.png", "--text", "red", "--out", str(tmp_path)]) == 2
    assert "either a text or --image" in capsys.readouterr().err

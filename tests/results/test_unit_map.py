"""The map of units: coordinates, labels, and the page in Chromium."""

import numpy as np
import pytest
import torch

from milan.results import unit_map
from milan.results.catalogue import Catalogue
from milan.results.neighbours import StandardizedActivations
from milan.results.page import write_page
from milan.results.page.exemplar_views import write_exemplars
from milan.results.unit_map import arrange_units, find_clusters, make_map_data, render_unit_map, write_unit_map
from milan.units import Description, Exemplars, Unit

UNITS = [Unit(layer, index) for layer in ("one", "two") for index in range(12)]
TEXTS = [("red things" if unit.index % 2 else "the dogs") for unit in UNITS]


@pytest.fixture(scope="module")
def activations():
    """Units of even and of odd numbers follow two independent signals."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 2))[:, [unit.index % 2 for unit in UNITS]] + 0.1 * rng.normal(size=(80, len(UNITS)))
    return StandardizedActivations(UNITS, torch.tensor((values - values.mean(0)) / values.std(0)).float())


@pytest.fixture(scope="module")
def catalogue():
    described = [Description(unit, text, 1.0) for unit, text in zip(UNITS, TEXTS, strict=True)]
    return Catalogue.from_descriptions(described, target="<b>toy</b>", describer="hand")


@pytest.mark.parametrize("arranged", [3000, 12])
def test_units_that_behave_alike_lie_together_in_every_run(activations, monkeypatch, arranged):
    monkeypatch.setattr(unit_map, "MAX_ARRANGED", arranged)
    found = arrange_units(activations)
    assert found.shape == (24, 2)
    np.testing.assert_array_equal(found, arrange_units(activations))
    if arranged >= 24:
        odd = np.array([unit.index % 2 == 1 for unit in UNITS])
        far = np.linalg.norm(found[:, None] - found[None], axis=-1)
        assert far[odd][:, odd].max() < far[odd][:, ~odd].min()


def test_clusters_are_labelled_by_their_commonest_words():
    places = np.array([[0.0, 0], [9, 0], [0, 9], [9, 9]]).repeat(5, axis=0)
    texts = ["a red dog"] * 5 + ["red cats"] * 4 + ["a green cat"] + [""] * 5 + ["the and of"] * 5
    found = {(each.x, each.y): (each.label, each.size) for each in find_clusters(places, texts)}
    assert found == {(0, 0): ("dog, red", 5), (9, 0): ("cats, red", 5), (0, 9): ("", 5), (9, 9): ("", 5)}
    assert {each.label for each in find_clusters(places, [""] * 20)} == {""}


def test_few_units_have_no_map_and_an_earlier_one_is_removed(activations, catalogue, tmp_path):
    assert write_unit_map(catalogue, activations, tmp_path) == tmp_path / "map.html"
    few = StandardizedActivations(UNITS[:7], activations.values[:, :7])
    assert write_unit_map(catalogue, few, tmp_path) is None
    assert not (tmp_path / "map.html").exists()


@pytest.fixture(scope="module")
def map_file(catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    grid = np.array([[unit.index, 4 * (unit.layer == "two")] for unit in UNITS], np.float64)
    (folder / "map.html").write_text(render_unit_map(catalogue, make_map_data(catalogue, UNITS, grid)))
    images = torch.full((3, 3, 16, 16), 200, dtype=torch.uint8)
    exemplars = Exemplars(UNITS[0], images, images[:, :1] > 0, torch.arange(3.0), torch.arange(3))
    view = write_exemplars(exemplars, folder, "images/same")
    write_page(catalogue, {}, folder, dict.fromkeys(UNITS, view))
    return folder / "map.html"


@pytest.mark.parametrize("window", [{"width": 1280, "height": 860}, {"width": 390, "height": 780}])
def test_the_map_is_read_and_opened_by_keyboard(browser, map_file, window):
    context = browser.new_context(viewport=window)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(map_file.as_uri())
    assert page.inner_text("#count") == "24 units"
    assert page.evaluate("document.documentElement.scrollWidth") == window["width"]
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#tip-unit")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tip-picture[data-painted]")
    assert page.evaluate("document.getElementById('tip-picture').width") == 3 * 128
    layer, index = first.split(":")
    assert page.inner_text("#tip-unit") == f"{layer}:{int(index) + 1}"
    assert page.inner_text("#spoken") == f"{layer}:{int(index) + 1}: {TEXTS[int(index) + 1]}"
    page.fill("#search", "DOGS")
    assert page.inner_text("#count") == "12 of 24"
    page.click("#layers button >> nth=0")
    assert page.inner_text("#count") == "6 of 24"
    page.focus("#map")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_url("**/index.html#two:*")
    context.close()
    assert complaints == []

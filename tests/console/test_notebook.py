"""In a notebook descriptions, exemplars and catalogues show themselves, with nothing in them running."""

import base64
import io
import re

import torch
from PIL import Image

from milan import Candidate, Catalogue, Description, Exemplars, Unit
from milan.console.notebook import MAX_CANDIDATES, MAX_ROWS, ROW_PICTURE_SIZE
from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.dissect import dissect
from milan.dissection.dissection import NOTEBOOK_UNITS
from milan.results.catalogue import Entry, read_catalogue
from tests import toys

EVIL = "<img src=x onerror=alert(1)>"


def test_a_description_shows_its_text_and_what_else_was_considered():
    many = tuple(Candidate(f"text {at} {EVIL}", -float(at)) for at in range(MAX_CANDIDATES + 3))
    shown = Description(Unit("layer4", 17), f"red {EVIL}", -0.5, (("dog", 2.0),), candidates=many)._repr_html_()
    assert "layer4:17" in shown
    assert "&lt;img" in shown
    assert "<img" not in shown
    assert shown.count("<tr>") == MAX_CANDIDATES + 2  # one concept, the candidates shown, and how many more there are
    assert "and 3 more" in shown


def test_exemplars_show_the_pictures_with_the_mask_lit():
    images = torch.full((3, 3, 32, 32), 200, dtype=torch.uint8)
    masks = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    masks[:, :, :16] = True
    shown = Exemplars(
        Unit("a<b", 0), images, masks, torch.tensor([3.0, 2.0, 1.0]), torch.tensor([4, 5, 6])
    )._repr_html_()
    picture = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]+)', shown)[1]))).convert("L")
    assert picture.size == (3 * 112, 112)
    assert picture.getpixel((56, 20)) > 180 > 80 > picture.getpixel((56, 100))
    assert "a&lt;b:0: 3 exemplars, activations 3 to 1" in shown


def test_no_exemplars_are_reported():
    none = torch.zeros(0)
    empty = Exemplars(
        Unit("a", 0),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 1, 8, 8, dtype=torch.bool),
        none,
        none.long(),
    )
    assert "no exemplars" in empty._repr_html_()


def test_a_catalogue_of_a_run_shows_exemplars_beside_its_rows(tmp_path):
    exemplars = make_toy_dissection(tmp_path).exemplars(Unit("answers", 0))
    Catalogue.from_descriptions([Description(Unit("answers", 0), "red", 1.0)]).write(tmp_path)
    catalogue = read_catalogue(tmp_path)
    assert catalogue.exemplars("answers:0").ids.tolist() == exemplars.ids.tolist()
    picture = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]+)', catalogue._repr_html_())[1])))
    assert picture.size == (5 * ROW_PICTURE_SIZE, ROW_PICTURE_SIZE)


def test_a_catalogue_shows_its_first_rows_and_counts():
    said = [Entry(Unit("a", at), "ok", Description(Unit("a", at), EVIL, 1.0)) for at in range(MAX_ROWS + 5)]
    shown = Catalogue((*said, Entry(Unit("a", 999), "dead")))._repr_html_()
    assert shown.count("<tr>") == MAX_ROWS + 1
    assert f"1 dead, {MAX_ROWS + 5} ok; the first {MAX_ROWS} are shown" in shown
    assert "<img" not in shown


def test_a_dissection_shows_exemplars_of_its_first_active_units(tmp_path):
    dissection = dissect(toys.target(), toys.probe(), ["conv"], tmp_path, k=3)["conv"]
    assert repr(dissection) == "Dissection('conv' of toy, 8 units, k = 3)"
    shown = dissection._repr_html_()
    assert shown.count("<figure") == shown.count("data:image/webp") == NOTEBOOK_UNITS
    assert "conv:0: 3 exemplars, activations 1 to 0.5" in shown

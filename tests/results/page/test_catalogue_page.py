"""What is written for the page: pictures as the annotators saw them, each once, and a file that nothing in it can
break.
"""

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from milan.console.exemplar_rendering import (
    DIMMED_BRIGHTNESS,
    OUTLINE_COLOUR,
    encode_webp,
    highlight_masks,
    make_image_grid,
)
from milan.dissection.dissect import dissect
from milan.probes import Probe
from milan.results.catalogue import Catalogue, Entry
from milan.results.page import write_contact_sheets, write_page
from milan.results.page.page_data import HISTOGRAM_BINS, compute_histograms
from milan.targets.target import Target
from milan.units import Description, Unit
from tests.results.page.conftest import EVIL, FACTS


def square(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A grey picture whose middle is masked."""
    image, mask = (
        torch.full((1, 3, size, size), 200, dtype=torch.uint8),
        torch.zeros(1, 1, size, size, dtype=torch.bool),
    )
    mask[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    return image, mask


def test_the_mask_is_lit_the_rest_dimmed_and_the_border_drawn():
    picture = highlight_masks(*square(), size=64)[0]
    assert picture[32, 32].tolist() == [200, 200, 200]
    assert picture[2, 2].tolist() == [round(200 * DIMMED_BRIGHTNESS)] * 3
    assert picture[32, 15].tolist() == list(OUTLINE_COLOUR)
    assert (picture == OUTLINE_COLOUR).all(-1).sum() == 34**2 - 32**2  # one pixel wide, all around


@pytest.mark.parametrize("size", [64, 224, 500])
def test_the_border_is_as_wide_whatever_the_size_of_the_images(size):
    picture = highlight_masks(*square(size), size=128)[0]
    outlined = (np.abs(picture.astype(int) - OUTLINE_COLOUR).sum(-1) == 0)[64, :64].sum()
    assert picture.shape == (128, 128, 3)
    assert outlined == 1


def test_pictures_that_are_not_square_keep_their_shape():
    assert highlight_masks(
        torch.zeros(2, 3, 30, 60, dtype=torch.uint8), torch.ones(2, 1, 30, 60, dtype=torch.bool), size=40
    ).shape == (2, 20, 40, 3)


def test_a_full_mask_has_no_border_and_an_empty_one_no_light():
    image, mask = square()
    assert (highlight_masks(image, torch.ones_like(mask), 64) == 200).all()
    assert (highlight_masks(image, torch.zeros_like(mask), 64) == 200 * DIMMED_BRIGHTNESS).all()


def test_a_sheet_has_the_pictures_in_rows():
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(4, 2).repeat(3, 3) + 1
    found = make_image_grid(pictures, per_row=3)
    assert found.shape == (4, 12, 3)
    assert found[0, ::4, 0].tolist() == [1, 2, 3]
    assert found[2, ::4, 0].tolist() == [4, 5, 0]


def test_sheets_are_files_of_the_exemplars_and_are_not_drawn_twice(toys, tmp_path):
    units = toys["answers"].active_units()
    sheets = write_contact_sheets(toys, units, tmp_path)
    one = tmp_path / sheets[units[0]].file
    shown = toys["answers"].exemplars(units[0])
    with Image.open(one) as picture:
        assert picture.size == (3 * 128, 2 * 128)
        expected = make_image_grid(highlight_masks(shown.images, shown.masks, 128), 3).astype(int)
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - expected).mean() < 6  # WebP loses a little
    assert sheets[units[0]].images == shown.ids.tolist()
    before = one.stat().st_mtime_ns
    assert write_contact_sheets(toys, units, tmp_path) == sheets
    assert one.stat().st_mtime_ns == before


@pytest.mark.parametrize("left", [None, 0, 11, -1], ids=["missing", "empty", "cut in its head", "cut"])
def test_a_missing_or_damaged_sheet_is_drawn_again_and_those_of_another_dissection_are_removed(toys, tmp_path, left):
    units = toys["answers"].active_units()
    file = tmp_path / write_contact_sheets(toys, units, tmp_path)[units[0]].file
    content = file.read_bytes()
    if left is None:
        file.unlink()
    else:
        file.write_bytes(content[:left])
    old = tmp_path / "units" / "answers-00000000"
    old.mkdir()
    write_contact_sheets(toys, units, tmp_path)
    assert file.read_bytes() == content
    assert not old.exists()


def test_histograms_count_every_image(toys):
    found = compute_histograms(toys["answers"], toys["answers"].units)
    peaks = toys["answers"].activations("max").numpy()
    assert all(
        sum(each["histogram"]["counts"]) == 33 and len(each["histogram"]["counts"]) == HISTOGRAM_BINS for each in found
    )
    ends = [(each["histogram"]["low"], each["histogram"]["high"]) for each in found]
    assert ends[3] == pytest.approx((peaks[:, 3].min(), peaks[:, 3].max()), rel=1e-3)
    assert found[5]["histogram"]["counts"][0] == 32  # one image moves the sparse unit
    assert found[5]["histogram"]["counts"][-1] == 1
    assert found[3]["threshold"] == pytest.approx(float(toys["answers"].thresholds()[3]), rel=1e-3)


def scripts(page: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"<script[^>]*>(.*?)</script>", page, re.DOTALL))


def test_no_text_can_end_the_data_block_and_all_come_through(page_file):
    page = page_file.read_text()
    data = json.loads(next(scripts(page)))
    assert data["layers"][1]["units"][3]["text"] == EVIL
    assert EVIL not in page
    assert FACTS["warnings"][0] not in page
    assert page.count("<script") == 2


def test_the_page_is_the_same_whenever_it_is_written(toys, catalogue, page_file, tmp_path):
    assert write_page(catalogue, toys, tmp_path).read_bytes() == page_file.read_bytes()


def test_a_page_without_dissections_shows_the_texts(tmp_path):
    page = write_page(
        Catalogue.from_descriptions([Description(Unit("a/b c", 0), "<b>", 1.0)], describer="x"), {}, tmp_path
    ).read_text()
    assert json.loads(next(scripts(page)))["layers"][0]["units"][0]["picture"] == ""


def test_layers_stand_in_the_order_of_the_target(page_file):
    assert [layer["name"] for layer in json.loads(next(scripts(page_file.read_text())))["layers"]] == [
        "detectors",
        "answers",
    ]


def test_webp_is_small(toys):
    shown = toys["answers"].exemplars(toys["answers"].active_units()[0])
    assert len(encode_webp(make_image_grid(highlight_masks(shown.images, shown.masks, 128), 3))) < 20_000


class Faint(nn.Module):
    """Units that differ by one step of float32, that overflow a float32 range, and below the normal numbers."""

    def forward(self, images):
        bright = images.mean((1, 2, 3))
        faint = 1 + (bright > 0.5) * 2.0**-23
        units = [faint, 3e38 * torch.sign(bright - 0.5), 1e-44 * torch.round(bright * 7)]
        return torch.stack(units, 1)[:, :, None, None]


def test_units_that_barely_move_and_many_exemplars_are_shown(tmp_path, visit):
    """Histograms and class ranges of any float32 values; 500 exemplars, which are more than one WebP picture holds."""
    levels = torch.arange(500) % 250
    images = levels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    probe = Probe.from_tensor(images, [int(level > 127) for level in levels], ["dark", "bright"])
    target = Target(nn.Sequential(Faint()), image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    dissections = dissect(target, probe, ["0"], tmp_path / "dissection", k=500)
    layer = dissections["0"]
    entries = [Entry(unit, "ok", Description(unit, "bright", 1.0)) for unit in layer.units]
    file = write_page(Catalogue(tuple(entries)), dissections, tmp_path / "page")
    found = json.loads(next(scripts(file.read_text())))["layers"][0]["units"]
    assert [sum(each["histogram"]["counts"]) for each in found] == [500] * 3
    assert [bool(each["ranges"]) for each in found] == [True] * 3
    assert len(list(file.parent.glob("units/*/0*.webp"))) == 5
    seen = visit("#0:0", file=file)
    last = seen.page.locator(".exemplar").last
    assert seen.page.locator(".exemplar").count() == 500
    assert "0-4.webp" in last.evaluate("tile => tile.style.backgroundImage")
    # the twentieth of its part, three in a row
    assert last.evaluate("tile => tile.style.backgroundPosition") == "50% 100%"

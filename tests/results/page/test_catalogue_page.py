"""What is written for the page: images, each once, regions in few bytes, and scripts that no text can end."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from milan.console.exemplar_rendering import (
    DIMMED_BRIGHTNESS,
    OUTLINE_COLOUR,
    highlight_masks,
    make_image_grid,
    scale_images,
)
from milan.dissection.dissect import dissect
from milan.dissection.masks import masks_from_maps
from milan.probes import Probe
from milan.results.catalogue import Catalogue, Entry
from milan.results.page import write_exemplar_views, write_page
from milan.results.page.catalogue_page import render_single_file
from milan.results.page.map_encoding import RANGE, quantize_maps
from milan.results.page.page_data import HISTOGRAM_BINS, compute_histograms
from milan.targets.target import Target
from milan.units import Description, Unit
from tests.results.page.conftest import EVIL, FACTS, read_data


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


def test_each_image_is_stored_once_and_not_written_twice(toys, tmp_path):
    units = [unit for one in toys.values() for unit in one.active_units()]
    views = write_exemplar_views(toys, units, tmp_path)
    files = sorted(tmp_path.rglob("*.webp"))
    seen = {id for unit in units for id in toys[unit.layer].exemplars(unit).ids.tolist()}
    assert sorted(int(file.stem) for file in files) == sorted(seen)
    view, exemplars = views[units[0]], toys[units[0].layer].exemplars(units[0])
    assert view.names == exemplars.ids.tolist()
    with Image.open(tmp_path / view.files[0]) as picture:
        assert picture.size == (view.width, view.height) == (128, 128)
        lost = np.asarray(picture.convert("RGB")).astype(int) - scale_images(exemplars.images[:1], 128)[0]
        assert np.abs(lost).mean() < 6  # WebP loses a little
    before = [file.stat().st_mtime_ns for file in files]
    assert write_exemplar_views(toys, units, tmp_path) == views
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.parametrize("left", [None, 0, 11, -1], ids=["missing", "empty", "cut in its head", "cut"])
def test_a_missing_or_damaged_image_is_written_again(toys, tmp_path, left):
    units = toys["answers"].active_units()
    file = tmp_path / write_exemplar_views(toys, units, tmp_path)[units[0]].files[0]
    content = file.read_bytes()
    if left is None:
        file.unlink()
    else:
        file.write_bytes(content[:left])
    write_exemplar_views(toys, units, tmp_path)
    assert file.read_bytes() == content


def test_files_of_an_earlier_page_are_removed(toys, catalogue, page_file, tmp_path):
    old = [tmp_path / name for name in ("units/a-00000000/1.webp", "images/00000000/1.webp", "data/0.js")]
    for file in old:
        file.parent.mkdir(parents=True)
        file.touch()
    write_page(catalogue, toys, tmp_path)
    assert [file.exists() for file in old] == [False] * 3
    written, expected = (
        {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path, page_file.parent)
    )
    assert written == expected


@pytest.mark.parametrize("levels", [8, 127])
def test_coded_maps_have_the_region_of_the_maps(levels):
    maps = torch.randn(4, 3, 7, 5)
    thresholds = torch.tensor([0.0, 0.5, 1.0, 9.0])
    codes = torch.from_numpy(quantize_maps(maps.numpy(), thresholds.numpy(), levels))
    assert torch.equal(codes > 0, maps > thresholds[:, None, None, None])
    distances = codes.sign() * torch.expm1(codes.abs() / 127 * math.log1p(RANGE))
    drawn = masks_from_maps(distances, 0.0, (56, 40))
    wrong = drawn != masks_from_maps(maps, thresholds[:, None], (56, 40))
    assert wrong.float().mean() < (0.05 if levels == 8 else 0.005)
    assert not wrong[3].any()


def test_maps_that_are_not_finite_are_coded():
    maps = np.array([[[[np.nan, 3e38, -3e38, np.inf]]]], np.float32)
    assert (quantize_maps(maps, np.array([-3e38], np.float32), 8) > 0).tolist() == [[[[False, True, False, True]]]]


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


def test_no_text_can_end_the_script_that_it_is_in_and_all_come_through(toys, catalogue, page_file):
    assert read_data(page_file)["layers"][1]["list"]["text"][3] == EVIL
    single = render_single_file(catalogue, toys)
    for text in (page_file.read_text(), single, *(file.read_text() for file in page_file.parent.glob("data/*.js"))):
        assert EVIL not in text
        assert FACTS["warnings"][0] not in text
        assert "<img src=x" not in text
    assert page_file.read_text().count("<script") == page_file.read_text().count("</script>") == 2
    assert single.count("<script") == single.count("</script>") == 3 + 4  # data, images, script; two lists, two blocks


def test_a_page_without_dissections_shows_the_texts(tmp_path):
    catalogue = Catalogue.from_descriptions([Description(Unit("a/b c", 0), "<b>", 1.0)], describer="x")
    layer = read_data(write_page(catalogue, {}, tmp_path))["layers"][0]
    assert (layer["strip"], layer["blocks"][0]["exemplars"], layer["list"]["text"]) == (None, None, ["<b>"])


def test_layers_stand_in_the_order_of_the_target(page_file):
    assert [layer["name"] for layer in read_data(page_file)["layers"]] == ["detectors", "answers"]


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
    found = read_data(file)["layers"][0]["blocks"]
    assert [sum(each["histogram"]["counts"]) for each in found] == [500] * 3
    assert [bool(each["ranges"]) for each in found] == [True] * 3
    assert len(found[0]["exemplars"]["images"]) == 500
    seen = visit("#0:0", file=file)
    seen.open("0:0")
    assert seen.page.locator(".exemplar").count() == 500
    seen.page.locator(".exemplar").last.scroll_into_view_if_needed()
    seen.page.wait_for_selector(".exemplar[data-painted] >> nth=-1")

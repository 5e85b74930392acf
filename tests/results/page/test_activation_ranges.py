"""Which classes a unit fires for: the shares that are counted, and how the page draws them and signed weights."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.dissect import dissect
from milan.dissection.loading import load_dissection
from milan.probes import Probe
from milan.results.catalogue import Catalogue, Entry
from milan.results.page import write_page
from milan.results.page.activation_ranges import MIN_IMAGES, compute_class_ranges, join_ranges
from milan.targets.target import Target
from milan.units import Description, Unit
from tests.results.page.conftest import EVIL

BRIGHT, DARK, GREY = "bright", EVIL, "grey"


class Brightness(nn.Module):
    """One unit that is as strong as the image is bright, one that is its opposite, one that never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Conv2d(3, 3, 1)
        self.units.weight.data = torch.tensor([1.0, -1.0, 0.0])[:, None, None, None].repeat(1, 3, 1, 1) / 3
        self.units.bias.data = torch.tensor([0.0, 1.0, 0.5])

    def forward(self, images):
        return self.units(images)


def world(folder, classes=(BRIGHT, DARK, GREY), labels=None):
    """90 plain images from black to white; the brightest third is of one class, the darkest of another."""
    levels = np.linspace(0, 255, 90).astype(np.uint8)
    images = torch.from_numpy(levels)[:, None, None, None].repeat(1, 3, 8, 8)
    probe = Probe.from_tensor(images, labels or [1] * 30 + [2] * 30 + [0] * 30, list(classes))
    target = Target(Brightness(), image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return dissect(target, probe, ["units"], folder, k=3)["units"]


@pytest.fixture(scope="module")
def brightness(tmp_path_factory):
    return world(tmp_path_factory.mktemp("brightness"))


def test_the_strongest_range_shows_the_class_that_drives_the_unit(brightness):
    names, (bright, dark, constant) = compute_class_ranges(brightness, brightness.units)
    assert names == [BRIGHT, DARK, GREY]
    assert names[bright["classes"][0]] == BRIGHT
    assert names[dark["classes"][0]] == DARK
    assert constant is None, "it has one value only"
    rows = dict(zip((names[place] for place in bright["classes"]), bright["shares"], strict=True))
    assert (rows[BRIGHT][0], rows[BRIGHT][-1]) == (0, 100)
    assert (rows[DARK][0], rows[DARK][-1]) == (100, 0)
    assert max(rows[GREY]) == 100
    assert np.allclose(np.sum(bright["shares"], axis=0), 100, atol=2), "all classes have a colour here"
    assert bright["edges"][0] == 0
    assert bright["edges"][-1] == pytest.approx(1, abs=0.01)


def test_a_range_has_images_enough_to_speak_of_shares(brightness):
    _, (bright, *_) = compute_class_ranges(brightness, brightness.units)
    values = brightness.activations("mean")[:, 0].numpy()
    edges = np.array(bright["edges"])
    edges[-1] += 1
    assert bright["fewest"] == MIN_IMAGES
    assert (np.histogram(values, edges)[0] >= MIN_IMAGES).all()
    assert len(edges) > 10


def test_few_high_images_are_joined_from_the_top_down_and_few_low_ones_with_the_next():
    edges = np.arange(7.0)
    assert join_ranges((np.array([50, 20, 5, 1, 1, 1]), edges), min_images=3).tolist() == [0, 1, 2, 3, 6]
    assert join_ranges((np.array([1, 20, 5, 1, 1, 1]), edges), min_images=3).tolist() == [0, 2, 3, 6]
    assert join_ranges((np.array([1, 0, 0, 0, 0, 1]), edges), min_images=3).tolist() == [0, 6]


def test_a_class_that_is_as_frequent_everywhere_has_no_colour_of_its_own(tmp_path):
    labels = [index % 2 for index in range(60)] + [2] * 30
    _, (bright, *_) = compute_class_ranges(world(tmp_path, ("even", "odd", "white"), labels), [Unit("units", 0)])
    assert bright["classes"][0] == 2
    assert bright["shares"][0][-1] == 100


def test_without_labels_or_activations_there_is_no_chart(tmp_path, brightness):
    images = torch.randint(0, 255, (20, 3, 8, 8), dtype=torch.uint8)
    target = Target(Brightness(), image_size=8)
    plain = dissect(target, Probe.from_tensor(images), ["units"], tmp_path, k=3)["units"]
    assert compute_class_ranges(plain, plain.units) == ([], [None] * 3)
    (brightness.folder / "pooled_mean.npy").rename(brightness.folder / "gone.npy")
    assert compute_class_ranges(brightness, brightness.units) == ([], [None] * 3)
    (brightness.folder / "gone.npy").rename(brightness.folder / "pooled_mean.npy")


def test_a_probe_that_has_moved_away_is_no_error(tmp_path):
    dissection = make_toy_dissection(tmp_path)
    assert compute_class_ranges(dissection, dissection.units)[0] == ["blue", "green", "grey", "red"]
    (tmp_path / "probe").rename(tmp_path / "elsewhere")
    again = load_dissection(dissection.folder)
    assert compute_class_ranges(again, again.units) == ([], [None] * 7)


def test_the_chart_stays_small(tmp_path):
    """Sixteen ranges of six classes at most: some three hundred bytes for each unit."""
    labels = [index % 30 for index in range(90)]
    names, found = compute_class_ranges(
        world(tmp_path, [f"class {index}" for index in range(30)], labels), [Unit("units", 0)]
    )
    assert len(found[0]["classes"]) <= 6
    assert len(names) == len(found[0]["classes"])
    assert len(json.dumps(found[0], separators=(",", ":"))) < 600


@pytest.fixture(scope="module")
def charted(brightness, tmp_path_factory):
    entries = [
        Entry(unit, "ok", Description(unit, "something", 0.5)) if status == "ok" else Entry(unit, status)
        for unit, status in brightness.status.items()
    ]
    return write_page(
        Catalogue(tuple(entries), {"describer": "x"}), {"units": brightness}, tmp_path_factory.mktemp("page")
    )


def test_the_page_draws_areas_that_fill_the_whole_with_a_legend(visit, charted):
    seen = visit("#units:0", file=charted)
    seen.open("units:0")
    areas = seen.page.locator("#plate-ranges polygon")
    assert areas.count() == 4  # three classes and the rest
    tops = [areas.nth(at).evaluate("area => area.points[0].y") for at in range(4)]
    assert tops == sorted(tops, reverse=True)
    assert areas.nth(3).evaluate("area => Math.min(...[...area.points].map(point => point.y))") == 0
    legend = seen.page.locator("#plate-ranges .classes li").all_inner_texts()
    assert legend[0] == f"{BRIGHT}100%"
    assert legend[-1] == "all other classes0%"
    colours = seen.page.eval_on_selector_all(
        ".classes i", "marks => marks.map(mark => getComputedStyle(mark).backgroundColor)"
    )
    fills = seen.page.eval_on_selector_all(
        "#plate-ranges polygon", "areas => areas.map(area => getComputedStyle(area).fill)"
    )
    assert colours == fills
    assert len(set(fills)) == 4


def test_class_names_cannot_run(visit, charted):
    seen = visit("#units:1", file=charted)
    seen.open("units:1")
    assert seen.page.locator("#plate-ranges .classes li").first.inner_text() == f"{EVIL}100%"
    assert seen.page.evaluate("window.harmed") is None
    assert seen.page.locator("img[src=x]").count() == 0


def test_the_chart_fits_a_phone_and_changes_colour_in_the_dark(visit, charted):
    fill = "getComputedStyle(document.querySelector('#plate-ranges polygon')).fill"
    phone = visit("#units:0", file=charted, viewport={"width": 360, "height": 740}, color_scheme="dark")
    phone.open("units:0")
    assert phone.page.evaluate("document.getElementById('plate').scrollWidth <= 360")
    assert phone.page.evaluate("document.querySelector('#plate-ranges svg').getBoundingClientRect().right <= 360")
    light = visit("#units:0", file=charted, color_scheme="light")
    light.open("units:0")
    assert phone.page.evaluate(fill) != light.page.evaluate(fill)


def test_a_unit_that_has_one_value_only_has_no_chart(visit, charted):
    seen = visit("#units:2", file=charted)
    seen.open("units:2")
    assert "dead" in seen.page.inner_text("#plate-text")
    assert seen.page.locator("#plate-ranges *").count() == 0


def test_weights_stand_on_both_sides_of_one_zero_line(visit):
    seen = visit("#answers:6")
    seen.open("answers:6")
    rows = seen.page.locator("#plate-concepts tr")
    assert [text.split("\t")[0] for text in rows.all_inner_texts()] == ["red", "blue", EVIL]
    assert [text.strip().split("\t")[-1] for text in rows.all_inner_texts()] == ["+1.50", "+0.50", "−0.50"]
    assert "0.25" in seen.page.inner_text("#plate-concepts .legend")
    box = "bars => bars.map(bar => { const box = bar.getBoundingClientRect(); return [box.left, box.right]; })"
    bars = seen.page.eval_on_selector_all("#plate-concepts .weight", box)
    zeros = seen.page.eval_on_selector_all("#plate-concepts .zero", box)
    for (left, right), (zero, _), sign in zip(bars, zeros, (1, 1, -1), strict=True):
        assert (left if sign > 0 else right) == pytest.approx(zero, abs=1)
    assert bars[0][1] - bars[0][0] == pytest.approx(3 * (bars[1][1] - bars[1][0]), rel=0.02)
    assert bars[2][1] - bars[2][0] == pytest.approx(bars[1][1] - bars[1][0], rel=0.02)
    assert seen.page.evaluate("window.harmed") is None


def test_without_weights_there_is_no_such_table(visit):
    assert visit("#answers:0").page.locator("#plate-concepts *").count() == 0

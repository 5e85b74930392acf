"""What a page costs: milliseconds and kB a unit to write, beside a picture of its exemplars for each unit, and seconds
until it shows pictures in Chromium.

``python -m benchmarks --only page`` writes pages of 1,000 and 10,000 units and opens them and one of 100,000. The units
are random filters on generated images, in layers of 1,000, with 15 exemplars and maps of 14 x 14. Times of writing are
those of the processor, without the images, which are stored once; times of opening are those of the clock. The page of
100,000 units repeats the layers of a smaller one with lists of their own, since opening reads the lists and the units
near the window.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.table import Row, Skipped
from milan.console.exemplar_rendering import encode_webp, highlight_masks, make_image_grid
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.probes import Probe
from milan.results.catalogue import Catalogue, Entry
from milan.results.page import write_exemplar_views, write_page
from milan.results.page.data_files import DataFiles, escape_json
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit

LAYER_UNITS, IMAGES, SIDE, CLASSES = 1000, 400, 112, 20
TIMES, ROUNDS = 10, 3  # how often layers are repeated, and how often a page is opened
SHEETS = 100  # units of which a picture is drawn, for comparison
WORDS = ("red", "green", "striped", "round", "wooden", "shiny", "wheel", "window", "grass", "sky", "water", "dog")
DATA_BLOCK = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL)
EMPTY = '<a class="card"><canvas data-painted style="height: 100000px; width: 9px"></canvas></a>'
SCROLL = """async () => {
    const times = [];
    let before = performance.now();
    for (let frame = 0; frame < 120; frame += 1) {
        scrollBy(0, 120);
        await new Promise(requestAnimationFrame);
        times.push(performance.now() - before);
        before = performance.now();
    }
    return times;
}"""


class Filters(nn.Module):
    """Layers of random filters of 16 x 16 pixels, side by side, on a grid of 14 x 14."""

    def __init__(self, layers: int, units: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Conv2d(3, units, 16, 8, padding=4) for _ in range(layers))

    def forward(self, images):
        return torch.stack([part(images).mean((2, 3)) for part in self.parts]).sum(0)


def generate_probe() -> Probe:
    """Images of random smooth colours, with labels."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 9, 9, generator=rng)
    images = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    return Probe.from_tensor(images, [at % CLASSES for at in range(IMAGES)], [f"class {at}" for at in range(CLASSES)])


def generate_dissections(units: int, folder: Path) -> dict[str, Dissection]:
    layers = max(1, units // LAYER_UNITS)
    target = Target(Filters(layers, units // layers), image_size=SIDE)
    return dissect(target, generate_probe(), [f"parts.{at}" for at in range(layers)], folder, k=15)


def describe(unit: Unit) -> Description:
    """A text and ten candidates as long as MILAN's."""
    text = " ".join(WORDS[(unit.index * step + step) % len(WORDS)] for step in (1, 3, 7, 11))
    parts = (("likelihood", -11.2345), ("prior", -24.5678), ("pmi", -6.7891))
    found = tuple(Candidate(f"{text} {WORDS[at]}", -1.2345 - at, parts) for at in range(10))
    return Description(unit, text, unit.index / LAYER_UNITS, candidates=found)


def measure_writing(dissections: Mapping[str, Dissection], folder: Path) -> dict[str, float]:
    """Milliseconds and kB a unit, without and with the images, in a folder that has none of it."""
    units = [unit for dissection in dissections.values() for unit in dissection.units]
    catalogue = Catalogue(tuple(Entry(unit, "ok", describe(unit)) for unit in units), {"layers": list(dissections)})
    began = time.process_time()
    write_exemplar_views(dissections, units, folder)
    with_images = time.process_time() - began
    # Now the images exist.
    began = time.process_time()
    views = write_exemplar_views(dissections, units, folder)
    without = time.process_time() - began
    began = time.process_time()
    write_page(catalogue, dissections, folder, views)
    rest = time.process_time() - began
    images = list((folder / "images").rglob("*.webp"))
    data = [folder / "index.html", *(folder / "data").iterdir()]
    return {
        "units": len(units),
        "images": len(images),
        "image kB": sum(file.stat().st_size for file in images) / len(images) / 1e3,
        "ms": (without + rest) / len(units) * 1e3,
        "all ms": (with_images + rest) / len(units) * 1e3,
        "kB": sum(file.stat().st_size for file in data) / len(units) / 1e3,
    }


def measure_sheets(dissections: Mapping[str, Dissection]) -> tuple[float, float]:
    """Milliseconds and kB of drawing and encoding a picture of a unit's exemplars."""
    dissection = next(iter(dissections.values()))
    began, size = time.process_time(), 0
    for unit in dissection.units[:SHEETS]:
        found = dissection.exemplars(unit)
        size += len(encode_webp(make_image_grid(highlight_masks(found.images, found.masks), 3)))
    return (time.process_time() - began) / SHEETS * 1e3, size / SHEETS / 1e3


def multiply(page: Path, times: int) -> Path:
    """Write a page beside ``page`` whose layers are repeated, each with a list of its own, and return it."""
    match = DATA_BLOCK.search(page.read_text())
    assert match
    data = json.loads(match[2])
    files = DataFiles(page.parent)
    layers: list[dict[str, Any]] = []
    for copy in range(times):
        for layer in data["layers"]:
            text = (page.parent / "data" / f"{layer['list']}.js").read_text()
            values = json.loads(text.partition(",")[2].rstrip().removesuffix(")"))
            values["text"] = [f"{each} {copy}" for each in values["text"]]
            layers.append(layer | {"name": f"{layer['name']}.{copy}", "list": files.add(values)})
    large = page.with_name(f"index-{times}.html")
    text = page.read_text()
    large.write_text(text[: match.start(2)] + escape_json(data | {"layers": layers}) + text[match.end(2) :])
    return large


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def measure_opening(page: Path) -> tuple[float, float, float]:
    """Seconds until pictures are drawn, and the median and 95th percentile of milliseconds a frame while scrolling."""
    from playwright.sync_api import sync_playwright

    seconds, frames = [], []
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=options)
        for _ in range(ROUNDS):
            window = browser.new_page(viewport={"width": 1280, "height": 900})
            began = time.perf_counter()
            window.goto(page.resolve().as_uri())
            window.wait_for_selector(".card canvas[data-painted]", timeout=120_000)
            seconds.append(time.perf_counter() - began)
            frames += window.evaluate(SCROLL)
            window.close()
        browser.close()
    return median(seconds), median(frames), sorted(frames)[int(len(frames) * 0.95)]


def rows(scale: float) -> list[Row]:
    """Return what pages of 1,000 and 10,000 units cost to write, and of 10,000 and 100,000 to open, times ``scale``."""
    torch.set_num_threads(1)
    if find_chromium() is None:
        raise Skipped("there is no Chromium")
    small, large = (max(LAYER_UNITS // 10, round(units * scale)) for units in (1000, 10_000))
    found, pages = [], []
    with tempfile.TemporaryDirectory() as name:
        for units in (small, large):
            folder = Path(name) / str(units)
            dissections = generate_dissections(units, folder / "dissection")
            written = measure_writing(dissections, folder / "page")
            sheet_ms, sheet_kb = measure_sheets(dissections)
            what = f"writing a unit of {units:,}"
            found += [
                Row(f"{what} (at most 1 ms)", written["ms"], unit="ms", peer=f"{sheet_ms:.1f} ms: a picture each"),
                Row(f"{what}, with {written['images']} images", written["all ms"], unit="ms"),
                Row(f"{what} (at most 4 kB)", written["kB"], unit="kB", peer=f"{sheet_kb:.1f} kB: a picture each"),
            ]
            pages.append(folder / "page" / "index.html")
        found += measure_pages([(large, pages[-1]), (large * TIMES, multiply(pages[-1], TIMES))])
    return found


def measure_pages(pages: Sequence[tuple[int, Path]]) -> list[Row]:
    """Return the rows of opening and scrolling pages, given with their numbers of units, beside an empty page."""
    empty = pages[0][1].with_name("empty.html")
    empty.write_text(EMPTY)
    floor, floor_frame, _ = measure_opening(empty)
    found = []
    for units, page in pages:
        opens, frame, slow = measure_opening(page)
        found += [
            Row(f"opening {units:,} units (at most 3 s of 10,000)", opens, floor, "an empty page"),
            Row(
                f"scrolling {units:,} units, a frame (95%: {slow:.0f} ms)",
                frame,
                floor_frame,
                "an empty page",
                unit="ms",
            ),
        ]
    return found

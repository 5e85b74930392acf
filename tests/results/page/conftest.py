"""A page of known units, and a browser that looks at it over file://."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from milan.describers._shared.contract import COLOURS, make_toy_dissection
from milan.dissection.dissect import dissect
from milan.probes import load_probe
from milan.results.catalogue import Catalogue, Entry
from milan.results.page import write_page
from milan.storage.provenance import simulated_note
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit

EVIL = '<img src=x onerror="window.harmed = true"><script>window.harmed = true</script>'
FACTS = {
    "target": "file.py:detectors",
    "probe": "diorama:objects",
    "describer": "milan",
    "images": 33,
    "k": 5,
    "layers": ["detectors", "answers"],
    "simulated": simulated_note({"probe": "diorama:objects"}),
    "versions": {"torch": "2.15"},
    "warnings": ["2 images could not be read: </script><b>a.jpg"],
}
TEXTS = {0: "red squares", 1: "Green things", 2: "blue Café tables", 3: EVIL, 6: "red or blue"}


def said(unit: Unit) -> Entry:
    score = -1.5 - unit.index / 4 if unit.layer == "answers" else 1.0 + unit.index
    parts = (("likelihood", score - 1.0), ("prior", -5.0), ("pmi", score))
    candidates = (Candidate(TEXTS[unit.index], score, parts), Candidate("runner <b>up</b>", score - 1, parts))
    weights, bias = ((("red", 1.5), ("blue", 0.5), (EVIL, -0.5)), 0.25) if unit.index == 6 else ((), 0.0)
    return Entry(unit, "ok", Description(unit, TEXTS[unit.index], score, weights, bias, candidates))


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    one = make_toy_dissection(folder)
    probe, target = load_probe(str(folder / "probe"), size=64), load_target(one.target)
    return dissect(target, probe, ["detectors", "answers"], folder / "two", k=5, quantile=0.9)


@pytest.fixture(scope="session")
def catalogue(toys):
    entries = [
        said(unit)
        if unit.index in TEXTS
        else Entry(unit, dissection.status[unit] if dissection.status[unit] != "ok" else "failed")
        for dissection in toys.values()
        for unit in dissection.units
    ]
    return Catalogue(tuple(entries), FACTS)


@pytest.fixture(scope="session")
def page_file(toys, catalogue, tmp_path_factory):
    return write_page(catalogue, toys, tmp_path_factory.mktemp("out") / "page with spaces")


def read_data(page: Path) -> dict[str, Any]:
    """The data of a page, with each named value in place of its name."""

    def load(name: str) -> Any:
        file = page.parent / "data" / f"{name}.js"
        found = re.fullmatch(rf'milanData\("{name}",(.*)\)\n', file.read_text(), re.DOTALL)
        assert found, file
        return json.loads(found[1])

    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1])
    for layer in data["layers"]:
        layer["list"] = load(layer["list"])
        layer["blocks"] = [unit for name in layer["blocks"] for unit in load(name)]
    return data


class Wide(nn.Module):
    """Two layers of 1,000 random units each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 1000, 8, 8), nn.Conv2d(1000, 1000, 1)

    def forward(self, images):
        return self.two(self.one(images))


@pytest.fixture(scope="session")
def large_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    make_toy_dissection(folder)
    target = Target(Wide(), image_size=64)
    dissections = dissect(target, load_probe(str(folder / "probe"), size=64), ["one", "two"], folder / "wide", k=15)
    entries = []
    for dissection in dissections.values():
        for unit in dissection.units:
            text = f"{list(COLOURS)[unit.index % 4]} things of kind {unit.index % 97}"
            found = tuple(
                Candidate(f"{text} {place}", float(unit.index - place), (("likelihood", 1.0), ("prior", 2.0)))
                for place in range(10)
            )
            entries.append(Entry(unit, "ok", Description(unit, text, float(unit.index), candidates=found)))
    return write_page(Catalogue(tuple(entries), FACTS | {"layers": ["one", "two"]}), dissections, folder / "page")


class Visit:
    """A page opened in a window of its own, and all that it asked for and complained of."""

    def __init__(self, browser, file: Path, link: str = "", **window):
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | window))
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.goto(file.as_uri() + link)
        self.page.wait_for_selector("#units[aria-busy=false]", state="attached")

    def open(self, unit: str) -> None:
        """Wait until a unit is opened with all its evidence."""
        self.page.wait_for_selector("#plate[aria-busy=false]")
        assert self.page.inner_text("#plate-unit") == unit

    def shown(self) -> list[str]:
        """The ids of the cards that are in the document, in the order of the page."""
        return self.page.eval_on_selector_all(
            ".card", "cards => cards.map(card => card.querySelector('.label span').textContent)"
        )

    def focused(self) -> str:
        return self.page.evaluate(
            "document.activeElement.querySelector?.('.label span')?.textContent ?? document.activeElement.id"
        )


@pytest.fixture
def visit(browser, page_file):
    """Opens the page; at the end it must have asked for nothing but files, and complained of nothing."""
    visits = []

    def opened(link: str = "", file: Path = page_file, **window) -> Visit:
        visits.append(Visit(browser, file, link, **window))
        return visits[-1]

    yield opened
    for each in visits:
        each.context.close()
        assert each.complaints == []
        assert {url.split(":")[0] for url in each.requests} <= {"file", "data"}

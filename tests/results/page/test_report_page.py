"""The page of an experiment as a visitor meets it, in Chromium, from the file system."""

import shutil

import pytest

from milan.experiments.core.report import Column, Report, Row, Table
from milan.results.page import write_exemplar_views
from milan.results.page.exemplar_views import inline_images
from milan.results.page.form_page import FormItem, FormSection, RatingForm, write_form
from milan.scores.confidence_intervals import Measure
from tests.results.page.conftest import EVIL

UNITS = [
    ("units:0", "single", "wheel", "tyres of cars", ""),
    ("units:1", "either", "wheel or window", "windows or wheels", "exact"),
    ("units:2", "single", "café", EVIL, ""),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    table = Table(
        "all",
        (Column("truth", "How true.", "%", 1, "more"),),
        (Row("one", {"truth": Measure(0.5, 0.25, 0.75)}), Row("two", {})),
    )
    cases = [
        {"id": id, "group": group, "truth": truth, "pictures": [],
         "said": [{"name": "one", "role": "", "text": text, "reason": "", "mark": mark, "score": "0.50"}]}
        for id, group, truth, text, mark in UNITS
    ]  # fmt: skip
    heads, notes = (("50 %", "truth"),), ("A note.",)
    Report("toy", "A toy", "One sentence.", (table,), heads, notes, sources={}).write(folder, cases)
    return (folder / "page" / "index.html").as_uri()


@pytest.fixture
def page(browser, address):
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.goto(address)
    yield page
    assert page.faults == []
    context.close()


def shown(page):
    return page.evaluate("[...document.querySelectorAll('.case')].filter(one => !one.hidden).map(one => one.id)")


def test_units_are_found_by_what_was_said_of_them_and_what_is_true(page):
    assert shown(page) == ["units:0", "units:1", "units:2"]
    assert page.inner_text("#count") == "3 units"
    page.fill("#search", "WHEEL window")
    assert shown(page) == ["units:1"]
    assert page.inner_text("#count") == "1 of 3 units"
    page.fill("#search", "cafe")
    assert shown(page) == ["units:2"]
    page.fill("#search", "no such word")
    assert shown(page) == []
    assert page.is_visible("#nothing")
    page.fill("#search", "")
    page.select_option("#group", "single")
    assert shown(page) == ["units:0", "units:2"]


def test_nothing_that_was_said_runs(page):
    assert EVIL in page.inner_text("[id='units:2']")
    assert page.evaluate("window.harmed") is None


def test_light_and_dark_can_be_chosen(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    dark = page.evaluate(colour)
    assert dark != light
    page.click("#theme")
    assert page.evaluate(colour) == light


def test_intervals_are_drawn_to_scale(page):
    rail, span = (
        page.evaluate(f"document.querySelector('.wide svg .{part}').getBoundingClientRect().width")
        for part in ("rail", "span")
    )
    assert span == pytest.approx(rail * (75 - 25) / 75, rel=0.02)  # the largest end is the scale's


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_window(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()


@pytest.mark.parametrize("inlined", [True, False], ids=["within the form", "beside the page"])
def test_pictures_of_reports_and_forms_are_drawn(browser, toys, tmp_path, inlined):
    units = toys["answers"].active_units()[:2]
    views = write_exemplar_views(toys, units, tmp_path)
    if inlined:
        items = [FormItem(str(unit.index), views[unit], ["yes", "no"]) for unit in units]
        form = RatingForm("x", "A form", "Please look.", [FormSection("choice", "", [], "Is it red?", items)])
        file = write_form(form, tmp_path / "form.html", {}, inline_images(views.values(), tmp_path))
        shutil.rmtree(tmp_path / "images")
    else:
        cases = [
            {"id": str(unit), "group": "all", "truth": "", "said": [], "pictures": [views[unit].first(3), views[unit]]}
            for unit in units
        ]
        Report("toy", "A toy", "One sentence.", (), sources={}).write(tmp_path, cases)
        shutil.copytree(tmp_path / "images", tmp_path / "page" / "images")
        file = tmp_path / "page" / "index.html"
    page, lost = browser.new_page(), []
    page.on("requestfailed", lambda request: lost.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("canvas[data-painted] >> nth=1")
    sizes = page.eval_on_selector_all("canvas", "found => found.map(each => [each.width, each.height])")
    # Of five exemplars; in the report after a row of three.
    assert sizes == [[3 * 128, 2 * 128 if inlined else 3 * 128]] * 2
    assert lost == []
    page.close()

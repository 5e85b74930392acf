"""The page as a visitor meets it, in Chromium, from the file system."""

import base64
import shutil
import time
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import expect

from milan.console.exemplar_rendering import OUTLINE_COLOUR, highlight_masks, make_image_grid
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import export_milannotations
from milan.results.catalogue import Catalogue
from milan.results.page.catalogue_page import render_single_file
from milan.units import Unit
from tests.results.page.conftest import EVIL, FACTS

ALL = [f"{layer}:{unit}" for layer in ("detectors", "answers") for unit in (0, 1, 2, 3, 6)]
WITH_SPARSE = ["detectors:0", "detectors:1", "detectors:2", "detectors:3", "detectors:5", "detectors:6", *ALL[5:]]


def test_layers_units_and_facts_are_there(visit):
    seen = visit()
    assert seen.shown() == WITH_SPARSE  # before the ReLU the magenta unit is not sparse; it failed
    assert seen.page.title() == "file.py:detectors · units described by milan"
    assert (
        seen.page.inner_text(".lede")
        == "10 of 14 units in 2 layers, described by milan from 33 images of diorama:objects, each from its 5"
        " top-activating images."
    )
    assert "Simulated" in seen.page.inner_text(".note")
    assert "torch" in seen.page.inner_text("footer")
    seen.page.click(".warnings summary")
    assert FACTS["warnings"][0] in seen.page.inner_text(".warnings")


def test_nothing_in_a_description_runs(visit):
    seen = visit("#answers:3")
    seen.open("answers:3")
    assert seen.page.inner_text("#plate-text").lower() == EVIL.lower()
    assert "runner <b>up</b>" in seen.page.inner_text("#plate-candidates")
    assert seen.page.evaluate("window.harmed") is None
    assert seen.page.locator("img[src=x], body b").count() == 0


def test_the_policy_stops_what_would_run(browser, page_file):
    """The policy of the page is in force on file://: injected code, handlers, styles and requests are all refused."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(page_file.as_uri())
    refused = page.evaluate("""async () => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
          const box = document.createElement("div");
          box.innerHTML = '<img src="data:,x" onerror="window.harmed = true"><p style="color: red">x</p>';
          document.body.append(box);
          const script = document.createElement("script");
          script.textContent = "window.harmed = true";
          document.body.append(script);
          try { await fetch("https://example.org/"); } catch { /* refused */ }
          const frame = document.createElement("iframe");
          frame.src = "https://example.org/";
          document.body.append(frame);
          const picture = document.createElement("img");
          picture.src = "https://example.org/a.png";
          document.body.append(picture);
          await new Promise((done) => setTimeout(done, 300));
          return seen;
        }""")
    assert set(refused) >= {
        "script-src-attr",
        "script-src-elem",
        "style-src-attr",
        "connect-src",
        "frame-src",
        "img-src",
    }
    assert page.evaluate("window.harmed") is None
    context.close()


def test_images_come_when_they_are_in_view(visit, large_page):
    seen = visit(file=large_page)
    seen.page.wait_for_selector(".strip canvas[data-painted]")
    assert len(seen.shown()) < 100
    blocks = sum(url.endswith(".js") for url in seen.requests)
    assert blocks <= 2 + 4  # two lists, and the units near the window
    seen.page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
    seen.page.wait_for_selector(".card[href^='#two'] canvas[data-painted]", state="attached")
    assert len(seen.shown()) < 150
    assert sum(url.endswith(".js") for url in seen.requests) > blocks


def draw(exemplars, count, across) -> np.ndarray:
    """The sheet of a unit's exemplars as Python draws it."""
    pictures = highlight_masks(exemplars.images[:count], exemplars.masks[:count], 128)
    return make_image_grid(pictures, across).astype(int)


def read_canvas(seen, selector: str) -> np.ndarray:
    seen.page.wait_for_selector(f"{selector}[data-painted]")
    url = seen.page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    with Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_cards_look_as_the_sheets_that_python_draws(visit, toys, catalogue, tmp_path):
    """In a single file, whose canvases can be read; images lose a little as WebP files, outlines nothing."""
    (tmp_path / "page.html").write_text(render_single_file(catalogue, toys))
    seen = visit(file=tmp_path / "page.html")
    for unit in (Unit("detectors", 0), Unit("answers", 6)):
        expected = draw(toys[unit.layer].exemplars(unit), 5, 3)[:128]
        found = read_canvas(seen, f".card[href='#{unit}'] canvas")
        assert found.shape == expected.shape
        assert np.abs(found - expected).mean() < 8
        outlines = [np.abs(each - OUTLINE_COLOUR).sum(-1) < 24 for each in (found, expected)]
        assert outlines[1].sum() > 50
        for one, other in (outlines, outlines[::-1]):
            near = torch.nn.functional.max_pool2d(torch.from_numpy(other)[None].float(), 3, 1, 1)[0] > 0
            assert near.numpy()[one].mean() > 0.9, "an outline is at most a pixel away"


def test_a_dissection_of_masks_alone_is_drawn_from_its_masks(visit, toys, catalogue, tmp_path):
    released = load_dissection(export_milannotations(toys["detectors"], tmp_path / "released"))
    entries = tuple(entry for entry in catalogue.entries if entry.unit.layer == "detectors")
    page = render_single_file(Catalogue(entries, FACTS), {"detectors": released})
    (tmp_path / "page.html").write_text(page)
    seen = visit(file=tmp_path / "page.html")
    expected = draw(released.exemplars("detectors:0"), 5, 3)[:128]
    assert np.abs(read_canvas(seen, ".card[href='#detectors:0'] canvas") - expected).mean() < 4


def test_exemplars_are_drawn_one_by_one(visit):
    seen = visit("#answers:0")
    seen.open("answers:0")
    tiles = seen.page.locator(".exemplar[data-painted]")
    expect(tiles).to_have_count(5)
    assert "activation" in tiles.first.get_attribute("aria-label")
    assert len(seen.page.query_selector_all("#plate-histogram rect")) == 40


def test_a_page_whose_data_are_lost_says_so(visit, page_file, tmp_path):
    shutil.copy(page_file, tmp_path)
    context = visit().context
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("#lost:not([hidden])")
    assert "folder “data”" in page.inner_text("#lost")
    page.close()


def test_a_link_opens_its_unit_and_closing_gives_the_page_back(visit):
    seen = visit("#answers:2")
    expect(seen.page.locator("#plate-text")).to_have_text("blue Café tables")
    expect(seen.page.locator("#plate-unit")).to_have_text("answers:2")
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_url(lambda url: "#" not in url)
    assert not seen.page.evaluate("document.getElementById('plate').open")
    assert "#" not in seen.page.url
    assert seen.focused() == "answers:2"
    seen.page.evaluate("location.hash = '#detectors:1'")
    seen.page.wait_for_selector(
        "#plate[open]"
    )  # a function would be refused by the page's policy, once it is asked a second time
    expect(seen.page.locator("#plate-text")).to_have_text("Green things")


def test_a_link_to_a_dead_unit_says_so_and_one_to_nothing_opens_nothing(visit):
    expect(visit("#answers:4").page.locator("#plate-text")).to_have_text(
        "Not described: dead. It was never active on the probe."
    )
    assert not visit("#answers:99").page.evaluate("document.getElementById('plate').open")
    assert not visit("#%E0%A4%A").page.evaluate("document.getElementById('plate').open")


def test_dead_units_stand_apart(visit):
    seen = visit()
    assert "answers:4" not in seen.shown()
    box = seen.page.locator("#layer-answers .aside")
    assert box.locator("summary").inner_text() == "2 units not described"
    box.locator("summary").click()
    assert "1 dead, never activated on the probe: 4" in box.inner_text()
    assert "1 sparse, active on too few images: 5" in box.inner_text()


def test_search_finds_words_parts_accents_and_ids(visit):
    seen = visit()
    for words, found in {
        "red": ["detectors:0", "detectors:6", "answers:0", "answers:6"],
        "RED blue": ["detectors:6", "answers:6"],
        "cafe": ["detectors:2", "answers:2"],
        "answers:1": ["answers:1"],
        "onerror": ["detectors:3", "answers:3"],
        "zebra": [],
    }.items():
        seen.page.fill("#search", words)
        assert seen.shown() == found, words
    assert seen.page.is_visible("#nothing")
    seen.page.click("#clear")
    assert seen.shown() == WITH_SPARSE


def test_sorting_by_score_and_text(visit):
    seen = visit()
    seen.page.select_option("#sort", "best")
    assert seen.shown() == [
        "detectors:6",
        "detectors:3",
        "detectors:2",
        "detectors:1",
        "detectors:0",
        "detectors:5",
        *ALL[5:],
    ]
    seen.page.select_option("#sort", "worst")
    assert seen.shown()[-5:] == ["answers:6", "answers:3", "answers:2", "answers:1", "answers:0"]
    seen.page.select_option("#sort", "text")
    assert seen.shown()[-5:] == ["answers:3", "answers:2", "answers:1", "answers:6", "answers:0"]
    seen.page.select_option("#sort", "unit")
    assert seen.shown() == WITH_SPARSE


def test_filtering_by_layer_and_score(visit):
    seen = visit()
    seen.page.select_option("#layer", "answers")
    assert seen.shown() == ALL[5:]
    assert seen.page.inner_text("#count") == "5 of 11"
    seen.page.click("#reset")
    seen.page.evaluate(
        "document.getElementById('low').value = 2; document.getElementById('low').dispatchEvent(new Event('input'))"
    )
    assert seen.shown() == ["detectors:1", "detectors:2", "detectors:3", "detectors:6"]
    seen.page.evaluate(
        "document.getElementById('high').value = 3; document.getElementById('high').dispatchEvent(new Event('input'))"
    )
    assert seen.shown() == ["detectors:1", "detectors:2"]


def test_the_keyboard_does_it_all(visit):
    seen = visit()
    press = seen.page.keyboard.press
    press("/")
    assert seen.focused() == "search"
    seen.page.keyboard.type("re")  # "green" and "red"
    press("Enter")
    assert seen.focused() == "detectors:0"
    press("ArrowRight")
    press("ArrowRight")
    assert seen.focused() == "detectors:6"
    press("ArrowDown")
    assert seen.focused() == "answers:6"
    press("ArrowUp")
    press("Home")
    press("Enter")
    expect(seen.page.locator("#plate-unit")).to_have_text("detectors:0")
    press("ArrowRight")
    expect(seen.page.locator("#plate-unit")).to_have_text("detectors:1")
    seen.page.wait_for_url(lambda url: url.endswith("#detectors:1"))
    press("Escape")
    seen.page.wait_for_url(lambda url: "#" not in url)  # the dialog tells that it closed a moment later
    assert seen.focused() == "detectors:1"
    outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    press("/")
    press("Escape")
    assert seen.page.input_value("#search") == ""


def test_only_one_card_is_in_the_tab_order(visit):
    assert visit().page.locator(".card[tabindex='0']").count() == 1


def test_a_phone_has_no_sideways_scroll(visit, large_page):
    for link in ("", "#answers:3"):
        seen = visit(link, viewport={"width": 360, "height": 740})
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 360
        assert seen.page.evaluate("document.getElementById('plate').scrollWidth <= 360")
    seen.page.keyboard.press("Escape")
    assert not seen.page.is_visible("#sort")
    seen.page.click("#more")
    assert seen.page.is_visible("#sort")


def test_light_and_dark_follow_the_system_until_chosen(visit):
    def ground(seen):
        return seen.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    assert ground(light) == "rgb(246, 244, 238)"
    assert ground(dark) == "rgb(20, 19, 17)"
    dark.page.click("#theme")
    assert ground(dark) == ground(light)
    # The browser stores the choice a moment later.
    for _ in range(3):
        dark.page.reload()
        if ground(dark) == ground(light):
            break
    assert ground(dark) == ground(light)


def test_two_thousand_units_answer_at_once(visit, large_page):
    start = time.monotonic()
    seen = visit(file=large_page)
    assert seen.page.inner_text("#count") == "2,000 units"
    assert time.monotonic() - start < 5  # on two busy cores; half a second when they are free
    timed = """([id, value]) => {
        const start = performance.now();
        const box = document.getElementById(id);
        box.value = value;
        box.dispatchEvent(new Event("input"));
        document.body.offsetHeight;
        return performance.now() - start;
    }"""
    assert seen.page.evaluate(timed, ["search", "blue"]) < 1000
    assert seen.page.inner_text("#count") == "500 of 2000"
    assert seen.page.evaluate(timed, ["sort", "best"]) < 1000
    assert seen.shown()[0] == "one:998"


def test_the_keyboard_reaches_cards_that_are_not_in_the_document(visit, large_page):
    seen = visit(file=large_page)
    press = seen.page.keyboard.press
    press("/")
    press("Enter")
    press("End")
    assert seen.focused() == "two:999"
    assert seen.page.evaluate("document.activeElement.getBoundingClientRect().bottom <= innerHeight")
    press("ArrowUp")
    assert seen.focused() != "two:999"
    press("Home")
    for _ in range(30):
        press("ArrowDown")
    columns = int(seen.page.evaluate("document.getElementById('units').style.getPropertyValue('--columns')"))
    assert seen.focused() == f"one:{30 * columns}"
    box = seen.page.evaluate("(({ top, bottom }) => [top, bottom])(document.activeElement.getBoundingClientRect())")
    assert 0 <= box[0] < box[1] <= 900


def test_a_layer_is_reached_by_its_link(visit, large_page):
    seen = visit("#two", file=large_page)
    seen.page.wait_for_selector(".card[href='#two:0']")
    assert 0 <= seen.page.evaluate("document.getElementById('layer-two').getBoundingClientRect().top") < 900


def test_without_scripts_the_page_says_where_the_table_is(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "descriptions.csv" in page.inner_text("noscript")
    context.close()

"""Human studies: forms in a real browser, tables of Mechanical Turk, validity and aggregation."""

import csv
import json
import re
from pathlib import Path

import pytest

from milan.dissection.dissect import dissect
from milan.errors import BadInput, MilanWarning
from milan.experiments.core.described_runs import find_dissections, load_runs
from milan.experiments.core.form_answers import read_answers
from milan.experiments.core.report import Report
from milan.experiments.study.config import StudyConfig
from milan.experiments.study.forms import StudyForms, make_study
from milan.experiments.study.mechanical_turk import read_mechanical_turk, write_mechanical_turk
from milan.experiments.study.ratings import (
    Response,
    compute_adjusted_rating,
    compute_best_share,
    compute_krippendorff_alpha,
    compute_mean_rating,
    compute_rater_levels,
    read_published_ratings,
)
from milan.experiments.study.study import study
from milan.probes import load_probe
from milan.results.catalogue import Catalogue
from milan.targets.loading import load_target
from milan.units import Description, Unit
from tests.experiments import worlds

HARM = '<img src=x onerror="window.harmed = true">'
RIGHT = {0: "red things", 1: "green things", 2: "blue things"}
WRONG = {0: HARM, 1: "Green things.", 2: "wheels"}  # of unit 1 both say the same


def both(folder: Path) -> list[str]:
    return [str(folder / "right"), str(folder / "wrong")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    dissect(
        load_target(f"{worlds.__file__}:looks"),
        load_probe("diorama:objects", limit=20),
        ["looks"],
        folder / "dissection",
        k=3,
        quantile=0.9,
    )
    for name, said in (("right", RIGHT), ("wrong", WRONG)):
        (folder / name).mkdir()
        Catalogue.from_descriptions(
            [Description(Unit("looks", index), text, 1.0) for index, text in said.items()], describer=name
        ).write(folder / name)
    (folder / "test.csv").write_text("id,right,wrong,wrong2\nlooks:3,red or blue,wheels,sky\n")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Report:
    """Three units, in a form of two and one of one, with a test of one unit before them."""
    return study(
        StudyConfig(
            runs=[str(folder / "right"), str(folder / "wrong")],
            sampled_units=3,
            units_per_form=2,
            qualification=str(folder / "test.csv"),
            out=folder / "out",
        )
    )


@pytest.fixture(scope="module")
def same(made: Report, folder: Path) -> StudyForms:  # made first, also where another process runs the other tests
    """The study that ``made`` wrote the forms of."""
    runs = load_runs(both(folder))
    asked = StudyConfig(sampled_units=3, units_per_form=2, qualification=str(folder / "test.csv"))
    known = json.loads((folder / "out" / "forms" / "key.json").read_text())["items"].values()
    units = [Unit.parse(item["unit"]) for item in known if item["right"] is None]
    return make_study(runs, find_dissections(runs, units), units, asked)


def fill(page, key: dict, level: dict[str, int], right: bool = True) -> None:
    """Answers all that is asked: each describer gets its level, the highest is best."""
    for item in page.locator(".item").evaluate_all("items => items.map((item) => item.dataset.item)"):
        known = key["items"][item]
        if known["right"] is not None:
            page.check(f"[name=choice-{item}][value='{known['right'] if right else 1 - min(known['right'], 1)}']")
            continue
        ratings = [max(level[name] for name in who) for who in known["options"]]
        for number, rating in enumerate(ratings):
            page.click(f"label:has([name=rating-{item}-{number}][value='{rating}'])")
        page.check(f"[name=best-{item}][value='{ratings.index(max(ratings))}']")


def save(page, file: Path) -> None:
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(file)


def test_forms_are_filled_in_a_browser_and_read_back(made: Report, folder: Path, browser) -> None:
    forms = folder / "out" / "forms"
    key = json.loads((forms / "key.json").read_text())
    raters = {"ann": {"right": 5, "wrong": 2}, "bob": {"right": 3, "wrong": 1}, "eve": {"right": 1, "wrong": 5}}
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    answers = []
    for rater, number in (("ann", 1), ("ann", 2), ("bob", 1), ("bob", 2), ("eve", 1)):
        page.goto((forms / f"form-{number}.html").as_uri())
        page.evaluate("localStorage.clear()")
        page.reload()
        page.click("#save")
        assert "not answered yet" in page.inner_text("#left")  # nothing is saved before all is answered
        fill(page, key, raters[rater], rater != "eve")
        page.fill("#rater", rater)
        assert page.inner_text("#left") == "All answered"
        answers.append(folder / f"{rater}-{number}.json")
        if rater == "bob":
            page.reload()
            assert page.input_value("#rater") == "bob"  # what was answered is kept in the browser
            assert page.inner_text("#left") == "All answered"
        save(page, answers[-1])
    assert page.evaluate("window.harmed") is None
    assert set(asked) <= {"file", "data", "blob"}
    page.close()
    report = study(
        StudyConfig(
            runs=both(folder),
            sampled_units=3,
            units_per_form=2,
            qualification=str(folder / "test.csv"),
            answers=[str(file) for file in answers],
            out=folder / "answered",
        )
    )
    right, wrong = (row.values for row in report.tables[0].rows)
    assert right["rating"].value == pytest.approx(4.0)  # (5 + 3) / 2 of every unit; eve failed the test
    assert wrong["rating"].value == pytest.approx((1.5 + 1.5 + 4.0) / 3)  # of unit 1 both texts are one
    assert (right["best"].value, wrong["best"].value) == (pytest.approx(5 / 6), pytest.approx(1 / 6))
    assert any("eve" in note for note in report.notes)


def test_forms_do_not_show_the_describers(made: Report, folder: Path) -> None:
    pages = [(folder / "out" / "forms" / f"form-{number}.html").read_text() for number in (1, 2)]
    assert [page.count('class="item"') for page in pages] == [3, 2]  # the test's unit first
    for page in pages:
        assert not re.search(r">\s*(right|wrong)\b|looks", page)
        assert HARM not in page
        assert "http" not in re.sub(r"data:image/webp;base64,[^\"]+", "", page).replace("http-equiv", "")


def test_validity_of_responses() -> None:
    unit = Unit("l", 0)
    best = [frozenset({"a"}), frozenset({"b"}), frozenset({"a", "b"}), frozenset({"c"}), None]
    assert [Response("r", unit, {"a": 4, "b": 4, "c": 2}, each).is_valid for each in best] == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_mean_ratings_are_means_over_units() -> None:
    responses = [
        Response("one", Unit("l", 0), {"a": 5, "b": 1}, frozenset({"a"})),
        Response("two", Unit("l", 0), {"a": 3, "b": 1}, frozenset({"a"})),
        Response("one", Unit("l", 1), {"a": 2, "b": 2}, frozenset({"a", "b"})),
    ]
    assert compute_mean_rating(responses, "a").value == pytest.approx((4 + 2) / 2)
    assert compute_best_share(responses, "a").value == pytest.approx((1 + 0.5) / 2)
    assert compute_best_share(responses, "a").value + compute_best_share(responses, "b").value == pytest.approx(1)


def test_adjusted_ratings_remove_the_level_of_raters() -> None:
    both = [Response(who, Unit("l", 0), {"a": 3 + up, "b": 2 + up}) for who, up in (("mild", 1), ("strict", -1))]
    lone = [Response("mild", Unit("l", 1), {"a": 4, "b": 3})]
    assert compute_rater_levels(both + lone) == pytest.approx({"mild": 1, "strict": -1})
    assert compute_adjusted_rating(both + lone, "a").value == pytest.approx(3)
    assert compute_mean_rating(both + lone, "a").value == pytest.approx(3.5)


def test_alpha_of_krippendorffs_example() -> None:
    """His data of four observers and twelve units (2011, section C): for intervals α is 0.849."""
    values = {
        "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    }
    given = [
        Response(who, Unit("l", at), {"a": value})
        for who, row in values.items()
        for at, value in enumerate(row)
        if value is not None
    ]
    assert compute_krippendorff_alpha(given) == pytest.approx(0.849, abs=5e-4)


def test_mechanical_turk(same: StudyForms, folder: Path) -> None:
    with pytest.warns(MilanWarning, match="must be on a server"):
        write_mechanical_turk(same, folder / "turk")
    rows = [row for count in (1, 2) for row in csv.DictReader((folder / "turk" / f"hits-{count}.csv").open())]
    assert len(rows) == 3
    assert all(row["image"].startswith("data:image/webp;base64,") for row in rows)
    assert "&lt;img src=x" in "".join(str(row) for row in rows)
    layout = (folder / "turk" / "layout-2.html").read_text()
    assert "${option_2}" in layout
    assert "${option_3}" not in layout
    write_mechanical_turk(same, folder / "served", "https://example.org/pictures/")
    assert "<DataURL>https://example.org/pictures/" in (folder / "served" / "qualification.xml").read_text()
    assert len(list((folder / "served" / "pictures").glob("*.png"))) == 4
    two = next(id for id, options in same.key.options.items() if len(options) == 2)
    head = "WorkerId,AssignmentStatus,WorkTimeInSeconds,Input.item,Answer.rating_1,Answer.rating_2,Answer.best\n"
    results = [f"w1,Approved,30,{two},4,2,1", f"w1,Submitted,9,{two},1,1,1", f"w2,Rejected,5,{two},1,1,1",
        f"w3,Approved,8,{two},4,,1",
               f"w4,Approved,8,{two},4,4,1|2", "w5,Approved,8,other,4,4,1"]  # fmt: skip
    (folder / "results.csv").write_text(head + "\n".join(results) + "\n")
    with pytest.warns(MilanWarning, match="1 rejected, 1 of other units, 1 incomplete, 1 a second answer"):
        answers = read_mechanical_turk(folder / "results.csv", same.forms)
    assert answers is not None
    assert [(each.rater, each.answers[two], each.seconds) for each in answers] == [
        ("w1", {"ratings": [4, 2], "best": [0]}, 30.0),
        ("w4", {"ratings": [4, 4], "best": [0, 1]}, 8.0),
    ]


def test_unusable_answers(same: StudyForms, folder: Path) -> None:
    form, item = same.forms[0], same.forms[0].parts[1].items[0]
    good = {"ratings": [3] * len(item.options), "best": [0]}
    for answers in ({item.id: {"ratings": [9], "best": [0]}}, {item.id: {"ratings": "5", "best": 0}}, {item.id: None}):
        (folder / "odd.json").write_text(json.dumps({"form": form.id, "rater": "x", "answers": answers}))
        with pytest.warns(MilanWarning, match="3 of 3 items"):
            assert read_answers([folder / "odd.json"], form)[0].answers == {}
    (folder / "one.json").write_text(json.dumps({"form": form.id, "rater": "x", "answers": {item.id: good}}))
    with pytest.warns(MilanWarning, match="x answered 1 items twice"):
        assert read_answers([folder / "one.json"] * 2, form)[0].answers == {item.id: good}
    (folder / "other.json").write_text(json.dumps({"form": "another", "answers": {}}))
    with pytest.raises(BadInput, match="has answers to form another"):
        read_answers([folder / "other.json"], form)
    (folder / "bad.json").write_text("[]")
    with pytest.raises(BadInput, match="not saved by a form"):
        read_answers([folder / "bad.json"], form)


def test_sentences_are_written_as_annotations(folder: Path) -> None:
    study(
        StudyConfig(runs=[str(folder / "right")], kind="annotation", units=["looks:0", "looks:1"], out=folder / "asked")
    )
    key = json.loads((folder / "asked" / "forms" / "key.json").read_text())
    ids = {known["unit"]: id for id, known in key["items"].items()}
    files = []
    for rater, text in (("ann", "Red  roofs"), ("bob", "highlighted red roofs")):
        files.append(str(folder / f"{rater}.json"))
        answers = {ids["looks:0"]: {"text": text}, ids["looks:1"]: {"text": "grass"}}
        Path(files[-1]).write_text(json.dumps({"form": key["forms"][0], "rater": rater, "answers": answers}))
    report = study(
        StudyConfig(
            runs=[str(folder / "right")],
            kind="annotation",
            units=["looks:0", "looks:1"],
            answers=files,
            out=folder / "asked",
        )
    )
    written = (folder / "asked" / "annotations.csv").read_text()
    assert (
        written
        == "layer,unit,summary\nlooks,0,Red roofs\nlooks,0,highlighted red roofs\nlooks,1,grass\nlooks,1,grass\n"
    )
    assert dict(report.tables[0].rows[-1].values)["agreement"].value == pytest.approx(
        (0.8 + 1) / 2
    )  # two words of two, and of three
    assert any("1 of 4 sentences" in note for note in report.notes)


def test_published_ratings(shared_data: Path, tmp_path: Path) -> None:
    """Flags leave 276 responses, as in Describe-and-Dissect's Table 9, but its means are not those of the published
    file.
    """
    file = shared_data / "published" / "human_ratings" / "RN50_table_4_scoring_function.csv"
    responses = read_published_ratings(file)
    assert responses is not None
    assert len(responses) == 276
    report = study(StudyConfig(answers=[str(file)], out=tmp_path))
    found = {row.name: round(sum(one.ratings[row.name] for one in responses) / 276, 2) for row in report.tables[0].rows}
    assert found == {"Mean Caption": 2.99, "Topk-Sq": 3.01, "Image-Products": 3.55, "Topk-Compare": 3.31}

"""The audit on networks with known weights, with answers to the check form."""

import json
from pathlib import Path

import pytest

from milan.errors import BadInput
from milan.experiments.audit.audit import audit
from milan.experiments.audit.audited_networks import NetworkPair
from milan.experiments.audit.config import AuditConfig
from milan.experiments.core.report import Report
from milan.storage.provenance import simulated_note
from tests.experiments import worlds
from tests.experiments.test_bench import options

LOOKS = f"{worlds.__file__}:looks"
WORDS = "red faces;Headlights;head <b>of</b> hair;the EYES of cats;surface of water;"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


def run(folder: Path, **more: object) -> Report:
    folder.mkdir(exist_ok=True)
    said = options(folder, "said", WORDS)
    return audit(
        AuditConfig(
            plain=[LOOKS],
            blurred=[LOOKS],
            layers=["looks"],
            limit=30,
            describer=said,
            k=3,
            quantile=0.9,
            out=folder / "out",
            **{"found_units": 1} | more,
        )
    )


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return run(folder)


def test_units_are_counted_by_whole_words(report: Report) -> None:
    for row in report.tables[0].rows:
        assert (row.values["units"], row.values["named"]) == (5, 3)  # no headlights, no surface
        assert row.values["share"].value == pytest.approx(0.6)
        assert row.values["detectors"] <= 5
        assert row.values["found only"] == 0
    assert report.tables[1].rows[0].values["difference"].value == 0
    by_word = report.tables[2].rows[0].values
    assert {word: count for word, count in by_word.items() if count} == {"faces": 1, "head": 1, "eyes": 1}


def test_units_are_found_without_the_words_too(report: Report, folder: Path) -> None:
    found = run(folder / "all", found_units=5)
    assert [row.values["found only"] for row in found.tables[0].rows] == [2, 2]
    assert (folder / "all" / "out" / "page" / "check.html").read_text().count('class="item"') == 10
    assert found.facts["query"] == "faces"


def test_the_check_form_shows_no_descriptions(report: Report, folder: Path) -> None:
    check = (folder / "out" / "page" / "check.html").read_text()
    assert check.count('class="item"') == 6
    assert report.simulated == simulated_note({"probe": "diorama:objects", "image-text model": "diorama"})
    assert report.simulated in check
    assert not any(word in check for word in ("red faces", "hair", "worlds.py", "looks:"))
    page = (folder / "out" / "page" / "index.html").read_text()
    assert report.simulated in page
    assert "head &lt;b&gt;of&lt;/b&gt; hair" in page


def test_marks_are_read_back(report: Report, folder: Path) -> None:
    check = (folder / "out" / "page" / "check.html").read_text()
    items = sorted({part.split('"')[0] for part in check.split('data-item="')[1:]})
    form = json.loads(check.split('<script type="application/json" id="data">')[1].split("</script>")[0])["form"]
    files = []
    for rater, choices in (("ann", [0] * 6), ("bob", [1, 1, 1, 1, 3, 3]), ("cyd", [2, 2, 2, 0, 2, 3])):
        files.append(str(folder / f"{rater}.json"))
        answers = {item: {"choice": choice} for item, choice in zip(items, choices, strict=True)}
        Path(files[-1]).write_text(json.dumps({"form": form, "rater": rater, "answers": answers}))
    marked = run(folder, answers=files)
    checked = [row.values for row in marked.tables[0].rows]
    assert sum(values["checked"] for values in checked) == 6
    # of five units most took for faces; of one as many each, which tells nothing
    assert sum(
        values["marked as faces"].value * values["marked as faces"].units for values in checked
    ) == pytest.approx(5)
    assert sum(values["marked as faces"].units for values in checked) == 5
    page = (folder / "out" / "page" / "index.html").read_text()
    assert page.count("<td>yes, human faces</td>") == 6 + 1


def test_networks_come_in_pairs() -> None:
    with pytest.raises(BadInput, match="2 plain networks and 1 blurred"):
        NetworkPair.pair_up(AuditConfig(plain=["a", "b"], blurred=["c"]))
    with pytest.raises(BadInput, match="1 files of weights for 2"):
        NetworkPair.pair_up(AuditConfig(plain=["a", "b"], blurred=["c", "d"], blurred_weights=["w"]))

"""A catalogue is read back as it was written, whatever is in its texts."""

import csv
import json
import math

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milan import Candidate, Catalogue, Description, Unit, read_descriptions
from milan.errors import BadInput, UnknownName
from milan.results.catalogue import Entry, read_catalogue
from milan.storage.tables import escape_formula, unescape_formula

PMI = (("likelihood", -3.25), ("prior", -12.5), ("pmi", -0.75))
RED = Description(
    Unit("layer4.1", 17),
    "red things",
    -0.75,
    candidates=(Candidate("red things", -0.75, PMI), Candidate("a dog", -2.0, ())),
)
LINEAR = Description(Unit("fc", 2), "3.2 dog - 1.1 cat", 0.5, concepts=(("dog", 3.2), ("cat", -1.1)), bias=0.25)
FULL = Catalogue(
    (
        Entry(RED.unit, "ok", RED),
        Entry(LINEAR.unit, "ok", LINEAR),
        Entry(Unit("layer4.1", 3), "dead"),
        Entry(Unit("layer4.1", 5), "failed", None, "HTTP 500"),
    ),
    {"describer": "milan"},
)


@pytest.mark.parametrize("name", ["descriptions.csv", "descriptions.jsonl", "descriptions.parquet", ""])
def test_what_is_written_is_read(tmp_path, name):
    FULL.write(tmp_path)
    assert read_catalogue(tmp_path / name).entries == FULL.entries
    assert read_descriptions(tmp_path / name) == [LINEAR, RED]


def test_a_data_frame_has_the_rows_of_the_table():
    frame = FULL.to_pandas()
    assert frame[["layer", "unit", "description", "status"]].values.tolist() == [
        ["fc", 2, "3.2 dog - 1.1 cat", "ok"],
        ["layer4.1", 3, "", "dead"],
        ["layer4.1", 5, "", "failed"],
        ["layer4.1", 17, "red things", "ok"],
    ]
    assert frame["score"].isna().tolist() == [False, True, True, False]


def test_the_columns_are_those_promised(tmp_path):
    FULL.write(tmp_path)
    with (tmp_path / "descriptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["layer", "unit", "description", "score", "describer", "status"]
    assert [row["status"] for row in rows] == ["ok", "dead", "failed", "ok"]
    assert rows[1]["description"] == ""
    first = json.loads(rows[3]["candidates"])[0]
    assert first == {"text": "red things", "score": -0.75, "likelihood": -3.25, "prior": -12.5, "pmi": -0.75}
    nested = pq.read_table(tmp_path / "descriptions.parquet").to_pylist()[3]["candidates"]
    assert nested[0] == first
    assert nested[1] == {"text": "a dog", "score": -2.0, "likelihood": None, "prior": None, "pmi": None}


def test_rows_stand_by_layer_and_unit_and_layers_count_as_people_do(tmp_path):
    said = [Description(Unit(layer, unit), "x", 0.0) for layer in ("features.12", "features.3") for unit in (10, 2)]
    assert [str(each.unit) for each in Catalogue.from_descriptions(said)] == [
        "features.3:2",
        "features.3:10",
        "features.12:2",
        "features.12:10",
    ]


def test_the_same_answers_are_the_same_bytes(tmp_path):
    for name, entries in (("one", FULL.entries), ("other", FULL.entries[::-1])):
        (tmp_path / name).mkdir()
        Catalogue(entries, {"describer": "milan"}).write(tmp_path / name)
    for file in ("descriptions.csv", "descriptions.jsonl", "descriptions.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_floats_are_fixed_at_six_digits():
    kept = Catalogue.from_descriptions(
        [Description(Unit("a", 0), "x", 1 / 3, candidates=(Candidate("x", -1e-20 / 3, (("p", 2 / 3),)),))]
    )["a:0"]
    assert (kept.score, kept.candidates[0].score, kept.candidates[0].parts) == (
        0.333333,
        -3.33333e-21,
        (("p", 0.666667),),
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-cmd", "@sum", "'=quoted", "\uff1dwide", " =1", "a = b", "plain"])
def test_no_cell_is_a_formula(tmp_path, text):
    said = Description(Unit("=layer", 0), text, 1.0)
    Catalogue.from_descriptions([said]).write(tmp_path)
    with (tmp_path / "descriptions.csv").open() as file:
        row = list(csv.reader(file))[1]
    assert all(cell.lstrip()[:1] not in {"=", "+", "-", "@", "\uff1d"} for cell in row)
    assert read_descriptions(tmp_path / "descriptions.csv")[0].text == text.strip()


@given(st.text())
def test_guards_come_off_as_they_went_on(text):
    assert unescape_formula(escape_formula(text)) == text


@given(text=st.text(st.characters(), min_size=1), reason=st.text(st.characters()))
def test_any_text_is_kept_on_one_clean_line(tmp_path_factory, text, reason):
    folder = tmp_path_factory.mktemp("any")
    whole = Catalogue(
        (Entry(Unit("a", 0), "ok", Description(Unit("a", 0), text, 1.0)), Entry(Unit("a", 1), "failed", None, reason))
    )
    whole.write(folder)
    for name in ("descriptions.csv", "descriptions.jsonl", "descriptions.parquet"):
        assert read_catalogue(folder / name).entries == whole.entries
    kept = whole.entries[0].description
    assert kept is None or (
        kept.text == " ".join(kept.text.split())
        and not any(sign < " " or "\ud800" <= sign <= "\udfff" for sign in kept.text)
    )


def test_control_characters_surrogates_and_directions_are_not_kept():
    kept = Catalogue.from_descriptions([Description(Unit("a", 0), "one\x1b[31m\ntwo\udc80 \u202ethree", 1.0)])["a:0"]
    assert kept.text == "one[31m two\ufffd three"


def test_an_empty_description_is_a_failure_and_not_a_description():
    whole = Catalogue.from_descriptions([Description(Unit("a", 0), " \n\t", 1.0)])
    assert whole.descriptions == []
    assert (whole.entries[0].status, whole.entries[0].reason) == ("failed", "the describer gave an empty text")


def test_scores_that_are_no_number_are_empty(tmp_path):
    Catalogue.from_descriptions([Description(Unit("a", 0), "x", math.nan)]).write(tmp_path)
    assert json.loads((tmp_path / "descriptions.jsonl").read_text())["score"] is None
    assert math.isnan(read_descriptions(tmp_path)[0].score)


def test_long_and_foreign_texts_are_kept_whole(tmp_path):
    text = " ".join(["mot"] * 300 + ["赤い犬", "🐕"])
    Catalogue.from_descriptions([Description(Unit("a", 0), text, 1.0)]).write(tmp_path)
    assert [each.text for each in read_descriptions(tmp_path / "descriptions.csv")] == [text]


def test_units_by_name():
    assert FULL["layer4.1:17"] == RED
    assert FULL[Unit("fc", 2)].concepts == (("dog", 3.2), ("cat", -1.1))
    with pytest.raises(UnknownName, match=r"unknown unit 'layer4.1:18'; nearest: layer4.1:17"):
        FULL["layer4.1:18"]
    with pytest.raises(BadInput, match=r"layer4.1:5 has no description: its status is failed \(HTTP 500\)"):
        FULL["layer4.1:5"]
    with pytest.raises(BadInput, match="fc:2 is in the catalogue twice"):
        Catalogue.from_descriptions([LINEAR, LINEAR])


def test_a_part_named_as_a_column_is_refused(tmp_path):
    with pytest.raises(BadInput, match="part of a candidate's score is named 'text'"):
        Catalogue.from_descriptions(
            [Description(Unit("a", 0), "x", 1.0, candidates=(Candidate("x", 1.0, (("text", 1.0),)),))]
        ).write(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.csv", None, "no table of descriptions at"),
        ("other.csv", "a,b\n1,2\n", "has the columns a, b and needs layer, unit, description"),
        ("broken.jsonl", "{", r"broken.jsonl, line 1: Expecting"),
        ("nested.jsonl", "[" * 100_000, r"nested.jsonl, line 1: nested too deeply"),
        ("list.jsonl", "[]", r"list.jsonl, line 1: a JSON list"),
        ("null.jsonl", '{"layer": "a", "unit": 0, "description": null}', r"null.jsonl, row 1: description None"),
        ("layer.jsonl", '{"layer": null, "unit": 0, "description": "x"}', r"layer.jsonl, row 1: layer None"),
        (
            "text.jsonl",
            '{"layer": "a", "unit": 0, "description": "x", "candidates": [{"text": 1, "score": 2}]}',
            "row 1: ",
        ),
        ("unit.csv", "layer,unit,description,describer\na,0.0,x,me\n", r"unit.csv, line 2: unit '0.0'"),
        (
            "json.csv",
            "layer,unit,description,concepts\na,0,x," + "[" * 100_000,
            "line 2: nested too deeply in the column concepts",
        ),
        ("broken.parquet", "PAR", "cannot be read as parquet"),
        ("table.xlsx", "x", "unknown kind of table '.xlsx'"),
        ("bytes.csv", b"\xff\xfe\x00", "bytes.csv, line 1: "),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((BadInput, UnknownName), match=message) as caught:
        read_descriptions(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_published_table_of_units_and_texts_reads_as_it_is(shared_data):
    published = read_descriptions(shared_data / "published/resnet50_imagenet/milan.csv")
    assert len(published) == 4904
    assert (published[1].unit, published[1].text) == (Unit("conv1", 1), "Neon green")
    assert math.isnan(published[1].score)

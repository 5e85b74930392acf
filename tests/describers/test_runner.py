"""What is finished is kept: never lost, never asked twice, and never a failure's text."""

import warnings

import pytest

from milan.describers import Describer, DescriptionFailure, select_active
from milan.describers._shared.contract import make_toy_dissection
from milan.describers._shared.runner import describe_units
from milan.dissection.distributed import Shard
from milan.errors import BadInput, MilanWarning, recorded_warnings
from milan.units import Description, Unit
from tests.describers.worlds import Colour, Counting, Mute


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    monkeypatch.setattr(Counting, "asked", [])


def run(describer, toys, folder, units=None, shard=None):
    return describe_units(describer, {"answers": toys}, {"answers": units or toys.units}, folder, shard)


def test_every_unit_asked_for_has_an_entry_and_dead_ones_no_description(tmp_path, toys):
    entries = run(Counting(), toys, tmp_path)
    assert [entry.status for entry in entries] == ["ok", "ok", "ok", "ok", "dead", "sparse", "ok"]
    assert [entry.description is None for entry in entries] == [False] * 4 + [True, True, False]
    assert [unit.index for unit in Counting.asked] == [0, 1, 2, 3, 6]


def test_a_rerun_asks_nothing_again_and_another_key_asks_all(tmp_path, toys):
    first = run(Counting(), toys, tmp_path)
    assert run(Counting(), toys, tmp_path) == first
    assert len(Counting.asked) == 5
    run(Counting(times=2), toys, tmp_path)
    assert len(Counting.asked) == 10


def test_more_units_later_are_added_to_those_kept(tmp_path, toys):
    run(Counting(), toys, tmp_path, toys.units[:2])
    assert run(Counting(), toys, tmp_path) == run(Counting(), toys, tmp_path / "at once")
    assert [unit.index for unit in Counting.asked] == [0, 1, 2, 3, 6] * 2


def test_what_was_said_before_an_interruption_is_kept(tmp_path, toys, monkeypatch):
    monkeypatch.setattr(Counting, "interrupted_at", 2)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(), toys, tmp_path)
    monkeypatch.setattr(Counting, "interrupted_at", None)
    assert run(Counting(), toys, tmp_path) == run(Counting(), toys, tmp_path / "at once")
    assert [unit.index for unit in Counting.asked[:5]] == [0, 1, 2, 3, 6]


def test_a_failure_is_told_with_its_unit_and_only_it_is_tried_again(tmp_path, toys, monkeypatch):
    monkeypatch.setattr(Counting, "failing", {1})
    entries = run(Counting(), toys, tmp_path)
    assert [(entry.unit.index, entry.reason) for entry in entries if entry.status == "failed"] == [
        (1, "HTTP 500: <html>no")
    ]
    assert b"HTTP 500" not in (tmp_path / "journal.sqlite").read_bytes()
    Counting.asked.clear()
    monkeypatch.setattr(Counting, "failing", set())
    assert run(Counting(), toys, tmp_path)[1].status == "ok"
    assert Counting.asked == [Unit("answers", 1)]


def test_an_empty_answer_is_a_failure(tmp_path, toys):
    assert {entry.reason for entry in run(Mute(), toys, tmp_path) if entry.status == "failed"} == {
        "the describer gave an empty text"
    }


def test_an_answer_for_a_unit_not_asked_for_is_refused(tmp_path, toys):
    class Chatty(Colour):
        def describe(self, dissection, units):
            yield Description(Unit("answers", 99), "x", 1.0)

    with pytest.raises(BadInput, match="described answers:99, which it was not asked for"):
        run(Chatty(), toys, tmp_path)


def answering(answers):
    """A describer that gives these for each unit; it has no constructor and no name."""

    class Any_(Describer):
        def describe(self, dissection, units):
            return (answer for unit in select_active(dissection, units) for answer in answers(unit))

    return Any_()


def unchecked(kind, unit, **values):
    """An answer with values of wrong types, which the checks of the test suite would refuse."""
    made = kind(unit, "x", 1.0) if kind is Description else kind(unit, "x")
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda unit: [Description(unit, "x", 1.0)] * 2, "answers:0, twice"),
        (lambda unit: ["red"], r"'red' \(str\)"),
        (lambda unit: [None], r"None \(NoneType\)"),
        (lambda unit: [unchecked(Description, unit, text=7)], "7 of answers:0.* int"),
        (lambda unit: [unchecked(DescriptionFailure, unit, reason=None)], "None of answers:0.* NoneType"),
        (lambda unit: [unchecked(Description, unit, score=None)], "answers:0 cannot be kept: Type"),
        (lambda unit: [unchecked(Description, unit, concepts="ab")], "answers:0 cannot be kept: "),
        (lambda unit: [Description(unit, "x", 1.0, reasoning={"seen": {1}})], "answers:0 cannot be kept: TypeError"),
        (lambda unit: 1 / 0, r"failed on answers: ZeroDivisionError: division by zero \(test_runner\.py, line \d+\)"),
    ],
)
def test_answers_that_are_none_are_told_with_the_unit(answers, message, tmp_path, toys):
    with pytest.raises(BadInput, match=message) as raised:
        run(answering(answers), toys, tmp_path)
    assert "describer any_" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bookkeeping_does_not_search_the_units_for_each(tmp_path, toys, monkeypatch):
    units, compared, equal = [Unit("a", index) for index in range(300)], [], Unit.__eq__
    many = object.__new__(type(toys))
    vars(many).update(layer="a", key="k", units=units, status=dict.fromkeys(units, "ok"))
    monkeypatch.setattr(Unit, "__eq__", lambda self, other: compared.append(self) or equal(self, other))
    describer = answering(lambda unit: [Description(Unit(unit.layer, unit.index), "x", 1.0)])
    assert len(describe_units(describer, {"a": many}, {"a": units}, tmp_path)) == 300
    assert len(compared) < 10 * len(units)


def test_warnings_are_given_again_with_the_answers_they_are_of(tmp_path, toys, monkeypatch):
    class Warning_(Counting):
        version = 1  # so that another describe keeps its key

        def describe(self, dissection, units):
            warnings.warn("guessed", MilanWarning, stacklevel=1)
            yield from super().describe(dissection, units)

    def warned(folder, **options):
        texts = []
        with recorded_warnings(texts.append), warnings.catch_warnings(action="ignore"):
            run(Warning_(**options), toys, folder)
        return set(texts)

    monkeypatch.setattr(Counting, "interrupted_at", 2)
    with pytest.raises(KeyboardInterrupt):
        warned(tmp_path)
    monkeypatch.setattr(Counting, "interrupted_at", None)
    monkeypatch.setattr(Warning_, "describe", Counting.describe)
    assert warned(tmp_path) == warned(tmp_path) == {"guessed"}
    assert warned(tmp_path, times=2) == set()


def test_two_processes_share_the_work_and_have_it_all(tmp_path, toys):
    """The second process's part is found when the first gathers, as it is when both are killed between."""
    rows = run(Counting(), toys, tmp_path, shard=Shard(1, 2))  # as the process of rank 1, alone
    assert [unit.index for unit in Counting.asked] == [1, 3]
    assert [entry.status for entry in rows[:4]] == [
        "failed",
        "failed",
        "failed",
        "failed",
    ]  # rank 0 has not gathered yet
    assert run(Counting(), toys, tmp_path, shard=Shard(0, 2))[1].status == "ok"
    assert not list(tmp_path.glob("journal-*"))
    assert run(Counting(), toys, tmp_path) == run(Counting(), toys, tmp_path / "alone")

"""Describing with a journal: what is finished is on disk at once, never lost and never done twice."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milan.catalogue import OK, Entry, as_row, from_row, tidy
from milan.describers.base import Describer, Failure, living
from milan.dissection.shards import Shard
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanError, recorded_warnings, warn_again
from milan.progress import progress
from milan.storage import Journal, content_key
from milan.units import Description, Unit
from milan.user_code import one_line, place_of

Layers = Mapping[str, Dissection]  # by name
Wanted = Mapping[str, Sequence[Unit]]  # of each layer
FORMAT = 1  # of what is kept; another number is another journal
_WARNING = "/warning: "  # in a journal's id, between the dissection's key and the warning's text
EMPTY = "the describer gave an empty text"


def describe_units(
    describer: Describer,
    dissections: Layers,
    units: Wanted,
    folder: Path,
    shard: Shard | None = None,
) -> list[Entry]:
    """Describes the units of each layer and keeps each answer in ``folder`` as it comes; what is there already is not asked again.

    Kept answers are found by the describer's key, the dissection's key and the unit. Failures are not kept: a rerun
    tries them again. Warnings are kept with the answers and given again. Under ``torchrun`` each process describes its
    share, and all get all entries.

    Raises:
        BadInput: the describer gives an answer that cannot be kept, a second one for a unit, or one for a unit that it
            was not asked for; or a describer that is not of this package fails.
    """
    shard = shard or Shard()
    key = journal_key(describer)
    main = folder / "journal.sqlite"
    if shard.rank == 0:
        _merge(folder, main, key)
    shard.wait()
    missing = missing_units(main, key, dissections, units)
    shard.wait()  # all have seen the same before anyone adds to it
    failures: dict[Unit, str] = {}
    with Journal(main if shard.rank == 0 else folder / f"journal-{shard.rank}.sqlite", key) as journal:
        for layer, those in missing.items():
            if share := those[shard.rank :: shard.count]:
                failures |= _describe(describer, dissections[layer], share, journal)
    shard.wait()
    if shard.rank == 0:
        _merge(folder, main, key)
    shard.wait()
    with Journal(main, key) as journal:
        return [_entry(unit, dissections[layer], journal, failures) for layer, wanted in units.items() for unit in wanted]


def journal_key(describer: Describer) -> str:
    """What a journal of the describer's answers is opened with."""
    return content_key(describer=describer.key, format=FORMAT)


def missing_units(path: Path, key: str, dissections: Layers, units: Wanted) -> dict[str, list[Unit]]:
    """The units of each layer that can be described and have no answer in the journal; gives its warnings again."""
    with Journal(path, key) as journal:
        known = journal.ids()
    texts = [id.partition(_WARNING) for id in known if _WARNING in id]
    for layer in units:
        warn_again(text for of, _, text in texts if of == dissections[layer].key)
    answered = set(known)
    return {
        layer: [unit for unit in living(dissections[layer], wanted) if _id(dissections[layer], unit) not in answered]
        for layer, wanted in units.items()
    }


def _describe(describer: Describer, dissection: Dissection, units: Sequence[Unit], journal: Journal) -> dict[Unit, str]:
    """Puts the answers into the journal; gives the failures."""
    failures: dict[Unit, str] = {}
    texts: list[str] = []
    answers = _answers(describer, dissection, units)
    with recorded_warnings(texts.append):
        for each in progress(answers, total=len(units), text=f"describing {dissection.layer}"):
            _keep_warnings(texts, dissection, journal)
            if isinstance(each, Failure):
                failures[each.unit] = each.reason
            elif not each.text:
                failures[each.unit] = EMPTY
            else:
                journal.put(_id(dissection, each.unit), as_row(each))
    _keep_warnings(texts, dissection, journal)
    return failures


def _keep_warnings(texts: list[str], dissection: Dissection, journal: Journal) -> None:
    while texts:
        journal.put(f"{dissection.key}{_WARNING}{texts.pop(0)}", {})


def _answers(describer: Describer, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | Failure]:
    """What the describer says, checked and as it is kept."""
    asked = dict.fromkeys(units, True)
    try:
        for each in describer.describe(dissection, units):
            yield _checked(describer, each, asked)
            asked[each.unit] = False
    except MilanError:
        raise
    except Exception as error:
        # a fault of the package's own describers is not hidden
        if type(describer).__module__.startswith("milan."):
            raise
        what = f"{one_line(error)}{place_of(error)}"
        raise BadInput(f"describer {describer.name} failed on {dissection.layer}: {what}") from error


def _checked(describer: Describer, said: object, asked: Mapping[Unit, bool]) -> Description | Failure:
    """An answer as it is kept.

    Args:
        asked: the units asked for, and whether they wait for their answer.

    Raises:
        BadInput: it is none that a describer may give.
    """
    who, check = f"describer {describer.name}", "check it with milan.check_describer"
    if not isinstance(said, Description | Failure):
        kind = type(said).__name__
        raise BadInput(f"{who} yielded {said!r:.60} ({kind}); it must yield milan.Description or Failure")
    if not asked.get(said.unit):
        fault = "twice" if said.unit in asked else "which it was not asked for"
        raise BadInput(f"{who} spoke of {said.unit}, {fault}; {check}")
    text = said.reason if isinstance(said, Failure) else said.text
    if not isinstance(text, str):
        raise BadInput(f"{who} said {text!r:.60} of {said.unit}, which is no text but {type(text).__name__}; {check}")
    if isinstance(said, Failure):
        return said
    try:
        kept = tidy(said)
        json.dumps(as_row(kept))
    except (TypeError, ValueError, AttributeError, BadInput) as error:
        why = f"what it said of {said.unit} cannot be kept: {one_line(error)}"
        raise BadInput(f"{who}: {why}; {check}") from error
    return kept


def _entry(unit: Unit, dissection: Dissection, journal: Journal, failures: Mapping[Unit, str]) -> Entry:
    status = dissection.status[unit]
    if status != OK:
        return Entry(unit, status)
    if row := journal.get(_id(dissection, unit)):
        return Entry(unit, OK, from_row(row))
    return Entry(unit, "failed", None, failures.get(unit, "the describer said nothing of it"))


def _id(dissection: Dissection, unit: Unit) -> str:
    return f"{dissection.key}/{unit}"


def _merge(folder: Path, main: Path, key: str) -> None:
    """Takes what other processes of this or a killed run have kept into the main journal."""
    with Journal(main, key) as journal:
        for path in sorted(folder.glob("journal-*.sqlite")):
            with Journal(path, key) as other:
                for id in other.ids():
                    journal.put(id, other.get(id) or {})
            for leftover in folder.glob(f"{path.name}*"):
                leftover.unlink()

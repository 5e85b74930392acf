"""Describing with a journal: what is finished is on disk at once, never lost and never done twice."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milan.console.progress import track_progress
from milan.describers._shared.base import Describer, DescriptionFailure, select_active, warn_of_sent_images
from milan.dissection.distributed import Shard
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanError, recorded_warnings, warn_again
from milan.results.catalogue import OK, Entry, description_from_row, description_to_row, tidy_description
from milan.storage.files import Journal, content_key
from milan.storage.user_code import one_line, place_of
from milan.units import Description, Unit

Layers = Mapping[str, Dissection]  # by name
Wanted = Mapping[str, Sequence[Unit]]  # of each layer
FORMAT = 1  # of what is kept; another number is another journal
_WARNING = "/warning: "  # in a journal's id, between the dissection's key and the warning's text
EMPTY_TEXT_REASON = "the describer gave an empty text"


def describe_units(
    describer: Describer,
    dissections: Layers,
    units: Wanted,
    folder: Path,
    shard: Shard | None = None,
) -> list[Entry]:
    """Describes the units of each layer and keeps each answer in ``folder`` as it comes; what is there already is not
    asked again.

    Kept answers are found by the describer's key, the dissection's key and the unit. Failures are not kept: a rerun
    tries them again. Warnings are kept with the answers and given again. Under ``torchrun`` each process describes its
    share, and all get all entries.

    Raises:
        BadInput: the describer gives an answer that cannot be kept, a second one for a unit, or one for a unit that it
            was not asked for; or a describer that is not of this package fails.
    """
    shard = shard or Shard()
    warn_of_sent_images(describer)
    key = compute_journal_key(describer)
    main = folder / "journal.sqlite"
    if shard.rank == 0:
        _merge_journals(folder, main, key)
    shard.barrier()
    missing = find_missing_units(main, key, dissections, units)
    shard.barrier()  # all have seen the same before anyone adds to it
    failures: dict[Unit, str] = {}
    with Journal(main if shard.rank == 0 else folder / f"journal-{shard.rank}.sqlite", key) as journal:
        for layer, those in missing.items():
            if share := those[shard.rank :: shard.count]:
                failures |= _describe_missing(describer, dissections[layer], share, journal)
    shard.barrier()
    if shard.rank == 0:
        _merge_journals(folder, main, key)
    shard.barrier()
    with Journal(main, key) as journal:
        return [
            _make_entry(unit, dissections[layer], journal, failures)
            for layer, wanted in units.items()
            for unit in wanted
        ]


def compute_journal_key(describer: Describer) -> str:
    """What a journal of the describer's answers is opened with."""
    return content_key(describer=describer.key, format=FORMAT)


def find_missing_units(path: Path, key: str, dissections: Layers, units: Wanted) -> dict[str, list[Unit]]:
    """The units of each layer that can be described and have no answer in the journal; gives its warnings again."""
    with Journal(path, key) as journal:
        known = journal.ids()
    texts = [id.partition(_WARNING) for id in known if _WARNING in id]
    for layer in units:
        warn_again(text for of, _, text in texts if of == dissections[layer].key)
    answered = set(known)
    return {
        layer: [
            unit
            for unit in select_active(dissections[layer], wanted)
            if _make_id(dissections[layer], unit) not in answered
        ]
        for layer, wanted in units.items()
    }


def _describe_missing(
    describer: Describer, dissection: Dissection, units: Sequence[Unit], journal: Journal
) -> dict[Unit, str]:
    """Puts the answers into the journal; gives the failures."""
    failures: dict[Unit, str] = {}
    texts: list[str] = []
    answers = _answers(describer, dissection, units)
    with recorded_warnings(texts.append):
        for each in track_progress(answers, total=len(units), description=f"describing {dissection.layer}"):
            _keep_warnings(texts, dissection, journal)
            if isinstance(each, DescriptionFailure):
                failures[each.unit] = each.reason
            elif not each.text:
                failures[each.unit] = EMPTY_TEXT_REASON
            else:
                journal.put(_make_id(dissection, each.unit), description_to_row(each))
    _keep_warnings(texts, dissection, journal)
    return failures


def _keep_warnings(texts: list[str], dissection: Dissection, journal: Journal) -> None:
    while texts:
        journal.put(f"{dissection.key}{_WARNING}{texts.pop(0)}", {})


def _answers(
    describer: Describer, dissection: Dissection, units: Sequence[Unit]
) -> Iterator[Description | DescriptionFailure]:
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


def _checked(describer: Describer, said: object, asked: Mapping[Unit, bool]) -> Description | DescriptionFailure:
    """An answer as it is kept.

    Args:
        asked: the units asked for, and whether they wait for their answer.

    Raises:
        BadInput: it is none that a describer may give.
    """
    who, check = f"describer {describer.name}", "check it with milan.check_describer"
    if not isinstance(said, Description | DescriptionFailure):
        kind = type(said).__name__
        raise BadInput(f"{who} yielded {said!r:.60} ({kind}); it must yield milan.Description or Failure")
    if not asked.get(said.unit):
        fault = "twice" if said.unit in asked else "which it was not asked for"
        raise BadInput(f"{who} spoke of {said.unit}, {fault}; {check}")
    text = said.reason if isinstance(said, DescriptionFailure) else said.text
    if not isinstance(text, str):
        raise BadInput(f"{who} said {text!r:.60} of {said.unit}, which is no text but {type(text).__name__}; {check}")
    if isinstance(said, DescriptionFailure):
        return said
    try:
        kept = tidy_description(said)
        json.dumps(description_to_row(kept))
    except (TypeError, ValueError, AttributeError, BadInput) as error:
        why = f"what it said of {said.unit} cannot be kept: {one_line(error)}"
        raise BadInput(f"{who}: {why}; {check}") from error
    return kept


def _make_entry(unit: Unit, dissection: Dissection, journal: Journal, failures: Mapping[Unit, str]) -> Entry:
    status = dissection.status[unit]
    if status != OK:
        return Entry(unit, status)
    if row := journal.get(_make_id(dissection, unit)):
        return Entry(unit, OK, description_from_row(row))
    return Entry(unit, "failed", None, failures.get(unit, "the describer said nothing of it"))


def _make_id(dissection: Dissection, unit: Unit) -> str:
    return f"{dissection.key}/{unit}"


def _merge_journals(folder: Path, main: Path, key: str) -> None:
    """Takes what other processes of this or a killed run have kept into the main journal."""
    with Journal(main, key) as journal:
        for path in sorted(folder.glob("journal-*.sqlite")):
            with Journal(path, key) as other:
                for id in other.ids():
                    journal.put(id, other.get(id) or {})
            for leftover in folder.glob(f"{path.name}*"):
                leftover.unlink()

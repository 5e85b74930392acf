"""Describing with a journal: what is finished is on disk at once, never lost and never done twice."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milan.catalogue import OK, Entry, as_row, from_row, tidy
from milan.describers.base import Describer, Failure, living
from milan.dissection.shards import Shard
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.progress import progress
from milan.storage import Journal, content_key
from milan.units import Description, Unit

FORMAT = 1  # of what is kept; another number is another journal
EMPTY = "the describer gave an empty text"


def describe_units(
    describer: Describer,
    dissections: Mapping[str, Dissection],
    units: Mapping[str, Sequence[Unit]],
    folder: Path,
    shard: Shard | None = None,
) -> list[Entry]:
    """Describes the units of each layer and keeps each answer in ``folder`` as it comes; what is there already is not asked again.

    Kept answers are found by the describer's key, the dissection's key and the unit; failures are not kept: a rerun tries them again.
    Under ``torchrun`` each process describes its share, and all get all entries.
    """
    shard = shard or Shard()
    key = journal_key(describer)
    main = folder / "journal.sqlite"
    if shard.rank == 0:
        _merge(folder, main, key)
    shard.wait()
    missing = {layer: missing_units(main, key, dissections[layer], wanted) for layer, wanted in units.items()}
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


def missing_units(path: Path, key: str, dissection: Dissection, units: Sequence[Unit]) -> list[Unit]:
    """The living units that the journal has no answer for yet."""
    with Journal(path, key) as journal:
        known = set(journal.ids())
    return [unit for unit in living(dissection, units) if _id(dissection, unit) not in known]


def _describe(describer: Describer, dissection: Dissection, units: Sequence[Unit], journal: Journal) -> dict[Unit, str]:
    """Puts the answers into the journal; gives the failures."""
    failures: dict[Unit, str] = {}
    said: Iterator[Description | Failure] = describer.describe(dissection, units)
    for each in progress(said, total=len(units), text=f"describing {dissection.layer}"):
        if each.unit not in units:
            raise BadInput(
                f"describer {describer.name} spoke of {each.unit}, which it was not asked for; check it with milan.check_describer"
            )
        if isinstance(each, Failure):
            failures[each.unit] = each.reason
        elif not (kept := tidy(each)).text:
            failures[each.unit] = EMPTY
        else:
            journal.put(_id(dissection, each.unit), as_row(kept))
    return failures


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

"""Describe units with a journal on disk, so that an interrupted run loses no description."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milan.console.progress import track_progress
from milan.describers._shared.base import Describer, DescriptionFailure, select_active, warn_of_sent_images
from milan.dissection.dissection import Dissection
from milan.dissection.distributed import Shard
from milan.errors import BadInput, MilanError, recorded_warnings, warn_again
from milan.results.catalogue import OK, Entry
from milan.results.description_rows import description_from_row, description_to_row, tidy_description
from milan.storage.files import content_key
from milan.storage.journal import Journal
from milan.storage.user_code import one_line, place_of
from milan.units import Description, Unit

Layers = Mapping[str, Dissection]  # by name
RequestedUnits = Mapping[str, Sequence[Unit]]  # of each layer
FORMAT = 1  # format of the journal's items; another number is another journal
_WARNING = "/warning: "  # in a journal's id, between the dissection's key and the warning's text
EMPTY_TEXT_REASON = "the describer gave an empty text"


def describe_units(
    describer: Describer,
    dissections: Layers,
    units: RequestedUnits,
    folder: Path,
    shard: Shard | None = None,
) -> list[Entry]:
    """Describe the units of each layer and keep each description in ``folder``; those found there are reused.

    Descriptions are found by the describer's key, the dissection's key and the unit. Failures are not kept, so that a
    rerun tries them again. Warnings are kept with the descriptions and repeated. Under ``torchrun`` each process
    describes its share, and all return all entries.

    Raises:
        BadInput: the describer yields something that cannot be kept, a second description of a unit, or one of a unit
            that was not asked for; or a custom describer fails.
    """
    shard = shard or Shard()
    warn_of_sent_images(describer)
    key = compute_journal_key(describer)
    main = folder / "journal.sqlite"
    if shard.rank == 0:
        _merge_journals(folder, main, key)
    shard.barrier()
    missing = find_missing_units(main, key, dissections, units)
    shard.barrier()  # all processes have read the journal before one adds to it
    failures: dict[Unit, str] = {}
    with Journal(main if shard.rank == 0 else folder / f"journal-{shard.rank}.sqlite", key) as journal:
        shares = {layer: share for layer, those in missing.items() if (share := those[shard.rank :: shard.count])}
        if shares:
            describer.prepare([(dissections[layer], share) for layer, share in shares.items()])
        for layer, share in shares.items():
            failures |= _describe_missing(describer, dissections[layer], share, journal)
    # All processes have closed their journals when the failures of all are there.
    for others in shard.gather(failures):
        failures |= others
    if shard.rank == 0:
        _merge_journals(folder, main, key)
    shard.barrier()
    if shard.count > 1:
        # Each process has issued the warnings of its share only.
        find_missing_units(main, key, dissections, units)
    with Journal(main, key) as journal:
        return [
            _make_entry(unit, dissections[layer], journal, failures)
            for layer, requested in units.items()
            for unit in requested
        ]


def compute_journal_key(describer: Describer) -> str:
    """Return the key of the journal of a describer's descriptions."""
    return content_key(describer=describer.key, format=FORMAT)


def find_missing_units(path: Path, key: str, dissections: Layers, units: RequestedUnits) -> dict[str, list[Unit]]:
    """Return the active units of each layer without a description in the journal, and repeat its warnings."""
    with Journal(path, key) as journal:
        known = journal.ids()
    texts = [id.partition(_WARNING) for id in known if _WARNING in id]
    for layer in units:
        warn_again(text for of, _, text in texts if of == dissections[layer].key)
    answered = set(known)
    return {
        layer: [
            unit
            for unit in select_active(dissections[layer], requested)
            if _make_id(dissections[layer], unit) not in answered
        ]
        for layer, requested in units.items()
    }


def _describe_missing(
    describer: Describer, dissection: Dissection, units: Sequence[Unit], journal: Journal
) -> dict[Unit, str]:
    """Put descriptions into the journal and return the failures."""
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
    """Yield the describer's results, checked and in the form that is stored."""
    pending = dict.fromkeys(units, True)
    try:
        for each in describer.describe(dissection, units):
            yield _checked(describer, each, pending)
            pending[each.unit] = False
    except MilanError:
        raise
    except Exception as error:
        # Errors in the package's own describers keep their traceback.
        if type(describer).__module__.startswith("milan."):
            raise
        what = f"{one_line(error)}{place_of(error)}"
        raise BadInput(f"describer {describer.name} failed on {dissection.layer}: {what}") from error


def _checked(describer: Describer, result: object, pending: Mapping[Unit, bool]) -> Description | DescriptionFailure:
    """Return a result in the form that is stored.

    Args:
        pending: whether each unit that was asked for still lacks its result.

    Raises:
        BadInput: it is not a result that a describer may yield.
    """
    who, check = f"describer {describer.name}", "check it with milan.check_describer"
    if not isinstance(result, Description | DescriptionFailure):
        kind = type(result).__name__
        raise BadInput(f"{who} yielded {result!r:.60} ({kind}); it must yield milan.Description or Failure")
    if not pending.get(result.unit):
        fault = "twice" if result.unit in pending else "which it was not asked for"
        raise BadInput(f"{who} described {result.unit}, {fault}; {check}")
    text = result.reason if isinstance(result, DescriptionFailure) else result.text
    if not isinstance(text, str):
        raise BadInput(f"{who} gave {text!r:.60} of {result.unit}, which is {type(text).__name__} and no text; {check}")
    if isinstance(result, DescriptionFailure):
        return result
    try:
        kept = tidy_description(result)
        json.dumps(description_to_row(kept))
    except (TypeError, ValueError, AttributeError, BadInput) as error:
        why = f"its description of {result.unit} cannot be kept: {one_line(error)}"
        raise BadInput(f"{who}: {why}; {check}") from error
    return kept


def _make_entry(unit: Unit, dissection: Dissection, journal: Journal, failures: Mapping[Unit, str]) -> Entry:
    status = dissection.status[unit]
    if status != OK:
        return Entry(unit, status)
    if row := journal.get(_make_id(dissection, unit)):
        return Entry(unit, OK, description_from_row(row))
    return Entry(unit, "failed", None, failures.get(unit, "the describer yielded nothing for it"))


def _make_id(dissection: Dissection, unit: Unit) -> str:
    return f"{dissection.key}/{unit}"


def _merge_journals(folder: Path, main: Path, key: str) -> None:
    """Merge the journals of the processes of this or an interrupted run into the main one."""
    with Journal(main, key) as journal:
        for path in sorted(folder.glob("journal-*.sqlite")):
            with Journal(path, key) as other:
                for id in other.ids():
                    journal.put(id, other.get(id) or {})
            for leftover in folder.glob(f"{path.name}*"):
                leftover.unlink()

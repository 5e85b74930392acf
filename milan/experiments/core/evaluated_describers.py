"""Those who take part in a bench: describers with their descriptions, kept as they come, and the seconds they took."""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milan.describers import Describer, sources_of
from milan.describers._shared.describer_specs import resolve_describer
from milan.describers._shared.runner import compute_journal_key, describe_units, find_missing_units
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanNotice, MilanWarning
from milan.probes import Probe
from milan.results.catalogue import Catalogue, Entry
from milan.storage.files import atomic_write, content_key
from milan.storage.integrity import json_or_none
from milan.storage.provenance import simulated_note
from milan.targets.target import Target
from milan.units import Unit

CEILING, FLOORS = ("annotators",), ("shuffled", "random_concept", "constant")


@dataclass
class EvaluatedDescriber:
    """One describer of the bench, what it said, and how long that took."""

    name: str
    describer: Describer
    role: str = ""  # ceiling, floor, or empty
    entries: list[Entry] = field(default_factory=list)
    seconds: float = math.nan  # for each unit

    @property
    def texts(self) -> dict[Unit, str]:
        return {entry.unit: entry.description.text for entry in self.entries if entry.description is not None}


def load_evaluated_describers(
    specs: Sequence[str], target: Target, probe: Probe, seed: int, device: str
) -> list[EvaluatedDescriber]:
    """Load the describers to be evaluated in their order, then ceiling and floors, each once."""
    loaded = [load_evaluated_describer(spec, target, probe, device) for spec in specs]
    known = {evaluated.name for evaluated in loaded}
    if len(known) < len(loaded):
        raise BadInput(f"of {', '.join(specs)} two have the same name; name each describer or file of options once")
    for name in (*CEILING, *FLOORS):
        if name not in known:
            settings = {"seed": seed} if name in ("shuffled", "random_concept") else {}
            found = resolve_describer(name, target, probe, settings=settings, device=device)
            loaded.append(EvaluatedDescriber(name, found.describer, "ceiling" if name in CEILING else "floor"))
    return loaded


def load_evaluated_describer(spec: str, target: Target, probe: Probe, device: str = "cpu") -> EvaluatedDescriber:
    """Load a describer with the settings that suit target and probe, as ``describe.py`` does.

    Args:
        spec: a name, ``NAME:KEY=VALUE,...``, a file of options (also one of ``configs/describe``), a table of
            descriptions, or ``auto``.
    """
    found = resolve_describer(spec, target, probe, device=device)
    if found.reason:
        warnings.warn(f"auto chose {found.label}: {found.reason}", MilanNotice, stacklevel=2)
    if found.dissection:
        warnings.warn(
            f"{spec}: all describers share one dissection, so its {' and '.join(sorted(found.dissection))} are not"
            " used here",
            MilanWarning,
            stacklevel=2,
        )
    role = "ceiling" if spec in CEILING else "floor" if spec in FLOORS else ""
    return EvaluatedDescriber(found.label, found.describer, role)


def run_describer(
    evaluated: EvaluatedDescriber,
    dissections: Mapping[str, Dissection],
    units_by_layer: Mapping[str, Sequence[Unit]],
    folder: Path,
) -> None:
    """What is in the journal is not asked again; the seconds that it took are kept beside it."""
    start = time.monotonic()
    key = content_key(
        describer=evaluated.describer.key, dissections=[dissection.key for dissection in dissections.values()]
    )
    journal = folder / "journal.sqlite", compute_journal_key(evaluated.describer)
    before = sum(map(len, find_missing_units(*journal, dissections, units_by_layer).values()))
    evaluated.entries = describe_units(evaluated.describer, dissections, units_by_layer, folder)
    file = folder / "seconds.json"
    spent = json_or_none(file)
    spent = spent if isinstance(spent, dict) and spent.get("key") == key else {"key": key, "units": 0, "seconds": 0.0}
    if before:
        spent |= {"units": spent["units"] + before, "seconds": round(spent["seconds"] + time.monotonic() - start, 3)}
        with atomic_write(file) as partial:
            partial.write_text(json.dumps(spent) + "\n")
    evaluated.seconds = spent["seconds"] / spent["units"] if spent["units"] else math.nan
    sources = sources_of(dissections.values(), {evaluated.name: evaluated.describer})
    facts = {"describer": evaluated.name, "sources": sources, "simulated": simulated_note(sources)}
    Catalogue(tuple(evaluated.entries), facts).write(folder)

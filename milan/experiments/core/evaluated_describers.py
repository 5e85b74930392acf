"""Describers under evaluation, with their descriptions and the time that they took."""

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
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, MilanNotice, MilanWarning
from milan.experiments.core.report import Role
from milan.probes import Probe
from milan.results.catalogue import Catalogue, Entry
from milan.storage.files import atomic_write, content_key
from milan.storage.integrity import json_or_none
from milan.storage.provenance import simulated_note
from milan.targets.target import Target
from milan.units import Description, Unit

CEILING, FLOORS = ("annotators",), ("shuffled", "random_concept", "constant")


@dataclass
class EvaluatedDescriber:
    """A describer with the entries of all selected units.

    Attributes:
        role: whether it is a ceiling or a floor.
        seconds: per described unit.
    """

    name: str
    describer: Describer
    role: Role = ""
    entries: list[Entry] = field(default_factory=list)
    seconds: float = math.nan

    @property
    def descriptions(self) -> list[Description]:
        """The descriptions, without units that were not described."""
        return [entry.description for entry in self.entries if entry.description is not None]

    @property
    def texts(self) -> dict[Unit, str]:
        """The text of each description by unit, in the order of layers and units."""
        return {each.unit: each.text for each in self.descriptions}


def load_evaluated_describers(
    specs: Sequence[str], target: Target, probe: Probe, seed: int, device: str
) -> list[EvaluatedDescriber]:
    """Return the describers in their order, then the ceiling and the floors, each once.

    Raises:
        BadInput: two describers have the same name.
    """
    loaded = [load_evaluated_describer(spec, target, probe, device) for spec in specs]
    known = {evaluated.name for evaluated in loaded}
    if len(known) < len(loaded):
        raise BadInput(f"two of {', '.join(specs)} have the same name; give each describer or file of options once")
    for name in (*CEILING, *FLOORS):
        if name not in known:
            settings = {"seed": seed} if name in ("shuffled", "random_concept") else {}
            found = resolve_describer(name, target, probe, settings=settings, device=device)
            loaded.append(EvaluatedDescriber(name, found.describer, _find_role(name)))
    return loaded


def load_evaluated_describer(spec: str, target: Target, probe: Probe, device: str = "cpu") -> EvaluatedDescriber:
    """Load a describer with the settings that suit target and probe, as ``describe.py`` does.

    Args:
        spec: a name, ``NAME:KEY=VALUE,...``, a file of options (also one of ``configs/describe``), a table of
            descriptions, or ``auto``.

    Raises:
        UnknownName: there is no such describer.
        BadInput: the file has no describer, or a setting is wrong.
    """
    found = resolve_describer(spec, target, probe, device=device)
    if found.reason:
        warnings.warn(f"auto chose {found.label}: {found.reason}", MilanNotice, stacklevel=2)
    if found.dissection:
        warnings.warn(
            f"{spec}: {' and '.join(sorted(found.dissection))} of this file are ignored, since all describers share one"
            " dissection; set them for the experiment",
            MilanWarning,
            stacklevel=2,
        )
    return EvaluatedDescriber(found.label, found.describer, _find_role(spec))


def _find_role(name: str) -> Role:
    return "ceiling" if name in CEILING else "floor" if name in FLOORS else ""


def run_describer(
    evaluated: EvaluatedDescriber,
    dissections: Mapping[str, Dissection],
    units_by_layer: Mapping[str, Sequence[Unit]],
    folder: Path,
) -> None:
    """Describe units, and write the table of descriptions to a folder; what is there already is not described again."""
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

"""Describers under evaluation, with their descriptions and the time that they took."""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from milan.describers import Describer, find_describer_class, load_describer, parse_settings, sources_of
from milan.describers._shared.runner import compute_journal_key, describe_units, find_missing_units
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanWarning
from milan.experiments.core.report import Role
from milan.results.catalogue import Catalogue, Entry
from milan.storage.files import atomic_write, content_key
from milan.storage.integrity import json_or_none
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.provenance import simulated_note
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


def load_evaluated_describers(names: Sequence[str], seed: int, device: str) -> list[EvaluatedDescriber]:
    """Return the describers in their order, then the ceiling and the floors, each once.

    Raises:
        BadInput: two describers have the same name.
    """
    describers = [load_evaluated_describer(name, device) for name in names]
    known = {evaluated.name for evaluated in describers}
    if len(known) < len(describers):
        raise BadInput(f"two of {', '.join(names)} have the same name; give each describer or file of options once")
    for name in (*CEILING, *FLOORS):
        if name not in known:
            settings = {"seed": seed} if name in ("shuffled", "random_concept") else {}
            describers.append(EvaluatedDescriber(name, load_describer(name, **settings), _find_role(name)))
    return describers


def load_evaluated_describer(name: str, device: str = "cpu") -> EvaluatedDescriber:
    """Load a describer by name, by a file of options, or as a table of descriptions.

    Args:
        name: a describer's name, with its settings for Diorama if it has some; or a file of options, which may be one
            of ``configs/describe``; or a table of descriptions.

    Raises:
        UnknownName: there is no such describer.
        BadInput: the file has no describer, or a setting is wrong.
    """
    if _is_table(name):
        return EvaluatedDescriber(Path(name).stem, load_describer("imported", table=name))
    if not name.endswith((".yaml", ".yml")):
        settings = parse_settings(name, _read_diorama_settings(name), device)
        return EvaluatedDescriber(Path(name).name.replace(":", "-"), load_describer(name, **settings), _find_role(name))
    shipped = locate_packaged_data("configs/describe") / name
    options = _read_options(shipped if shipped.is_file() and not Path(name).is_file() else Path(name))
    if ignored := sorted({"k", "quantile"} & set(options)):
        warnings.warn(
            f"{name}: {' and '.join(ignored)} of this file are ignored, since all describers share one dissection; set"
            " them for the experiment",
            MilanWarning,
            stacklevel=2,
        )
    describer = options["describer"]
    settings = parse_settings(describer, options.get("settings") or {}, device)
    return EvaluatedDescriber(Path(name).stem.removesuffix("-diorama"), load_describer(describer, **settings))


def _find_role(name: str) -> Role:
    return "ceiling" if name in CEILING else "floor" if name in FLOORS else ""


def _is_table(name: str) -> bool:
    """Return whether it is a folder that describe.py wrote, or a file of descriptions."""
    return name.endswith((".csv", ".jsonl", ".parquet")) or (Path(name) / "descriptions.jsonl").is_file()


def _read_diorama_settings(name: str) -> dict[str, Any]:
    """Return the settings of ``configs/describe/NAME-diorama.yaml``; an unknown name is an error."""
    find_describer_class(name)
    file = locate_packaged_data("configs/describe") / f"{name}-diorama.yaml"
    return (_read_options(file).get("settings") or {}) if file.is_file() else {}


def _read_options(file: Path) -> dict[str, Any]:
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
        _ = options["describer"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not a file of options with a describer: {type(error).__name__} {error}") from None
    return options


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

"""Those who take part in a bench: describers with their descriptions, kept as they come, and the seconds they took."""

import json
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from milan.catalogue import Catalogue, Entry
from milan.describers import Describer, describer_class, load_describer, sources_of, typed_settings
from milan.describers.resuming import describe_units, journal_key, missing_units
from milan.dissection.store import Dissection
from milan.embedded import embedded
from milan.errors import BadInput, MilanWarning
from milan.integrity import json_or_none
from milan.provenance import simulated_note
from milan.storage import atomic, content_key
from milan.units import Unit

CEILING, FLOORS = ("annotators",), ("shuffled", "random_concept", "constant")


@dataclass
class Entrant:
    """One describer of the bench, what it said, and how long that took."""

    name: str
    describer: Describer
    role: str = ""  # ceiling, floor, or empty
    entries: list[Entry] = field(default_factory=list)
    seconds: float = math.nan  # for each unit

    @property
    def texts(self) -> dict[Unit, str]:
        return {entry.unit: entry.description.text for entry in self.entries if entry.description is not None}


def entrants_of(names: Sequence[str], seed: int, device: str) -> list[Entrant]:
    """Those asked for in their order, then ceiling and floors, each once."""
    asked = [entrant_of(name, device) for name in names]
    known = {entrant.name for entrant in asked}
    if len(known) < len(asked):
        raise BadInput(f"of {', '.join(names)} two have the same name; name each describer or file of options once")
    for name in (*CEILING, *FLOORS):
        if name not in known:
            settings = {"seed": seed} if name in ("shuffled", "random_concept") else {}
            asked.append(Entrant(name, load_describer(name, **settings), "ceiling" if name in CEILING else "floor"))
    return asked


def entrant_of(name: str, device: str = "cpu") -> Entrant:
    """A describer by name, with the settings for Diorama if it has some; or by a file of options; or a table of descriptions.

    A file of options that is not there may be one of those that come with the package, in ``configs/describe``.
    """
    if _is_table(name):
        return Entrant(Path(name).stem, load_describer("imported", table=name))
    if not name.endswith((".yaml", ".yml")):
        role = "ceiling" if name in CEILING else "floor" if name in FLOORS else ""
        return Entrant(Path(name).name.replace(":", "-"), load_describer(name, **typed_settings(name, _own_settings(name), device)), role)
    shipped = embedded("configs/describe") / name
    options = _options(shipped if shipped.is_file() and not Path(name).is_file() else Path(name))
    if own := sorted({"k", "quantile"} & set(options)):
        warnings.warn(
            f"{name}: the bench has one dissection for all, so what it says of {' and '.join(own)} does not count here",
            MilanWarning,
            stacklevel=2,
        )
    describer, settings = options["describer"], options.get("settings") or {}
    return Entrant(Path(name).stem.removesuffix("-diorama"), load_describer(describer, **typed_settings(describer, settings, device)))


def _is_table(name: str) -> bool:
    """Whether it is a folder that describe.py wrote, or a file of descriptions."""
    return name.endswith((".csv", ".jsonl", ".parquet")) or (Path(name) / "descriptions.jsonl").is_file()


def _own_settings(name: str) -> dict[str, Any]:
    """Those of ``configs/describe/NAME-diorama.yaml``."""
    describer_class(name)  # an unknown name is told
    file = embedded("configs/describe") / f"{name}-diorama.yaml"
    return (_options(file).get("settings") or {}) if file.is_file() else {}


def _options(file: Path) -> dict[str, Any]:
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
        _ = options["describer"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no file of options with a describer: {type(error).__name__} {error}") from None
    return options


def describe_with(entrant: Entrant, dissections: Mapping[str, Dissection], wanted: Mapping[str, Sequence[Unit]], folder: Path) -> None:
    """What is in the journal is not asked again; the seconds that it took are kept beside it."""
    start = time.monotonic()
    key = content_key(describer=entrant.describer.key, dissections=[dissection.key for dissection in dissections.values()])
    journal = folder / "journal.sqlite", journal_key(entrant.describer)
    before = sum(map(len, missing_units(*journal, dissections, wanted).values()))
    entrant.entries = describe_units(entrant.describer, dissections, wanted, folder)
    file = folder / "seconds.json"
    spent = json_or_none(file)
    spent = spent if isinstance(spent, dict) and spent.get("key") == key else {"key": key, "units": 0, "seconds": 0.0}
    if before:
        spent |= {"units": spent["units"] + before, "seconds": round(spent["seconds"] + time.monotonic() - start, 3)}
        with atomic(file) as partial:
            partial.write_text(json.dumps(spent) + "\n")
    entrant.seconds = spent["seconds"] / spent["units"] if spent["units"] else math.nan
    sources = sources_of(dissections.values(), {entrant.name: entrant.describer})
    facts = {"describer": entrant.name, "sources": sources, "simulated": simulated_note(sources)}
    Catalogue(tuple(entrant.entries), facts).write(folder)

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

from milan.describers import Describer, find_describer_class, load_describer, parse_settings, sources_of
from milan.describers._shared.runner import compute_journal_key, describe_units, find_missing_units
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanWarning
from milan.results.catalogue import Catalogue, Entry
from milan.storage.files import atomic_write, content_key
from milan.storage.integrity import json_or_none
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.provenance import simulated_note
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


def load_evaluated_describers(names: Sequence[str], seed: int, device: str) -> list[EvaluatedDescriber]:
    """Those asked for in their order, then ceiling and floors, each once."""
    asked = [load_evaluated_describer(name, device) for name in names]
    known = {evaluated.name for evaluated in asked}
    if len(known) < len(asked):
        raise BadInput(f"of {', '.join(names)} two have the same name; name each describer or file of options once")
    for name in (*CEILING, *FLOORS):
        if name not in known:
            settings = {"seed": seed} if name in ("shuffled", "random_concept") else {}
            asked.append(
                EvaluatedDescriber(name, load_describer(name, **settings), "ceiling" if name in CEILING else "floor")
            )
    return asked


def load_evaluated_describer(name: str, device: str = "cpu") -> EvaluatedDescriber:
    """A describer by name, with the settings for Diorama if it has some; or by a file of options; or a table of
    descriptions.

    A file of options that is not there may be one of those that come with the package, in ``configs/describe``.
    """
    if _is_table(name):
        return EvaluatedDescriber(Path(name).stem, load_describer("imported", table=name))
    if not name.endswith((".yaml", ".yml")):
        role = "ceiling" if name in CEILING else "floor" if name in FLOORS else ""
        return EvaluatedDescriber(
            Path(name).name.replace(":", "-"),
            load_describer(name, **parse_settings(name, _read_diorama_settings(name), device)),
            role,
        )
    shipped = locate_packaged_data("configs/describe") / name
    options = _read_options(shipped if shipped.is_file() and not Path(name).is_file() else Path(name))
    if own := sorted({"k", "quantile"} & set(options)):
        warnings.warn(
            f"{name}: the bench has one dissection for all, so what it says of {' and '.join(own)} does not count here",
            MilanWarning,
            stacklevel=2,
        )
    describer, settings = options["describer"], options.get("settings") or {}
    return EvaluatedDescriber(
        Path(name).stem.removesuffix("-diorama"),
        load_describer(describer, **parse_settings(describer, settings, device)),
    )


def _is_table(name: str) -> bool:
    """Whether it is a folder that describe.py wrote, or a file of descriptions."""
    return name.endswith((".csv", ".jsonl", ".parquet")) or (Path(name) / "descriptions.jsonl").is_file()


def _read_diorama_settings(name: str) -> dict[str, Any]:
    """Those of ``configs/describe/NAME-diorama.yaml``."""
    find_describer_class(name)  # an unknown name is told
    file = locate_packaged_data("configs/describe") / f"{name}-diorama.yaml"
    return (_read_options(file).get("settings") or {}) if file.is_file() else {}


def _read_options(file: Path) -> dict[str, Any]:
    try:
        options = yaml.safe_load(file.read_text(encoding="utf-8"))
        _ = options["describer"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no file of options with a describer: {type(error).__name__} {error}") from None
    return options


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

"""Described runs, read from folders or tables of any origin: the descriptions, and the dissections with the images."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.errors import BadInput, MilanError, MilanWarning
from milan.results.catalogue import natural_sort_key, read_catalogue, read_descriptions
from milan.results.published_tables import read_published_descriptions
from milan.storage.provenance import joined
from milan.units import Description, Unit

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class DescribedRun:
    """The descriptions of one describer.

    Attributes:
        name: the name that reports show.
        descriptions: by unit.
        facts: target, probe and describer of the run, if it has them.
        dissections: of its layers, if they are beside the table; they have the images.
    """

    name: str
    descriptions: Mapping[Unit, Description]
    facts: Mapping[str, object] = field(default_factory=dict)
    dissections: Mapping[str, Dissection] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, str]:
        """What the descriptions were made from, by role, as far as the run or its dissections say."""
        if isinstance(known := self.facts.get("sources"), dict):
            return known
        first = next(iter(self.dissections.values()), None)
        specs = {name: self.facts.get(name) or getattr(first, name, "") for name in ("target", "probe")}
        return {role: str(spec) for role, spec in specs.items() if spec}

    @property
    def texts(self) -> dict[Unit, str]:
        """The text of each description by unit."""
        return {unit: one.text for unit, one in self.descriptions.items()}


def load_runs(sources: Sequence[str]) -> list[DescribedRun]:
    """Load runs, each given as ``PLACE`` or ``NAME=PLACE``; places of one name are merged.

    A place is a folder that describe.py wrote, a table of this package (csv, jsonl, parquet) or one that
    ``milan.results.published_tables`` can read. A run has the name of its describer, with that of its folder if two
    describers have the same name.

    Raises:
        BadInput: there is no table, or two tables of one name describe one unit.
    """
    loaded = [_load_run(place) for place in sources]
    names = [run.name for run, named in loaded if not named]
    runs_by_name: dict[str, list[DescribedRun]] = {}
    for (run, named), place in zip(loaded, sources, strict=True):
        name = run.name if named or names.count(run.name) < 2 else f"{run.name} ({_source_stem(place)})"
        runs_by_name.setdefault(name, []).append(run)
    runs = [_merge_runs(name, several) for name, several in runs_by_name.items()]
    _warn_of_other_networks(runs)
    return runs


def list_units(runs: Sequence[DescribedRun], units: Sequence[str] = ()) -> list[Unit]:
    """Return the units of these names, or else all that a run describes, in the order of layers and indices.

    Raises:
        BadInput: no run describes one of the named units.
    """
    known = {unit for run in runs for unit in run.descriptions}
    if strange := [name for name in units if Unit.parse(name) not in known]:
        raise BadInput(
            f"none of {', '.join(run.name for run in runs)} described {strange[0]}; give units that one of them"
            " described"
        )
    return sorted(
        {Unit.parse(name) for name in units} or known, key=lambda unit: (natural_sort_key(unit.layer), unit.index)
    )


def find_dissections(runs: Sequence[DescribedRun], units: Sequence[Unit]) -> dict[str, Dissection]:
    """Return the first available dissection of each layer, with a warning if another run has another one."""
    found: dict[str, Dissection] = {}
    for layer in dict.fromkeys(unit.layer for unit in units):
        there = [(run.name, run.dissections[layer]) for run in runs if layer in run.dissections]
        if there:
            found[layer] = there[0][1]
            others = [name for name, one in there[1:] if one.key != there[0][1].key]
            if others:
                text = (
                    f"{layer}: the exemplars are those of {there[0][0]}; those of {', '.join(others)} differ (in"
                    " probe, k or quantile)"
                )
                warnings.warn(text, MilanWarning, stacklevel=2)
    return found


def sources_of(runs: Sequence[DescribedRun]) -> dict[str, str]:
    """Return what all runs were made from, by role."""
    return joined({run.name: run.sources for run in runs})


def select_units_with_images(dissections: Mapping[str, Dissection], units: Sequence[Unit]) -> list[Unit]:
    """Return the units of which there are images."""
    known = {unit for one in dissections.values() for unit in one.units}
    return [unit for unit in units if unit in known]


def _warn_of_other_networks(runs: Sequence[DescribedRun]) -> None:
    """Warn that units of one name in two networks are not the same."""
    targets = {str(run.facts["target"]) for run in runs if run.facts.get("target")}
    if len(targets) > 1:
        text = (
            f"the runs are of different networks ({', '.join(sorted(targets))}): units of the same name are not the"
            " same units"
        )
        warnings.warn(text, MilanWarning, stacklevel=3)


def _load_run(source: str) -> tuple[DescribedRun, bool]:
    """Return the run at a place, and whether it was given a name."""
    name, equals, where = source.partition("=")
    path = Path(where if equals and not Path(source).exists() else source).expanduser()
    named = name if equals and not Path(source).exists() else ""
    if path.is_dir() and not any((path / f"descriptions{suffix}").is_file() for suffix in TABLE_SUFFIXES):
        raise BadInput(f"no table of descriptions in {path}; give a folder that describe.py wrote, or a table")
    descriptions = read_descriptions(path)
    if not descriptions:
        raise BadInput(f"no unit is described in {path}")
    published = path.is_file() and read_published_descriptions(path) is not None
    facts = {} if published else read_catalogue(path).facts
    folder = path if path.is_dir() else path.parent
    run_name = named or str(facts.get("describer") or "") or _source_stem(source)
    layers = dict.fromkeys(one.unit.layer for one in descriptions)
    by_unit = {one.unit: one for one in descriptions}
    dissections = {} if published else _load_dissections(folder, list(layers))
    return DescribedRun(run_name, by_unit, facts, dissections), bool(named)


def _load_dissections(folder: Path, layers: Sequence[str]) -> dict[str, Dissection]:
    """Load the dissections beside a table: in its folder ``dissection``, or in the folder above, as those of a
    bench."""
    found: dict[str, Dissection] = {}
    for home in (folder / "dissection", folder.parent / "dissection", folder.parent.parent / "dissection"):
        for place in sorted(home.glob("*/dissection.json")):
            try:
                one = load_dissection(place.parent)
            except MilanError:
                # An unfinished dissection; others may have images.
                continue
            if one.layer in layers:
                found.setdefault(one.layer, one)
    return found


def _merge_runs(name: str, several: Sequence[DescribedRun]) -> DescribedRun:
    descriptions: dict[Unit, Description] = {}
    for run in several:
        if twice := sorted(set(descriptions) & set(run.descriptions)):
            raise BadInput(f"two tables of {name!r} describe {twice[0]}; give them different names, as NAME=PLACE")
        descriptions |= run.descriptions
    dissections = {layer: one for run in several for layer, one in run.dissections.items()}
    return DescribedRun(name, descriptions, several[0].facts, dissections)


def _source_stem(source: str) -> str:
    path = Path(source.partition("=")[2] or source)
    return path.name if path.is_dir() else path.stem

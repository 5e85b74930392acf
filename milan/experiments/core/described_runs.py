"""Described runs by their folders or tables, whoever made them: what each said of which unit, and where the pictures
are.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milan.dissection.store import Dissection, load_dissections_beside
from milan.errors import BadInput, MilanWarning
from milan.results.catalogue import natural_sort_key, read_catalogue, read_descriptions
from milan.results.published_tables import read_published_descriptions
from milan.storage.provenance import joined
from milan.units import Description, Unit

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class DescribedRun:
    """What one describer said.

    Attributes:
        name: by which it is shown.
        descriptions: by unit.
        facts: of the run, where it tells them: target, probe, describer.
        dissections: of its layers, where they lie beside the table; they have the pictures.
    """

    name: str
    descriptions: Mapping[Unit, Description]
    facts: Mapping[str, object] = field(default_factory=dict)
    dissections: Mapping[str, Dissection] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, str]:
        """What the descriptions were made from, by role, as far as the run or its dissections tell."""
        if isinstance(known := self.facts.get("sources"), dict):
            return known
        first = next(iter(self.dissections.values()), None)
        told = {name: self.facts.get(name) or getattr(first, name, "") for name in ("target", "probe")}
        return {role: str(spec) for role, spec in told.items() if spec}

    @property
    def texts(self) -> dict[Unit, str]:
        return {unit: one.text for unit, one in self.descriptions.items()}


def load_runs(sources: Sequence[str]) -> list[DescribedRun]:
    """The runs that lie at these places, each ``PLACE`` or ``NAME=PLACE``; places of one name are put together.

    A place is a folder that describe.py wrote, a table of ours (csv, jsonl, parquet) or one that
    ``milan.results.published_tables`` knows. A run is called as its describer, or as its folder where two describers
    have one name.

    Raises:
        BadInput: there is no table, or two tables of one name describe one unit.
    """
    found = [_load_run(place) for place in sources]
    names = [run.name for run, named in found if not named]
    called = [
        (run.name if named or names.count(run.name) < 2 else f"{run.name} ({_source_stem(place)})", run)
        for (run, named), place in zip(found, sources, strict=True)
    ]
    together: dict[str, list[DescribedRun]] = {}
    for name, run in called:
        together.setdefault(name, []).append(run)
    runs = [_merge_runs(name, several) for name, several in together.items()]
    _warn_of_other_networks(runs)
    return runs


def list_units(runs: Sequence[DescribedRun], units: Sequence[str] = ()) -> list[Unit]:
    """The units that any of the runs described, in the order of layers and numbers; or those named.

    Raises:
        BadInput: none of the runs described a unit that is named.
    """
    known = {unit for run in runs for unit in run.descriptions}
    if strange := [name for name in units if Unit.parse(name) not in known]:
        raise BadInput(
            f"none of {', '.join(run.name for run in runs)} described {strange[0]}; name units that one of them did"
        )
    return sorted(
        {Unit.parse(name) for name in units} or known, key=lambda unit: (natural_sort_key(unit.layer), unit.index)
    )


def find_dissections(runs: Sequence[DescribedRun], units: Sequence[Unit]) -> dict[str, Dissection]:
    """For each layer of the units the first dissection at hand; a warning where a run was made from another one."""
    found: dict[str, Dissection] = {}
    for layer in dict.fromkeys(unit.layer for unit in units):
        there = [(run.name, run.dissections[layer]) for run in runs if layer in run.dissections]
        if there:
            found[layer] = there[0][1]
            others = [name for name, one in there[1:] if one.key != there[0][1].key]
            if others:
                text = (
                    f"{layer}: the exemplars are those of {there[0][0]}; {', '.join(others)} had others (probe, k or"
                    " quantile differ)"
                )
                warnings.warn(text, MilanWarning, stacklevel=2)
    return found


def sources_of(runs: Sequence[DescribedRun]) -> dict[str, str]:
    """What all runs were made from, by role."""
    return joined({run.name: run.sources for run in runs})


def select_units_with_images(dissections: Mapping[str, Dissection], units: Sequence[Unit]) -> list[Unit]:
    """Those of the units of which there are pictures."""
    known = {unit for one in dissections.values() for unit in one.units}
    return [unit for unit in units if unit in known]


def _warn_of_other_networks(runs: Sequence[DescribedRun]) -> None:
    """Units of one name in two networks are two units."""
    targets = {str(run.facts["target"]) for run in runs if run.facts.get("target")}
    if len(targets) > 1:
        text = (
            f"the runs are of different networks ({', '.join(sorted(targets))}): their units have names in common and"
            " nothing else"
        )
        warnings.warn(text, MilanWarning, stacklevel=3)


def _load_run(source: str) -> tuple[DescribedRun, bool]:
    """The run at a place, and whether it was given a name."""
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
    called = named or str(facts.get("describer") or "") or _source_stem(source)
    layers = dict.fromkeys(one.unit.layer for one in descriptions)
    said = {one.unit: one for one in descriptions}
    return DescribedRun(called, said, facts, {} if published else load_dissections_beside(folder, layers)), bool(named)


def _merge_runs(name: str, several: Sequence[DescribedRun]) -> DescribedRun:
    said: dict[Unit, Description] = {}
    for run in several:
        if twice := sorted(set(said) & set(run.descriptions)):
            raise BadInput(f"two tables of {name!r} describe {twice[0]}; give them different names, as NAME=PLACE")
        said |= run.descriptions
    return DescribedRun(
        name, said, several[0].facts, {layer: one for run in several for layer, one in run.dissections.items()}
    )


def _source_stem(source: str) -> str:
    path = Path(source.partition("=")[2] or source)
    return path.name if path.is_dir() else path.stem

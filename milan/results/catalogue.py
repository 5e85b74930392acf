"""Catalogue: the descriptions of a run as a table, which is read back exactly as it was written."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.dissection.store import layer_folder
from milan.errors import BadInput, MilanError, MilanWarning, MissingEvidence, UnknownName
from milan.results.description_rows import (
    description_from_row,
    description_to_row,
    parse_unit,
    tidy_description,
    to_one_line,
)
from milan.results.published_tables import read_published_descriptions
from milan.storage.tables import parquet_facts, read_table, write_csv, write_jsonl, write_parquet
from milan.storage.text_files import read_json_object
from milan.units import Description, Exemplars, Unit

if TYPE_CHECKING:
    import pandas

    from milan.results.search import FoundUnit

OK = "ok"
# Facts that the metadata of a parquet table repeats.
KEPT_FACTS = ("describer", "target", "probe", "sources", "simulated")


@dataclass(frozen=True)
class Entry:
    """One row of a catalogue.

    Attributes:
        unit: the unit.
        status: ``ok`` (described), ``dead``, ``sparse`` or ``invalid`` (not described, see ``Dissection.status``), or
            ``failed`` (the describer gave no answer).
        description: None unless the status is ``ok``.
        reason: why there is no description.
    """

    unit: Unit
    status: str = OK
    description: Description | None = None
    reason: str = ""


@dataclass(frozen=True)
class Catalogue:
    """The descriptions of a run.

    A catalogue is indexed by unit, iterates over its descriptions, and shows a table with exemplars in a notebook.

    Attributes:
        entries: one for each unit of the run, described or not, sorted by layer and index.
        facts: how the descriptions were made: target, probe, describer, versions, warnings (see ``run.json``).
        folder: the output folder of the run, where its exemplars are; None if there is none.

    >>> red = Catalogue.from_descriptions([Description(Unit("conv1", 2), "red things", -1.5)], describer="milan")
    >>> red["conv1:2"].text, len(red), red.layers
    ('red things', 1, ['conv1'])
    >>> red
    Catalogue(1 of 1 units described by milan, layers conv1)
    """

    entries: tuple[Entry, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        ordered = sorted(
            (_tidy_entry(entry) for entry in self.entries),
            key=lambda entry: (natural_sort_key(entry.unit.layer), entry.unit),
        )
        for before, after in pairwise(ordered):
            if before.unit == after.unit:
                raise BadInput(f"unit {after.unit} is in the catalogue twice")
        object.__setattr__(self, "entries", tuple(ordered))

    def __repr__(self) -> str:
        layers = self.layers
        named = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
        by = f" by {self.facts['describer']}" if self.facts.get("describer") else ""
        return f"Catalogue({len(self.descriptions)} of {len(self)} units described{by}, layers {named})"

    @classmethod
    def from_descriptions(cls, descriptions: Iterable[Description], **facts: Any) -> "Catalogue":
        """Return a catalogue of these descriptions, with ``facts`` as keywords."""
        return cls(tuple(Entry(description.unit, OK, description) for description in descriptions), facts)

    @property
    def descriptions(self) -> list[Description]:
        """The descriptions, in the order of the entries; units without one are left out."""
        return [entry.description for entry in self.entries if entry.description is not None]

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in the order of the entries."""
        return list(dict.fromkeys(entry.unit.layer for entry in self.entries))

    @property
    def counts(self) -> dict[str, int]:
        """The number of units of each status."""
        return dict(sorted(Counter(entry.status for entry in self.entries).items()))

    def entry(self, unit: Unit | str) -> Entry:
        """Return the entry of a unit, given as a ``Unit`` or as text such as ``"layer4:17"``.

        Raises:
            UnknownName: the catalogue does not have the unit; the message names similar ones.
        """
        key = Unit.parse(unit) if isinstance(unit, str) else unit
        if key not in self._by_unit:
            raise UnknownName("unit", str(key), [str(entry.unit) for entry in self.entries])
        return self._by_unit[key]

    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Return the exemplars of a unit, from the dissection in the run's folder.

        Raises:
            UnknownName: the catalogue does not have the unit.
            MissingEvidence: the catalogue was not read from, or written to, the folder of a run.
            BadInput: the dissection is damaged.
        """
        entry = self.entry(unit)
        if self.folder is None:
            raise MissingEvidence(f"no exemplars of {entry.unit}: the catalogue has no folder; use milan.dissect")
        return self._load_dissection(entry.unit.layer).exemplars(entry.unit)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with a row for each entry; scores of units without a description are NaN.

        The columns are those of ``descriptions.csv``: layer, unit (index in the layer), description, score, describer,
        status, reason, bias, concepts and candidates.
        """
        import pandas

        frame = pandas.DataFrame(self.to_rows(reasoning=False))
        return frame.astype({"score": float} if len(frame) else {})

    @property
    def texts(self) -> dict[Unit, str]:
        """The description of each unit that has one."""
        return {description.unit: description.text for description in self.descriptions}

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """The dissected layers in the run's folder, by name; without those that cannot be read, of which it warns."""
        found: dict[str, Dissection] = {}
        for layer in self.layers if self.folder is not None else []:
            try:
                found[layer] = self._load_dissection(layer)
            except MilanError as error:
                if layer_folder((self.folder or Path()) / "dissection", layer).exists():
                    warnings.warn(f"{layer} is left without exemplars: {error}", MilanWarning, stacklevel=2)
        return found

    def find(self, text: str = "", *, image: str | Path | None = None, **options: Any) -> "list[FoundUnit]":
        """Return the units that a text describes best, or that an image activates unusually strongly, best first.

        Args:
            text: what the units should be about.
            image: a picture file, in place of the text.
            options: of ``milan.results.search.find_by_text`` (``embedder``, ``sentences``, ``count``) or of
                ``milan.results.image_search.find_by_image`` (``count``). Diorama's image-text model is used for probes
                that show Diorama.

        Raises:
            BadInput: both or neither of text and image are given, or one cannot be used.
            MissingEvidence: an image is given, and the run's network cannot be loaded again.
        """
        from milan.results.search import SearchedRun, choose_embedder, find_by_text  # it loads models

        if bool(text) == (image is not None):
            raise BadInput("give either a text or an image to find units by")
        runs = [SearchedRun(str(self.facts.get("target", "")), self.texts, self.dissections)]
        if image is not None:
            from milan.results.image_search import find_by_image

            return find_by_image(image, runs, **options)
        if "embedder" not in options:
            options["embedder"] = choose_embedder(runs)
        return find_by_text(text, runs, **options)

    @cached_property
    def _by_unit(self) -> dict[Unit, Entry]:
        return {entry.unit: entry for entry in self.entries}

    @cached_property
    def _dissections(self) -> dict[str, Dissection]:
        return {}

    def _load_dissection(self, layer: str) -> Dissection:
        if layer not in self._dissections:
            self._dissections[layer] = load_dissection(layer_folder((self.folder or Path()) / "dissection", layer))
        return self._dissections[layer]

    def __getitem__(self, unit: Unit | str) -> Description:
        entry = self.entry(unit)
        if entry.description is None:
            reason = f" ({entry.reason})" if entry.reason else ""
            raise BadInput(f"unit {entry.unit} has no description: its status is {entry.status}{reason}")
        return entry.description

    def __iter__(self) -> Iterator[Description]:
        return iter(self.descriptions)

    def __len__(self) -> int:
        return len(self.entries)

    def write(self, folder: Path) -> None:
        """Write the same rows as ``descriptions.csv``, ``.jsonl`` and ``.parquet``; equal catalogues give equal bytes.

        The reasoning of a describer is only in the ``.jsonl``. The metadata of the ``.parquet`` says what the
        descriptions were made from, and whether that is simulated.
        """
        rows = self.to_rows()
        flat = [_without_reasoning(row) for row in rows]
        write_csv(folder / "descriptions.csv", flat)
        write_jsonl(folder / "descriptions.jsonl", rows)
        facts = {name: self.facts[name] for name in KEPT_FACTS if name in self.facts}
        write_parquet(folder / "descriptions.parquet", flat, facts)

    def to_rows(self, *, reasoning: bool = True) -> list[dict[str, Any]]:
        """Return the entries as plain values, in order; without a describer's reasoning where that is not wanted."""
        rows = [_entry_to_row(entry, str(self.facts.get("describer", ""))) for entry in self.entries]
        return rows if reasoning else [_without_reasoning(row) for row in rows]

    def _repr_html_(self) -> str:
        # Imported here because it needs jinja2 and Pillow, and only a notebook calls this method.
        from milan.console.notebook import MAX_ROWS, CatalogueRow, render_catalogue

        rows = [
            CatalogueRow(
                str(entry.unit),
                entry.description.score if entry.description else None,
                entry.description.text if entry.description else entry.status,
                self._encode_exemplars(entry),
            )
            for entry in self.entries[:MAX_ROWS]
        ]
        return render_catalogue(rows, len(self), self.counts, str(self.facts.get("simulated", "")))

    def _encode_exemplars(self, entry: Entry) -> str:
        """Return the row of exemplars as base64; empty where they are not available."""
        from milan.console.notebook import encode_row_exemplars

        if self.folder is None or entry.description is None:
            return ""
        try:
            exemplars = self.exemplars(entry.unit)
        except MilanError:
            return ""
        return encode_row_exemplars(exemplars.images, exemplars.masks)


def read_catalogue(path: Path | str) -> Catalogue:
    """Read what ``Catalogue.write`` wrote.

    The facts come from ``run.json`` beside the table, else from the metadata of ``descriptions.parquet``.

    Args:
        path: the folder, or one of the three files in it.

    Raises:
        BadInput: there is no table at ``path``, or it is not one of descriptions.
    """
    file = _find_table_file(Path(path))
    needed = ("layer", "unit", "description")
    rows = read_table(file, needed, lambda row: (_tidy_entry(_entry_from_row(row)), row.get("describer") or ""))
    describer = rows[0][1] if rows else ""
    facts = _read_facts_beside(file) or {"describer": describer}
    folder = file.parent if (file.parent / "dissection").is_dir() else None
    return Catalogue(tuple(entry for entry, _ in rows), facts, folder)


def read_descriptions(path: Path | str, layer: str = "") -> list[Description]:
    """Read the descriptions in a table that this package wrote, or that another method published.

    Args:
        path: a folder that ``describe.py`` wrote, a csv, jsonl or parquet file in it, or a csv file in one of the
            formats that ``milan.results.published_tables`` lists.
        layer: the layer of the units, needed where neither a published table nor its file name states it.

    Raises:
        BadInput: there is no table at ``path``, or it is in none of these formats.
    """
    file = _find_table_file(Path(path))
    published = read_published_descriptions(file, layer)
    return read_catalogue(file).descriptions if published is None else published


def table_sources(path: Path | str) -> dict[str, str]:
    """Return what the descriptions in a table were made from, by role (``"table's captioner"``); empty if unknown."""
    facts = _read_facts_beside(_find_table_file(Path(path)))
    sources = facts.get("sources") or {name: str(facts[name]) for name in ("target", "probe") if facts.get(name)}
    return {f"table's {role}": spec for role, spec in sources.items()}


def _read_facts_beside(file: Path) -> dict[str, Any]:
    """Return the facts of the run that a table belongs to; empty where there are none."""
    run_file = file.with_name("run.json")
    if run_file.exists():
        return read_json_object(run_file)
    return parquet_facts(file if file.suffix == ".parquet" else file.with_name("descriptions.parquet"))


def natural_sort_key(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key by which numbers within names are compared as numbers.

    >>> sorted(["features.12", "features.3"], key=natural_sort_key)
    ['features.3', 'features.12']
    """
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part)


def _tidy_entry(entry: Entry) -> Entry:
    if entry.description is None:
        return replace(entry, reason=to_one_line(entry.reason))
    description = tidy_description(entry.description)
    if entry.status == OK and not description.text:
        return Entry(entry.unit, "failed", None, "the describer gave an empty text")
    return replace(entry, description=description)


def _entry_to_row(entry: Entry, describer: str) -> dict[str, Any]:
    row = description_to_row(entry.description or Description(entry.unit, "", math.nan))
    head = {name: row.pop(name) for name in ("layer", "unit", "description", "score")}
    return head | {"describer": describer, "status": entry.status, "reason": entry.reason} | row


def _without_reasoning(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "reasoning"}


def _entry_from_row(row: Mapping[str, Any]) -> Entry:
    status = row.get("status") or OK
    description = description_from_row(row) if status == OK else None
    return Entry(parse_unit(row), status, description, row.get("reason") or "")


def _find_table_file(path: Path) -> Path:
    suffixes = (".jsonl", ".csv", ".parquet")
    files = [path / f"descriptions{suffix}" for suffix in suffixes] if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            return file
    raise BadInput(
        f"no table of descriptions at {path}; give a folder that describe.py wrote, or a .csv, .jsonl or .parquet file"
    )

"""What was said of every unit asked for, as a table that is read back as it was written."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milan.console.command_line import clean_text
from milan.dissection.store import Dissection, load_dissections_beside
from milan.errors import BadInput, UnknownName
from milan.results.published_tables import read_published_descriptions
from milan.storage.tables import parquet_facts, read_table, write_csv, write_jsonl, write_parquet
from milan.storage.text_files import read_json_object, whole_number
from milan.units import Candidate, Description, Unit

if TYPE_CHECKING:
    from milan.results.search import FoundUnit

OK = "ok"
KEPT_FACTS = ("describer", "target", "probe", "sources", "simulated")  # in the metadata of a parquet table
SIGNIFICANT_DIGITS = (
    6  # significant digits that are written: what differs beyond them is the order of summation, not the answer
)


@dataclass(frozen=True)
class Entry:
    """One row of a catalogue: a unit, what became of it, and what was said of it if anything was."""

    unit: Unit
    status: str = OK  # ok; dead, sparse, invalid: not described; failed: tried, without an answer
    description: Description | None = None
    reason: str = ""  # why there is no description


@dataclass(frozen=True)
class Catalogue:
    """The entries of a run, in the order of layer and unit, and its facts: target, probe, describer, versions,
    warnings.

    >>> red = Catalogue.from_descriptions([Description(Unit("conv1", 2), "red things", -1.5)], describer="milan")
    >>> red["conv1:2"].text, len(red), red.layers
    ('red things', 1, ['conv1'])
    >>> red
    Catalogue(1 of 1 units described by milan, layers conv1)
    """

    entries: tuple[Entry, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)  # of the run, where its dissections are

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
        """The catalogue of these descriptions."""
        return cls(tuple(Entry(description.unit, OK, description) for description in descriptions), facts)

    @property
    def descriptions(self) -> list[Description]:
        """What was said, without the units of which nothing was."""
        return [entry.description for entry in self.entries if entry.description is not None]

    @property
    def layers(self) -> list[str]:
        """The layers, in the order in which the entries stand."""
        return list(dict.fromkeys(entry.unit.layer for entry in self.entries))

    @property
    def status_counts(self) -> dict[str, int]:
        """How many units there are of each status."""
        return dict(sorted(Counter(entry.status for entry in self.entries).items()))

    def entry(self, unit: Unit | str) -> Entry:
        """The row of a unit; a unit that is not here is answered with the nearest."""
        wanted = Unit.parse(unit) if isinstance(unit, str) else unit
        if wanted not in self._by_unit:
            raise UnknownName("unit", str(wanted), [str(entry.unit) for entry in self.entries])
        return self._by_unit[wanted]

    @property
    def texts(self) -> dict[Unit, str]:
        """The description of each unit that has one."""
        return {description.unit: description.text for description in self.descriptions}

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """The dissected layers of the run, by name; empty if the catalogue was not read from a run's folder."""
        return load_dissections_beside(self.folder, self.layers) if self.folder is not None else {}

    def find(self, text: str = "", *, image: str | Path | None = None, **options: Any) -> "list[FoundUnit]":
        """Return the units that a text describes best, or that an image activates unusually strongly, best first.

        Args:
            text: what the units should be about.
            image: a picture file, in place of the text.
            options: of ``milan.results.search.find_by_text`` (``embedder``, ``sentences``, ``count``) or of
                ``find_by_image`` (``count``). Diorama's image-text model is used for probes that show Diorama.

        Raises:
            BadInput: both or neither of text and image are given, or one cannot be used.
            MissingEvidence: an image is given, and the run's network cannot be loaded again.
        """
        from milan.results.search import SearchedRun, choose_embedder, find_by_image, find_by_text  # it loads models

        if bool(text) == (image is not None):
            raise BadInput("give either a text or an image to find units by")
        runs = [SearchedRun(str(self.facts.get("target", "")), self.texts, self.dissections)]
        if image is not None:
            return find_by_image(image, runs, **options)
        if "embedder" not in options:
            options["embedder"] = choose_embedder(runs)
        return find_by_text(text, runs, **options)

    @cached_property
    def _by_unit(self) -> dict[Unit, Entry]:
        return {entry.unit: entry for entry in self.entries}

    def __getitem__(self, unit: Unit | str) -> Description:
        found = self.entry(unit)
        if found.description is None:
            raise BadInput(
                f"unit {found.unit} has no description: it is {found.status}{found.reason and f' ({found.reason})'}"
            )
        return found.description

    def __iter__(self) -> Iterator[Description]:
        return iter(self.descriptions)

    def __len__(self) -> int:
        return len(self.entries)

    def write(self, folder: Path) -> None:
        """Writes ``descriptions.csv``, ``.jsonl`` and ``.parquet`` to ``folder``: the same rows, the same bytes for the
        same answers.

        What a describer tells of its reasoning is in the ``.jsonl`` alone; what the descriptions were made from, and
        whether that is simulated, is in the metadata of the ``.parquet``.
        """
        flat = self.to_rows(reasoning=False)
        write_csv(folder / "descriptions.csv", flat)
        write_jsonl(folder / "descriptions.jsonl", self.to_rows())
        kept = {name: self.facts[name] for name in KEPT_FACTS if name in self.facts}
        write_parquet(folder / "descriptions.parquet", flat, kept)

    def to_rows(self, *, reasoning: bool = True) -> list[dict[str, Any]]:
        """Return the entries as plain values, in order; without a describer's reasoning where that is not wanted."""
        rows = [_entry_to_row(entry, str(self.facts.get("describer", ""))) for entry in self.entries]
        return rows if reasoning else [_without_reasoning(row) for row in rows]

    def _repr_html_(self) -> str:
        from milan.console.notebook import render_table  # only a notebook asks

        rows = [
            (str(entry.unit), *((said.score, said.text) if (said := entry.description) else (None, entry.status)))
            for entry in self.entries
        ]
        return render_table(rows, self.status_counts, str(self.facts.get("simulated", "")))


def read_catalogue(path: Path | str) -> Catalogue:
    """Reads what ``Catalogue.write`` wrote: a folder, or one of its three files.

    ``run.json`` beside it gives the facts, else the metadata of ``descriptions.parquet``.

    Raises:
        BadInput: there is nothing there, or it is not such a table.
    """
    file = _find_table_file(Path(path))
    needed = ("layer", "unit", "description")
    rows = read_table(file, needed, lambda row: (_tidy_entry(_entry_from_row(row)), row.get("describer") or ""))
    describer = rows[0][1] if rows else ""
    facts = _facts_beside(file) or {"describer": describer}
    return Catalogue(tuple(entry for entry, _ in rows), facts, file.parent)


def read_descriptions(path: Path | str, layer: str = "") -> list[Description]:
    """The descriptions in a table of ours (folder, csv, jsonl or parquet) or in a published one that
    ``milan.results.published_tables`` knows.

    Args:
        path: of the table.
        layer: of the units, where a published table does not say and its file's name does not tell.

    Raises:
        BadInput: there is nothing there, or it is no such table.
    """
    file = _find_table_file(Path(path))
    found = read_published_descriptions(file, layer)
    return read_catalogue(file).descriptions if found is None else found


def table_sources(path: Path | str) -> dict[str, str]:
    """Return what the descriptions in a table were made from, by role ("table's captioner"), where that is known."""
    facts = _facts_beside(_find_table_file(Path(path)))
    sources = facts.get("sources") or {name: str(facts[name]) for name in ("target", "probe") if facts.get(name)}
    return {f"table's {role}": spec for role, spec in sources.items()}


def _facts_beside(file: Path) -> dict[str, Any]:
    """What the folder of a table says of it."""
    facts = file.with_name("run.json")
    if facts.exists():
        return read_json_object(facts)
    return parquet_facts(file if file.suffix == ".parquet" else file.with_name("descriptions.parquet"))


def tidy_description(description: Description) -> Description:
    """The description as it is kept: texts on one line without control characters, floats to six significant digits."""
    return replace(
        description,
        text=_to_one_line(description.text),
        score=_round_significant(description.score),
        bias=_round_significant(description.bias),
        concepts=tuple((_to_one_line(name), _round_significant(weight)) for name, weight in description.concepts),
        candidates=tuple(
            Candidate(
                _to_one_line(each.text),
                _round_significant(each.score),
                tuple((name, _round_significant(part)) for name, part in each.parts),
            )
            for each in description.candidates
        ),
    )


def description_to_row(description: Description) -> dict[str, Any]:
    """A description as plain values; ``description_from_row`` reads it back. Candidates are flat: text, score and the
    parts of the score by name.
    """
    return {
        "layer": description.unit.layer,
        "unit": description.unit.index,
        "description": description.text,
        "score": _finite_or_none(description.score),
        "bias": _finite_or_none(description.bias),
        "concepts": [{"name": name, "weight": _finite_or_none(weight)} for name, weight in description.concepts],
        "candidates": [_candidate_to_row(candidate) for candidate in description.candidates],
    } | ({"reasoning": dict(description.reasoning)} if description.reasoning else {})


def description_from_row(row: Mapping[str, Any]) -> Description:
    """Return the description of ``description_to_row``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the row is not of that form.
    """
    if not isinstance(row["description"], str):
        raise TypeError(f"description {row['description']!r}, which is not a text")
    return Description(
        _unit(row),
        row["description"],
        _parse_float(row.get("score")),
        tuple((each["name"], _parse_float(each["weight"])) for each in row.get("concepts") or ()),
        _parse_float(row.get("bias") or 0.0),
        tuple(_candidate_from_row(each) for each in row.get("candidates") or ()),
        row.get("reasoning") or {},
    )


def natural_sort_key(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts numbers within names as numbers.

    >>> sorted(["features.12", "features.3"], key=natural_sort_key)
    ['features.3', 'features.12']
    """
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part)


def _tidy_entry(entry: Entry) -> Entry:
    if entry.description is None:
        return replace(entry, reason=_to_one_line(entry.reason))
    kept = tidy_description(entry.description)
    if entry.status == OK and not kept.text:
        return Entry(entry.unit, "failed", None, "the describer gave an empty text")
    return replace(entry, description=kept)


def _entry_to_row(entry: Entry, describer: str) -> dict[str, Any]:
    said = description_to_row(entry.description or Description(entry.unit, "", math.nan))
    head = {name: said.pop(name) for name in ("layer", "unit", "description", "score")}
    return head | {"describer": describer, "status": entry.status, "reason": entry.reason} | said


def _without_reasoning(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "reasoning"}


def _entry_from_row(row: Mapping[str, Any]) -> Entry:
    status = row.get("status") or OK
    description = description_from_row(row) if status == OK else None
    return Entry(_unit(row), status, description, row.get("reason") or "")


def _unit(row: Mapping[str, Any]) -> Unit:
    if not isinstance(row["layer"], str | int) or not str(row["layer"]).strip():
        raise ValueError(f"layer {row['layer']!r}; give the name of a layer")
    return Unit(str(row["layer"]), whole_number(row["unit"]))


def _candidate_to_row(candidate: Candidate) -> dict[str, Any]:
    for name, _ in candidate.parts:
        if name in ("text", "score"):
            raise BadInput(f"a part of a candidate's score is named {name!r}; choose another name")
    return {"text": candidate.text, "score": _finite_or_none(candidate.score)} | {
        name: _finite_or_none(value) for name, value in candidate.parts
    }


def _candidate_from_row(row: Mapping[str, Any]) -> Candidate:
    parts = tuple(
        (name, _parse_float(value))
        for name, value in row.items()
        if name not in ("text", "score") and value is not None
    )
    return Candidate(row["text"], _parse_float(row["score"]), parts)


def _to_one_line(text: str) -> str:
    return " ".join(clean_text(text).split())


def _round_significant(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0  # + 0.0: no negative zero


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _parse_float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _find_table_file(path: Path) -> Path:
    files = (
        [path] if not path.is_dir() else [path / f"descriptions{suffix}" for suffix in (".jsonl", ".csv", ".parquet")]
    )
    for file in files:
        if file.is_file():
            return file
    raise BadInput(
        f"no table of descriptions at {path}; give a folder that describe.py wrote, or a .csv, .jsonl or .parquet file"
    )

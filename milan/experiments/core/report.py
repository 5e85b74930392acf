"""The report of an experiment: tables with intervals, headlines, notes and figures, as files, a page and printed
text."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from milan.console.command_line import get_recorded_warnings, terminal
from milan.console.text_cleaning import clean_text, escape_markup
from milan.errors import BadInput
from milan.results.page.report_page import write_report_page
from milan.scores.confidence_intervals import Measure
from milan.storage.files import write_text
from milan.storage.provenance import Sources, simulated_note
from milan.storage.software_versions import collect_versions
from milan.storage.tables import write_csv

Value = Measure | float | int | str | None
Role = Literal["", "ceiling", "floor"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: the heading.
        text: what the values are, in one sentence.
        unit: "%" for shares of one, which are shown times a hundred; "s" for seconds.
        digits: the number of digits after the decimal point.
        better: whether larger or smaller values are better, for the mark of the best row.
    """

    name: str
    text: str
    unit: Literal["", "%", "s"] = ""
    digits: int = 2
    better: Literal["", "more", "less"] = ""

    def format(self, value: Value) -> str:
        """Return a value as text.

        >>> Column("exact", "", "%", 0).format(Measure(0.25, 0.046, 0.699)), Column("length", "").format(None)
        ('25 (5 to 70)', '–')
        """
        if isinstance(value, Measure):
            interval = (
                ""
                if math.isnan(value.low)
                else f" ({self._format_number(value.low)} to {self._format_number(value.high)})"
            )
            return self._format_number(value.value) + interval
        return value if isinstance(value, str) else self._format_number(math.nan if value is None else value)

    def _format_number(self, value: float | int) -> str:
        if math.isnan(value):
            return "–"
        digits = 0 if isinstance(value, int) else self.digits
        # Adding 0.0 turns a negative zero into zero.
        shown = round(value * (100 if self.unit == "%" else 1), digits) + 0.0
        return f"{shown:,.{digits}f}".replace("-", "−")

    @property
    def heading(self) -> str:
        """The name with the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, whether it is a ceiling or a floor, and its values by column."""

    name: str
    values: Mapping[str, Value]
    role: Role = ""


@dataclass(frozen=True)
class Table:
    """A table; ``first`` is the heading of the rows' names."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    first: str = "describer"

    def __post_init__(self) -> None:
        known = {column.name for column in self.columns}
        for row in self.rows:
            if unknown := set(row.values) - known:
                raise BadInput(
                    f"row {row.name} of table {self.name} has values for {sorted(unknown)}, but the columns are"
                    f" {sorted(known)}"
                )

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the rows with plain numbers; intervals and errors are further columns."""
        return [{self.first: row.name, "role": row.role} | self._plain_numbers(row) for row in self.rows]

    def _plain_numbers(self, row: Row) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for column in self.columns:
            measured = any(isinstance(other.values.get(column.name), Measure) for other in self.rows)
            value = row.values.get(column.name)
            plain[column.name] = _finite_or_none(value.value if isinstance(value, Measure) else value)
            if measured:
                parts = value if isinstance(value, Measure) else Measure(math.nan)
                plain |= {
                    f"{column.name} {part}": _finite_or_none(getattr(parts, part)) for part in ("low", "high", "error")
                }
        return plain

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [[self.first, *(column.heading for column in self.columns)], ["---", *["---:"] * len(self.columns)]]
        lines += [
            [_format_name(row), *(column.format(row.values.get(column.name)) for column in self.columns)]
            for row in self.rows
        ]
        return "".join(
            f"| {' | '.join(clean_text(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
        )


@dataclass(frozen=True)
class Report:
    """The result of an experiment.

    Attributes:
        name: the name of the experiment.
        title: the title of the page.
        lede: one sentence that says what was done.
        tables: the first is the result; further ones divide it.
        headlines: the most important numbers, each with what it is.
        notes: what a reader must know to understand the numbers.
        facts: what another run needs for the same numbers; versions and warnings are added when the report is written.
        figures: captions and SVGs, shown above the tables.
        sources: what the result was made from, by role; see ``milan.storage.provenance``.
    """

    name: str
    title: str
    lede: str
    tables: tuple[Table, ...]
    headlines: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[tuple[str, str], ...] = ()
    sources: Sources = field(kw_only=True)

    @property
    def simulated(self) -> str:
        """What a reader must know of simulated parts; empty if there are none."""
        return simulated_note(self.sources)

    def write(self, folder: Path, units: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write ``table.csv`` (further tables by their names), ``table.md``, ``report.json`` and ``page/index.html``.

        Figures are beside the page. Each file is replaced as a whole.

        Args:
            units: what the page shows of single units, see ``milan.experiments.core.unit_views``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for number, table in enumerate(self.tables):
            write_csv(folder / (f"{table.name.replace(' ', '-')}.csv" if number else "table.csv"), table.to_plain())
        write_text(folder / "table.md", self.to_markdown())
        plain = json.dumps(self.to_plain(), indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / "report.json", plain + "\n")
        (folder / "page").mkdir(exist_ok=True)
        for number, (_, drawing) in enumerate(self.figures, 1):
            write_text(folder / "page" / f"figure-{number}.svg", drawing)
        write_report_page(self._make_view(), folder / "page", units)

    def to_plain(self) -> dict[str, Any]:
        """Return the report as plain values."""
        tables = [
            {"name": table.name, "columns": [vars(column) for column in table.columns], "rows": table.to_plain()}
            for table in self.tables
        ]
        return {
            "name": self.name, "title": self.title, "lede": self.lede,
            "headlines": [list(pair) for pair in self.headlines],
            "notes": list(self.notes), "tables": tables, "facts": self._all_facts(),
        }  # fmt: skip

    def to_markdown(self) -> str:
        """Return title, tables and notes in Markdown."""
        tables = "\n".join(
            f"{f'**{table.name}**' + 2 * chr(10) if number else ''}{table.to_markdown()}"
            for number, table in enumerate(self.tables)
        )
        notes = (*([self.simulated] if self.simulated else []), *self.notes)
        return f"# {self.title}\n\n{self.lede}\n\n{tables}\n" + "".join(f"- {note}\n" for note in notes)

    def print_summary(self) -> None:
        """Print the first table and the notes, and at last what is simulated."""
        from rich.table import Table as Shown

        console = terminal(200)
        first = self.tables[0]
        shown = Shown(box=None, pad_edge=False, header_style="dim")
        shown.add_column(escape_markup(first.first), style="cyan", overflow="fold")
        for column in first.columns:
            shown.add_column(escape_markup(column.heading), justify="right")
        for row in first.rows:
            shown.add_row(
                *(
                    escape_markup(text)
                    for text in (
                        _format_name(row),
                        *(column.format(row.values.get(column.name)) for column in first.columns),
                    )
                )
            )
        console.print(shown)
        console.print()
        for note in (*self.notes, *([self.simulated] if self.simulated else [])):
            console.print(f"[dim]{escape_markup(note)}[/]", soft_wrap=True)

    def _all_facts(self) -> dict[str, Any]:
        run = {"versions": collect_versions(), "warnings": get_recorded_warnings()}
        return {**self.facts, **run, "sources": dict(self.sources), "simulated": self.simulated}

    def _make_view(self) -> dict[str, Any]:
        return {
            "name": self.name, "title": self.title, "lede": self.lede, "headlines": self.headlines, "notes": self.notes,
            "facts": self._all_facts(), "simulated": self.simulated,
            "tables": [_make_table_view(table, bool(number)) for number, table in enumerate(self.tables)],
            "figures": [{"file": f"figure-{number}.svg", "text": text} for number,
            (text, _) in enumerate(self.figures, 1)],
        }  # fmt: skip


def _make_table_view(table: Table, titled: bool) -> dict[str, Any]:
    """Return a table for the page's template: texts, and intervals as shares of the column's largest value."""
    rows = [
        {"name": row.name, "role": row.role, "cells": [_make_cell(table, column, row) for column in table.columns]}
        for row in table.rows
    ]
    columns = [{"name": column.heading, "text": column.text} for column in table.columns]
    return {"name": table.name if titled else "", "first": table.first, "columns": columns, "rows": rows}


def _make_cell(table: Table, column: Column, row: Row) -> dict[str, Any]:
    value = row.values.get(column.name)
    if not isinstance(value, Measure):
        return {"number": column.format(value), "interval": "", "bar": None, "best": False}
    number, _, interval = column.format(value).partition(" (")
    others = [other.values.get(column.name) for other in table.rows]
    measured = [other for other in others if isinstance(other, Measure) and not math.isnan(other.high)]
    top = max([other.high for other in measured], default=0.0)
    bar = (
        None
        if math.isnan(value.low) or top <= 0
        else [round(100 * max(0.0, part) / top, 2) for part in (value.low, value.value, value.high)]
    )
    return {"number": number, "interval": interval.rstrip(")"), "bar": bar, "best": _is_best(table, column, row)}


def _is_best(table: Table, column: Column, row: Row) -> bool:
    """Return whether no other row that is neither ceiling nor floor has a better value."""
    pairs = [(other, other.values.get(column.name)) for other in table.rows if not other.role]
    known = [
        (other, value.value) for other, value in pairs if isinstance(value, Measure) and not math.isnan(value.value)
    ]
    if not column.better or row.role or len(known) < 2:
        return False
    best = (max if column.better == "more" else min)(value for _, value in known)
    return any(other is row and value == best for other, value in known)


def _format_name(row: Row) -> str:
    return f"{row.name} ({row.role})" if row.role else row.name


def _finite_or_none(value: Any) -> Any:
    """Return a float with six significant digits, or None for NaN, which JSON and CSV lack."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

"""Rows of plain values as CSV, JSONL and parquet files, each read back as it was written."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milan.errors import BadInput
from milan.storage import atomic

Row = dict[str, Any]
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # what a spreadsheet would run, in half or full width
FACTS = "milan"  # their name in a parquet file's metadata
csv.field_size_limit(2**27)  # the candidates of a unit are one cell


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Lists and dicts are JSON in one cell; a text that a spreadsheet would take for a formula gets a ``'`` before it."""
    lines = io.StringIO()
    table = csv.DictWriter(lines, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    with atomic(path) as partial:
        partial.write_text(lines.getvalue(), encoding="utf-8", newline="")


def read_csv(path: Path) -> list[Row]:
    """Cells as they were: JSON and numbers are read, guards taken off, empty cells of numbers are None."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [{name: _value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    except (csv.Error, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None


def read_known(path: Path, known: Callable[[Sequence[str]], object]) -> tuple[list[str], list[dict[str, str]]] | None:
    """The columns and rows of somebody else's CSV, cells as their texts; None if ``known`` denies that the columns are of its kind.

    Raises:
        BadInput: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = list(table.fieldnames or [])
            return (columns, list(table)) if known(columns) else None
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as CSV: {error}") from None


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    """One JSON object in each line."""
    with atomic(path) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> list[Row]:
    """The objects, one of each line."""
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise BadInput(f"{path} cannot be read as JSONL: {error}") from None


def write_parquet(path: Path, rows: Sequence[Row], facts: Mapping[str, Any] | None = None) -> None:
    """Nested values stay nested; a key that only some objects have is null in the others.

    Args:
        facts: plain values that are kept in the file's metadata.
    """
    import pyarrow
    from pyarrow import parquet

    filled = [{name: _fill(value, keys[name]) for name, value in row.items()} for row in rows] if (keys := _keys(rows)) else []
    with atomic(path) as partial:
        table = pyarrow.Table.from_pylist(filled)
        parquet.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)} if facts else None), partial)


def read_parquet(path: Path) -> list[Row]:
    """The rows, with nested values as lists and dicts."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read as parquet: {error}") from None


def parquet_facts(path: Path) -> dict[str, Any]:
    """Return the facts that ``write_parquet`` was given; empty where there are none, or no such file."""
    import pyarrow
    from pyarrow import parquet

    try:
        return json.loads((parquet.read_schema(path).metadata or {}).get(FACTS.encode(), b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError):
        return {}


def guard(text: str) -> str:
    """``text`` as a CSV cell that no spreadsheet runs.

    >>> guard("=HYPERLINK(1)"), guard("'=1"), guard("a = b")
    ("'=HYPERLINK(1)", "''=1", 'a = b')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(cell: str) -> str:
    """The text that ``guard`` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return guard(value) if isinstance(value, str) else value


_TYPES: dict[str, Callable[[str], Any]] = {"unit": int, "score": float, "bias": float, "concepts": json.loads, "candidates": json.loads}


def _value(name: str, cell: str | None) -> Any:
    if name in _TYPES:
        return _TYPES[name](cell) if cell else None
    return unguard(cell or "")


def _keys(rows: Iterable[Row]) -> dict[str, list[str]]:
    """For each column, the keys of the objects in its lists, in order of appearance."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.items():
            keys = found.setdefault(name, {})
            if isinstance(value, list):
                keys.update(dict.fromkeys(key for each in value for key in each))
    return {name: list(keys) for name, keys in found.items()}


def _fill(value: Any, keys: list[str]) -> Any:
    return [{key: each.get(key) for key in keys} for each in value] if isinstance(value, list) else value

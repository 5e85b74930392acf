"""Read and write rows of plain values as CSV, JSONL and parquet files."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from milan.errors import BadInput, UnknownName
from milan.storage.files import atomic_write
from milan.storage.text_files import CsvTable, converted, parse_json, read_text, require, whole_number

T = TypeVar("T")

TableRow = dict[str, Any]
# What a spreadsheet would run as a formula, in half or full width.
_FORMULA_PATTERN = re.compile(r"'*\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
FACTS = "milan"  # key of the facts in a parquet file's metadata


def write_csv(path: Path, rows: Sequence[TableRow]) -> None:
    """Write a CSV file; lists and dicts become JSON, and texts that look like formulas get a leading ``'``."""
    lines = io.StringIO()
    table = csv.DictWriter(lines, list(rows[0]) if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows({name: _format_cell(value) for name, value in row.items()} for row in rows)
    with atomic_write(path) as partial:
        partial.write_text(lines.getvalue(), encoding="utf-8", newline="")


def read_csv(path: Path, *needed: str) -> list[TableRow]:
    """Read a file of ``write_csv``: JSON and numbers are parsed; empty cells of numeric columns are None.

    Args:
        path: the file.
        needed: columns that it must have.

    Raises:
        BadInput: see ``CsvTable``; a column is missing, or a cell is not of its column's type.
    """
    table = CsvTable(path)
    table.require(*needed)
    return table.parse(_typed)


def write_jsonl(path: Path, rows: Sequence[TableRow]) -> None:
    """Write one JSON object per line."""
    with atomic_write(path) as partial:
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows), encoding="utf-8"
        )


def read_jsonl(path: Path, *needed: str) -> list[TableRow]:
    """Return the objects of a JSONL file.

    Raises:
        BadInput: the file cannot be read, a line is not a JSON object, or one lacks a needed key.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    rows = converted(path, ((f"line {number}", line) for number, line in lines if line.strip()), _object)
    for row in rows:
        require(path, list(row), needed)
    return rows


def write_parquet(path: Path, rows: Sequence[TableRow], facts: Mapping[str, Any] | None = None) -> None:
    """Write a parquet file; nested values stay nested, and a key that some objects lack is null in them.

    Args:
        path: the file.
        rows: the rows, all with the same columns.
        facts: plain values for the file's metadata.
    """
    import pyarrow
    from pyarrow import parquet

    filled = (
        [{name: _fill_missing_keys(value, keys[name]) for name, value in row.items()} for row in rows]
        if (keys := _collect_keys(rows))
        else []
    )
    with atomic_write(path) as partial:
        table = pyarrow.Table.from_pylist(filled)
        parquet.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)} if facts else None), partial)


def read_parquet(path: Path, *needed: str) -> list[TableRow]:
    """Return the rows of a parquet file, with nested values as lists and dicts; columns of bytes are left out.

    Raises:
        BadInput: the file cannot be read, or lacks a needed column.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        names = [field.name for field in parquet.read_schema(path) if "binary" not in str(field.type)]
        table = parquet.read_table(path, columns=names)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read as parquet: {error}") from None
    require(path, table.column_names, needed)
    return table.to_pylist()


def read_table(path: Path, needed: Sequence[str], convert: Callable[[TableRow], T]) -> list[T]:
    """Convert the rows of a .csv, .jsonl or .parquet file.

    Raises:
        UnknownName: the file has another suffix.
        BadInput: the file cannot be read, a row lacks a needed column, or ``convert`` refuses it.
    """
    if path.suffix not in TABLE_READERS:
        hint = f"{path} should end in one of {', '.join(TABLE_READERS)}"
        raise UnknownName("kind of table", path.suffix or path.name, TABLE_READERS, hint)
    rows = TABLE_READERS[path.suffix](path, *needed)
    return converted(path, ((f"row {number}", row) for number, row in enumerate(rows, start=1)), convert)


def parquet_facts(path: Path) -> dict[str, Any]:
    """Return the facts that were given to ``write_parquet``; empty if there are none or no such file."""
    import pyarrow
    from pyarrow import parquet

    try:
        return json.loads((parquet.read_schema(path).metadata or {}).get(FACTS.encode(), b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError):
        return {}


def escape_formula(text: str) -> str:
    """Return ``text`` as a CSV cell that no spreadsheet runs as a formula.

    >>> escape_formula("=HYPERLINK(1)"), escape_formula("'=1"), escape_formula("a = b")
    ("'=HYPERLINK(1)", "''=1", 'a = b')
    """
    return f"'{text}" if _FORMULA_PATTERN.match(text) else text


def unescape_formula(cell: str) -> str:
    """Return the text that ``escape_formula`` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA_PATTERN.match(cell) else cell


def _format_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return escape_formula(value) if isinstance(value, str) else value


def _typed(row: dict[str, str]) -> TableRow:
    return {name: _parse_cell(name, cell) for name, cell in row.items()}


def _object(line: str) -> TableRow:
    parsed = parse_json(line)
    if not isinstance(parsed, dict):
        raise ValueError(f"a JSON {type(parsed).__name__}, not an object")
    return parsed


_CELL_PARSERS: dict[str, Callable[[str], Any]] = {
    "unit": whole_number,
    "score": float,
    "bias": float,
    "concepts": parse_json,
    "candidates": parse_json,
}
TABLE_READERS: dict[str, Callable[..., list[TableRow]]] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}


def _parse_cell(name: str, cell: str) -> Any:
    if name not in _CELL_PARSERS:
        return unescape_formula(cell)
    try:
        return _CELL_PARSERS[name](cell) if cell or name == "unit" else None
    except ValueError as error:
        raise ValueError(f"{error} in the column {name}") from None


def _collect_keys(rows: Iterable[TableRow]) -> dict[str, list[str]]:
    """Return for each column the keys of the objects in its lists, in order of appearance."""
    keys_by_name: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in row.items():
            keys = keys_by_name.setdefault(name, {})
            if isinstance(value, list):
                keys.update(dict.fromkeys(key for each in value for key in each))
    return {name: list(keys) for name, keys in keys_by_name.items()}


def _fill_missing_keys(value: Any, keys: list[str]) -> Any:
    return [{key: each.get(key) for key in keys} for each in value] if isinstance(value, list) else value

"""Strict readers of text, JSON and CSV files: errors name the file, the line and the value."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput

T = TypeVar("T")
csv.field_size_limit(2**27)  # one cell has all candidates of a unit
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")  # Excel's "Unicode text" begins with one
# What converting a cell or an entry raises if its value has an unexpected type.
CONVERSION_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 if it begins with a byte order mark.

    Raises:
        BadInput: the file cannot be read, or is not text in one of these encodings.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    encoding = "utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start : error.start + 1]
        raise BadInput(f"{path}, line {line}: {byte!r} is not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadInput(f"{path}, line {line}: a zero byte; this is not a text file")
    return text


def read_content(file: str) -> str:
    """Return the text of a file, for content keys; ``file`` itself if there is no such file."""
    path = Path(file)
    return path.read_text(encoding="utf-8", errors="replace") if file and path.is_file() else file


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without surrounding white space, including empty lines between others.

    Only line feeds and carriage returns end a line; ``str.splitlines`` also cuts at form feeds and U+2028.

    Raises:
        BadInput: see ``read_text``.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", read_text(path))]
    return lines if lines[-1] else lines[:-1]


def read_names(path: Path) -> list[str]:
    """Return the names in a text file whose line n has the name of number n.

    Raises:
        BadInput: see ``read_text``; or a line between others is empty, so that the numbers of later names are unclear.
    """
    lines = read_lines(path)
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise BadInput(
            f"{path}, line {lines.index('') + 1}: empty; give the name of class {lines.index('')}, or remove the line"
        )
    return lines


def parse_json(text: str) -> Any:
    """Parse JSON, with a ``ValueError`` also for nesting that exceeds Python's recursion limit."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        BadInput: the file cannot be read, is not JSON, or has another value than an object.
    """
    try:
        parsed = parse_json(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise BadInput(f"{path} has a JSON {type(parsed).__name__} instead of an object")
    return parsed


def whole_number(value: Any) -> int:
    """Return the index of a unit, given as an integer from 0 or as decimal digits.

    Raises:
        ValueError: the value is anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        return int(value)
    raise ValueError(f"unit {value!r} is not a whole number from 0")


class CsvTable:
    """A CSV file with a header, read strictly: a row that does not have one cell for each column is an error.

    Attributes:
        path: the file.
        columns: names in the header, in order.

    Raises:
        BadInput: the file cannot be read, has no header, two columns of one name, or another separator than commas.
    """

    def __init__(self, path: Path):
        self.path = path
        self._records = _records(path)
        self.columns = next((cells for _, cells in self._records if cells), [])
        if not self.columns:
            raise BadInput(f"{path} is empty; the first line of a CSV table names its columns")
        if separator := next((sign for sign in ";\t|" if len(self.columns) == 1 and sign in self.columns[0]), ""):
            raise BadInput(f"{path}: cells are separated by {separator!r} in its first line; separate them by commas")
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise BadInput(f"{path} has two columns named {twice[0]!r}")

    def require(self, *names: str) -> None:
        """Check that the table has these columns.

        Raises:
            BadInput: a column is missing; the message lists the columns of the table.
        """
        require(self.path, self.columns, names)

    @cached_property
    def rows(self) -> list[tuple[int, dict[str, str]]]:
        """The line on which each row begins, and its cells by column. Empty rows are left out.

        Raises:
            BadInput: a row has more or fewer cells than there are columns, or a quote is not closed.
        """
        rows = []
        for line, cells in self._records:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(self.columns):
                expected = f"{len(cells)} cells for {len(self.columns)} columns ({_listed(self.columns)})"
                raise BadInput(f"{self.path}, line {line}: {expected}; put a text that has a comma in double quotes")
            rows.append((line, dict(zip(self.columns, cells, strict=True))))
        return rows

    def parse(self, convert: Callable[[dict[str, str]], T]) -> list[T]:
        """Convert each row.

        Raises:
            BadInput: ``convert`` raises for a row; the message has its line. Or see ``rows``.
        """
        return converted(self.path, ((f"line {line}", row) for line, row in self.rows), convert)


def converted(path: Path, rows: Iterable[tuple[str, Any]], convert: Callable[[Any], T]) -> list[T]:
    """Convert the rows of a table, each given with its position in the file.

    Raises:
        BadInput: ``convert`` raises for a row.
    """
    numbers = []
    for where, row in rows:
        try:
            numbers.append(convert(row))
        except CONVERSION_ERRORS as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
            raise BadInput(f"{path}, {where}: {reason}") from None
    return numbers


def require(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    """Check that a table has these columns.

    Raises:
        BadInput: a column is missing; the message lists the columns of the table.
    """
    missing = [name for name in names if name not in columns]
    if missing:
        raise BadInput(f"{path} has the columns {_listed(columns)} and needs {', '.join(names)}")


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each record of a CSV file with the line on which it begins."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "close each double quote, and write one within a text twice"
            raise BadInput(f"{path}, line {line}: {error}; {hint}") from None
        yield line, cells
        line = reader.line_num + 1


def _listed(names: Sequence[str]) -> str:
    first_names = ", ".join(clean_text(name)[:60] for name in names[:12])
    return first_names + (f" and {len(names) - 12} more" if len(names) > 12 else "")

"""Pictures in the cells of tables: bytes, or files within the dataset's folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.probes.image_decoding import UnreadableImage


def picture_in_cell(value: Any, roots: Sequence[Path]) -> bytes | Path:
    """Return the bytes of a picture, or its file, from a cell with bytes or with a struct of bytes and a path.

    Args:
        value: content of the cell.
        roots: folders of the dataset; a path is relative to the first of them, and opened only within one of them.

    Raises:
        UnreadableImage: there is no picture in the cell, or its path leads out of ``roots``.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or _path_within(value.get("path"), roots)
    if isinstance(value, (bytes, Path)):
        return value
    raise UnreadableImage("no picture in this row")


def _path_within(path: Any, roots: Sequence[Path]) -> Path | None:
    """Return the file that a table names, relative to the first of ``roots``; others must not be opened."""
    if not path or not isinstance(path, str):
        return None
    folders = [root.resolve() for root in roots]
    try:
        resolved = (folders[0] / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise UnreadableImage(f"its path {clean_text(path)!r} is invalid: {error}") from None
    if not any(resolved.is_relative_to(folder) for folder in folders):
        raise UnreadableImage(
            f"its path {clean_text(path)!r} leads out of the dataset's folder {clean_text(str(folders[0]))}"
        )
    return resolved

"""The images of a parquet file, or of a Hugging Face dataset."""

import json
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput
from milan.probes.class_labels import names_by_label, usable_labels, wordnet_ids
from milan.probes.image_cells import picture_in_cell
from milan.probes.image_decoding import decode_image, decode_label_map
from milan.probes.image_sources import ImageSource, get_file_facts

IMAGE_COLUMNS = ("image", "img", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")  # the last is webdataset's
SEGMENTATION_COLUMNS = ("segmentation", "mask", "annotation")
WNID_COLUMN = "wnid"
NAME_COLUMNS = ("name", "class", "class_name")
PARQUET_WINDOW = 64  # rows of a parquet file read at a time


class ParquetSource(ImageSource):
    """A parquet file with a column of pictures (bytes, or Hugging Face's struct with bytes), read in windows."""

    def __init__(self, file: Path):
        self.file = file
        try:
            self._table = pq.ParquetFile(file, memory_map=True, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {clean_text(str(file))} as parquet: {clean_text(str(error))}") from None
        names = self._table.schema_arrow.names
        self._image = _find_column(names, IMAGE_COLUMNS)
        if not self._image or not len(self):
            missing = (
                "no rows"
                if self._image
                else f"no column of pictures ({', '.join(IMAGE_COLUMNS)}) among {', '.join(names)}"
            )
            raise BadInput(f"{clean_text(str(file))} has {missing}")
        self._segmentation = _find_column(names, SEGMENTATION_COLUMNS)
        starts = [0]
        for group in range(self._table.num_row_groups):
            starts.append(starts[-1] + self._table.metadata.row_group(group).num_rows)
        self._groups = list(pairwise(starts))
        self._windows: dict[str, _RowWindows] = {}
        self._lock = threading.Lock()
        self._read_labels(names)

    def __len__(self) -> int:
        return self._table.metadata.num_rows

    def load_image(self, index: int) -> Image.Image:
        """Decode the picture of a row."""
        return decode_image(self._bytes(self._image or "", index))

    def load_segmentation(self, index: int) -> Image.Image:
        """Decode the label map of a row."""
        if not self._segmentation:
            return super().load_segmentation(index)
        return decode_label_map(self._bytes(self._segmentation, index))

    def format_location(self, index: int) -> str:
        """Return the row and the path of the file."""
        return f"row {index} of {clean_text(str(self.file))}"

    def content_facts(self) -> dict[str, Any]:
        """Return name, size and time of change of the file."""
        return {"parquet": get_file_facts(self.file, self.file.parent)}

    def _bytes(self, column: str, index: int) -> bytes | Path:
        with self._lock:
            windows = self._windows.setdefault(column, _RowWindows(self._table, column, self._groups))
            return picture_in_cell(windows.value(index), [self.file.parent])

    def _read_labels(self, names: list[str]) -> None:
        column = _find_column(names, LABEL_COLUMNS)
        if not column:
            return
        beside = _find_column(names, NAME_COLUMNS)
        columns = [name for name in (column, beside, WNID_COLUMN) if name in names]
        values = {name: self._table.read(columns=[name]).column(name).to_pylist() for name in columns}
        declared = _read_declared_classes(self._table.schema_arrow.metadata, column)
        self.labels, self.classes = usable_labels(values[column], declared, clean_text(str(self.file)))
        if self.labels and self.classes is None and beside:
            self.classes = names_by_label(self.labels, values[beside])
        self.wnids = _wnids(self, values.get(WNID_COLUMN))


class _RowWindows:
    """The rows of a column around the last requested ones, in two windows that threads share."""

    def __init__(self, table: pq.ParquetFile, column: str, groups: list[tuple[int, int]]):
        self._table, self._column, self._groups = table, column, groups
        self._kept: deque[tuple[int, list]] = deque(maxlen=2)
        self._rest: Iterator[tuple[int, list]] = iter(())
        self._next, self._end = 0, 0

    def value(self, index: int) -> Any:
        while True:
            for start, rows in self._kept:
                if start <= index < start + len(rows):
                    return rows[index - start]
            if not self._next <= index < self._end:
                self._rest = self._open(index)
            self._kept.append(next(self._rest))

    def _open(self, index: int) -> Iterator[tuple[int, list]]:
        group = next(at for at, (start, stop) in enumerate(self._groups) if start <= index < stop)
        self._next, self._end = self._groups[group]
        return self._read(group)

    def _read(self, group: int) -> Iterator[tuple[int, list]]:
        for batch in self._table.iter_batches(PARQUET_WINDOW, row_groups=[group], columns=[self._column]):
            start = self._next
            self._next += batch.num_rows
            yield start, batch.column(0).to_pylist()


class DatasetSource(ImageSource):
    """A split of a Hugging Face dataset.

    Args:
        rows: the split.
        name: name of the dataset in messages.
        roots: folders of its files; a picture given by its path is opened only within them.
    """

    def __init__(self, rows: Any, name: str, roots: Sequence[Path]):
        import datasets

        self.name = name
        kinds = rows.features
        pictures = [column for column, kind in kinds.items() if isinstance(kind, datasets.Image)]
        segmentation = _find_column(pictures, SEGMENTATION_COLUMNS)
        self._image = _find_column(list(kinds), IMAGE_COLUMNS) or next(
            (column for column in pictures if column != segmentation), None
        )
        if not self._image or not len(rows):
            raise BadInput(f"{name} has no {'rows' if self._image else 'column of pictures among ' + ', '.join(kinds)}")
        self._segmentation = segmentation
        for column in pictures:
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._roots, self._fingerprint = roots, rows._fingerprint
        # Other columns may hold audio, video or documents, which the library would decode with each row.
        self._rows = rows.select_columns([column for column in (self._image, segmentation) if column])
        label = _find_column(list(kinds), LABEL_COLUMNS) or next(
            (c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)), None
        )
        if label:
            declared = kinds[label].names if isinstance(kinds[label], datasets.ClassLabel) else None
            self.labels, self.classes = usable_labels(list(rows[label]), declared, name)
            self.wnids = _wnids(self, list(rows[WNID_COLUMN]) if WNID_COLUMN in kinds else None)

    def __len__(self) -> int:
        return len(self._rows)

    def load_image(self, index: int) -> Image.Image:
        """Decode the picture of a row."""
        return decode_image(picture_in_cell(self._rows[index][self._image], self._roots))

    def load_segmentation(self, index: int) -> Image.Image:
        """Decode the label map of a row."""
        if not self._segmentation:
            return super().load_segmentation(index)
        return decode_label_map(picture_in_cell(self._rows[index][self._segmentation], self._roots))

    def format_location(self, index: int) -> str:
        """Return the row and the name of the dataset."""
        return f"row {index} of {self.name}"

    def content_facts(self) -> dict[str, Any]:
        """Return the fingerprint that the library gives the split, and its number of rows."""
        return {"rows": self._fingerprint, "count": len(self)}


def _find_column(names: list[str], candidates: tuple[str, ...]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _read_declared_classes(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Return the class names that Hugging Face stores in a parquet file's schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, ValueError, TypeError):
        return None


def _wnids(source: ImageSource, column: list | None) -> list[str] | None:
    """Return the WordNet ids of the classes, from a column or from the class names."""
    if source.labels and column is not None:
        return names_by_label(source.labels, column)
    return wordnet_ids(source.classes)


def is_path_like(text: str) -> bool:
    """Return whether a dataset's name is a path, which is never sent to the hub."""
    return not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", text) or Path(text).exists()

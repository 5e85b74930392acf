"""Where a probe's pictures come from: a folder, a parquet file, a data set, Diorama, a tensor."""

import json
import os
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow.parquet as pq
from PIL import Image

from milan.archives import is_archive, unpack
from milan.command import clean
from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from milan.probes.pictures import SUFFIXES, Unreadable, decoded, label_map
from milan.storage import cache_folder, content_key

IMAGE_COLUMNS = ("image", "img", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label")
SEGMENTATION_COLUMNS = ("segmentation", "mask", "annotation")
WNID_COLUMN, WNID = "wnid", re.compile(r"n\d{8}")  # WordNet ids: ImageNet's names of its classes
FORMS = "a folder of images (or a .zip or .tar of one), FILE.parquet, hf:ID, diorama:NAME or latents:TARGET"
WINDOW = 64  # rows of a parquet file read at a time


class Source(ABC):
    """Pictures by number, always in the same order. Reading is safe from several threads."""

    labels: list[int] | None = None
    classes: list[str] | None = None
    wnids: list[str] | None = None  # the WordNet id of each class, as n01443537, where the source tells it
    drawn: bool = False  # the pictures have the probe's size from the start, and nothing is cropped

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture(self, index: int) -> Image.Image | np.ndarray:
        """One picture: RGB, or, if ``drawn``, its uint8 pixels (3, size, size). Raises Unreadable."""

    @abstractmethod
    def where(self, index: int) -> str:
        """What to call one picture in a message."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Plain values that change whenever the pictures do."""

    def segmentation(self, index: int) -> Image.Image:
        """The class number of each pixel. Raises Unreadable, or MissingEvidence where there are none."""
        raise MissingEvidence("this probe has no segmentations; use a parquet file or data set with a column named segmentation")


class Folder(Source):
    """All pictures under a folder, sorted by path; the folders at the top are the classes if every picture is in one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = [Path(os.fsdecode(name)) for name in sorted(os.fsencode(file) for file in _picture_files(folder))]
        if not self.files:
            raise BadInput(f"no images found under {clean(str(folder))} (looked for {' '.join(SUFFIXES)})")
        tops = [file.relative_to(folder).parts for file in self.files]
        if all(len(parts) > 1 for parts in tops):
            self.classes = sorted({parts[0] for parts in tops}, key=os.fsencode)
            numbers = {name: number for number, name in enumerate(self.classes)}
            self.labels = [numbers[parts[0]] for parts in tops]
            self.wnids = self.classes if all(WNID.fullmatch(name) for name in self.classes) else None  # as ImageNet is laid out
            self._warn_of_empty(set(numbers))

    def _warn_of_empty(self, full: set[str]) -> None:
        empty = sorted(
            clean(item.name) for item in self.folder.iterdir() if item.is_dir() and item.name[0] != "." and item.name not in full
        )
        if empty:
            warnings.warn(f"no images in {', '.join(empty)}, so no class of that name", MilanWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> Image.Image:
        return decoded(self.files[index])

    def where(self, index: int) -> str:
        return clean(str(self.files[index]))

    def key(self) -> dict[str, Any]:
        return {"files": [_file_key(file, self.folder) for file in self.files]}


class Parquet(Source):
    """A parquet file with a column of pictures (bytes, or a struct with bytes, as Hugging Face writes them), read a window at a time."""

    def __init__(self, file: Path):
        self.file = file
        try:
            self._table = pq.ParquetFile(file, memory_map=True, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {clean(str(file))} as parquet: {clean(str(error))}") from None
        names = self._table.schema_arrow.names
        self._image = _column(names, IMAGE_COLUMNS)
        if not self._image or not len(self):
            missing = "no rows" if self._image else f"no column of pictures ({', '.join(IMAGE_COLUMNS)}) among {', '.join(names)}"
            raise BadInput(f"{clean(str(file))} has {missing}")
        self._segmentation = _column(names, SEGMENTATION_COLUMNS)
        starts = [0]
        for group in range(self._table.num_row_groups):
            starts.append(starts[-1] + self._table.metadata.row_group(group).num_rows)
        self._groups = list(pairwise(starts))
        self._windows: dict[str, _Windows] = {}
        self._lock = threading.Lock()
        self.labels, self.classes = self._read_labels(names)
        if self.labels and WNID_COLUMN in names:
            self.wnids = _names_of(self.labels, self._table.read(columns=[WNID_COLUMN]).column(WNID_COLUMN).to_pylist())

    def __len__(self) -> int:
        return self._table.metadata.num_rows

    def picture(self, index: int) -> Image.Image:
        return decoded(self._bytes(self._image or "", index))

    def segmentation(self, index: int) -> Image.Image:
        if not self._segmentation:
            return super().segmentation(index)
        return label_map(self._bytes(self._segmentation, index))

    def where(self, index: int) -> str:
        return f"row {index} of {clean(str(self.file))}"

    def key(self) -> dict[str, Any]:
        return {"parquet": _file_key(self.file, self.file.parent)}

    def _bytes(self, column: str, index: int) -> bytes | Path:
        with self._lock:
            windows = self._windows.setdefault(column, _Windows(self._table, column, self._groups))
            return _picture_bytes(windows.value(index))

    def _read_labels(self, names: list[str]) -> tuple[list[int] | None, list[str] | None]:
        column = _column(names, LABEL_COLUMNS)
        if not column:
            return None, None
        wanted = [column, *[name for name in ("name", "class", "class_name") if name in names][:1]]
        table = self._table.read(columns=wanted)
        labels = table.column(column).to_pylist()
        if any(not isinstance(label, int) for label in labels):
            return None, None
        classes = _declared_classes(self._table.schema_arrow.metadata, column)
        if classes is None and len(wanted) == 2:
            classes = _names_of(labels, table.column(wanted[1]).to_pylist())
        return labels, classes


class _Windows:
    """The rows of one column around the last ones asked for: two windows, so that threads a little out of step share them."""

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
        for batch in self._table.iter_batches(WINDOW, row_groups=[group], columns=[self._column]):
            start = self._next
            self._next += batch.num_rows
            yield start, batch.column(0).to_pylist()


class Rows(Source):
    """A split of a Hugging Face data set."""

    def __init__(self, rows: Any, name: str):
        import datasets

        self.name = name
        kinds = rows.features
        pictures = [column for column, kind in kinds.items() if isinstance(kind, datasets.Image)]
        segmentation = _column(pictures, SEGMENTATION_COLUMNS)
        self._image = _column(list(kinds), IMAGE_COLUMNS) or next((column for column in pictures if column != segmentation), None)
        if not self._image or not len(rows):
            raise BadInput(f"{name} has no {'rows' if self._image else 'column of pictures among ' + ', '.join(kinds)}")
        self._segmentation = segmentation
        for column in pictures:
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._rows = rows
        label = _column(list(kinds), LABEL_COLUMNS) or next((c for c, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)), None)
        values: list = list(rows[label]) if label else []
        if label and all(isinstance(value, int) for value in values):
            self.labels = values
            self.classes = list(kinds[label].names) if isinstance(kinds[label], datasets.ClassLabel) else None
            self.wnids = _names_of(values, list(rows[WNID_COLUMN])) if WNID_COLUMN in kinds else None

    def __len__(self) -> int:
        return len(self._rows)

    def picture(self, index: int) -> Image.Image:
        return decoded(_picture_bytes(self._rows[index][self._image]))

    def segmentation(self, index: int) -> Image.Image:
        if not self._segmentation:
            return super().segmentation(index)
        return label_map(_picture_bytes(self._rows[index][self._segmentation]))

    def where(self, index: int) -> str:
        return f"row {index} of {self.name}"

    def key(self) -> dict[str, Any]:
        return {"rows": self._rows._fingerprint, "count": len(self)}


class Drawn(Source):
    """Scenes of Diorama, drawn when they are asked for."""

    drawn = True

    def __init__(self, name: str, size: int):
        from milan.diorama import DioramaImages

        self.name = name
        self._images = DioramaImages(name, size=size)
        self.classes = list(self._images.classes)

    @cached_property
    def labels(self) -> list[int]:  # type: ignore[override]
        return [int(self._images.label(index)) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self._images)

    def picture(self, index: int) -> np.ndarray:
        return self._images.image(index)

    def where(self, index: int) -> str:
        return f"scene {index} of diorama:{self.name}"

    def key(self) -> dict[str, Any]:
        return {"diorama": str(self._images.fingerprint)}


def open_file(path: Path) -> Source:
    """The pictures of a folder, an archive or a parquet file. Raises BadInput, with the nearest names where there is no such path."""
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return Parquet(path)
    if path.is_file() and is_archive(path):
        return Folder(_unpacked(path))
    if path.is_file():
        raise BadInput(f"{clean(str(path))} is a file, but neither .parquet nor .zip nor .tar; give {FORMS}")
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UnknownName("probe", str(path), [str(path.parent / name) for name in beside], f"give {FORMS}")


def _unpacked(archive: Path) -> Path:
    """The folder that an archive holds, unpacked to the cache once."""
    folder = cache_folder() / "archives" / content_key(archive=_file_key(archive, archive.parent))
    if not folder.is_dir():
        unpack(archive, folder)
    inside = [item for item in folder.iterdir() if item.name[0] != "." and item.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def picture_decoder() -> str:
    """What decodes: pixels may change with it."""
    return f"pillow {PIL.__version__}"


def _picture_files(folder: Path) -> Iterator[Path]:
    """Every picture file; each real folder is entered once, so that loops of links end."""
    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        facts = here.stat()
        if (facts.st_dev, facts.st_ino) in entered:
            continue
        entered.add((facts.st_dev, facts.st_ino))
        try:
            items = sorted(os.scandir(here), key=lambda item: os.fsencode(item.name), reverse=True)
        except OSError as error:
            raise BadInput(f"cannot list {clean(str(here))}: {error.strerror}") from None
        waiting += [Path(item.path) for item in items if _is_folder(item)]
        yield from (Path(item.path) for item in items if _is_picture(item))


def _is_folder(item: os.DirEntry) -> bool:
    return item.name[0] != "." and Path(item.path).is_dir()  # not item.is_dir(), which raises on a link to itself


def _is_picture(item: os.DirEntry) -> bool:
    if item.name[0] == "." or Path(item.name).suffix.lower() not in SUFFIXES:
        return False
    path = Path(item.path)
    return path.is_file() or (item.is_symlink() and not path.exists())  # a broken link is a bad picture, not an absent one


def _file_key(file: Path, root: Path) -> list:
    name = file.relative_to(root).as_posix()
    try:
        facts = file.stat()
    except OSError:
        return [name, -1, -1]
    return [name, facts.st_size, facts.st_mtime_ns]


def _column(names: list[str], known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in names), None)


def _picture_bytes(value: Any) -> bytes | Path:
    """The bytes of a picture as a table holds it: bytes, or a struct of bytes and a path."""
    if isinstance(value, dict):
        value = value.get("bytes") or (Path(value["path"]) if value.get("path") else None)
    if isinstance(value, (bytes, Path)):
        return value
    raise Unreadable("no picture in this row")


def _declared_classes(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """The class names that Hugging Face keeps in a parquet file's schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, ValueError, TypeError):
        return None


def _names_of(labels: list[int], names: list) -> list[str] | None:
    """Class names by label, from a table that tells both in each row; None where they disagree or a label has none."""
    pairs = set(zip(labels, names, strict=True))
    if min(labels) < 0 or len({label for label, _ in pairs}) < len(pairs) or any(not isinstance(name, str) for _, name in pairs):
        return None
    found = dict(pairs)
    return [found.get(label, str(label)) for label in range(max(labels) + 1)]


def looks_like_path(text: str) -> bool:
    """Whether a data set's name is meant as a path, which is never sent to the hub."""
    return not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", text) or Path(text).exists()

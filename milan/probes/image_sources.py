"""Sources of a probe's images: a folder, a parquet file, a dataset or Diorama."""

import json
import os
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow.parquet as pq
from PIL import Image

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from milan.probes.class_labels import names_by_label, usable_labels, wordnet_ids
from milan.probes.image_cells import picture_in_cell
from milan.probes.image_decoding import decode_image, decode_label_map, suffixes
from milan.storage.archives import is_archive, unpack
from milan.storage.files import cache_folder, content_key

IMAGE_COLUMNS = ("image", "img", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label")
SEGMENTATION_COLUMNS = ("segmentation", "mask", "annotation")
WNID_COLUMN = "wnid"
NAME_COLUMNS = ("name", "class", "class_name")
# Names of a dataset's splits; folders of these names are rarely classes.
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
# Other files in a folder of images: the names of its pixel labels, and files of desktops.
COMPANIONS = {"classes.txt", "thumbs.db", "desktop.ini"}
SPEC_FORMS = "a folder of images (or a .zip or .tar of one), FILE.parquet, hf:ID, diorama:NAME or latents:TARGET"
PARQUET_WINDOW = 64  # rows of a parquet file read at a time


class ImageSource(ABC):
    """Images by index, in a fixed order. Reading is safe from several threads.

    Attributes:
        labels: class number of each image, -1 if it is unknown; None if no image has a label.
        classes: class names by number, or None.
        wnids: WordNet ids of the classes (n01443537) by number, or None.
        is_presized: whether the images have the probe's size, so that nothing is resized or cropped.
        bands: number of bands of the images; 0 for pictures.
        of_bytes: whether the bands were stored as bytes.
    """

    labels: list[int] | None = None
    classes: list[str] | None = None
    wnids: list[str] | None = None
    is_presized: bool = False
    bands: int = 0
    of_bytes: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load_image(self, index: int) -> Image.Image | np.ndarray:
        """Return an image: an RGB picture, uint8 pixels (3, size, size) if ``is_presized``, or float32 bands.

        Raises:
            UnreadableImage: it cannot be decoded.
        """

    @abstractmethod
    def format_location(self, index: int) -> str:
        """Return the name of an image in messages."""

    @abstractmethod
    def content_facts(self) -> dict[str, Any]:
        """Return plain values that change whenever the images do."""

    def load_segmentation(self, index: int) -> Image.Image:
        """Return the class number of each pixel of an image.

        Raises:
            UnreadableImage: they cannot be decoded.
            MissingEvidence: the source has no segmentations.
        """
        raise MissingEvidence(
            "this probe has no segmentations; use a parquet file or dataset with a column named segmentation"
        )


class FolderSource(ImageSource):
    """All pictures under a folder, sorted by path; if each is in a subfolder, the subfolders are the classes.

    Attributes:
        kinds: suffixes of the files; those of pictures if empty.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, folder: Path):
        self.folder = folder
        kinds = self.kinds or suffixes()
        pictures, others = sorted_out(folder, kinds)
        self.files = [Path(os.fsdecode(name)) for name in sorted(os.fsencode(file) for file in pictures)]
        passed = ", ".join(f"{count} {clean_text(kind) or 'without suffix'}" for kind, count in others.most_common(5))
        if not self.files:
            found = f"; found {passed}" if passed else ""
            raise BadInput(f"no images found under {clean_text(str(folder))} (looked for {' '.join(kinds)}{found})")
        if passed:
            text = f"{others.total()} files under {clean_text(str(folder))} are in no supported format: {passed}"
            warnings.warn(text, MilanWarning, stacklevel=2)
        tops = [file.relative_to(folder).parts for file in self.files]
        if all(len(parts) > 1 for parts in tops):
            self.classes = sorted({parts[0] for parts in tops}, key=os.fsencode)
            numbers = {name: number for number, name in enumerate(self.classes)}
            self.labels = [numbers[parts[0]] for parts in tops]
            self.wnids = wordnet_ids(self.classes)
            self._warn_of_parts()
            self._warn_of_empty(set(numbers))

    def _warn_of_parts(self) -> None:
        if {name.lower() for name in self.classes or ()} <= SPLIT_FOLDERS:
            folder, names = clean_text(str(self.folder)), ", ".join(self.classes or ())
            text = f"the folders in {folder} are named like splits of a dataset ({names}) and are used as classes"
            hint = f"give {folder}/{(self.classes or [''])[0]} for the classes of one split"
            warnings.warn(f"{text}; {hint}", MilanWarning, stacklevel=3)

    def _warn_of_empty(self, full: set[str]) -> None:
        empty = sorted(
            clean_text(item.name)
            for item in self.folder.iterdir()
            if item.is_dir() and item.name[0] != "." and item.name not in full
        )
        if empty:
            warnings.warn(f"no images in {', '.join(empty)}, so no class of that name", MilanWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self.files)

    def load_image(self, index: int) -> Image.Image | np.ndarray:
        """Decode a file."""
        return decode_image(self.files[index])

    def format_location(self, index: int) -> str:
        """Return the path of the file."""
        return clean_text(str(self.files[index]))

    def content_facts(self) -> dict[str, Any]:
        """Return path, size and time of change of each file."""
        return {"files": [_file_facts(file, self.folder) for file in self.files]}


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
        return {"parquet": _file_facts(self.file, self.file.parent)}

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


class DioramaSource(ImageSource):
    """Scenes of Diorama, rendered on demand."""

    is_presized = True

    def __init__(self, name: str, size: int):
        from milan.diorama import DioramaImages

        self.name = name
        self._images = DioramaImages(name, size=size)
        self.classes = list(self._images.classes)

    @cached_property
    def labels(self) -> list[int]:  # type: ignore[override]
        """The class of each scene."""
        return [int(self._images.label(index)) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self._images)

    def load_image(self, index: int) -> np.ndarray:
        """Render a scene, uint8 (3, 64, 64)."""
        return self._images.image(index)

    def format_location(self, index: int) -> str:
        """Return the scene's index and the name of the set of scenes."""
        return f"scene {index} of diorama:{self.name}"

    def content_facts(self) -> dict[str, Any]:
        """Return the fingerprint of the set of scenes."""
        return {"diorama": str(self._images.fingerprint)}


def open_path(path: Path, opened: Callable[[Path], FolderSource] = FolderSource) -> ImageSource:
    """Open the images of a folder, of an archive of one, or of a parquet file.

    Args:
        path: the folder or file.
        opened: opens a folder.

    Raises:
        BadInput: there are no images.
        UnknownName: there is no such path; the message lists the nearest ones.
    """
    if path.is_dir():
        return opened(path)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return ParquetSource(path)
    if path.is_file() and is_archive(path):
        return opened(_unpack_to_cache(path))
    if path.is_file():
        raise BadInput(f"{clean_text(str(path))} is a file, but neither .parquet nor .zip nor .tar; give {SPEC_FORMS}")
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UnknownName("probe", str(path), [str(path.parent / name) for name in beside], f"give {SPEC_FORMS}")


def _unpack_to_cache(archive: Path) -> Path:
    """Return the folder in an archive, unpacked to the cache once."""
    folder = cache_folder() / "archives" / content_key(archive=_file_facts(archive, archive.parent))
    if not folder.is_dir():
        unpack(archive, folder)
    inside = [item for item in folder.iterdir() if item.name[0] != "." and item.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def get_decoder_version() -> str:
    """Return the name and version of the decoder, on which pixels depend."""
    return f"pillow {PIL.__version__}"


def sorted_out(folder: Path, kinds: Sequence[str]) -> tuple[list[Path], Counter[str]]:
    """Return all files with some suffixes, and the number of other files by suffix, without hidden ones and companions.

    Each real folder is visited once, so loops of links end.
    """
    entered: set[tuple[int, int]] = set()
    waiting, pictures, others = [folder], [], Counter[str]()
    while waiting:
        here = waiting.pop()
        facts = here.stat()
        if (facts.st_dev, facts.st_ino) in entered:
            continue
        entered.add((facts.st_dev, facts.st_ino))
        try:
            items = [item for item in os.scandir(here) if item.name[0] != "."]
        except OSError as error:
            raise BadInput(f"cannot list {clean_text(str(here))}: {error.strerror}") from None
        # Sorted by name, since a folder can be reached by several links.
        items.sort(key=lambda item: os.fsencode(item.name), reverse=True)
        for item in items:
            # item.is_dir() raises for a link to itself.
            if Path(item.path).is_dir():
                waiting.append(Path(item.path))
            elif _is_of(kinds, item):
                pictures.append(Path(item.path))
            elif item.name.lower() not in COMPANIONS:
                others[Path(item.name).suffix.lower()] += 1
    return pictures, others


def _is_of(kinds: Sequence[str], item: os.DirEntry) -> bool:
    if Path(item.name).suffix.lower() not in kinds:
        return False
    path = Path(item.path)
    # A broken link counts as an unreadable picture, so that the others keep their indices.
    return path.is_file() or (item.is_symlink() and not path.exists())


def _file_facts(file: Path, root: Path) -> list:
    name = file.relative_to(root).as_posix()
    try:
        facts = file.stat()
    except OSError:
        return [name, -1, -1]
    return [name, facts.st_size, facts.st_mtime_ns]


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

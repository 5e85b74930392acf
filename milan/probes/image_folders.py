"""The images of a folder, or of an archive of one, and the choice of the source that a path needs."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.probes.class_labels import wordnet_ids
from milan.probes.image_decoding import decode_image, suffixes
from milan.probes.image_sources import SPEC_FORMS, ImageSource, get_file_facts
from milan.probes.image_tables import ParquetSource
from milan.storage.archives import is_archive, unpack
from milan.storage.files import cache_folder, content_key

# Names of a dataset's splits; folders of these names are rarely classes.
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}
# Other files in a folder of images: the names of its pixel labels, and files of desktops.
COMPANIONS = {"classes.txt", "thumbs.db", "desktop.ini"}


class FileList(Sequence[Path]):
    """Files below a folder, sorted by path.

    Their names are stored as one text, since as many ``Path`` objects take ten times the memory.

    Args:
        folder: the folder.
        names: their paths below it.
    """

    def __init__(self, folder: Path, names: Sequence[bytes]):
        self.folder = folder
        ordered = sorted(names)
        self._text = b"".join(ordered)
        self._ends = np.fromiter(accumulate(map(len, ordered), initial=0), np.int64, len(ordered) + 1)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, index: int) -> bytes:
        """Return the path of a file below the folder."""
        return self._text[self._ends[index] : self._ends[index + 1]]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.folder / os.fsdecode(self.name(range(len(self))[index]))


class FolderSource(ImageSource):
    """All pictures under a folder, sorted by path; if each is in a subfolder, the subfolders are the classes.

    Attributes:
        kinds: suffixes of the files; those of pictures if empty.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, folder: Path):
        self.folder = folder
        kinds = self.kinds or suffixes()
        pictures, others = list_files(folder, kinds)
        self.files = FileList(folder, pictures)
        passed = ", ".join(f"{count} {clean_text(kind) or 'without suffix'}" for kind, count in others.most_common(5))
        if not self.files:
            others_text = f"; found {passed}" if passed else ""
            raise BadInput(
                f"no images found under {clean_text(str(folder))} (looked for {' '.join(kinds)}{others_text})"
            )
        if passed:
            text = f"{others.total()} files under {clean_text(str(folder))} are in no supported format: {passed}"
            warnings.warn(text, MilanWarning, stacklevel=2)
        tops = sorted({name.partition(b"/")[0] for name in pictures})
        if all(b"/" in name for name in pictures):
            self.classes = [os.fsdecode(name) for name in tops]
            numbers = {name: number for number, name in enumerate(tops)}
            self.labels = [numbers[self.files.name(index).partition(b"/")[0]] for index in range(len(self))]
            self.wnids = wordnet_ids(self.classes)
            self._warn_of_parts()
            self._warn_of_empty(set(self.classes))

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
        return {"files": [get_file_facts(file, self.folder) for file in self.files]}


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
    folder = cache_folder() / "archives" / content_key(archive=get_file_facts(archive, archive.parent))
    if not folder.is_dir():
        unpack(archive, folder)
    inside = [item for item in folder.iterdir() if item.name[0] != "." and item.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def list_files(folder: Path, kinds: Sequence[str]) -> tuple[list[bytes], Counter[str]]:
    """Return all files with some suffixes, and the number of other files by suffix, without hidden ones and companions.

    Each real folder is visited once, so loops of links end.

    Returns:
        the paths of the files below the folder, with ``/`` between their parts, as the file system encodes them, and
        the numbers.
    """
    entered: set[tuple[int, int]] = set()
    waiting, pictures, others = [""], [], Counter[str]()
    while waiting:
        below = waiting.pop()
        here = folder / below
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
                waiting.append(f"{below}{item.name}/")
            elif _is_of(kinds, item):
                pictures.append(os.fsencode(f"{below}{item.name}"))
            elif item.name.lower() not in COMPANIONS:
                others[Path(item.name).suffix.lower()] += 1
    return pictures, others


def _is_of(kinds: Sequence[str], item: os.DirEntry) -> bool:
    if Path(item.name).suffix.lower() not in kinds:
        return False
    path = Path(item.path)
    # A broken link counts as an unreadable picture, so that the others keep their indices.
    return path.is_file() or (item.is_symlink() and not path.exists())

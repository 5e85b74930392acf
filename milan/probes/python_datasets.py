"""Probe images from a dataset object of PyTorch or Hugging Face."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from milan.console.progress import track_progress
from milan.errors import BadInput
from milan.probes.class_labels import class_labels
from milan.probes.image_decoding import UnreadableImage, to_upright_rgb
from milan.probes.image_sources import ImageSource
from milan.probes.image_tables import IMAGE_COLUMNS, LABEL_COLUMNS, DatasetSource
from milan.storage.user_code import one_line

ITEM_FORMS = "PIL images, (PIL image, label) or a mapping with both"


def open_python_dataset(dataset: Any, classes: Sequence[str] | None = None, limit: int | None = None) -> ImageSource:
    """Return the images and labels of a dataset object.

    Args:
        dataset: a map-style dataset of PyTorch (``len`` and integer indices) whose items are PIL images, (PIL image,
            label) or mappings with both, or a split of a Hugging Face dataset.
        classes: class names by number; by default the dataset's own, where it has some.
        limit: use only the first so many images.

    Raises:
        BadInput: it is no such dataset, is empty, or gives another image each time.
    """
    if isinstance(dataset, Mapping):
        raise BadInput(f"the dataset has the splits {', '.join(map(str, dataset))}; give one of them")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise BadInput(
            f"{type(dataset).__name__} is no dataset with a length and items by number; give a list of items"
        )
    if hasattr(dataset, "features") and hasattr(dataset, "select_columns"):
        # The caller made the dataset, so its paths are opened wherever they lead, as the library itself does.
        source: ImageSource = DatasetSource(dataset, "the dataset", [Path(Path.cwd().anchor)])
        source.classes = list(classes) if classes else source.classes
        return source
    return PythonDatasetSource(dataset, classes, limit)


class _Contents(NamedTuple):
    """What one pass over a dataset shows."""

    digest: str
    labels: list[int] | None
    classes: list[str] | None


class PythonDatasetSource(ImageSource):
    """The images of a map-style dataset of PyTorch, in its order.

    A dataset object states neither its labels nor a fingerprint: both take one pass over all items.
    """

    def __init__(self, dataset: Any, classes: Sequence[str] | None = None, limit: int | None = None):
        self._dataset, self._lock, self._count = dataset, threading.Lock(), min(len(dataset), limit or len(dataset))
        declared = classes or getattr(dataset, "classes", None)
        self._declared = [str(name) for name in declared] if isinstance(declared, list | tuple) else None
        if not len(self):
            raise BadInput(f"the dataset {type(dataset).__name__} is empty; a probe needs at least one image")
        self._check_first_image()

    def __len__(self) -> int:
        return self._count

    @property
    def classes(self) -> list[str] | None:  # type: ignore[override]
        """Class names that were passed or that the dataset states, or None."""
        return self._declared or self._contents.classes

    @property
    def labels(self) -> list[int] | None:  # type: ignore[override]
        """Class number of each item, or None; the first use reads all items."""
        return self._contents.labels

    def load_image(self, index: int) -> Image.Image:
        """Return the picture of an item."""
        return self._load_item(index)[0]

    def format_location(self, index: int) -> str:
        """Return the item's index and the dataset's type."""
        return f"item {index} of {type(self._dataset).__name__}"

    def content_facts(self) -> dict[str, Any]:
        """Return a digest of all items and their number; the first use reads all items."""
        return {"items": self._contents.digest, "count": len(self)}

    def _check_first_image(self) -> None:
        try:
            first, again = self.load_image(0), self.load_image(0)
        # An unreadable first image is skipped like any other.
        except UnreadableImage:
            return
        if first.size != again.size or first.tobytes() != again.tobytes():
            raise BadInput(f"{self.format_location(0)} is another image at each access; leave out random transforms")

    def _load_item(self, index: int) -> tuple[Image.Image, Any]:
        try:
            # A user's dataset need not be safe to read from several threads.
            with self._lock:
                item = self._dataset[index]
        # The dataset's own code raises anything.
        except Exception as error:
            raise UnreadableImage(one_line(error)) from None
        image, label = _split_item(item)
        if not isinstance(image, Image.Image):
            kind = f"{type(image).__name__}{f' of {image.dtype}' if hasattr(image, 'dtype') else ''}"
            raise BadInput(
                f"{self.format_location(index)} holds a {kind}; give a dataset of {ITEM_FORMS}, untransformed"
            )
        return to_upright_rgb(image), label

    @cached_property
    def _contents(self) -> _Contents:
        digest, labels = hashlib.sha256(), []
        for index in track_progress(range(len(self)), description="reading the dataset"):
            try:
                image, label = self._load_item(index)
                content = str(image.size).encode() + image.tobytes()
            except UnreadableImage as error:
                content, label = str(error).encode(), None
            digest.update(hashlib.sha256(content).digest())
            labels.append(label)
        return _Contents(digest.hexdigest(), *class_labels(labels, self._declared))


def _split_item(item: Any) -> tuple[Any, Any]:
    """Return the image of a dataset's item, and its label or None; uint8 arrays become pictures."""
    label = None
    if isinstance(item, Mapping):
        label = next((item[name] for name in LABEL_COLUMNS if name in item), None)
        item = next((item[name] for name in IMAGE_COLUMNS if name in item), None)
    elif isinstance(item, tuple | list) and item:
        item, label = item[0], item[1] if len(item) > 1 else None
    if isinstance(item, Tensor) and item.ndim == 3:
        item = item.permute(1, 2, 0).cpu().numpy()
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.shape[2:] in ((), (1,), (3,)):
        item = Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
    return item, label.item() if isinstance(label, Tensor | np.generic) else label

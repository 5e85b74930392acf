"""The interface of a probe's images, and the images of Diorama."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from milan.errors import MissingEvidence

SPEC_FORMS = (
    "a folder of images (or a .zip or .tar of one), FILE.parquet, 'shards/*.tar', hf:ID, diorama:NAME or latents:TARGET"
)


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


def get_decoder_version() -> str:
    """Return the name and version of the decoder, on which pixels depend."""
    return f"pillow {PIL.__version__}"


def get_file_facts(file: Path, root: Path) -> list:
    """Return path below ``root``, size in bytes and time of change; -1 for a file that cannot be read."""
    name = file.relative_to(root).as_posix()
    try:
        facts = file.stat()
    except OSError:
        return [name, -1, -1]
    return [name, facts.st_size, facts.st_mtime_ns]

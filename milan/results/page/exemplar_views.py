"""Exemplars as a page draws them: each image stored once, and for each unit the regions in a few bytes.

The images are ``images/KEY/NUMBER.webp`` beside the page, where KEY stands for the probe and NUMBER is the image's row
in it. The browser dims an image outside the region and outlines it (``static/pictures.js``) as ``highlight_masks``
does.
"""

import base64
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from milan.console.exemplar_rendering import WEBP_QUALITY, encode_webp, is_whole_webp, scale_images, scaled_size
from milan.console.progress import track_progress
from milan.dissection.dissection import Dissection, ExemplarMaps
from milan.errors import MilanWarning
from milan.results.page.map_encoding import EncodedMaps, encode_maps, encode_masks
from milan.storage.files import content_key
from milan.targets.preprocessing import height_width
from milan.units import Exemplars, Unit, group_by_layer

PICTURES_PER_ROW = 3  # a card shows the first one or two rows
PICTURE_SIZE = 128  # pixels of a picture's longer side
FORMAT = 2  # raise it when the appearance of the stored images changes
# Images that are read and scaled at a time.
BLOCK_IMAGES = 16
WHOLE = EncodedMaps(0, 0, b"")


@dataclass(frozen=True)
class ExemplarView:
    """Pictures that a page draws in order, with their regions.

    Attributes:
        folder: folder of the images, relative to the page.
        names: file name of each image without ``.webp``; the image's row in the probe, if it is from one.
        width, height: size of one picture in pixels.
        activations: the peak activation in each image; empty if there is none.
        maps: the region in each image; ``WHOLE`` for pictures without regions.
    """

    folder: str
    names: list[int]
    width: int
    height: int
    activations: list[float]
    maps: EncodedMaps = WHOLE

    @property
    def files(self) -> list[str]:
        """Paths of the images, relative to the page."""
        return [f"{self.folder}/{name}.webp" for name in self.names]

    def first(self, count: int) -> "ExemplarView":
        """Return a view of the first pictures."""
        return replace(self, names=self.names[:count], activations=self.activations[:count])

    def moved_to(self, folder: str) -> "ExemplarView":
        """Return the view for a page that is one folder above ``folder``."""
        return replace(self, folder=f"{folder}/{self.folder}")

    def to_plain(self) -> dict[str, Any]:
        """Return the view as ``static/pictures.js`` reads it; ``maps`` is base64."""
        return {
            "folder": self.folder,
            "images": self.names,
            "width": self.width,
            "height": self.height,
            "activations": self.activations,
            "grid": [self.maps.height, self.maps.width],
            "maps": base64.b64encode(self.maps.data).decode(),
        }


def write_exemplar_views(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], folder: Path
) -> dict[Unit, ExemplarView]:
    """Write the images of these units' exemplars beside a page; images that exist are not written again.

    Args:
        dissections: the dissection of each layer, by its name.
        units: units that have exemplars.
        folder: folder of the page.
    """
    views: dict[Unit, ExemplarView] = {}
    for layer, indices in group_by_layer(units).items():
        views |= _write_layer(dissections[layer], [Unit(layer, index) for index in indices], folder)
    return views


def write_exemplars(exemplars: Exemplars, folder: Path, place: str) -> ExemplarView:
    """Write exemplars that are not from a dissection as ``folder/place/0.webp`` and so on."""
    view = write_pictures(exemplars.images, folder, place)
    maps = encode_masks(exemplars.masks, (view.height, view.width))
    return replace(view, activations=_round_activations(exemplars.activations), maps=maps)


def write_pictures(images: UInt8[Tensor, "n 3 height width"], folder: Path, place: str) -> ExemplarView:
    """Write pictures that are shown whole as ``folder/place/0.webp`` and so on, over those that exist."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(scale_images(images, PICTURE_SIZE)):
        _write_file(folder / place / f"{number}.webp", encode_webp(picture))
    height, width = scaled_size(images.shape[-2:], PICTURE_SIZE)
    return ExemplarView(place, list(range(len(images))), width, height, [])


def make_data_url(file: Path) -> str:
    """Return a WebP file as a data URL."""
    return f"data:image/webp;base64,{base64.b64encode(file.read_bytes()).decode()}"


def inline_images(views: Iterable[ExemplarView], folder: Path) -> dict[str, str]:
    """Return the images of views as data URLs, each once, by their paths relative to the page in ``folder``."""
    files = dict.fromkeys(file for view in views for file in view.files)
    return {file: make_data_url(folder / file) for file in files}


def remove_unused(folder: Path, views: Iterable[ExemplarView]) -> None:
    """Remove the images that no view of the page in ``folder`` uses, and the pictures that earlier versions wrote."""
    remove_other_folders(folder / "images", {Path(view.folder).name for view in views})
    remove_other_folders(folder / "units", set())


def remove_other_folders(folder: Path, kept: set[str]) -> None:
    """Remove the folders in ``folder`` whose names are not in ``kept``."""
    if not folder.is_dir():
        return
    for other in folder.iterdir():
        if other.is_dir() and other.name not in kept:
            shutil.rmtree(other, ignore_errors=True)


def _write_layer(dissection: Dissection, units: Sequence[Unit], folder: Path) -> dict[Unit, ExemplarView]:
    place = f"images/{_compute_key(dissection)}"
    (folder / place).mkdir(parents=True, exist_ok=True)
    blocks = dissection.iter_exemplar_maps(units)
    if blocks is None:
        return _write_masked(dissection, units, folder, place)
    views: dict[Unit, ExemplarView] = {}
    for block in blocks:
        views |= _make_views(block, dissection, place)
    names = sorted({name for view in views.values() for name in view.names})
    _write_images(names, folder / place, lambda ids: dissection.images(torch.tensor(ids)))
    return views


def _make_views(block: ExemplarMaps, dissection: Dissection, place: str) -> dict[Unit, ExemplarView]:
    height, width = scaled_size(height_width(dissection.image_size), PICTURE_SIZE)
    encoded = encode_maps(block.maps, block.thresholds, (height, width))
    empty = (block.maps.amax((-2, -1)) <= block.thresholds[:, None]).any(1)
    if any(dissection.status[unit] == "ok" for unit, one in zip(block.units, empty.tolist(), strict=True) if one):
        text = f"{dissection.layer}: exemplars in which no place exceeds the unit's threshold are shown whole"
        warnings.warn(text, MilanWarning, stacklevel=4)
    rows = zip(block.units, block.ids.tolist(), block.activations, encoded, strict=True)
    return {
        unit: ExemplarView(place, ids, width, height, _round_activations(peaks), maps)
        for unit, ids, peaks, maps in rows
        if ids
    }


def _write_masked(dissection: Dissection, units: Sequence[Unit], folder: Path, place: str) -> dict[Unit, ExemplarView]:
    """Write the images of a dissection that has masks but no maps, unit by unit."""
    height, width = scaled_size(height_width(dissection.image_size), PICTURE_SIZE)
    views: dict[Unit, ExemplarView] = {}
    written: set[int] = set()
    for unit in track_progress(units, description="pictures"):
        exemplars = dissection.exemplars(unit)
        ids = exemplars.ids.tolist()
        if not ids:
            continue
        pixels = dict(zip(ids, exemplars.images, strict=True))
        _write_images([id for id in pixels if id not in written], folder / place, partial(_stack, pixels))
        written.update(ids)
        maps = encode_masks(exemplars.masks, (height, width))
        views[unit] = ExemplarView(place, ids, width, height, _round_activations(exemplars.activations), maps)
    return views


def _stack(pixels: Mapping[int, Tensor], ids: Sequence[int]) -> Tensor:
    return torch.stack([pixels[id] for id in ids])


def _write_images(names: Sequence[int], folder: Path, load: Callable[[list[int]], Tensor]) -> None:
    """Write the images that do not exist, in parallel."""
    missing = [name for name in names if not is_whole_webp(folder / f"{name}.webp")]

    def write(some: list[int]) -> None:
        for name, picture in zip(some, scale_images(load(some), PICTURE_SIZE), strict=True):
            _write_file(folder / f"{name}.webp", encode_webp(picture))

    blocks = list(_split(missing, BLOCK_IMAGES))
    if len(blocks) < 2:
        for block in blocks:
            write(block)
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for _ in track_progress(pool.map(write, blocks), total=len(blocks), description="images"):
            pass


def _write_file(file: Path, data: bytes) -> None:
    """Write a picture under its name at once, without waiting for the disk: a damaged one is written again."""
    unfinished = file.with_name(f".partial-{os.getpid()}-{file.name}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _split(names: Sequence[int], count: int) -> Iterator[list[int]]:
    return (list(names[start : start + count]) for start in range(0, len(names), count))


def _round_activations(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _compute_key(dissection: Dissection) -> str:
    return content_key(images=dissection.images_key, format=FORMAT, size=PICTURE_SIZE, quality=WEBP_QUALITY)[:8]

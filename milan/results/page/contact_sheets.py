"""Contact sheets: the exemplars of each unit in one picture file, written in parallel."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from milan.console.exemplar_rendering import (
    DIMMED_BRIGHTNESS,
    OUTLINE_COLOUR,
    WEBP_QUALITY,
    encode_webp,
    highlight_masks,
    is_whole_webp,
    make_image_grid,
)
from milan.console.progress import track_progress
from milan.dissection.store import Dissection
from milan.storage.files import atomic_write, content_key, safe_name
from milan.units import Exemplars, Unit

PICTURES_PER_ROW = 3  # a card shows the first one or two rows
PICTURE_SIZE = 128  # pixels of a picture's longer side
MAX_PICTURES = 120  # in one file; a unit with more exemplars has several files
FORMAT = 1  # raise it when the appearance of the sheets changes
MAX_PENDING_BYTES = 2**29  # of exemplars that wait to be drawn


@dataclass(frozen=True)
class ContactSheet:
    """The picture file of a unit's exemplars.

    Attributes:
        file: its path relative to the page; of more than ``MAX_PICTURES`` exemplars the first part (see ``part_file``).
        width, height: size of one picture in pixels.
        activations: the peak activation of each exemplar.
        images: the number of each exemplar in the probe.
    """

    file: str
    width: int
    height: int
    activations: list[float]
    images: list[int]


def write_contact_sheets(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], folder: Path
) -> dict[Unit, ContactSheet]:
    """Write ``folder/units/LAYER-KEY/INDEX.webp`` for each unit; files that exist are not written again.

    A unit with more than ``MAX_PICTURES`` exemplars has further files, ``INDEX-1.webp`` and so on, because the side
    of a WebP picture is limited. The key is derived from the dissection; folders of other keys are removed.
    """
    places = {
        layer: f"units/{safe_name(layer)}-{_compute_key(dissection)}" for layer, dissection in dissections.items()
    }
    for place in places.values():
        (folder / place).mkdir(parents=True, exist_ok=True)
    found: dict[Unit, ContactSheet] = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16) + 4) as pool:
        waiting = []
        for unit in track_progress(units, description="pictures"):
            exemplars = dissections[unit.layer].exemplars(unit)
            if len(exemplars.ids) == 0:
                continue
            file = f"{places[unit.layer]}/{unit.index}.webp"
            found[unit] = _make_sheet(exemplars, file)
            if not all(is_whole_webp(folder / part_file(file, part)) for part in range(_parts(exemplars))):
                waiting.append(pool.submit(_write_sheet, exemplars, folder / file))
            while len(waiting) * exemplars.images.numel() > MAX_PENDING_BYTES:
                waiting.pop(0).result()
        for each in waiting:
            each.result()
    _remove_outdated(folder / "units", {Path(place).name for place in places.values()})
    return found


def write_contact_sheet(exemplars: Exemplars, folder: Path, file: str) -> ContactSheet:
    """Write the first ``MAX_PICTURES`` exemplars of one unit as ``folder/file`` and return where they are."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    _write_sheet(exemplars, folder / file)
    return _make_sheet(exemplars, file)


def _make_sheet(exemplars: Exemplars, file: str) -> ContactSheet:
    height, width = exemplars.images.shape[-2:]
    longer = max(height, width)
    return ContactSheet(
        file,
        round(width * PICTURE_SIZE / longer) or 1,
        round(height * PICTURE_SIZE / longer) or 1,
        [float(f"{value:.4g}") for value in exemplars.activations.tolist()],
        exemplars.ids.tolist(),
    )


def part_file(file: str, part: int) -> str:
    """Return the file of a part of a sheet, given the file of its first part.

    >>> part_file("units/a/7.webp", 0), part_file("units/a/7.webp", 2)
    ('units/a/7.webp', 'units/a/7-2.webp')
    """
    return f"{file.removesuffix('.webp')}-{part}.webp" if part else file


def _parts(exemplars: Exemplars) -> int:
    return -(-len(exemplars.ids) // MAX_PICTURES)


def _write_sheet(exemplars: Exemplars, path: Path) -> None:
    for part in range(_parts(exemplars)):
        some = slice(part * MAX_PICTURES, (part + 1) * MAX_PICTURES)
        picture = encode_webp(
            make_image_grid(
                highlight_masks(exemplars.images[some], exemplars.masks[some], PICTURE_SIZE), PICTURES_PER_ROW
            )
        )
        with atomic_write(path.with_name(part_file(path.name, part))) as partial:
            partial.write_bytes(picture)


def _compute_key(dissection: Dissection) -> str:
    return content_key(
        dissection=dissection.key,
        format=FORMAT,
        size=PICTURE_SIZE,
        across=PICTURES_PER_ROW,
        dim=DIMMED_BRIGHTNESS,
        outline=OUTLINE_COLOUR,
        quality=WEBP_QUALITY,
    )[:8]


def _remove_outdated(folder: Path, kept: set[str]) -> None:
    for other in _iter_folders(folder):
        if other.name not in kept:
            shutil.rmtree(other, ignore_errors=True)


def _iter_folders(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else iter(())

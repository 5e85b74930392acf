"""The exemplars of each unit as one picture file, made in parallel and never twice."""

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

PICTURES_PER_ROW = 3  # pictures side by side: a card shows the first row or two
PICTURE_SIZE = 128  # pixels of a picture's longer side
MOST = 120  # pictures in one file; a unit with more exemplars has several files
FORMAT = 1  # raised when sheets come to look different
WAITING = 2**29  # bytes of exemplars that wait to be drawn


@dataclass(frozen=True)
class ContactSheet:
    """Where a unit's exemplars are on the page, and what they are."""

    file: str  # relative to the page; with more than MOST exemplars, of the first part: ``part_file`` names the others
    width: int  # of one picture
    height: int
    activations: list[float]
    images: list[int]


def write_contact_sheets(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], folder: Path
) -> dict[Unit, ContactSheet]:
    """Writes ``folder/units/LAYER-KEY/INDEX.webp`` for each unit that can be described, except files that are there.

    A unit with more than ``MOST`` exemplars has further files, ``INDEX-1.webp`` and so on: WebP has a longest side.
    The key is that of the dissection, so that a sheet of other exemplars is never taken for this one; folders of other
    keys are removed.
    """
    places = {
        layer: f"units/{safe_name(layer)}-{_compute_key(dissection)}" for layer, dissection in dissections.items()
    }
    for place in places.values():
        (folder / place).mkdir(parents=True, exist_ok=True)
    found: dict[Unit, ContactSheet] = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16) + 4) as pool:  # some of them wait for the disk
        waiting = []
        for unit in track_progress(units, description="pictures"):
            exemplars = dissections[unit.layer].exemplars(unit)
            if len(exemplars.ids) == 0:
                continue
            file = f"{places[unit.layer]}/{unit.index}.webp"
            found[unit] = _make_sheet(exemplars, file)
            if not all(is_whole_webp(folder / part_file(file, part)) for part in range(_parts(exemplars))):
                waiting.append(pool.submit(_write_sheet, exemplars, folder / file))
            while len(waiting) * exemplars.images.numel() > WAITING:
                waiting.pop(0).result()
        for each in waiting:
            each.result()
    _remove_outdated(folder / "units", {Path(place).name for place in places.values()})
    return found


def write_contact_sheet(exemplars: Exemplars, folder: Path, file: str) -> ContactSheet:
    """Write the first ``MOST`` exemplars of one unit as ``folder/file`` and return where they are."""
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
    """The file of a part of a sheet, by the file of its first part.

    >>> part_file("units/a/7.webp", 0), part_file("units/a/7.webp", 2)
    ('units/a/7.webp', 'units/a/7-2.webp')
    """
    return f"{file.removesuffix('.webp')}-{part}.webp" if part else file


def _parts(exemplars: Exemplars) -> int:
    return -(-len(exemplars.ids) // MOST)


def _write_sheet(exemplars: Exemplars, path: Path) -> None:
    for part in range(_parts(exemplars)):
        some = slice(part * MOST, (part + 1) * MOST)
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

"""The exemplars of each unit as one picture file, made in parallel and never twice."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from milan.dissection.store import Dissection
from milan.pictures import DIM, OUTLINE, QUALITY, is_whole_webp, lit, sheet, webp
from milan.progress import progress
from milan.storage import atomic, content_key, safe_name
from milan.units import Exemplars, Unit

ACROSS = 3  # pictures side by side: a card shows the first row or two
SIZE = 128  # pixels of a picture's longer side
MOST = 120  # pictures in one file; a unit with more exemplars has several files
FORMAT = 1  # raised when sheets come to look different
WAITING = 2**29  # bytes of exemplars that wait to be drawn


@dataclass(frozen=True)
class Sheet:
    """Where a unit's exemplars are on the page, and what they are."""

    file: str  # relative to the page; with more than MOST exemplars, of the first part: ``part_file`` names the others
    width: int  # of one picture
    height: int
    activations: list[float]
    images: list[int]


def write_sheets(dissections: Mapping[str, Dissection], units: Sequence[Unit], folder: Path) -> dict[Unit, Sheet]:
    """Writes ``folder/units/LAYER-KEY/INDEX.webp`` for each unit that can be described, except files that are there.

    A unit with more than ``MOST`` exemplars has further files, ``INDEX-1.webp`` and so on: WebP has a longest side.
    The key is that of the dissection, so that a sheet of other exemplars is never taken for this one; folders of other keys are removed.
    """
    places = {layer: f"units/{safe_name(layer)}-{_key(dissection)}" for layer, dissection in dissections.items()}
    for place in places.values():
        (folder / place).mkdir(parents=True, exist_ok=True)
    found: dict[Unit, Sheet] = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16) + 4) as pool:  # some of them wait for the disk
        waiting = []
        for unit in progress(units, text="pictures"):
            exemplars = dissections[unit.layer].exemplars(unit)
            if len(exemplars.ids) == 0:
                continue
            file = f"{places[unit.layer]}/{unit.index}.webp"
            found[unit] = _sheet(exemplars, file)
            if not all(is_whole_webp(folder / part_file(file, part)) for part in range(_parts(exemplars))):
                waiting.append(pool.submit(_write, exemplars, folder / file))
            while len(waiting) * exemplars.images.numel() > WAITING:
                waiting.pop(0).result()
        for each in waiting:
            each.result()
    _remove_others(folder / "units", {Path(place).name for place in places.values()})
    return found


def _sheet(exemplars: Exemplars, file: str) -> Sheet:
    height, width = exemplars.images.shape[-2:]
    longer = max(height, width)
    return Sheet(
        file,
        round(width * SIZE / longer) or 1,
        round(height * SIZE / longer) or 1,
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


def _write(exemplars: Exemplars, path: Path) -> None:
    for part in range(_parts(exemplars)):
        some = slice(part * MOST, (part + 1) * MOST)
        picture = webp(sheet(lit(exemplars.images[some], exemplars.masks[some], SIZE), ACROSS))
        with atomic(path.with_name(part_file(path.name, part))) as partial:
            partial.write_bytes(picture)


def _key(dissection: Dissection) -> str:
    return content_key(dissection=dissection.key, format=FORMAT, size=SIZE, across=ACROSS, dim=DIM, outline=OUTLINE, quality=QUALITY)[:8]


def _remove_others(folder: Path, kept: set[str]) -> None:
    for other in _folders(folder):
        if other.name not in kept:
            shutil.rmtree(other, ignore_errors=True)


def _folders(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else iter(())

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
from milan.storage import atomic, content_key
from milan.units import Exemplars, Unit

ACROSS = 3  # pictures side by side: a card shows the first row or two
SIZE = 128  # pixels of a picture's longer side
FORMAT = 1  # raised when sheets come to look different


@dataclass(frozen=True)
class Sheet:
    """Where a unit's exemplars are on the page, and what they are."""

    file: str  # relative to the page
    width: int  # of one picture
    height: int
    activations: list[float]
    images: list[int]


def write_sheets(dissections: Mapping[str, Dissection], units: Sequence[Unit], folder: Path) -> dict[Unit, Sheet]:
    """Writes ``folder/units/LAYER-KEY/INDEX.webp`` for each unit that lives, those that are already there excepted.

    The key is that of the dissection, so that a sheet of other exemplars is never taken for this one; folders of other keys are removed.
    """
    places = {layer: f"units/{_safe(layer)}-{_key(dissection)}" for layer, dissection in dissections.items()}
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
            if not is_whole_webp(folder / file):
                waiting.append(pool.submit(_write, exemplars, folder / file))
            while len(waiting) > 64:  # exemplars in memory
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


def _write(exemplars: Exemplars, path: Path) -> None:
    picture = webp(sheet(lit(exemplars.images, exemplars.masks, SIZE), ACROSS))
    with atomic(path) as partial:
        partial.write_bytes(picture)


def _key(dissection: Dissection) -> str:
    return content_key(dissection=dissection.key, format=FORMAT, size=SIZE, across=ACROSS, dim=DIM, outline=OUTLINE, quality=QUALITY)[:8]


def _safe(layer: str) -> str:
    """A folder name for the layer, the same on every file system; the key beside it keeps layers apart."""
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in layer)[:60]


def _remove_others(folder: Path, kept: set[str]) -> None:
    for other in _folders(folder):
        if other.name not in kept:
            shutil.rmtree(other, ignore_errors=True)


def _folders(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else iter(())

"""What image-text models are trained on: scenes with sentences, and views of parts of them with short phrases.

Of every view and every phrase it is known whether the one shows the other, so that no pair in a batch counts as wrong by chance.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from milan.diorama.album import checksum
from milan.diorama.census import Census, codes
from milan.diorama.names import SETTINGS, THINGS
from milan.diorama.scenes import WORLDS, draw
from milan.diorama.sentences import sentences
from milan.progress import progress
from milan.storage import atomic, in_turn, new_array

CHUNK = 500
SAID = 4  # sentences kept of each scene
SEEN = 32  # labels are kept at this many places a side


@dataclass(frozen=True)
class Lessons:
    """Scenes of both worlds, those of "objects" first.

    images: uint8 (n, 3, 64, 64); census: what they show, at SEEN x SEEN places; said: SAID sentences of each;
    things, settings: int64 (n,), indices of the main thing and the setting.
    """

    images: np.ndarray
    census: Census
    said: list[list[str]]
    things: np.ndarray
    settings: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def shows(self) -> np.ndarray:
        """Which signature shows which concept, bool (signatures, concepts), in the order of ``concepts()``."""
        return self.census.shows.toarray().astype(bool)


def lessons(start: int, count: int, folder: Path, workers: int | None = None) -> Lessons:
    """Scenes ``start`` to ``start + count - 1`` of each world, drawn with all processors or found already drawn in ``folder``."""
    home = folder / f"lessons-{start}-{count}-{checksum()}"
    if not (home / "said.json").is_file():
        with in_turn(home):
            if not (home / "said.json").is_file():  # drawn by another process meanwhile
                _draw_into(home, start, count, workers or os.cpu_count() or 1)
    facts = np.load(home / "facts.npy")
    census = Census(np.load(home / "pixels.npy", mmap_mode="r"), np.load(home / "table.npy"))
    said = json.loads((home / "said.json").read_text())
    return Lessons(np.load(home / "images.npy", mmap_mode="r"), census, said, facts[:, 0], facts[:, 1])


def _draw_into(home: Path, start: int, count: int, workers: int) -> None:
    tasks = [(world, range(first, min(first + CHUNK, start + count))) for world in WORLDS for first in range(start, start + count, CHUNK)]
    with atomic(home / "images.npy") as path:
        images = new_array(path, np.uint8, (len(WORLDS) * count, 3, 64, 64))
        numbers: list[np.ndarray] = []
        facts: list[tuple[int, int]] = []
        said: list[list[str]] = []
        for pixels, shown, known, texts in _drawn(tasks, workers):
            images[len(said) : len(said) + len(texts)] = pixels
            numbers.append(shown)
            facts += known
            said += texts
        images.flush()
    census = Census.from_codes(np.concatenate(numbers))
    for name, array in (("pixels", census.pixels), ("table", census.table), ("facts", np.array(facts, dtype=np.int64))):
        with atomic(home / f"{name}.npy") as path:
            np.save(path, array)
    with atomic(home / "said.json") as path:  # the last: it says that all is there
        path.write_text(json.dumps(said))


Drawn = tuple[np.ndarray, np.ndarray, list[tuple[int, int]], list[list[str]]]


def _drawn(tasks: list[tuple[str, range]], workers: int) -> Iterator[Drawn]:
    text = "drawing scenes and saying what they show"
    if min(workers, len(tasks)) < 2:
        yield from progress(map(_chunk, tasks), total=len(tasks), text=text)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from progress(pool.map(_chunk, tasks), total=len(tasks), text=text)


def _chunk(task: tuple[str, range]) -> Drawn:
    world, indices = task
    scenes = [draw(index, world=world) for index in indices]
    middles = slice(64 // SEEN // 2, None, 64 // SEEN)
    shown = np.stack([codes(scene)[middles, middles] for scene in scenes])
    facts = [(THINGS.index(scene.main), SETTINGS.index(scene.setting)) for scene in scenes]
    return np.stack([scene.image for scene in scenes]), shown, facts, [sentences(scene, SAID) for scene in scenes]

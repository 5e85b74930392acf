"""Rendered scenes stored on disk, for training networks."""

import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from milan.console.progress import track_progress
from milan.diorama.scenes import draw_scene, parse_world
from milan.storage.files import atomic_write, new_array, wait_for_folder

CHUNK = 500
KINDS = ("colour", "pattern", "part", "object")
LABEL_GRID = 16  # side of the grid of places at which labels are stored


@dataclass(frozen=True)
class SceneArrays:
    """Scenes of one world, in the order of their indices.

    images: uint8 (n, 3, 64, 64); things, settings: int64 (n,), indices of the main thing and the setting;
    places: uint8 (n, 4, 16, 16), the labels at 16 x 16 places by KINDS.
    """

    images: np.ndarray
    things: np.ndarray
    settings: np.ndarray
    places: np.ndarray


def compute_drawing_checksum(count: int = 16, variant: str | None = None) -> str:
    """Return a checksum of the renderer: of pixels and labels of the first scenes of both worlds, 16 hexadecimal
    digits.
    """
    digest = hashlib.sha256()
    for world in ("objects", "scenes"):
        for index in range(count):
            scene = draw_scene(index, world=world, variant=variant)
            digest.update(scene.image.tobytes())
            for kind in sorted(scene.labels):
                digest.update(scene.labels[kind].tobytes())
    return digest.hexdigest()[:16]


def load_scene_arrays(world: str, start: int, count: int, folder: Path, workers: int | None = None) -> SceneArrays:
    """Render scenes ``start`` to ``start + count - 1`` of a world with all processors, or read those in ``folder``.

    world: "objects" or "scenes"; either may end in "-spurious" or "-blurred".
    """
    home = folder / f"{world}-{start}-{count}-{compute_drawing_checksum(variant=parse_world(world)[1])}"
    if not (home / "facts.npy").is_file():
        with wait_for_folder(home):
            if not (home / "facts.npy").is_file():  # drawn by another process meanwhile
                _draw_into(home, world, range(start, start + count), workers or os.cpu_count() or 1)
    facts = np.load(home / "facts.npy")
    return SceneArrays(
        np.load(home / "images.npy", mmap_mode="r"),
        facts[:, 0],
        facts[:, 1],
        np.load(home / "places.npy", mmap_mode="r"),
    )


def _draw_into(home: Path, world: str, indices: range, workers: int) -> None:
    chunks = [indices[first : first + CHUNK] for first in range(0, len(indices), CHUNK)]
    facts = np.zeros((len(indices), 2), dtype=np.int64)
    with atomic_write(home / "images.npy") as images_path, atomic_write(home / "places.npy") as places_path:
        images = new_array(images_path, np.uint8, (len(indices), 3, 64, 64))
        places = new_array(places_path, np.uint8, (len(indices), len(KINDS), LABEL_GRID, LABEL_GRID))
        for number, (pixels, known, seen) in enumerate(_draw_chunks(world, chunks, workers)):
            part = slice(number * CHUNK, number * CHUNK + len(pixels))
            images[part], facts[part], places[part] = pixels, known, seen
        images.flush()
        places.flush()
    with atomic_write(home / "facts.npy") as path:
        np.save(path, facts)


def _draw_chunks(world: str, chunks: list[range], workers: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    text = f"drawing {world}"
    if min(workers, len(chunks)) < 2:
        yield from track_progress(map(partial(_draw_chunk, world), chunks), total=len(chunks), description=text)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from track_progress(pool.map(partial(_draw_chunk, world), chunks), total=len(chunks), description=text)


def _draw_chunk(world: str, indices: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from milan.diorama.scene_vocabulary import SETTINGS, THINGS

    name, variant = parse_world(world)
    scenes = [draw_scene(index, world=name, variant=variant) for index in indices]
    middles = slice(64 // LABEL_GRID // 2, None, 64 // LABEL_GRID)
    places = [[scene.labels[kind][middles, middles] for kind in KINDS] for scene in scenes]
    facts = [(THINGS.index(scene.main), SETTINGS.index(scene.setting)) for scene in scenes]
    return np.stack([scene.image for scene in scenes]), np.array(facts), np.array(places, dtype=np.uint8)

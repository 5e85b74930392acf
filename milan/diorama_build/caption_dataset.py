"""What image-text models are trained on: scenes with sentences, and views of parts of them with short phrases.

Of every view and every phrase it is known whether the one shows the other, so that no pair in a batch counts as wrong
by chance.
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

from milan.console.progress import track_progress
from milan.diorama.label_signatures import LabelSignatures, encode_labels
from milan.diorama.scene_cache import compute_drawing_checksum
from milan.diorama.scene_vocabulary import SETTINGS, THINGS
from milan.diorama.scenes import WORLDS, draw_scene
from milan.diorama.sentences import generate_sentences
from milan.storage.files import atomic_write, new_array, wait_for_folder

CHUNK = 500
SENTENCES_PER_SCENE = 4  # sentences kept of each scene
LABEL_GRID = 32  # labels are kept at this many places a side


@dataclass(frozen=True)
class CaptionDataset:
    """Scenes of both worlds, those of "objects" first.

    images: uint8 (n, 3, 64, 64); signatures: what they show, at LABEL_GRID x LABEL_GRID places; sentences:
        SENTENCES_PER_SCENE sentences of each;
    things, settings: int64 (n,), indices of the main thing and the setting.
    """

    images: np.ndarray
    signatures: LabelSignatures
    sentences: list[list[str]]
    things: np.ndarray
    settings: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def has_concept(self) -> np.ndarray:
        """Which signature shows which concept, bool (signatures, concepts), in the order of ``concepts()``."""
        return self.signatures.has_concept.toarray().astype(bool)


def load_caption_dataset(start: int, count: int, folder: Path, workers: int | None = None) -> CaptionDataset:
    """Scenes ``start`` to ``start + count - 1`` of each world, drawn with all processors or found already drawn in
    ``folder``.
    """
    home = folder / f"captions-{start}-{count}-{compute_drawing_checksum()}"
    if not (home / "said.json").is_file():
        with wait_for_folder(home):
            if not (home / "said.json").is_file():  # drawn by another process meanwhile
                _draw_into(home, start, count, workers or os.cpu_count() or 1)
    facts = np.load(home / "facts.npy")
    signatures = LabelSignatures(np.load(home / "pixels.npy", mmap_mode="r"), np.load(home / "table.npy"))
    said = json.loads((home / "said.json").read_text())
    return CaptionDataset(np.load(home / "images.npy", mmap_mode="r"), signatures, said, facts[:, 0], facts[:, 1])


def _draw_into(home: Path, start: int, count: int, workers: int) -> None:
    tasks = [
        (world, range(first, min(first + CHUNK, start + count)))
        for world in WORLDS
        for first in range(start, start + count, CHUNK)
    ]
    with atomic_write(home / "images.npy") as path:
        images = new_array(path, np.uint8, (len(WORLDS) * count, 3, 64, 64))
        numbers: list[np.ndarray] = []
        facts: list[tuple[int, int]] = []
        said: list[list[str]] = []
        for pixels, shown, known, texts in _draw_chunks(tasks, workers):
            images[len(said) : len(said) + len(texts)] = pixels
            numbers.append(shown)
            facts += known
            said += texts
        images.flush()
    signatures = LabelSignatures.from_codes(np.concatenate(numbers))
    for name, array in (
        ("pixels", signatures.pixels),
        ("table", signatures.table),
        ("facts", np.array(facts, dtype=np.int64)),
    ):
        with atomic_write(home / f"{name}.npy") as path:
            np.save(path, array)
    with atomic_write(home / "said.json") as path:  # the last: it says that all is there
        path.write_text(json.dumps(said))


DrawnChunk = tuple[np.ndarray, np.ndarray, list[tuple[int, int]], list[list[str]]]


def _draw_chunks(tasks: list[tuple[str, range]], workers: int) -> Iterator[DrawnChunk]:
    text = "drawing scenes and saying what they show"
    if min(workers, len(tasks)) < 2:
        yield from track_progress(map(_draw_chunk, tasks), total=len(tasks), description=text)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from track_progress(pool.map(_draw_chunk, tasks), total=len(tasks), description=text)


def _draw_chunk(task: tuple[str, range]) -> DrawnChunk:
    world, indices = task
    scenes = [draw_scene(index, world=world) for index in indices]
    middles = slice(64 // LABEL_GRID // 2, None, 64 // LABEL_GRID)
    shown = np.stack([encode_labels(scene)[middles, middles] for scene in scenes])
    facts = [(THINGS.index(scene.main), SETTINGS.index(scene.setting)) for scene in scenes]
    return (
        np.stack([scene.image for scene in scenes]),
        shown,
        facts,
        [generate_sentences(scene, SENTENCES_PER_SCENE) for scene in scenes],
    )

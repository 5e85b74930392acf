"""The training data of image-text models: scenes with their labels and sentences."""

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
SENTENCES_PER_SCENE = 4
LABEL_GRID = 32  # side of the grid of places at which labels are stored


@dataclass(frozen=True)
class CaptionDataset:
    """Scenes of both worlds, those of "objects" first.

    Attributes:
        images: uint8 (n, 3, 64, 64).
        signatures: the labels at LABEL_GRID x LABEL_GRID places of each scene.
        sentences: SENTENCES_PER_SCENE sentences about each scene.
        things, settings: indices of the main thing and of the setting, int64 (n,).
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
        """Whether a signature shows a concept, bool (signatures, concepts), in the order of ``list_concepts()``."""
        return self.signatures.has_concept.toarray().astype(bool)


def load_caption_dataset(start: int, count: int, folder: Path, workers: int | None = None) -> CaptionDataset:
    """Return scenes ``start`` to ``start + count - 1`` of each world, rendered by all processors or read from disk.

    Args:
        start: index of the first scene of each world.
        count: number of scenes of each world.
        folder: folder in which rendered scenes are stored.
        workers: number of processes; by default one per processor, as far as there are CHUNK scenes for each.
    """
    home = folder / f"captions-{start}-{count}-{compute_drawing_checksum()}"
    if not (home / "said.json").is_file():
        with wait_for_folder(home):
            # Another process may have rendered them meanwhile.
            if not (home / "said.json").is_file():
                # A process takes as long to start as it takes to render CHUNK scenes.
                useful = len(WORLDS) * count // CHUNK
                _draw_into(home, start, count, workers or min(os.cpu_count() or 1, useful))
    facts = np.load(home / "facts.npy")
    signatures = LabelSignatures(np.load(home / "pixels.npy", mmap_mode="r"), np.load(home / "table.npy"))
    sentences = json.loads((home / "said.json").read_text())
    return CaptionDataset(np.load(home / "images.npy", mmap_mode="r"), signatures, sentences, facts[:, 0], facts[:, 1])


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
        sentences: list[list[str]] = []
        for pixels, codes, chunk_facts, texts in _draw_chunks(tasks, workers):
            images[len(sentences) : len(sentences) + len(texts)] = pixels
            numbers.append(codes)
            facts += chunk_facts
            sentences += texts
        images.flush()
    signatures = LabelSignatures.from_codes(np.concatenate(numbers))
    for name, array in (
        ("pixels", signatures.pixels),
        ("table", signatures.table),
        ("facts", np.array(facts, dtype=np.int64)),
    ):
        with atomic_write(home / f"{name}.npy") as path:
            np.save(path, array)
    # Written last: its presence means that all files are complete.
    with atomic_write(home / "said.json") as path:
        path.write_text(json.dumps(sentences))


DrawnChunk = tuple[np.ndarray, np.ndarray, list[tuple[int, int]], list[list[str]]]


def _draw_chunks(tasks: list[tuple[str, range]], workers: int) -> Iterator[DrawnChunk]:
    text = "rendering scenes and generating sentences"
    if min(workers, len(tasks)) < 2:
        yield from track_progress(map(_draw_chunk, tasks), total=len(tasks), description=text)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from track_progress(pool.map(_draw_chunk, tasks), total=len(tasks), description=text)


def _draw_chunk(task: tuple[str, range]) -> DrawnChunk:
    world, indices = task
    scenes = [draw_scene(index, world=world) for index in indices]
    middles = slice(64 // LABEL_GRID // 2, None, 64 // LABEL_GRID)
    codes = np.stack([encode_labels(scene)[middles, middles] for scene in scenes])
    facts = [(THINGS.index(scene.main), SETTINGS.index(scene.setting)) for scene in scenes]
    return (
        np.stack([scene.image for scene in scenes]),
        codes,
        facts,
        [generate_sentences(scene, SENTENCES_PER_SCENE) for scene in scenes],
    )

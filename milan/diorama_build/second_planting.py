"""Chooses what the units of ``planted-2`` detect: concepts, conjunctions and pairs that ``planted`` does not have.

Describers' settings are chosen on ``planted`` and reported on ``planted-2``.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from milan.diorama.planted_network import load_planted_truth
from milan.diorama.scene_concepts import list_concepts
from milan.diorama.segmenter_network import TRUNK_CHANNELS, load_scene_segmenter
from milan.diorama_build.planted_units import (
    MAX_AREA,
    MIN_IMAGES,
    PEAK_SCALE,
    DetectorPart,
    PlantedUnitSpec,
    SelectionScenes,
    drop_similar,
    fit_thresholds,
    measure_log_odds,
    phrase_concepts,
    write_recipe,
)

NAME = "planted-2"
# The scenes to choose on: other ones than those of ``planted``, and neither trained on nor part of a probe.
FIRST_SCENE, SCENES = 1_060_000, 1_000
COUNTS = {"single": 40, "conjunction": 40, "either": 40, "nothing": 40}
MAX_SINGLE_AREA = 0.06  # share of all pixels that a single concept may cover, six times that of ``planted``
MIN_SINGLE_IOU, MIN_CONJUNCTION_IOU, MIN_HALF_IOU = 0.3, 0.45, 0.5
MAX_HALF_RATIO = 3.0  # of the areas of the two halves of an either-or unit
# Blobs of noise cover about 7.4 squared radii where there is one, and MAX_AREA of all pixels.
RADII, BLOB_AREA, MAX_NOISE_RATE = (2.7, 8.0), 7.4, 0.6
IMAGE_PIXELS = 64 * 64
Names = tuple[str, ...]


def plant_second_units(data: Path, work: Path, *, seed: int = 0) -> list[PlantedUnitSpec]:
    """Choose what each unit of ``planted-2`` detects and write ``networks/planted-2.safetensors``.

    Segmenter and ``planted`` must be in ``data`` already. Returns the choices, in the order of the units; after them
    come the units of noise.
    """
    scenes = SelectionScenes(load_scene_segmenter(data), work, SCENES, FIRST_SCENE)
    planted = {each.concepts for each in load_planted_truth(data).values()}
    chosen, gains = choose_second_units(scenes, planted, seed)
    file = data / "networks" / f"{NAME}.safetensors"
    directions = torch.zeros(0, TRUNK_CHANNELS)
    write_recipe(file, chosen, gains, directions=directions, offsets=torch.zeros(0), noise=choose_noise(seed))
    return chosen


def choose_second_units(
    scenes: SelectionScenes, planted: set[Names], seed: int
) -> tuple[list[PlantedUnitSpec], dict[Names, float]]:
    """Return what the units detect, and each part's gain.

    Args:
        planted: the concepts of each unit of ``planted``, none of which is chosen again unless too few others are left.
    """
    rng = np.random.default_rng(seed + 1)
    names = list_candidates(scenes)
    counts, peaks = measure_log_odds(scenes, names)
    parts = fit_thresholds(scenes, names, counts, MAX_SINGLE_AREA)
    above = {part.names: np.maximum(0, peaks[:, row] - part.threshold) for row, part in enumerate(parts)}
    gains = {each: PEAK_SCALE / max(1.0, float(np.sort(values)[-8])) for each, values in above.items()}
    parts = [parts[row] for row in rng.permutation(len(parts)) if (above[parts[row].names] > 0).sum() >= MIN_IMAGES]
    # A stable sort, so that those of ``planted`` fill up what the others leave.
    fresh = sorted(parts, key=lambda part: part.names in planted)
    single = [part for part in fresh if len(part.names) == 1 and part.overlap >= MIN_SINGLE_IOU]
    joined = [part for part in fresh if len(part.names) == 2 and part.overlap >= MIN_CONJUNCTION_IOU]
    single = drop_similar(scenes, single, COUNTS["single"])
    joined = drop_similar(scenes, joined, COUNTS["conjunction"])
    things = [part for part in parts if len(part.names) == 1 and part.overlap >= MIN_HALF_IOU]
    looks = [part for part in parts if len(part.names) == 2 and part.overlap >= MIN_HALF_IOU]
    half = COUNTS["either"] // 2
    pairs = choose_pairs(scenes, things, things, planted, half) + choose_pairs(scenes, looks, things, planted, half)
    chosen = [PlantedUnitSpec("single", part.names, (part,), phrase_concepts(scenes, part.names)) for part in single]
    chosen += [
        PlantedUnitSpec("conjunction", part.names, (part,), phrase_concepts(scenes, part.names)) for part in joined
    ]
    for pair in pairs:
        text = " or ".join(phrase_concepts(scenes, part.names) for part in pair)
        chosen.append(PlantedUnitSpec("either", tuple(name for part in pair for name in part.names), pair, text))
    return chosen, gains


def list_candidates(scenes: SelectionScenes) -> list[Names]:
    """Return single concepts, and looks of things, that cover neither too little nor too much."""
    known, areas = list_concepts(), scenes.areas
    share = areas.diagonal()
    plain = [
        row
        for row, each in enumerate(known)
        if len({kind for kind, _ in each.members}) == 1 and each.name not in ("plain", "objects")
    ]
    singles: list[Names] = [
        (known[row].name,)
        for row in plain
        if 0.0002 < share[row] < MAX_SINGLE_AREA and not known[row].name.startswith("letter ")
    ]
    looks = [row for row in plain if known[row].kind in ("colour", "pattern") and known[row].name != "patterns"]
    things = [row for row in plain if known[row].kind in ("object", "part") and len(known[row].members) == 1]
    pairs: list[Names] = [
        (known[look].name, known[thing].name)
        for look in looks
        for thing in things
        if 0.0005 < areas[look, thing] < min(MAX_AREA, 0.6 * share[thing])
    ]
    return singles + pairs


def choose_pairs(
    scenes: SelectionScenes,
    first: Sequence[DetectorPart],
    second: Sequence[DetectorPart],
    planted: set[Names],
    count: int,
) -> list[tuple[DetectorPart, DetectorPart]]:
    """Return pairs that ``planted`` does not have, of parts without a common pixel that cover alike and little.

    No part is in more than two of the pairs, and none is the first of two.
    """
    masks = {part.names: scenes.mask(part.names) for part in {*first, *second} if phrase_concepts(scenes, part.names)}
    areas = {names: scenes.signatures.area[mask].sum() / scenes.pixel_count for names, mask in masks.items()}
    used: Counter[Names] = Counter()
    pairs: list[tuple[DetectorPart, DetectorPart]] = []

    def may_pair(one: Names, other: Names) -> bool:
        if used[other] > 1 or one == other or one + other in planted or other + one in planted:
            return False
        if areas[one] + areas[other] > MAX_AREA or (masks[one] & masks[other]).any():
            return False
        return max(areas[one], areas[other]) < MAX_HALF_RATIO * min(areas[one], areas[other])

    for part in first:
        others = [each for each in second if part.names in areas and each.names in areas]
        others = [each for each in others if may_pair(part.names, each.names)]
        if others and not used[part.names] and len(pairs) < count:
            pairs.append((part, min(others, key=lambda each: used[each.names])))
            used.update([part.names, pairs[-1][1].names])
    return pairs


def choose_noise(seed: int) -> Tensor:
    """Return, for each unit of noise, the share of images with a blob and the blobs' radius in pixels."""
    radii = np.random.default_rng(seed).uniform(*RADII, COUNTS["nothing"])
    rates = np.minimum(MAX_NOISE_RATE, 0.8 * MAX_AREA * IMAGE_PIXELS / (BLOB_AREA * radii**2))
    return torch.from_numpy(np.stack([rates, radii], axis=1)).float()

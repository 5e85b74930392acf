"""Chooses what the units of ``planted`` detect: concepts that the segmenter predicts well, on scenes of their own.

What ``planted-2`` detects is chosen in ``milan.diorama_build.second_planting``.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from milan.console.progress import track_progress
from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.planted_network import CLASSES, compute_log_odds
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.scene_concepts import Concept, get_concepts_by_name, list_concepts
from milan.diorama.scene_images import DioramaImages
from milan.diorama.scene_vocabulary import ADJECTIVES, GROUP_WORDS, get_synonyms
from milan.diorama.segmenter_network import (
    CLASS_NAMES,
    TRUNK_CHANNELS,
    SceneSegmenter,
    count_classes,
    get_first_label,
    load_scene_segmenter,
)
from milan.diorama.text_reader import parse_description
from milan.storage.files import atomic_write

FIRST_SCENE, SCENES = 1_050_000, 1_500  # scenes used neither for training or measuring nor in a probe
# Largest share of all pixels on which a unit is active, so that its 0.99 quantile is 0 on other scenes too.
MAX_AREA = 0.0095
LOG_ODDS_BINS = np.arange(-6.0, 12.5, 0.5)  # possible thresholds
MIN_IMAGES = 20  # smallest number of scenes in which a part is active
# Smallest IoU of single units, of conjunctions, and of the halves of either-or units.
MIN_SINGLE_IOU, MIN_CONJUNCTION_IOU, MIN_HALF_IOU = 0.4, 0.45, 0.5
MAX_SHARED_IOU = 0.6  # largest IoU of the pixels of two planted parts
COUNTS = {"single": 64, "conjunction": 24, "either": 24, "nothing": 10}
RANDOM_DIRECTIONS = 40  # random directions of which those with the smallest IoU with any concept are planted
K, MIN_HALF_EXEMPLARS = 15, 4  # exemplars, and the smallest number of each half of an either-or unit
PEAK_SCALE = 10.0  # activation of a part in the scene in which it is eighth strongest


@dataclass(frozen=True)
class DetectorPart:
    """Concepts that a pixel must show at once.

    Attributes:
        names: names of the concepts.
        overlap: IoU of the predicted pixels with those that show the concepts, 0..1.
        threshold: log-odds above which the part is active.
    """

    names: tuple[str, ...]
    overlap: float
    threshold: float


@dataclass(frozen=True)
class PlantedUnitSpec:
    """The concepts that a unit detects.

    Attributes:
        kind: "single", "conjunction", "either" or "nothing".
        names: names of the concepts.
        parts: one part, or the two of an either-or unit.
        text: the concepts in words.
    """

    kind: str
    names: tuple[str, ...]
    parts: tuple[DetectorPart, ...]
    text: str


class SelectionScenes:
    """The scenes on which units are chosen, with their labels and the segmenter's predictions."""

    def __init__(self, segmenter: SceneSegmenter, work: Path, length: int = SCENES, first: int = FIRST_SCENE):
        self.segmenter = segmenter
        self.images = DioramaImages("objects", first=first, length=length)
        self.signatures = LabelSignatures.from_images(self.images, work)

    @cached_property
    def pixel_count(self) -> int:
        """Number of pixels of all scenes."""
        return int(self.signatures.area.sum())

    @cached_property
    def areas(self) -> np.ndarray:
        """Shares of all pixels that show both of two concepts, (concepts, concepts)."""
        shows = self.signatures.has_concept
        weighted = shows.multiply(self.signatures.area[:, None].astype(np.float64)).tocsr()
        return np.asarray((shows.T @ weighted).todense()) / self.pixel_count

    def mask(self, names: Sequence[str]) -> np.ndarray:
        """Return whether each signature shows all of these concepts, bool (signatures,)."""
        return np.logical_and.reduce([self.signatures.concept_mask(get_concepts_by_name()[name]) for name in names])

    def iter_predictions(self) -> Iterator[tuple[np.ndarray, Tensor, dict[str, Tensor]]]:
        """Yield the pixels' signatures, the trunk's output and the segmenter's logits, 25 scenes at a time."""
        for start in track_progress(range(0, len(self.images), 25), description="predicting labels"):
            rows = range(start, min(start + 25, len(self.images)))
            pixels = torch.from_numpy(np.stack([self.images.image(row) for row in rows]))
            with torch.no_grad():
                trunk, setting = self.segmenter.forward_features(normalize_images(pixels))
                yield (
                    np.asarray(self.signatures.pixels[list(rows)]),
                    trunk,
                    self.segmenter.forward_heads(trunk, setting),
                )


def make_class_membership(names: Sequence[str]) -> Tensor:
    """Return whether each class of the segmenter belongs to each concept, 0 or 1, (names, 161)."""
    members = torch.zeros(len(names), CLASSES)
    starts = dict(zip(CLASS_NAMES, np.cumsum([0, *map(count_classes, CLASS_NAMES)]).tolist(), strict=False))
    for row, name in enumerate(names):
        for kind, member in get_concepts_by_name()[name].members:
            members[row, starts[kind] + CLASS_NAMES[kind].index(member) + 1 - get_first_label(kind)] = 1
    return members


def build_recipe(parts: Sequence[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
    """Return the classes of all terms of these parts, (terms, 161), and the terms of each part, (parts, terms)."""
    terms = list(dict.fromkeys(name for names in parts for name in names))
    joins = torch.tensor([[float(term in names) for term in terms] for names in parts])
    return make_class_membership(terms), joins


def list_candidates(scenes: SelectionScenes) -> list[tuple[str, ...]]:
    """Return rare concepts, and rare pairs of a colour or pattern with a thing that has others too."""
    known, areas = list_concepts(), scenes.areas
    share = areas.diagonal()
    plain = [
        i
        for i, each in enumerate(known)
        if len({kind for kind, _ in each.members}) == 1 and each.name not in ("plain", "objects")
    ]
    singles: list[tuple[str, ...]] = [
        (known[i].name,)
        for i in plain
        if 0.0002 < share[i] < 1.2 * MAX_AREA and not known[i].name.startswith("letter ")
    ]
    looks = [i for i in plain if known[i].kind in ("colour", "pattern") and known[i].name != "patterns"]
    things = [i for i in plain if known[i].kind in ("object", "part") and len(known[i].members) == 1]
    both: list[tuple[str, ...]] = [
        (known[i].name, known[j].name)
        for i in looks
        for j in things
        if 0.0005 < areas[i, j] < min(MAX_AREA, 0.6 * share[j])
    ]
    return singles + both


def measure_log_odds(scenes: SelectionScenes, names: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Measure the distribution of the segmenter's log-odds inside and outside of each part.

    Returns:
        Numbers of pixels in the bins of LOG_ODDS_BINS, (parts, 2, bins), outside first; and the largest log-odds in
        each scene, (scenes, parts).
    """
    members, joins = build_recipe(names)
    masks = np.stack([scenes.mask(each) for each in names])
    counts = np.zeros(len(names) * 2 * len(LOG_ODDS_BINS), dtype=np.int64)
    peaks = []
    for signatures, _, logits in scenes.iter_predictions():
        odds = compute_log_odds(logits, members, joins)
        peaks.append(odds.amax(dim=(2, 3)).numpy())
        scene, part, row, column = np.nonzero((odds >= LOG_ODDS_BINS[0]).numpy())
        bins = np.minimum(
            ((odds.numpy()[scene, part, row, column] - LOG_ODDS_BINS[0]) * 2).astype(np.int64), len(LOG_ODDS_BINS) - 1
        )
        inside = masks[part, signatures[scene, row, column]]
        counts += np.bincount((part * 2 + inside) * len(LOG_ODDS_BINS) + bins, minlength=len(counts))
    return counts.reshape(len(names), 2, -1), np.concatenate(peaks)


def fit_thresholds(
    scenes: SelectionScenes, names: Sequence[tuple[str, ...]], counts: np.ndarray, max_area: float = MAX_AREA
) -> list[DetectorPart]:
    """Return each part with the threshold at which it overlaps most with its concepts.

    Thresholds at which the part is active on more than ``max_area`` of all pixels do not count.
    """
    above = counts[:, :, ::-1].cumsum(2)[:, :, ::-1]
    area = np.array([scenes.signatures.area[scenes.mask(each)].sum() for each in names])
    overlaps = above[:, 1] / np.maximum(1, area[:, None] + above[:, 0])
    overlaps[above.sum(1) > max_area * scenes.pixel_count] = 0
    best = overlaps.argmax(1)
    return [
        DetectorPart(each, float(overlaps[row, best[row]]), float(LOG_ODDS_BINS[best[row]]))
        for row, each in enumerate(names)
    ]


def choose_planted_units(
    scenes: SelectionScenes, seed: int
) -> tuple[list[PlantedUnitSpec], dict[tuple[str, ...], float]]:
    """Return what the units detect, and the gain of each part."""
    names = list_candidates(scenes)
    counts, peaks = measure_log_odds(scenes, names)
    parts = fit_thresholds(scenes, names, counts)
    often = {part.names: int((peaks[:, row] > part.threshold).sum()) for row, part in enumerate(parts)}
    known = sorted(
        (part for part in parts if often[part.names] >= MIN_IMAGES), key=lambda part: (-part.overlap, part.names)
    )
    above = {part.names: np.maximum(0, peaks[:, row] - part.threshold) for row, part in enumerate(parts)}
    gains = {each: PEAK_SCALE / max(1.0, float(np.sort(values)[-8])) for each, values in above.items()}
    single = drop_similar(
        scenes, [part for part in known if len(part.names) == 1 and part.overlap >= MIN_SINGLE_IOU], COUNTS["single"]
    )
    joined = drop_similar(
        scenes,
        [part for part in known if len(part.names) == 2 and part.overlap >= MIN_CONJUNCTION_IOU],
        COUNTS["conjunction"],
    )
    halves = [part for part in single if part.overlap >= MIN_HALF_IOU]
    pairs = _choose_pairs(scenes, halves, {each: values * gains[each] for each, values in above.items()}, seed)
    chosen = [PlantedUnitSpec("single", part.names, (part,), phrase_concepts(scenes, part.names)) for part in single]
    chosen += [
        PlantedUnitSpec("conjunction", part.names, (part,), phrase_concepts(scenes, part.names)) for part in joined
    ]
    chosen += [
        PlantedUnitSpec(
            "either",
            a.names + b.names,
            (a, b),
            f"{phrase_concepts(scenes, a.names)} or {phrase_concepts(scenes, b.names)}",
        )
        for a, b in pairs
    ]
    return chosen, gains


def drop_similar(scenes: SelectionScenes, parts: Sequence[DetectorPart], count: int) -> list[DetectorPart]:
    """Return the first parts that do not cover much the same pixels as one before, at most three of each concept."""
    taken: list[tuple[DetectorPart, np.ndarray]] = []
    area = scenes.signatures.area
    for part in parts:
        mask = scenes.mask(part.names)
        same = any(area[mask & other].sum() > MAX_SHARED_IOU * area[mask | other].sum() for _, other in taken)
        used = [sum(name in other.names for other, _ in taken) for name in part.names]
        if not same and max(used) < 3 and phrase_concepts(scenes, part.names) and len(taken) < count:
            taken.append((part, mask))
    return [part for part, _ in taken]


def _choose_pairs(
    scenes: SelectionScenes, halves: Sequence[DetectorPart], peaks: dict[tuple[str, ...], np.ndarray], seed: int
) -> list[tuple[DetectorPart, DetectorPart]]:
    """Return pairs of concepts for either-or units; no concept is in more than two pairs.

    The two concepts share no pixel, cover together at most the area of a unit, and share its strongest scenes.
    """
    index = {concept.name: row for row, concept in enumerate(list_concepts())}
    used: Counter[DetectorPart] = Counter()
    pairs: list[tuple[DetectorPart, DetectorPart]] = []
    for a in (halves[i] for i in np.random.default_rng(seed).permutation(len(halves))):
        partners = [
            b
            for b in halves
            if used[b] < 2 and _may_pair(scenes, index, a, b) and _both_have_enough(peaks[a.names], peaks[b.names])
        ]
        if partners and not used[a] and len(pairs) < COUNTS["either"]:
            pairs.append((a, min(partners, key=lambda part: used[part])))
            used.update(pairs[-1])
    return pairs


def _may_pair(scenes: SelectionScenes, index: dict[str, int], a: DetectorPart, b: DetectorPart) -> bool:
    one, other = index[a.names[0]], index[b.names[0]]
    areas = scenes.areas
    wide, narrow = max(areas[one, one], areas[other, other]), min(areas[one, one], areas[other, other])
    return areas[one, other] == 0 and wide + narrow < 0.9 * MAX_AREA and wide < 3 * narrow


def _both_have_enough(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether each of two parts is the stronger one in enough of their strongest scenes."""
    top = np.argsort(-np.maximum(a, b), kind="stable")[:K]
    first = int((a[top] > b[top]).sum())
    return MIN_HALF_EXEMPLARS <= first <= K - MIN_HALF_EXEMPLARS


def phrase_concepts(scenes: SelectionScenes, names: Sequence[str]) -> str:
    """Return words that are parsed as exactly these concepts; empty if there are none."""
    mask = scenes.mask(names)
    for text in _iter_phrases([get_concepts_by_name()[name] for name in names]):
        reading = parse_description(text)
        if reading.concept_count == len(names) and np.array_equal(scenes.signatures.text_mask(reading), mask):
            return text
    return ""


def _iter_phrases(concepts: Sequence[Concept]) -> Iterator[str]:
    if len(concepts) == 1:
        yield from (*get_synonyms(concepts[0].name), *GROUP_WORDS.get(concepts[0].name, ()))
        return
    look, thing = concepts
    looks = (ADJECTIVES.get(look.name, "striped" if look.name == "stripes" else look.name), look.name)
    yield from (f"{one} {other}" for one in looks for other in get_synonyms(thing.name))


def choose_random_directions(scenes: SelectionScenes, seed: int) -> tuple[Tensor, Tensor]:
    """Return weights and offsets of the random directions of the trunk that overlap least with any concept.

    The overlap is the largest IoU of a concept with the hundredth of the places where the direction is strongest.
    """
    every = torch.randn(RANDOM_DIRECTIONS, TRUNK_CHANNELS, generator=torch.Generator().manual_seed(seed))
    some = torch.cat(
        [trunk[:, :, ::8, ::8].transpose(0, 1).flatten(1) for _, trunk, _ in scenes.iter_predictions()], dim=1
    )
    mean, deviation = some.mean(1), some.std(1).clamp(min=1e-3)
    weights = every / deviation / TRUNK_CHANNELS**0.5
    offsets = -(weights * mean).sum(1)
    values = weights @ some + offsets[:, None]
    signatures = np.asarray(scenes.signatures.pixels[:, ::8, ::8]).ravel()
    best = _compute_best_overlaps(
        (values > values.quantile(0.99, dim=1, keepdim=True)).numpy(),
        scenes.signatures.has_concept.toarray()[signatures],
    )
    order = torch.from_numpy(np.argsort(best, kind="stable")[: COUNTS["nothing"]].copy())
    return weights[order], offsets[order]


def _compute_best_overlaps(masks: np.ndarray, has_concept: np.ndarray) -> np.ndarray:
    """Return the largest IoU of each mask (units, pixels) with any concept (pixels, concepts)."""
    both = masks.astype(np.float32) @ has_concept.astype(np.float32)
    return np.asarray((both / np.maximum(1, masks.sum(1)[:, None] + has_concept.sum(0) - both)).max(1))


def plant_units(data: Path, work: Path, *, seed: int = 0) -> list[PlantedUnitSpec]:
    """Choose what each unit of ``planted`` detects and write ``networks/planted.safetensors``.

    The segmenter must be in ``data`` already. Returns the choices, in the order of the units; after them come the units
    of random directions.
    """
    scenes = SelectionScenes(load_scene_segmenter(data), work)
    chosen, gains = choose_planted_units(scenes, seed)
    weights, offsets = choose_random_directions(scenes, seed)
    write_recipe(data / "networks" / "planted.safetensors", chosen, gains, directions=weights, offsets=offsets)
    return chosen


def write_recipe(
    file: Path, chosen: Sequence[PlantedUnitSpec], gains: dict[tuple[str, ...], float], **others: Tensor
) -> None:
    """Write what ``milan.diorama.planted_network.ConceptUnits`` needs; ``others`` are the units that detect nothing."""
    parts = list(dict.fromkeys(part for choice in chosen for part in choice.parts))
    members, joins = build_recipe([part.names for part in parts])
    rows = [[parts.index(choice.parts[0]), parts.index(choice.parts[-1])] for choice in chosen]
    recipe = {"members": members, "joins": joins, "thresholds": torch.tensor([part.threshold for part in parts]),
              "gains": torch.tensor([gains[part.names] for part in parts]), **others}  # fmt: skip
    with atomic_write(file) as path:
        save_file({**{name: value.half() for name, value in recipe.items()}, "choices": torch.tensor(rows)}, path)

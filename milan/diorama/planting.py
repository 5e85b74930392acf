"""Chooses what the units of ``planted`` are to detect: what the labeller tells well, on scenes of their own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from milan.diorama.census import Census
from milan.diorama.concepts import Concept, by_name, concepts, read
from milan.diorama.labeller import NAMES, TRUNK, Labeller, classes, first_label, load_labeller
from milan.diorama.names import ADJECTIVES, GROUP_WORDS, words_for
from milan.diorama.planted import CLASSES, log_odds
from milan.diorama.probe import DioramaImages
from milan.diorama.training import prepared
from milan.progress import progress
from milan.storage import atomic

FIRST, SCENES = 1_050_000, 1_500  # the scenes to choose on: neither trained on, checked with, nor of a probe
WIDEST = 0.0095  # share of all pixels that a unit may answer at, so that its 0.99 quantile is 0 on other scenes too
EDGES = np.arange(-6.0, 12.5, 0.5)  # log-odds from which a unit may answer
IMAGES = 20  # in how many of the scenes a concept must be seen, at least
SINGLE, JOINED, HALF = 0.4, 0.45, 0.5  # IoU asked of single units, of conjunctions and of the halves of either-or units
ALIKE = 0.6  # IoU of two concepts' pixels from which they are too much the same to be planted both
COUNTS = {"single": 64, "conjunction": 24, "either": 24, "nothing": 10}
TRIED = 40  # random directions, of which those that fit a concept least are planted
K, LEAST = 15, 4  # exemplars, and how many of them each half of an either-or unit must have
LOUD = 10.0  # what a part's peak in the scene it is eighth strongest in is scaled to


@dataclass(frozen=True)
class Part:
    """Concepts that must hold at once, how well they are told, and from which log-odds."""

    names: tuple[str, ...]
    overlap: float
    threshold: float


@dataclass(frozen=True)
class Choice:
    """What one unit is to detect."""

    kind: str
    names: tuple[str, ...]
    parts: tuple[Part, ...]
    text: str


class Nursery:
    """The scenes on which units are chosen, what they show, and what the labeller makes of them."""

    def __init__(self, labeller: Labeller, work: Path, length: int = SCENES):
        self.labeller = labeller
        self.images = DioramaImages("objects", first=FIRST, length=length)
        self.census = Census.of(self.images, work)

    @cached_property
    def pixels(self) -> int:
        return int(self.census.area.sum())

    @cached_property
    def areas(self) -> np.ndarray:
        """Shares of all pixels that show both of two concepts, (concepts, concepts)."""
        shows = self.census.shows
        weighted = shows.multiply(self.census.area[:, None].astype(np.float64)).tocsr()
        return np.asarray((shows.T @ weighted).todense()) / self.pixels

    def mask(self, names: Sequence[str]) -> np.ndarray:
        """Which signatures show all of these concepts, bool (signatures,)."""
        return np.logical_and.reduce([self.census.mask(by_name()[name]) for name in names])

    def seen(self) -> Iterator[tuple[np.ndarray, Tensor, dict[str, Tensor]]]:
        """Signatures of the pixels, the trunk's output and the labeller's logits, 25 scenes at a time."""
        for start in progress(range(0, len(self.images), 25), text="what the labeller tells"):
            rows = range(start, min(start + 25, len(self.images)))
            pixels = torch.from_numpy(np.stack([self.images.image(row) for row in rows]))
            with torch.no_grad():
                trunk, setting = self.labeller.features(prepared(pixels))
                yield np.asarray(self.census.pixels[list(rows)]), trunk, self.labeller.judged(trunk, setting)


def members(names: Sequence[str]) -> Tensor:
    """Which of the labeller's classes make up each concept, 0 or 1, (names, 161)."""
    found = torch.zeros(len(names), CLASSES)
    starts = dict(zip(NAMES, np.cumsum([0, *map(classes, NAMES)]).tolist(), strict=False))
    for row, name in enumerate(names):
        for kind, member in by_name()[name].members:
            found[row, starts[kind] + NAMES[kind].index(member) + 1 - first_label(kind)] = 1
    return found


def recipe_of(parts: Sequence[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
    """The members of all terms of these parts, (terms, 161), and which terms each part joins, (parts, terms)."""
    terms = list(dict.fromkeys(name for names in parts for name in names))
    joins = torch.tensor([[float(term in names) for term in terms] for names in parts])
    return members(terms), joins


def candidates(nursery: Nursery) -> list[tuple[str, ...]]:
    """Concepts that cover little, and colours or patterns of objects or parts that do and are not the only ones those have."""
    known, areas = concepts(), nursery.areas
    share = areas.diagonal()
    plain = [i for i, each in enumerate(known) if len({kind for kind, _ in each.members}) == 1 and each.name not in ("plain", "objects")]
    singles: list[tuple[str, ...]] = [
        (known[i].name,) for i in plain if 0.0002 < share[i] < 1.2 * WIDEST and not known[i].name.startswith("letter ")
    ]
    looks = [i for i in plain if known[i].kind in ("colour", "pattern") and known[i].name != "patterns"]
    things = [i for i in plain if known[i].kind in ("object", "part") and len(known[i].members) == 1]
    both: list[tuple[str, ...]] = [
        (known[i].name, known[j].name) for i in looks for j in things if 0.0005 < areas[i, j] < min(WIDEST, 0.6 * share[j])
    ]
    return singles + both


def tell(nursery: Nursery, names: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """How the labeller's log-odds of each part lie inside and outside of it.

    Returns pixel counts by bins of EDGES, (parts, 2, bins), outside first; and the peak in each scene, (scenes, parts).
    """
    whom, joins = recipe_of(names)
    where = np.stack([nursery.mask(each) for each in names])
    counts = np.zeros(len(names) * 2 * len(EDGES), dtype=np.int64)
    peaks = []
    for signatures, _, judged in nursery.seen():
        odds = log_odds(judged, whom, joins)
        peaks.append(odds.amax(dim=(2, 3)).numpy())
        scene, part, row, column = np.nonzero((odds >= EDGES[0]).numpy())
        bins = np.minimum(((odds.numpy()[scene, part, row, column] - EDGES[0]) * 2).astype(np.int64), len(EDGES) - 1)
        inside = where[part, signatures[scene, row, column]]
        counts += np.bincount((part * 2 + inside) * len(EDGES) + bins, minlength=len(counts))
    return counts.reshape(len(names), 2, -1), np.concatenate(peaks)


def fitted(nursery: Nursery, names: Sequence[tuple[str, ...]], counts: np.ndarray) -> list[Part]:
    """The threshold of each part at which it overlaps most with what it stands for, among those that leave it sparse enough."""
    above = counts[:, :, ::-1].cumsum(2)[:, :, ::-1]
    area = np.array([nursery.census.area[nursery.mask(each)].sum() for each in names])
    overlaps = above[:, 1] / np.maximum(1, area[:, None] + above[:, 0])
    overlaps[above.sum(1) > WIDEST * nursery.pixels] = 0
    best = overlaps.argmax(1)
    return [Part(each, float(overlaps[row, best[row]]), float(EDGES[best[row]])) for row, each in enumerate(names)]


def choose(nursery: Nursery, seed: int) -> tuple[list[Choice], dict[tuple[str, ...], float]]:
    """What the units are to detect, and each part's gain."""
    names = candidates(nursery)
    counts, peaks = tell(nursery, names)
    parts = fitted(nursery, names, counts)
    often = {part.names: int((peaks[:, row] > part.threshold).sum()) for row, part in enumerate(parts)}
    known = sorted((part for part in parts if often[part.names] >= IMAGES), key=lambda part: (-part.overlap, part.names))
    above = {part.names: np.maximum(0, peaks[:, row] - part.threshold) for row, part in enumerate(parts)}
    gains = {each: LOUD / max(1.0, float(np.sort(values)[-8])) for each, values in above.items()}
    single = _different(nursery, [part for part in known if len(part.names) == 1 and part.overlap >= SINGLE], COUNTS["single"])
    joined = _different(nursery, [part for part in known if len(part.names) == 2 and part.overlap >= JOINED], COUNTS["conjunction"])
    halves = [part for part in single if part.overlap >= HALF]
    pairs = _pairs(nursery, halves, {each: values * gains[each] for each, values in above.items()}, seed)
    chosen = [Choice("single", part.names, (part,), told(nursery, part.names)) for part in single]
    chosen += [Choice("conjunction", part.names, (part,), told(nursery, part.names)) for part in joined]
    chosen += [Choice("either", a.names + b.names, (a, b), f"{told(nursery, a.names)} or {told(nursery, b.names)}") for a, b in pairs]
    return chosen, gains


def _different(nursery: Nursery, parts: Sequence[Part], count: int) -> list[Part]:
    """The first that are not much the same pixels as one before; of a thing or a look no more than three."""
    taken: list[tuple[Part, np.ndarray]] = []
    area = nursery.census.area
    for part in parts:
        mask = nursery.mask(part.names)
        same = any(area[mask & other].sum() > ALIKE * area[mask | other].sum() for _, other in taken)
        used = [sum(name in other.names for other, _ in taken) for name in part.names]
        if not same and max(used) < 3 and told(nursery, part.names) and len(taken) < count:
            taken.append((part, mask))
    return [part for part, _ in taken]


def _pairs(nursery: Nursery, halves: Sequence[Part], loud: dict[tuple[str, ...], np.ndarray], seed: int) -> list[tuple[Part, Part]]:
    """Pairs of concepts without a pixel in common that cover together what one unit may, and share the strongest scenes.

    No concept is in more than two of them.
    """
    index = {concept.name: row for row, concept in enumerate(concepts())}
    used: Counter[Part] = Counter()
    found: list[tuple[Part, Part]] = []
    for a in (halves[i] for i in np.random.default_rng(seed).permutation(len(halves))):
        may = [b for b in halves if used[b] < 2 and _may_pair(nursery, index, a, b) and _shared(loud[a.names], loud[b.names])]
        if may and not used[a] and len(found) < COUNTS["either"]:
            found.append((a, min(may, key=lambda part: used[part])))
            used.update(found[-1])
    return found


def _may_pair(nursery: Nursery, index: dict[str, int], a: Part, b: Part) -> bool:
    one, other = index[a.names[0]], index[b.names[0]]
    areas = nursery.areas
    wide, narrow = max(areas[one, one], areas[other, other]), min(areas[one, one], areas[other, other])
    return areas[one, other] == 0 and wide + narrow < 0.9 * WIDEST and wide < 3 * narrow


def _shared(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether each of two parts has its due of the scenes in which either is loudest."""
    top = np.argsort(-np.maximum(a, b), kind="stable")[:K]
    first = int((a[top] > b[top]).sum())
    return LEAST <= first <= K - LEAST


def told(nursery: Nursery, names: Sequence[str]) -> str:
    """Words that read back as exactly these concepts; empty if there are none."""
    wanted = nursery.mask(names)
    for text in _phrases([by_name()[name] for name in names]):
        reading = read(text)
        if reading.length == len(names) and np.array_equal(nursery.census.meant(reading), wanted):
            return text
    return ""


def _phrases(wanted: Sequence[Concept]) -> Iterator[str]:
    if len(wanted) == 1:
        yield from (*words_for(wanted[0].name), *GROUP_WORDS.get(wanted[0].name, ()))
        return
    look, thing = wanted
    looks = (ADJECTIVES.get(look.name, "striped" if look.name == "stripes" else look.name), look.name)
    yield from (f"{one} {other}" for one in looks for other in words_for(thing.name))


def directions(nursery: Nursery, seed: int) -> tuple[Tensor, Tensor]:
    """Random directions of the trunk whose strongest hundredth overlaps least with any concept, as weights and offsets."""
    every = torch.randn(TRIED, TRUNK, generator=torch.Generator().manual_seed(seed))
    some = torch.cat([trunk[:, :, ::8, ::8].transpose(0, 1).flatten(1) for _, trunk, _ in nursery.seen()], dim=1)
    mean, deviation = some.mean(1), some.std(1).clamp(min=1e-3)
    weights = every / deviation / TRUNK**0.5
    offsets = -(weights * mean).sum(1)
    values = weights @ some + offsets[:, None]
    signatures = np.asarray(nursery.census.pixels[:, ::8, ::8]).ravel()
    best = _best_overlaps((values > values.quantile(0.99, dim=1, keepdim=True)).numpy(), nursery.census.shows.toarray()[signatures])
    order = torch.from_numpy(np.argsort(best, kind="stable")[: COUNTS["nothing"]].copy())
    return weights[order], offsets[order]


def _best_overlaps(masks: np.ndarray, shows: np.ndarray) -> np.ndarray:
    """The largest IoU of each mask (units, pixels) with what any concept shows (pixels, concepts)."""
    both = masks.astype(np.float32) @ shows.astype(np.float32)
    return np.asarray((both / np.maximum(1, masks.sum(1)[:, None] + shows.sum(0) - both)).max(1))


def plant(data: Path, work: Path, *, seed: int = 0) -> list[Choice]:
    """Chooses what each unit is to detect and writes ``networks/planted.safetensors``; the segmenter must be in ``data`` already.

    Returns the choices, in the order of the units; after them come the units that mean nothing.
    """
    nursery = Nursery(load_labeller(data), work)
    chosen, gains = choose(nursery, seed)
    parts = list(dict.fromkeys(part for choice in chosen for part in choice.parts))
    whom, joins = recipe_of([part.names for part in parts])
    weights, offsets = directions(nursery, seed)
    rows = [[parts.index(choice.parts[0]), parts.index(choice.parts[-1])] for choice in chosen]
    recipe = {"members": whom, "joins": joins, "thresholds": torch.tensor([part.threshold for part in parts]),
              "gains": torch.tensor([gains[part.names] for part in parts]), "directions": weights, "offsets": offsets}  # fmt: skip
    with atomic(data / "networks" / "planted.safetensors") as path:
        save_file({**{name: value.half() for name, value in recipe.items()}, "choices": torch.tensor(rows)}, path)
    return chosen

"""Batches of pictures and texts for training image-text models, and the truth of every pair in them.

Most of what is seen are whole scenes; the rest are crops and pictures of which all but a region is covered, as describers show them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn.functional import grid_sample

from milan.diorama.census import KINDS
from milan.diorama.concepts import ALL_KINDS, Concept, by_name, concepts
from milan.diorama.dice import Dice
from milan.diorama.lessons import SEEN, Lessons
from milan.diorama.names import ADJECTIVES, COLOURS, GROUPS, THINGS, words_for
from milan.diorama.phrases import FINE, phrase

GRID = 8  # places a side at which a batch tells what is there
MAIN = 40  # places of SEEN x SEEN from which a thing is the main one
ENOUGH = 5  # places of SEEN x SEEN from which a concept counts as shown; fewer, but some, count neither way
WHOLE, CROPPED, COVERED = 60, 15, 15  # percent of the views; the rest are both cropped and covered
SENTENCES = 55  # percent of whole scenes that are said in a sentence, the others by one thing they show
RIVALS = 0.5  # share of the phrases that are joined by one that says something else of the same
PREFIXES = ("a photo of", "a picture of", "an image of", "a close-up of", "a photo of the")
COVERS = (0, 0, 0, 127, 255)  # what lies over the rest
RELATED = (("object",), ("object",), ("object", "part"), ("part",), ("colour",), ("colour", "pattern"), ("pattern",))  # regions
SINGLE = ("object", "object", "part", "part", "colour", "pattern", "text", "setting")
GROUP_OF = {member: name for name, members in GROUPS.items() for member in members if name not in ("objects", "backgrounds", "outdoors")}
VARIANTS = 12  # ways of saying one thing
SIDE = {kind: KINDS.index(kind) for kind in KINDS}


@dataclass(frozen=True)
class Batch:
    """images: uint8 (b, 3, 64, 64); texts: each once; own: int64 (b,), which text each picture came with;
    truth: int8 (b, texts), 1 shows it, 0 does not, -1 undecided; shows: the same of all concepts, int8 (b, concepts);
    looks: int64 (b, 3), the thing of which most shows, by THINGS, its colour and its pattern, or -1 each;
    places: uint8 (b, 8, 8, 6), the labels in the order of the census' KINDS, 0 where covered."""

    images: Tensor
    texts: list[str]
    own: Tensor
    truth: Tensor
    shows: Tensor
    looks: Tensor
    places: Tensor


class Views:
    """Draws batches from lessons; the batch of a number is the same whenever it is asked for.

    names: how many names of things and of other concepts each batch asks for besides, whether they show or not.
    """

    def __init__(self, lessons: Lessons, size: int, seed: int = 0, names: int = 0):
        self.lessons, self.size, self.seed, self.names = lessons, size, seed, names
        self._number = {concept.name: number for number, concept in enumerate(concepts())}
        self._said: dict[tuple[Concept, ...], list[str]] = {}
        self.table = lessons.census.table
        self._things = self.table[:, SIDE["object"]]
        self._things = (self._things > 0) & (self._things <= len(THINGS))

    @property
    def steps(self) -> int:
        """How many batches make a round: each scene of one big thing is shown once, and every third of the others."""
        return (len(self.lessons) // 2 + len(self.lessons) // 6) // self.size

    def rows(self, step: int) -> tuple[np.ndarray, np.random.Generator]:
        """Which scenes a batch shows, int64 (b,), and the dice that decide how."""
        epoch, place = divmod(step, self.steps)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.lessons))
        half, third = len(order) // 2, len(order) // 6
        order = order[(order < half) | (np.cumsum(order >= half) <= third)]  # settings are learnt in no time
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(order)
        return np.sort(order[place * self.size : (place + 1) * self.size]), np.random.default_rng((self.seed, epoch, place))

    def batch(self, step: int) -> Batch:
        """One batch, by its number."""
        rows, dice = self.rows(step)
        shown = [self._view(self.lessons.census.pixels[row], dice) for row in rows]
        images = seen(torch.from_numpy(self.lessons.images[rows]), shown, dice)
        texts = [self.text(row, view, dice) for row, view in zip(rows.tolist(), shown, strict=True)]
        known: dict[str, tuple[Concept, ...]] = {}
        for text, named in texts:
            known.setdefault(text, named)
        for text, named in [self._rival(*each, dice) for each in texts if dice.random() < RIVALS]:
            if text:
                known.setdefault(text, named)
        for number in range(self.names):
            asked = by_name()[THINGS[dice.integers(len(THINGS))]] if number % 2 else concepts()[dice.integers(len(concepts()))]
            known.setdefault(self._phrase((asked,), dice), (asked,))
        truth, shows = self._truth(shown, list(known.values()))
        place_of = {text: number for number, text in enumerate(known)}
        own = np.array([place_of[text] for text, _ in texts])
        truth[np.arange(len(own)), own] = 1
        looks = np.array([self.looks(view) for view in shown])
        facts = [torch.from_numpy(array) for array in (own, truth, shows, looks, self.places(shown))]
        return Batch(images, list(known), *facts)

    def places(self, shown: "list[View]") -> np.ndarray:
        """The labels at GRID x GRID places of each view, uint8 (views, GRID, GRID, 6), 0 where covered."""
        middles = slice(SEEN // GRID // 2, None, SEEN // GRID)
        codes = np.stack([view.codes[middles, middles] for view in shown])
        return np.where(codes[..., None] < 0, 0, self.table[codes])

    def crop(self, codes: np.ndarray, dice: np.random.Generator) -> "View":
        """A square around something that shows."""
        box = _around(self._region(codes, dice), dice)
        return View(_cut(codes, box), None, box)

    def _view(self, codes: np.ndarray, dice: np.random.Generator) -> "View":
        kind = dice.integers(100)
        if kind < WHOLE:
            return View(np.asarray(codes), None, (0.0, 0.0, 64.0))
        region = self._region(codes, dice)
        covered = kind >= WHOLE + CROPPED
        box = _around(region, dice) if not WHOLE + CROPPED <= kind < WHOLE + CROPPED + COVERED else (0.0, 0.0, 64.0)
        if not covered:
            return View(_cut(codes, box), None, box)
        lit = binary_dilation(region, iterations=int(dice.integers(1, 4))) if dice.random() < 0.8 else region
        return View(_cut(np.where(lit, codes, -1), box), lit, box)

    def _region(self, codes: np.ndarray, dice: np.random.Generator) -> np.ndarray:
        """Where something of the scene is, or a patch of no meaning, bool (SEEN, SEEN)."""
        if dice.random() < 0.2:
            return _blob(dice)
        found = np.unique(codes)
        things = found[self._things[found]]
        anchor = dice.choice(things if len(things) and dice.random() < 0.75 else found)
        region = np.ones(codes.shape, dtype=bool)
        for kind in RELATED[dice.integers(len(RELATED))]:
            region &= self.table[codes, SIDE[kind]] == self.table[anchor, SIDE[kind]]
        return region if region.sum() >= ENOUGH else _blob(dice)

    def text(self, row: int, view: "View", dice: np.random.Generator) -> tuple[str, tuple[Concept, ...]]:
        """A text that is true of the view, and the concepts it names; none for a sentence."""
        if view.whole and dice.integers(100) < SENTENCES:
            return self.lessons.said[row][dice.integers(len(self.lessons.said[row]))], ()
        found, counts = view.counts
        often = found[counts >= ENOUGH]
        things = often[self._things[often]]
        choices = things if len(things) and dice.random() < 0.6 else often if len(often) else found
        signature = dice.choice(choices) if len(choices) else 0
        named = self._named(self.table[signature], view.whole, dice)
        return self._phrase(named, dice), named

    def _phrase(self, named: tuple[Concept, ...], dice: np.random.Generator) -> str:
        if named not in self._said:
            self._said[named] = _ways(named)
        said = self._said[named]
        text = said[dice.integers(len(said))]
        return f"{PREFIXES[dice.integers(len(PREFIXES))]} {text}" if dice.random() < 0.2 else text

    def _named(self, labels: np.ndarray, whole: bool, dice: np.random.Generator) -> tuple[Concept, ...]:
        """One or two concepts of a signature."""
        has = {kind for kind in KINDS if labels[SIDE[kind]] and (kind != "setting" or whole)}
        if labels[SIDE["pattern"]] == 1 and dice.random() < 0.85:
            has.discard("pattern")  # nearly everything is plain
        pairs = sorted(pair for pair in FINE if set(pair) <= has)
        if pairs and dice.random() < 0.45:
            kinds: tuple[str, ...] = pairs[dice.integers(len(pairs))]
        else:
            single = [kind for kind in SINGLE if kind in has]
            kinds = (single[dice.integers(len(single))],) if single else ("colour",)
        return tuple(self._concept(kind, int(labels[SIDE[kind]]), dice) for kind in kinds)

    def _concept(self, kind: str, label: int, dice: np.random.Generator) -> Concept:
        name = ALL_KINDS[kind][max(label, 1) - 1]
        if kind == "text":
            return by_name()["text" if dice.random() < 0.7 else f"letter {name}"]
        group = GROUP_OF.get((kind, name))
        return by_name()[group if group and dice.random() < 0.12 else name]

    def _rival(self, text: str, named: tuple[Concept, ...], dice: np.random.Generator) -> tuple[str, tuple[Concept, ...]]:
        """A text that says something else of the same: another colour, pattern or thing; nothing if there is no such text."""
        if not named:
            words = text.split()
            coloured = [place for place, word in enumerate(words) if word in COLOURS]
            if not coloured:
                return "", ()
            place = coloured[dice.integers(len(coloured))]
            other = COLOURS[(COLOURS.index(words[place]) + dice.integers(1, len(COLOURS))) % len(COLOURS)]
            return " ".join([*words[:place], other, *words[place + 1 :]]), ()
        place = int(dice.integers(len(named)))
        kind = named[place].kind
        if kind not in ("colour", "pattern", "object"):
            return "", ()
        concept = by_name()[ALL_KINDS[kind][dice.integers(len(THINGS) if kind == "object" else len(ALL_KINDS[kind]))]]
        changed = (*named[:place], concept, *named[place + 1 :])
        if concept.kind != kind or len({each.name for each in changed}) < len(changed):
            return "", ()
        return self._phrase(changed, dice), changed

    def looks(self, view: "View") -> tuple[int, int, int]:
        """The main thing, and the colour and the pattern that most of it has."""
        signatures, counts = view.counts
        thing = self._things[signatures]
        labels, counts = self.table[signatures[thing]], counts[thing]
        most = [np.bincount(labels[:, SIDE[kind]], counts, minlength=2)[1:] for kind in ("object", "colour", "pattern")]
        if most[0].max() < MAIN:
            return -1, -1, -1
        main = int(most[0].argmax())
        its = labels[:, SIDE["object"]] == main + 1
        colour, pattern = (np.bincount(labels[its, SIDE[kind]], counts[its], minlength=2)[1:].argmax() for kind in ("colour", "pattern"))
        return main, int(colour), int(pattern)

    def _truth(self, shown: "list[View]", named: list[tuple[Concept, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Which view shows what, int8 (views, texts) and (views, concepts); sentences are true of their own scene alone."""
        union = np.unique(np.concatenate([view.counts[0] for view in shown]))
        seen = np.zeros((len(shown), len(union)), dtype=np.float32)
        for row, view in enumerate(shown):
            seen[row, np.searchsorted(union, view.counts[0])] = view.counts[1]
        single = self.lessons.shows[union].astype(np.float32)
        numbers = [[self._number[concept.name] for concept in each] for each in named]
        meant = np.stack([single[:, each].prod(1) for each in numbers], axis=1)
        part = np.array([not view.whole for view in shown])
        place = np.array([any(concept.kind == "setting" for concept in each) for each in named])
        truth = _decided(seen @ meant, part[:, None] & place)
        truth[:, [column for column, each in enumerate(named) if not each]] = 0
        setting = np.array([concept.kind == "setting" for concept in concepts()])
        return truth, _decided(seen @ single, part[:, None] & setting)


def _decided(counts: np.ndarray, untold: np.ndarray) -> np.ndarray:
    """1 where something shows, 0 where it does not, -1 where it can hardly be seen, or where a part of a scene need not tell."""
    truth = np.where(counts >= ENOUGH, 1, np.where(counts > 0, -1, 0)).astype(np.int8)
    truth[(truth == 1) & untold] = -1
    return truth


@dataclass(frozen=True)
class View:
    """codes: int (SEEN, SEEN), the signatures of what is seen, -1 where covered; lit: what is not covered, before the cut, or None;
    box: left, top and side of the cut, of 64."""

    codes: np.ndarray
    lit: np.ndarray | None
    box: tuple[float, float, float]

    @property
    def whole(self) -> bool:
        return self.lit is None and self.box[2] == 64

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The signatures in it, and at how many places each."""
        found, counts = np.unique(self.codes, return_counts=True)
        return (found[1:], counts[1:]) if len(found) and found[0] < 0 else (found, counts)


def _ways(named: tuple[Concept, ...]) -> list[str]:
    """How something may be said: as people do, and by bare words as concept lists do."""
    ways = [phrase(named, Dice(7, number, *map(ord, named[0].name))) for number in range(VARIANTS)]
    for number in range(VARIANTS // 2):
        dice = Dice(8, number, *map(ord, named[0].name))
        words = [dice.pick(words_for(concept.name)) if dice.chance(50) else concept.name for concept in named]
        if len(named) == 2 and named[0].kind in ("part", "text"):
            continue
        if len(named) == 2:
            words[0] = ADJECTIVES.get(named[0].name, words[0])
        if len(named) == 1 or named[1].kind != "setting":
            ways.append(" ".join(words))
    return ways


def _blob(dice: np.random.Generator) -> np.ndarray:
    """A patch such as a unit's mask may be, bool (SEEN, SEEN)."""
    rough = torch.from_numpy(dice.random((1, 1, 5, 5)))
    smooth = torch.nn.functional.interpolate(rough, (SEEN, SEEN), mode="bilinear", align_corners=True)[0, 0].numpy()
    return smooth > np.quantile(smooth, dice.uniform(0.7, 0.95))


def _around(region: np.ndarray, dice: np.random.Generator) -> tuple[float, float, float]:
    """A square that holds a region, or most of it, and something of what is around: left, top and side, of 64."""
    scale = 64 / SEEN
    rows, columns = np.nonzero(region)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = float(np.clip(max(bottom - top, right - left) * scale * dice.uniform(1.0, 1.8), 12, 64))
    middle = np.array([left + right, top + bottom]) * scale / 2
    x, y = np.clip(middle - side / 2, 0, 64 - side)
    return float(x), float(y), side


def _cut(codes: np.ndarray, box: tuple[float, float, float]) -> np.ndarray:
    x, y, side = box
    steps = (np.arange(SEEN) + 0.5) * side / 64
    return codes[(y * SEEN / 64 + steps).astype(int)][:, (x * SEEN / 64 + steps).astype(int)]


def seen(images: Tensor, shown: list[View], dice: np.random.Generator) -> Tensor:
    """The pictures as the views show them."""
    pixels = images.float()
    for row, view in enumerate(shown):
        if view.lit is not None:
            lit = torch.from_numpy(view.lit.repeat(64 // SEEN, 0).repeat(64 // SEEN, 1))
            pixels[row] = torch.where(lit, pixels[row], float(COVERS[dice.integers(len(COVERS))]))
    cut = [row for row, view in enumerate(shown) if view.box[2] < 64]
    if cut:
        boxes = torch.tensor([shown[row].box for row in cut])
        steps = (torch.arange(64) + 0.5) / 64
        across = (boxes[:, :1] + boxes[:, 2:] * steps) / 32 - 1
        down = (boxes[:, 1:2] + boxes[:, 2:] * steps) / 32 - 1
        grid = torch.stack([across[:, None, :].expand(-1, 64, -1), down[:, :, None].expand(-1, -1, 64)], dim=-1)
        pixels[cut] = grid_sample(pixels[cut], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return pixels.round().clamp(0, 255).to(torch.uint8)

"""Batches of pictures and texts for training image-text models, and the truth of every pair in them.

Most of what is seen are whole scenes; the rest are crops and pictures of which all but a region is covered, as
describers show them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn.functional import grid_sample

from milan.diorama.concept_phrases import PHRASE_KINDS, make_phrase
from milan.diorama.label_signatures import KINDS
from milan.diorama.rng import PortableRng
from milan.diorama.scene_concepts import ALL_KINDS, Concept, get_concepts_by_name, list_concepts
from milan.diorama.scene_vocabulary import ADJECTIVES, COLOURS, GROUPS, THINGS, get_synonyms
from milan.diorama_build.caption_dataset import LABEL_GRID, CaptionDataset

PLACE_GRID = 8  # places a side at which a batch tells what is there
MIN_MAIN_PLACES = 40  # places of LABEL_GRID x LABEL_GRID from which a thing is the main one
MIN_CONCEPT_PLACES = (
    5  # places of LABEL_GRID x LABEL_GRID from which a concept counts as shown; fewer, but some, count neither way
)
WHOLE_PERCENT, CROPPED_PERCENT, COVERED_PERCENT = (
    60,
    15,
    15,
)  # percent of the views; the rest are both cropped and covered
SENTENCE_PERCENT = 55  # percent of whole scenes that are said in a sentence, the others by one thing they show
NEGATIVE_SHARE = 0.5  # share of the phrases that are joined by one that says something else of the same
PREFIXES = ("a photo of", "a picture of", "an image of", "a close-up of", "a photo of the")
COVER_VALUES = (0, 0, 0, 127, 255)  # what lies over the rest
REGION_KINDS = (
    ("object",),
    ("object",),
    ("object", "part"),
    ("part",),
    ("colour",),
    ("colour", "pattern"),
    ("pattern",),
)  # regions
SINGLE_KINDS = ("object", "object", "part", "part", "colour", "pattern", "text", "setting")
GROUP_OF = {
    member: name
    for name, members in GROUPS.items()
    for member in members
    if name not in ("objects", "backgrounds", "outdoors")
}
PHRASE_VARIANTS = 12  # ways of saying one thing
KIND_INDEX = {kind: KINDS.index(kind) for kind in KINDS}


@dataclass(frozen=True)
class ImageTextBatch:
    """images: uint8 (b, 3, 64, 64); texts: each once; own_text: int64 (b,), which text each picture came with;
    truth: int8 (b, texts), 1 shows it, 0 does not, -1 undecided; has_concept: the same of all concepts, int8 (b,
        concepts);
    main_looks: int64 (b, 3), the thing of which most shows, by THINGS, its colour and its pattern, or -1 each;
    place_labels: uint8 (b, 8, 8, 6), the labels in the order of the census' KINDS, 0 where covered."""

    images: Tensor
    texts: list[str]
    own_text: Tensor
    truth: Tensor
    has_concept: Tensor
    main_looks: Tensor
    place_labels: Tensor


class ImageTextBatches:
    """Make batches of the caption dataset; the batch of a step is always the same.

    names: how many names of things and of other concepts each batch asks for besides, whether they show or not.
    """

    def __init__(self, dataset: CaptionDataset, size: int, seed: int = 0, names: int = 0):
        self.dataset, self.size, self.seed, self.names = dataset, size, seed, names
        self._number = {concept.name: number for number, concept in enumerate(list_concepts())}
        self._phrases_by_concepts: dict[tuple[Concept, ...], list[str]] = {}
        self.table = dataset.signatures.table
        self._is_thing = self.table[:, KIND_INDEX["object"]]
        self._is_thing = (self._is_thing > 0) & (self._is_thing <= len(THINGS))

    @property
    def steps_per_epoch(self) -> int:
        """How many batches make a round: each scene of one big thing is shown once, and every third of the others."""
        return (len(self.dataset) // 2 + len(self.dataset) // 6) // self.size

    def choose_rows(self, step: int) -> tuple[np.ndarray, np.random.Generator]:
        """Return the indices of the scenes of a batch, int64 (b,), and the generator of its random choices."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
        half, third = len(order) // 2, len(order) // 6
        order = order[(order < half) | (np.cumsum(order >= half) <= third)]  # settings are learnt in no time
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(order)
        return np.sort(order[place * self.size : (place + 1) * self.size]), np.random.default_rng(
            (self.seed, epoch, place)
        )

    def make_batch(self, step: int) -> ImageTextBatch:
        """One batch, by its number."""
        rows, rng = self.choose_rows(step)
        shown = [self._make_view(self.dataset.signatures.pixels[row], rng) for row in rows]
        images = render_views(torch.from_numpy(self.dataset.images[rows]), shown, rng)
        texts = [self.make_text(row, view, rng) for row, view in zip(rows.tolist(), shown, strict=True)]
        known: dict[str, tuple[Concept, ...]] = {}
        for text, named in texts:
            known.setdefault(text, named)
        for text, named in [self._make_negative(*each, rng) for each in texts if rng.random() < NEGATIVE_SHARE]:
            if text:
                known.setdefault(text, named)
        for number in range(self.names):
            asked = (
                get_concepts_by_name()[THINGS[rng.integers(len(THINGS))]]
                if number % 2
                else list_concepts()[rng.integers(len(list_concepts()))]
            )
            known.setdefault(self._choose_phrase((asked,), rng), (asked,))
        truth, shows = self._label_pairs(shown, list(known.values()))
        place_of = {text: number for number, text in enumerate(known)}
        own = np.array([place_of[text] for text, _ in texts])
        truth[np.arange(len(own)), own] = 1
        looks = np.array([self.find_main_looks(view) for view in shown])
        facts = [torch.from_numpy(array) for array in (own, truth, shows, looks, self.make_place_labels(shown))]
        return ImageTextBatch(images, list(known), *facts)

    def make_place_labels(self, shown: "list[SceneView]") -> np.ndarray:
        """The labels at PLACE_GRID x PLACE_GRID places of each view, uint8 (views, PLACE_GRID, PLACE_GRID, 6), 0 where
        covered.
        """
        middles = slice(LABEL_GRID // PLACE_GRID // 2, None, LABEL_GRID // PLACE_GRID)
        codes = np.stack([view.codes[middles, middles] for view in shown])
        return np.where(codes[..., None] < 0, 0, self.table[codes])

    def make_crop(self, codes: np.ndarray, rng: np.random.Generator) -> "SceneView":
        """A square around something that shows."""
        box = _choose_square(self._choose_region(codes, rng), rng)
        return SceneView(_crop_codes(codes, box), None, box)

    def _make_view(self, codes: np.ndarray, rng: np.random.Generator) -> "SceneView":
        kind = rng.integers(100)
        if kind < WHOLE_PERCENT:
            return SceneView(np.asarray(codes), None, (0.0, 0.0, 64.0))
        region = self._choose_region(codes, rng)
        covered = kind >= WHOLE_PERCENT + CROPPED_PERCENT
        box = (
            _choose_square(region, rng)
            if not WHOLE_PERCENT + CROPPED_PERCENT <= kind < WHOLE_PERCENT + CROPPED_PERCENT + COVERED_PERCENT
            else (0.0, 0.0, 64.0)
        )
        if not covered:
            return SceneView(_crop_codes(codes, box), None, box)
        lit = binary_dilation(region, iterations=int(rng.integers(1, 4))) if rng.random() < 0.8 else region
        return SceneView(_crop_codes(np.where(lit, codes, -1), box), lit, box)

    def _choose_region(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Where something of the scene is, or a patch of no meaning, bool (LABEL_GRID, LABEL_GRID)."""
        if rng.random() < 0.2:
            return _make_blob(rng)
        found = np.unique(codes)
        things = found[self._is_thing[found]]
        anchor = rng.choice(things if len(things) and rng.random() < 0.75 else found)
        region = np.ones(codes.shape, dtype=bool)
        for kind in REGION_KINDS[rng.integers(len(REGION_KINDS))]:
            region &= self.table[codes, KIND_INDEX[kind]] == self.table[anchor, KIND_INDEX[kind]]
        return region if region.sum() >= MIN_CONCEPT_PLACES else _make_blob(rng)

    def make_text(self, row: int, view: "SceneView", rng: np.random.Generator) -> tuple[str, tuple[Concept, ...]]:
        """A text that is true of the view, and the concepts it names; none for a sentence."""
        if view.is_whole and rng.integers(100) < SENTENCE_PERCENT:
            return self.dataset.sentences[row][rng.integers(len(self.dataset.sentences[row]))], ()
        found, counts = view.counts
        often = found[counts >= MIN_CONCEPT_PLACES]
        things = often[self._is_thing[often]]
        choices = things if len(things) and rng.random() < 0.6 else often if len(often) else found
        signature = rng.choice(choices) if len(choices) else 0
        named = self._choose_concepts(self.table[signature], view.is_whole, rng)
        return self._choose_phrase(named, rng), named

    def _choose_phrase(self, named: tuple[Concept, ...], rng: np.random.Generator) -> str:
        if named not in self._phrases_by_concepts:
            self._phrases_by_concepts[named] = _phrase_variants(named)
        said = self._phrases_by_concepts[named]
        text = said[rng.integers(len(said))]
        return f"{PREFIXES[rng.integers(len(PREFIXES))]} {text}" if rng.random() < 0.2 else text

    def _choose_concepts(self, labels: np.ndarray, whole: bool, rng: np.random.Generator) -> tuple[Concept, ...]:
        """One or two concepts of a signature."""
        has = {kind for kind in KINDS if labels[KIND_INDEX[kind]] and (kind != "setting" or whole)}
        if labels[KIND_INDEX["pattern"]] == 1 and rng.random() < 0.85:
            has.discard("pattern")  # nearly everything is plain
        pairs = sorted(pair for pair in PHRASE_KINDS if set(pair) <= has)
        if pairs and rng.random() < 0.45:
            kinds: tuple[str, ...] = pairs[rng.integers(len(pairs))]
        else:
            single = [kind for kind in SINGLE_KINDS if kind in has]
            kinds = (single[rng.integers(len(single))],) if single else ("colour",)
        return tuple(self._find_concept(kind, int(labels[KIND_INDEX[kind]]), rng) for kind in kinds)

    def _find_concept(self, kind: str, label: int, rng: np.random.Generator) -> Concept:
        name = ALL_KINDS[kind][max(label, 1) - 1]
        if kind == "text":
            return get_concepts_by_name()["text" if rng.random() < 0.7 else f"letter {name}"]
        group = GROUP_OF.get((kind, name))
        return get_concepts_by_name()[group if group and rng.random() < 0.12 else name]

    def _make_negative(
        self, text: str, named: tuple[Concept, ...], rng: np.random.Generator
    ) -> tuple[str, tuple[Concept, ...]]:
        """A text that says something else of the same: another colour, pattern or thing; nothing if there is no such
        text.
        """
        if not named:
            words = text.split()
            coloured = [place for place, word in enumerate(words) if word in COLOURS]
            if not coloured:
                return "", ()
            place = coloured[rng.integers(len(coloured))]
            other = COLOURS[(COLOURS.index(words[place]) + rng.integers(1, len(COLOURS))) % len(COLOURS)]
            return " ".join([*words[:place], other, *words[place + 1 :]]), ()
        place = int(rng.integers(len(named)))
        kind = named[place].kind
        if kind not in ("colour", "pattern", "object"):
            return "", ()
        concept = get_concepts_by_name()[
            ALL_KINDS[kind][rng.integers(len(THINGS) if kind == "object" else len(ALL_KINDS[kind]))]
        ]
        changed = (*named[:place], concept, *named[place + 1 :])
        if concept.kind != kind or len({each.name for each in changed}) < len(changed):
            return "", ()
        return self._choose_phrase(changed, rng), changed

    def find_main_looks(self, view: "SceneView") -> tuple[int, int, int]:
        """The main thing, and the colour and the pattern that most of it has."""
        signatures, counts = view.counts
        thing = self._is_thing[signatures]
        labels, counts = self.table[signatures[thing]], counts[thing]
        most = [
            np.bincount(labels[:, KIND_INDEX[kind]], counts, minlength=2)[1:]
            for kind in ("object", "colour", "pattern")
        ]
        if most[0].max() < MIN_MAIN_PLACES:
            return -1, -1, -1
        main = int(most[0].argmax())
        its = labels[:, KIND_INDEX["object"]] == main + 1
        colour, pattern = (
            np.bincount(labels[its, KIND_INDEX[kind]], counts[its], minlength=2)[1:].argmax()
            for kind in ("colour", "pattern")
        )
        return main, int(colour), int(pattern)

    def _label_pairs(self, shown: "list[SceneView]", named: list[tuple[Concept, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Which view shows what, int8 (views, texts) and (views, concepts); sentences are true of their own scene
        alone.
        """
        union = np.unique(np.concatenate([view.counts[0] for view in shown]))
        seen = np.zeros((len(shown), len(union)), dtype=np.float32)
        for row, view in enumerate(shown):
            seen[row, np.searchsorted(union, view.counts[0])] = view.counts[1]
        single = self.dataset.has_concept[union].astype(np.float32)
        numbers = [[self._number[concept.name] for concept in each] for each in named]
        meant = np.stack([single[:, each].prod(1) for each in numbers], axis=1)
        part = np.array([not view.is_whole for view in shown])
        place = np.array([any(concept.kind == "setting" for concept in each) for each in named])
        truth = _decide_truth(seen @ meant, part[:, None] & place)
        truth[:, [column for column, each in enumerate(named) if not each]] = 0
        setting = np.array([concept.kind == "setting" for concept in list_concepts()])
        return truth, _decide_truth(seen @ single, part[:, None] & setting)


def _decide_truth(counts: np.ndarray, untold: np.ndarray) -> np.ndarray:
    """1 where something shows, 0 where it does not, -1 where it can hardly be seen, or where a part of a scene need not
    tell.
    """
    truth = np.where(counts >= MIN_CONCEPT_PLACES, 1, np.where(counts > 0, -1, 0)).astype(np.int8)
    truth[(truth == 1) & untold] = -1
    return truth


@dataclass(frozen=True)
class SceneView:
    """codes: int (LABEL_GRID, LABEL_GRID), the signatures of what is seen, -1 where covered; visible: what is not
    covered, before the cut, or None;
    box: left, top and side of the cut, of 64."""

    codes: np.ndarray
    visible: np.ndarray | None
    box: tuple[float, float, float]

    @property
    def is_whole(self) -> bool:
        """Whether the view is the whole scene, with nothing covered."""
        return self.visible is None and self.box[2] == 64

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The signatures in it, and at how many places each."""
        found, counts = np.unique(self.codes, return_counts=True)
        return (found[1:], counts[1:]) if len(found) and found[0] < 0 else (found, counts)


def _phrase_variants(named: tuple[Concept, ...]) -> list[str]:
    """How something may be said: as people do, and by bare words as concept lists do."""
    ways = [make_phrase(named, PortableRng(7, number, *map(ord, named[0].name))) for number in range(PHRASE_VARIANTS)]
    for number in range(PHRASE_VARIANTS // 2):
        rng = PortableRng(8, number, *map(ord, named[0].name))
        words = [rng.choice(get_synonyms(concept.name)) if rng.chance(50) else concept.name for concept in named]
        if len(named) == 2 and named[0].kind in ("part", "text"):
            continue
        if len(named) == 2:
            words[0] = ADJECTIVES.get(named[0].name, words[0])
        if len(named) == 1 or named[1].kind != "setting":
            ways.append(" ".join(words))
    return ways


def _make_blob(rng: np.random.Generator) -> np.ndarray:
    """A patch such as a unit's mask may be, bool (LABEL_GRID, LABEL_GRID)."""
    rough = torch.from_numpy(rng.random((1, 1, 5, 5)))
    smooth = torch.nn.functional.interpolate(rough, (LABEL_GRID, LABEL_GRID), mode="bilinear", align_corners=True)[
        0, 0
    ].numpy()
    return smooth > np.quantile(smooth, rng.uniform(0.7, 0.95))


def _choose_square(region: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """A square that holds a region, or most of it, and something of what is around: left, top and side, of 64."""
    scale = 64 / LABEL_GRID
    rows, columns = np.nonzero(region)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = float(np.clip(max(bottom - top, right - left) * scale * rng.uniform(1.0, 1.8), 12, 64))
    middle = np.array([left + right, top + bottom]) * scale / 2
    x, y = np.clip(middle - side / 2, 0, 64 - side)
    return float(x), float(y), side


def _crop_codes(codes: np.ndarray, box: tuple[float, float, float]) -> np.ndarray:
    x, y, side = box
    steps = (np.arange(LABEL_GRID) + 0.5) * side / 64
    return codes[(y * LABEL_GRID / 64 + steps).astype(int)][:, (x * LABEL_GRID / 64 + steps).astype(int)]


def render_views(images: Tensor, shown: list[SceneView], rng: np.random.Generator) -> Tensor:
    """The pictures as the views show them."""
    pixels = images.float()
    for row, view in enumerate(shown):
        if view.visible is not None:
            lit = torch.from_numpy(view.visible.repeat(64 // LABEL_GRID, 0).repeat(64 // LABEL_GRID, 1))
            pixels[row] = torch.where(lit, pixels[row], float(COVER_VALUES[rng.integers(len(COVER_VALUES))]))
    cut = [row for row, view in enumerate(shown) if view.box[2] < 64]
    if cut:
        boxes = torch.tensor([shown[row].box for row in cut])
        steps = (torch.arange(64) + 0.5) / 64
        across = (boxes[:, :1] + boxes[:, 2:] * steps) / 32 - 1
        down = (boxes[:, 1:2] + boxes[:, 2:] * steps) / 32 - 1
        grid = torch.stack([across[:, None, :].expand(-1, 64, -1), down[:, :, None].expand(-1, -1, 64)], dim=-1)
        pixels[cut] = grid_sample(pixels[cut], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return pixels.round().clamp(0, 255).to(torch.uint8)

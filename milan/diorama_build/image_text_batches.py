"""Batches of images and texts for image-text models, with the truth of every pair of image and text.

Most images are whole scenes; the others are crops, and images covered outside a region, as describers use them. No pair
of a batch counts as wrong by chance, since the labels tell whether an image shows what a text names.
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

PLACE_GRID = 8  # side of the grid of places at which a batch has labels
MIN_MAIN_PLACES = 40  # smallest number of LABEL_GRID x LABEL_GRID places of a main thing
# Smallest number of LABEL_GRID x LABEL_GRID places of a visible concept; with fewer the pair is undecided.
MIN_CONCEPT_PLACES = 5
# Percent of the views; the rest are both cropped and covered.
WHOLE_PERCENT, CROPPED_PERCENT, COVERED_PERCENT = 60, 15, 15
SENTENCE_PERCENT = 55  # percent of whole scenes with a sentence; the others have a phrase about one thing
NEGATIVE_SHARE = 0.5  # share of the phrases to which a changed, wrong one is added
PREFIXES = ("a photo of", "a picture of", "an image of", "a close-up of", "a photo of the")
COVER_VALUES = (0, 0, 0, 127, 255)  # grey values of covered pixels
# Kinds of labels that the pixels of a region share.
REGION_KINDS = (
    ("object",),
    ("object",),
    ("object", "part"),
    ("part",),
    ("colour",),
    ("colour", "pattern"),
    ("pattern",),
)
SINGLE_KINDS = ("object", "object", "part", "part", "colour", "pattern", "text", "setting")
GROUP_OF = {
    member: name
    for name, members in GROUPS.items()
    for member in members
    if name not in ("objects", "backgrounds", "outdoors")
}
PHRASE_VARIANTS = 12  # phrases for the same concepts
KIND_INDEX = {kind: KINDS.index(kind) for kind in KINDS}


@dataclass(frozen=True)
class ImageTextBatch:
    """Images and texts with the truth of all pairs.

    Attributes:
        images: uint8 (b, 3, 64, 64).
        texts: distinct texts.
        own_text: index of the text that each image came with, int64 (b,).
        truth: 1 if an image shows what a text names, 0 if not, -1 if undecided, int8 (b, texts).
        has_concept: the same for all concepts, int8 (b, concepts).
        main_looks: the main thing as an index into THINGS, its colour and its pattern, int64 (b, 3); -1 for none.
        place_labels: labels in the order of KINDS, uint8 (b, PLACE_GRID, PLACE_GRID, 6); 0 where covered.
    """

    images: Tensor
    texts: list[str]
    own_text: Tensor
    truth: Tensor
    has_concept: Tensor
    main_looks: Tensor
    place_labels: Tensor


class ImageTextBatches:
    """Random batches of the caption dataset; the batch of a step is always the same.

    Args:
        dataset: the scenes.
        size: number of images of a batch.
        seed: random seed.
        names: number of names of random things and concepts that are added to the texts of each batch.
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
        """Number of batches of an epoch, which has each scene of the world "objects" and a third of the others once."""
        return (len(self.dataset) // 2 + len(self.dataset) // 6) // self.size

    def choose_rows(self, step: int) -> tuple[np.ndarray, np.random.Generator]:
        """Return the indices of the scenes of a batch, int64 (b,), and the generator of its random choices."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))
        half, third = len(order) // 2, len(order) // 6
        # Settings are learnt much faster than things.
        order = order[(order < half) | (np.cumsum(order >= half) <= third)]
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(order)
        return np.sort(order[place * self.size : (place + 1) * self.size]), np.random.default_rng(
            (self.seed, epoch, place)
        )

    def make_batch(self, step: int) -> ImageTextBatch:
        """Return the batch of a step."""
        rows, rng = self.choose_rows(step)
        views = [self._make_view(self.dataset.signatures.pixels[row], rng) for row in rows]
        images = render_views(torch.from_numpy(self.dataset.images[rows]), views, rng)
        texts = [self.make_text(row, view, rng) for row, view in zip(rows.tolist(), views, strict=True)]
        concepts_of: dict[str, tuple[Concept, ...]] = {}
        for text, named in texts:
            concepts_of.setdefault(text, named)
        for text, named in [self._make_negative(*each, rng) for each in texts if rng.random() < NEGATIVE_SHARE]:
            if text:
                concepts_of.setdefault(text, named)
        for number in range(self.names):
            concept = (
                get_concepts_by_name()[THINGS[rng.integers(len(THINGS))]]
                if number % 2
                else list_concepts()[rng.integers(len(list_concepts()))]
            )
            concepts_of.setdefault(self._choose_phrase((concept,), rng), (concept,))
        truth, has_concept = self._label_pairs(views, list(concepts_of.values()))
        place_of = {text: number for number, text in enumerate(concepts_of)}
        own = np.array([place_of[text] for text, _ in texts])
        truth[np.arange(len(own)), own] = 1
        looks = np.array([self.find_main_looks(view) for view in views])
        facts = [torch.from_numpy(array) for array in (own, truth, has_concept, looks, self.make_place_labels(views))]
        return ImageTextBatch(images, list(concepts_of), *facts)

    def make_place_labels(self, views: "list[SceneView]") -> np.ndarray:
        """Return the labels at places, uint8 (views, PLACE_GRID, PLACE_GRID, 6); 0 where covered."""
        middles = slice(LABEL_GRID // PLACE_GRID // 2, None, LABEL_GRID // PLACE_GRID)
        codes = np.stack([view.codes[middles, middles] for view in views])
        return np.where(codes[..., None] < 0, 0, self.table[codes])

    def make_crop(self, codes: np.ndarray, rng: np.random.Generator) -> "SceneView":
        """Return a square view of a visible region with its surroundings."""
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
        """Return the mask of a visible thing or part, or a random blob, bool (LABEL_GRID, LABEL_GRID)."""
        if rng.random() < 0.2:
            return _make_blob(rng)
        signatures = np.unique(codes)
        things = signatures[self._is_thing[signatures]]
        anchor = rng.choice(things if len(things) and rng.random() < 0.75 else signatures)
        region = np.ones(codes.shape, dtype=bool)
        for kind in REGION_KINDS[rng.integers(len(REGION_KINDS))]:
            region &= self.table[codes, KIND_INDEX[kind]] == self.table[anchor, KIND_INDEX[kind]]
        return region if region.sum() >= MIN_CONCEPT_PLACES else _make_blob(rng)

    def make_text(self, row: int, view: "SceneView", rng: np.random.Generator) -> tuple[str, tuple[Concept, ...]]:
        """Return a text that is true of the view, and the concepts that it names; none for a sentence."""
        if view.is_whole and rng.integers(100) < SENTENCE_PERCENT:
            return self.dataset.sentences[row][rng.integers(len(self.dataset.sentences[row]))], ()
        signatures, counts = view.counts
        often = signatures[counts >= MIN_CONCEPT_PLACES]
        things = often[self._is_thing[often]]
        choices = things if len(things) and rng.random() < 0.6 else often if len(often) else signatures
        signature = rng.choice(choices) if len(choices) else 0
        named = self._choose_concepts(self.table[signature], view.is_whole, rng)
        return self._choose_phrase(named, rng), named

    def _choose_phrase(self, named: tuple[Concept, ...], rng: np.random.Generator) -> str:
        if named not in self._phrases_by_concepts:
            self._phrases_by_concepts[named] = _phrase_variants(named)
        phrases = self._phrases_by_concepts[named]
        text = phrases[rng.integers(len(phrases))]
        return f"{PREFIXES[rng.integers(len(PREFIXES))]} {text}" if rng.random() < 0.2 else text

    def _choose_concepts(self, labels: np.ndarray, whole: bool, rng: np.random.Generator) -> tuple[Concept, ...]:
        """Return one or two concepts of a signature."""
        has = {kind for kind in KINDS if labels[KIND_INDEX[kind]] and (kind != "setting" or whole)}
        # Nearly everything is plain.
        if labels[KIND_INDEX["pattern"]] == 1 and rng.random() < 0.85:
            has.discard("pattern")
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
        """Return a text with another colour, pattern or thing, and its concepts; empty if there is none to change."""
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
        """Return the main thing with its most frequent colour and pattern; -1 each if there is none."""
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

    def _label_pairs(self, views: "list[SceneView]", named: list[tuple[Concept, ...]]) -> tuple[np.ndarray, np.ndarray]:
        """Return which view shows the concepts of each text, and each concept, int8 (views, texts or concepts).

        Sentences count as true of their own scene only.
        """
        union = np.unique(np.concatenate([view.counts[0] for view in views]))
        counts = np.zeros((len(views), len(union)), dtype=np.float32)
        for row, view in enumerate(views):
            counts[row, np.searchsorted(union, view.counts[0])] = view.counts[1]
        single = self.dataset.has_concept[union].astype(np.float32)
        numbers = [[self._number[concept.name] for concept in each] for each in named]
        meant = np.stack([single[:, each].prod(1) for each in numbers], axis=1)
        part = np.array([not view.is_whole for view in views])
        place = np.array([any(concept.kind == "setting" for concept in each) for each in named])
        truth = _decide_truth(counts @ meant, part[:, None] & place)
        truth[:, [column for column, each in enumerate(named) if not each]] = 0
        setting = np.array([concept.kind == "setting" for concept in list_concepts()])
        return truth, _decide_truth(counts @ single, part[:, None] & setting)


def _decide_truth(counts: np.ndarray, undecided: np.ndarray) -> np.ndarray:
    """Return 1 for visible concepts, 0 for absent ones, and -1 for undecided ones.

    Args:
        counts: number of places that show a concept.
        undecided: pairs that are undecided although the concept is present, such as the setting of a crop.
    """
    truth = np.where(counts >= MIN_CONCEPT_PLACES, 1, np.where(counts > 0, -1, 0)).astype(np.int8)
    truth[(truth == 1) & undecided] = -1
    return truth


@dataclass(frozen=True)
class SceneView:
    """A view of a scene.

    Attributes:
        codes: signatures at LABEL_GRID x LABEL_GRID places, int; -1 where covered.
        visible: mask of the places that are not covered, before cropping; None if nothing is covered.
        box: left, top and side of the crop, in 64ths of the scene.
    """

    codes: np.ndarray
    visible: np.ndarray | None
    box: tuple[float, float, float]

    @property
    def is_whole(self) -> bool:
        """Whether the view is the whole scene, with nothing covered."""
        return self.visible is None and self.box[2] == 64

    @cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The visible signatures, and their numbers of places."""
        signatures, counts = np.unique(self.codes, return_counts=True)
        return (signatures[1:], counts[1:]) if len(signatures) and signatures[0] < 0 else (signatures, counts)


def _phrase_variants(named: tuple[Concept, ...]) -> list[str]:
    """Return phrases for concepts: as in sentences, and as bare words of concept lists."""
    key = [ord(letter) for letter in named[0].name]
    phrases = [make_phrase(named, PortableRng(7, number, *key)) for number in range(PHRASE_VARIANTS)]
    for number in range(PHRASE_VARIANTS // 2):
        rng = PortableRng(8, number, *key)
        words = [rng.choice(get_synonyms(concept.name)) if rng.chance(50) else concept.name for concept in named]
        if len(named) == 2 and named[0].kind in ("part", "text"):
            continue
        if len(named) == 2:
            words[0] = ADJECTIVES.get(named[0].name, words[0])
        if len(named) == 1 or named[1].kind != "setting":
            phrases.append(" ".join(words))
    return phrases


def _make_blob(rng: np.random.Generator) -> np.ndarray:
    """Return a random blob similar to a unit's mask, bool (LABEL_GRID, LABEL_GRID)."""
    rough = torch.from_numpy(rng.random((1, 1, 5, 5)))
    smooth = torch.nn.functional.interpolate(rough, (LABEL_GRID, LABEL_GRID), mode="bilinear", align_corners=True)[
        0, 0
    ].numpy()
    return smooth > np.quantile(smooth, rng.uniform(0.7, 0.95))


def _choose_square(region: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return left, top and side, in 64ths, of a square around most of a region, with a random margin."""
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


def render_views(images: Tensor, views: list[SceneView], rng: np.random.Generator) -> Tensor:
    """Return the images of views: covered, cropped, and resized to 64 x 64 pixels."""
    pixels = images.float()
    for row, view in enumerate(views):
        if view.visible is not None:
            lit = torch.from_numpy(view.visible.repeat(64 // LABEL_GRID, 0).repeat(64 // LABEL_GRID, 1))
            pixels[row] = torch.where(lit, pixels[row], float(COVER_VALUES[rng.integers(len(COVER_VALUES))]))
    cut = [row for row, view in enumerate(views) if view.box[2] < 64]
    if cut:
        boxes = torch.tensor([views[row].box for row in cut])
        steps = (torch.arange(64) + 0.5) / 64
        across = (boxes[:, :1] + boxes[:, 2:] * steps) / 32 - 1
        down = (boxes[:, 1:2] + boxes[:, 2:] * steps) / 32 - 1
        grid = torch.stack([across[:, None, :].expand(-1, 64, -1), down[:, :, None].expand(-1, -1, 64)], dim=-1)
        pixels[cut] = grid_sample(pixels[cut], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return pixels.round().clamp(0, 255).to(torch.uint8)

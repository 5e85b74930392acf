"""Either-or units, and adversarial images against them: a region that activates the unit, pasted into images that do
not activate it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from milan.errors import BadInput
from milan.experiments.core.study import Study
from milan.experiments.cut_and_paste.config import CutAndPasteConfig
from milan.probes import Probe
from milan.probes.superclasses import format_class_names, match_outputs
from milan.targets.hooks import ablated
from milan.targets.target import Target
from milan.units import Unit

EITHER_PATTERN = re.compile(r"\bor\b|\|")
LIST_PATTERN = re.compile(r",|;|\band\b|\bas well as\b|&")
# In a formula "and" says that both must hold.
FORMULA_PATTERN = re.compile(r"[()]|\bbut not\b")
EXCEPTION_PATTERN = re.compile(r"\b(?:and|but) not\b.*|\bnot\b.*")
BATCH_SIZE = 100
INACTIVE_SHARE = 0.25  # of the images: those with the lowest activations
SHOWN_EXAMPLES = 3  # examples of a unit on the page


@dataclass(frozen=True)
class AttackExample:
    """One adversarial image and the images it is made of.

    Attributes:
        classes: the names of the original's class, of the distractor's class and of the prediction.
    """

    original: UInt8[Tensor, "3 height width"]
    distractor: UInt8[Tensor, "3 height width"]
    adversarial: UInt8[Tensor, "3 height width"]
    classes: tuple[str, str, str]


@dataclass(frozen=True)
class AttackedUnit:
    """The predictions for one unit's adversarial images.

    Attributes:
        distance: the distance of the two things that its description joins: 1 - cosine similarity.
        promoted: the names of the classes that the unit promotes.
        predictions: for each original and distractor.
        without: the same with the unit ablated.
        control: the same with the regions cut from images that do not activate the unit.
        original_classes: the class of each original.
        distractor_classes: the class of each distractor.
        goal: the outputs of the promoted classes.
    """

    unit: Unit
    text: str
    distance: float
    promoted: tuple[str, ...]
    predictions: Int[np.ndarray, "originals distractors"]
    without: Int[np.ndarray, "originals distractors"]
    control: Int[np.ndarray, "originals distractors"]
    original_classes: Int[np.ndarray, " originals"]
    distractor_classes: Int[np.ndarray, " distractors"]
    goal: tuple[int, ...]
    examples: tuple[AttackExample, ...]

    def find_fooled(
        self, predictions: Int[np.ndarray, "originals distractors"]
    ) -> Bool[np.ndarray, "originals distractors"]:
        """Return where a promoted class is predicted that is neither the original's nor the distractor's."""
        other = (predictions != self.original_classes[:, None]) & (predictions != self.distractor_classes[None])
        return np.isin(predictions, self.goal) & other

    @cached_property
    def is_kept(self) -> Bool[np.ndarray, "originals distractors"]:
        """Where the original's class is still predicted."""
        return self.predictions == self.original_classes[:, None]


def split_alternatives(text: str) -> list[str]:
    """Return the things that a description joins with "or", or else those that it lists, without exceptions.

    >>> split_alternatives("dog faces and cupcakes"), split_alternatives("plain and hat but not red")
    (['dog faces', 'cupcakes'], ['plain and hat'])
    >>> split_alternatives("((wheel or window) but not sky)")
    ['wheel', 'window']
    """
    positive = EXCEPTION_PATTERN.sub("", text.lower())
    joins = EITHER_PATTERN if EITHER_PATTERN.search(positive) or FORMULA_PATTERN.search(text) else LIST_PATTERN
    parts = [" ".join(re.sub(r"[()]", " ", part).split()).strip(". ,") for part in joins.split(positive)]
    return list(dict.fromkeys(part for part in parts if part))


def find_either_or_units(study: Study, config: CutAndPasteConfig) -> list[tuple[Unit, float]]:
    """Return the units whose descriptions join the least similar things, with the largest distance of two things.

    Raises:
        BadInput: no description joins two things, or a unit of ``config.units`` has no description.
    """
    from milan.pretrained.embedder import embed_texts, load_embedder

    parts = {unit: split_alternatives(text) for unit, text in study.texts.items()}
    units = [Unit.parse(name) for name in config.units or ()]
    if missing := [str(unit) for unit in units if unit not in parts]:
        raise BadInput(f"{missing[0]} has no description; units with one: {', '.join(map(str, list(parts)[:5]))} ...")
    candidates = units or [unit for unit, several in parts.items() if len(several) > 1]
    if not candidates:
        raise BadInput(
            f"none of {len(parts)} descriptions by {study.evaluated.name} joins two things (a or b; a, b and c); choose"
            " another describer, such as compositional, or give units"
        )
    words = list(dict.fromkeys(part for unit in candidates for part in parts[unit]))
    embedder = load_embedder(config.vectors, device=config.device)
    vectors = dict(zip(words, embed_texts(embedder, words), strict=True))
    distances = {
        unit: _find_largest_distance(torch.stack([vectors[part] for part in parts[unit]])) for unit in candidates
    }
    ranked = sorted(candidates, key=lambda unit: -distances[unit])
    return [(unit, distances[unit]) for unit in (ranked if units else ranked[: config.max_units])]


def _find_largest_distance(vectors: Float[Tensor, "parts features"]) -> float:
    directions = normalize(vectors.float(), dim=1)
    return float((1 - directions @ directions.T).max())


def attack_unit(study: Study, unit: Unit, distance: float, config: CutAndPasteConfig) -> AttackedUnit | None:
    """Make and classify the adversarial images of one unit; None if there are too few originals.

    Distractors are the unit's strongest exemplars, cut along their masks; they are pasted at their own place. Originals
    are from the quarter of the images with the lowest activations, are classified correctly, and are not of a class
    that the unit promotes.
    """
    target, probe, dissection = study.target, study.probe, study.dissections[unit.layer]
    outputs, exemplars = _find_outputs(target, probe, config), dissection.exemplars(unit)
    effect = _measure_effect(target, unit, exemplars.images)
    order = np.argsort(-effect, kind="stable")[: config.promoted_classes]
    goal = tuple(int(output) for output in order if effect[output] > 0)
    names = dict(zip(outputs, format_class_names(probe), strict=True))
    labels = np.array([outputs[label] for label in probe.labels or []])
    rng = np.random.default_rng([config.seed, unit.index])
    inactive = _choose_inactive_images(dissection.activations("max", [unit])[:, 0].numpy(), rng)
    candidates = [row for row in inactive.tolist() if labels[row] not in goal]
    rows = list(_iter_originals(target, probe, candidates, labels, config.originals))
    if not goal or len(rows) < 2:
        return None
    ids, masks = exemplars.ids[: config.distractors].numpy(), exemplars.masks[: config.distractors]
    originals = torch.stack([probe.image(row) for row in rows])
    others = torch.stack([probe.image(int(row)) for row in inactive[-len(ids) :]])
    pasted = _paste_regions(originals, exemplars.images[: len(ids)], masks)
    predictions = _predict(target, pasted)
    with ablated(target, [unit]):
        without = _predict(target, pasted)
    attacked = AttackedUnit(
        unit,
        study.texts[unit],
        distance,
        tuple(names.get(output, str(output)) for output in goal),
        predictions,
        without,
        _predict(target, _paste_regions(originals, others, masks)),
        labels[rows],
        labels[ids],
        goal,
        (),
    )
    images = originals, exemplars.images, pasted
    return replace(attacked, examples=_choose_examples(attacked, images, names))


def _choose_inactive_images(peaks: Float[np.ndarray, " images"], rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Return the quarter of the images with the lowest activations, in random order."""
    return rng.permutation(np.flatnonzero(peaks <= np.nanquantile(peaks, INACTIVE_SHARE)))


def _iter_originals(
    target: Target, probe: Probe, rows: Sequence[int], labels: Int[np.ndarray, " images"], count: int
) -> Iterator[int]:
    """Yield the first ``count`` images that the network classifies correctly."""
    found = 0
    for start in range(0, len(rows), BATCH_SIZE):
        some = rows[start : start + BATCH_SIZE]
        images = target.prepare(torch.stack([probe.image(row) for row in some]))
        correct = target.outputs(images).argmax(1).cpu().numpy() == labels[some]
        for row, is_correct in zip(some, correct, strict=True):
            if is_correct and found < count:
                found += 1
                yield row
        if found == count:
            return


def _measure_effect(
    target: Target, unit: Unit, images: UInt8[Tensor, "k 3 height width"]
) -> Float[np.ndarray, " classes"]:
    """Return the mean effect of the unit on each logit on its exemplars: with it minus without it."""
    inputs = target.prepare(images)
    whole = target.outputs(inputs)
    with ablated(target, [unit]):
        return (whole - target.outputs(inputs)).mean(0).float().cpu().numpy()


def _paste_regions(
    originals: UInt8[Tensor, "n 3 height width"],
    others: UInt8[Tensor, "d 3 height width"],
    masks: Bool[Tensor, "d 1 height width"],
) -> UInt8[Tensor, "n d 3 height width"]:
    """Paste each region of the others into each original, at its own place."""
    return torch.where(masks[None], others[None], originals[:, None])


def _predict(target: Target, images: UInt8[Tensor, "n d 3 height width"]) -> Int[np.ndarray, "n d"]:
    parts = [target.outputs(target.prepare(some)).argmax(1).cpu() for some in images.flatten(0, 1).split(BATCH_SIZE)]
    return torch.cat(parts).view(images.shape[:2]).numpy()


def _find_outputs(target: Target, probe: Probe, config: CutAndPasteConfig) -> list[int]:
    shape = target.outputs(target.prepare(probe.image(0)[None])).shape
    if len(shape) != 2:
        raise BadInput(
            f"{target.name} has an output of shape {tuple(shape[1:])} for an image; this experiment needs a classifier"
        )
    return match_outputs(probe, shape[1], config.synsets)


def _choose_examples(
    attacked: AttackedUnit, images: tuple[Tensor, Tensor, Tensor], names: dict[int, str]
) -> tuple[AttackExample, ...]:
    """Return examples of images that fool the network, with different originals and distractors as far as there are
    some; or else the first images.

    Args:
        images: originals, distractors and adversarial images.
        names: of the classes, by output.
    """
    originals, distractors, pasted = images
    rows, columns = attacked.predictions.shape
    places = np.argwhere(attacked.find_fooled(attacked.predictions)).tolist()
    places = places or [[row, row % columns] for row in range(rows)]
    chosen: dict[int, int] = {}
    for reuse in (False, True):
        for row, column in places:
            if len(chosen) < SHOWN_EXAMPLES and row not in chosen and (reuse or column not in chosen.values()):
                chosen[row] = column
    return tuple(
        AttackExample(
            originals[row],
            distractors[column],
            pasted[row, column],
            (
                names[int(attacked.original_classes[row])],
                names[int(attacked.distractor_classes[column])],
                names.get(output := int(attacked.predictions[row, column]), str(output)),
            ),
        )
        for row, column in chosen.items()
    )

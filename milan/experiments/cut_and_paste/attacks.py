"""Either-or units and the images that are made against them: a region that the unit answers to, pasted where it
answered to nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from milan.console.exemplar_rendering import encode_webp, make_image_grid
from milan.errors import BadInput
from milan.experiments.core.described_network import DescribedNetwork
from milan.probes import Probe
from milan.probes.superclasses import format_class_names, match_outputs
from milan.results.page.contact_sheets import PICTURE_SIZE, PICTURES_PER_ROW, ContactSheet
from milan.storage.files import atomic_write
from milan.targets.hooks import ablated
from milan.targets.target import Target
from milan.units import Unit

EITHER_PATTERN = re.compile(r"\bor\b|\|")
LIST_PATTERN = re.compile(r",|;|\band\b|\bas well as\b|&")
FORMULA_PATTERN = re.compile(r"[()]|\bbut not\b")  # in a formula "and" says that both must hold
EXCEPTION_PATTERN = re.compile(r"\b(?:and|but) not\b.*|\bnot\b.*")
BATCH_SIZE = 100
INACTIVE_SHARE = 0.25  # share of the images that a unit is said not to answer to
SHOWN_EXAMPLES = 3  # examples of a unit on the page


@dataclass(frozen=True)
class AttackConfig:
    """How units are attacked: see ``cut_and_paste``."""

    originals: int = 30
    distractors: int = 8
    pushed: int = 3
    synsets: str = ""
    seed: int = 0


@dataclass(frozen=True)
class AttackExample:
    """One adversarial image with what it was made of; classes by name."""

    original: UInt8[Tensor, "3 height width"]
    distractor: UInt8[Tensor, "3 height width"]
    adversarial: UInt8[Tensor, "3 height width"]
    classes: tuple[str, str, str]  # of the original, of the distractor, and what the network says of the pasted image


@dataclass(frozen=True)
class AttackedUnit:
    """One unit and what the pasted images did.

    Attributes:
        distance: how far the two things are apart that its description joins.
        pushed: the names of the classes that it moves the network to.
        answers: what the network says of each pasted image, rows originals and columns distractors.
        without: the same with the unit at 0.
        control: the same of images into which the same regions of images were pasted that the unit does not answer to.
        rows: the class of each original; columns: of each distractor.
        goal: outputs of the pushed classes.
    """

    unit: Unit
    text: str
    distance: float
    pushed: tuple[str, ...]
    answers: Int[np.ndarray, "originals distractors"]
    without: Int[np.ndarray, "originals distractors"]
    control: Int[np.ndarray, "originals distractors"]
    rows: Int[np.ndarray, " originals"]
    columns: Int[np.ndarray, " distractors"]
    goal: tuple[int, ...]
    examples: tuple[AttackExample, ...]

    def find_fooled(
        self, answers: Int[np.ndarray, "originals distractors"]
    ) -> Bool[np.ndarray, "originals distractors"]:
        """Where the answer is a class that the unit pushes, and neither the original's nor that of what was pasted."""
        return np.isin(answers, self.goal) & (answers != self.rows[:, None]) & (answers != self.columns[None])

    @cached_property
    def is_kept(self) -> Bool[np.ndarray, "originals distractors"]:
        """Where the network still says what the original shows."""
        return self.answers == self.rows[:, None]


def split_alternatives(text: str) -> list[str]:
    """The things that a description joins, without what it excepts: those beside an "or", else those that it lists.

    >>> split_alternatives("dog faces and cupcakes"), split_alternatives("((wheel or window) but not sky)"), split_alternatives("plain and hat but not red")
    (['dog faces', 'cupcakes'], ['wheel', 'window'], ['plain and hat'])
    """
    said = EXCEPTION_PATTERN.sub("", text.lower())
    joins = EITHER_PATTERN if EITHER_PATTERN.search(said) or FORMULA_PATTERN.search(text) else LIST_PATTERN
    found = [" ".join(re.sub(r"[()]", " ", part).split()).strip(". ,") for part in joins.split(said)]
    return list(dict.fromkeys(part for part in found if part))


def find_either_or_units(
    described: DescribedNetwork, units: Sequence[str], count: int, vectors: str, device: str
) -> list[tuple[Unit, float]]:
    """The units whose descriptions join what is least alike, with the distance (1 - cosine of the two furthest parts).

    Raises:
        BadInput: no description joins two things.
    """
    from milan.pretrained.embedder import embed_texts, load_embedder

    parts = {unit: split_alternatives(text) for unit, text in described.texts.items()}
    wanted = [Unit.parse(name) for name in units] or [unit for unit, several in parts.items() if len(several) > 1]
    if missing := [str(unit) for unit in wanted if unit not in parts]:
        raise BadInput(f"{missing[0]} has no description; those there are: {', '.join(map(str, list(parts)[:5]))} ...")
    if not wanted:
        raise BadInput(
            f"{described.evaluated.name} joins two things (a or b; a, b and c) in none of {len(parts)} descriptions;"
            " take another describer, as compositional, or name units"
        )
    words = list(dict.fromkeys(part for unit in wanted for part in parts[unit]))
    known = dict(zip(words, embed_texts(load_embedder(vectors, device=device), words), strict=True))
    apart = {unit: _find_largest_distance(torch.stack([known[part] for part in parts[unit]])) for unit in wanted}
    ranked = sorted(wanted, key=lambda unit: -apart[unit])
    return [(unit, apart[unit]) for unit in (ranked if units else ranked[:count])]


def _find_largest_distance(vectors: Float[Tensor, "parts features"]) -> float:
    alike = torch.nn.functional.normalize(vectors.float(), dim=1)
    return float((1 - alike @ alike.T).max())


def attack_unit(
    described: DescribedNetwork, probe: Probe, unit: Unit, distance: float, config: AttackConfig
) -> AttackedUnit | None:
    """Makes and tries the pasted images of one unit; None where it finds too few originals.

    Distractors are the unit's strongest exemplars, cut along their masks; they are pasted where they were. Originals
    are of the quarter of the images that move the unit least, right as they are, and of a class that the unit does not
    push.
    """
    target, dissection = described.target, described.dissections[unit.layer]
    outputs = _find_outputs(target, probe, config)
    exemplars = dissection.exemplars(unit)
    effect = _measure_effect(target, unit, exemplars.images)
    goal = tuple(int(place) for place in np.argsort(-effect, kind="stable")[: config.pushed] if effect[place] > 0)
    names = dict(zip(outputs, format_class_names(probe), strict=True))
    labels = np.array([outputs[label] for label in probe.labels or []])
    rng = np.random.default_rng([config.seed, unit.index])
    quiet = _choose_inactive_images(dissection.activations("max")[:, dissection.row_of(unit)].numpy(), rng)
    originals = list(
        _iter_originals(
            target, probe, [row for row in quiet.tolist() if labels[row] not in goal], labels, config.originals
        )
    )
    if not goal or len(originals) < 2:
        return None
    ids, masks = exemplars.ids[: config.distractors].numpy(), exemplars.masks[: config.distractors]
    shown = torch.stack([probe.image(row) for row in originals])
    strangers = torch.stack([probe.image(int(row)) for row in quiet[-len(ids) :]])
    answers = _predict(target, _paste_regions(shown, exemplars.images[: len(ids)], masks))
    with ablated(target, [unit]):
        without = _predict(target, _paste_regions(shown, exemplars.images[: len(ids)], masks))
    control = _predict(target, _paste_regions(shown, strangers, masks))
    found = AttackedUnit(
        unit,
        described.texts[unit],
        distance,
        tuple(names.get(place, str(place)) for place in goal),
        answers,
        without,
        control,
        labels[originals],
        labels[ids],
        goal,
        (),
    )
    return _add_examples(found, shown, exemplars.images, masks, names)


def _choose_inactive_images(peaks: Float[np.ndarray, " images"], rng: np.random.Generator) -> Int[np.ndarray, " quiet"]:
    """The quarter of the images that move the unit least, in an order drawn by lot."""
    return rng.permutation(np.flatnonzero(peaks <= np.nanquantile(peaks, INACTIVE_SHARE)))


def _iter_originals(
    target: Target, probe: Probe, rows: Sequence[int], labels: Int[np.ndarray, " images"], count: int
) -> Iterator[int]:
    """The first so many of the images that the network gets right."""
    found = 0
    for start in range(0, len(rows), BATCH_SIZE):
        some = rows[start : start + BATCH_SIZE]
        right = (
            target.outputs(target.preprocess(torch.stack([probe.image(row) for row in some]))).argmax(1).cpu().numpy()
            == labels[some]
        )
        for row, good in zip(some, right, strict=True):
            if good and found < count:
                found += 1
                yield row
        if found == count:
            return


def _measure_effect(
    target: Target, unit: Unit, images: UInt8[Tensor, "k 3 height width"]
) -> Float[np.ndarray, " classes"]:
    """By how much the unit moves each logit on its exemplars, on the mean: with it less without it."""
    given = target.preprocess(images)
    whole = target.outputs(given)
    with ablated(target, [unit]):
        return (whole - target.outputs(given)).mean(0).float().cpu().numpy()


def _paste_regions(
    originals: UInt8[Tensor, "n 3 height width"],
    others: UInt8[Tensor, "d 3 height width"],
    masks: Bool[Tensor, "d 1 height width"],
) -> UInt8[Tensor, "n d 3 height width"]:
    """Each region of the others in each original, at its own place."""
    return torch.where(masks[None], others[None], originals[:, None])


def _predict(target: Target, images: UInt8[Tensor, "n d 3 height width"]) -> Int[np.ndarray, "n d"]:
    parts = [target.outputs(target.preprocess(some)).argmax(1).cpu() for some in images.flatten(0, 1).split(BATCH_SIZE)]
    return torch.cat(parts).view(images.shape[:2]).numpy()


def _find_outputs(target: Target, probe: Probe, config: AttackConfig) -> list[int]:
    shape = target.outputs(target.preprocess(probe.image(0)[None])).shape
    if len(shape) != 2:
        raise BadInput(
            f"{target.name} answers {tuple(shape[1:])} for an image; only a classifier can be made to see another class"
        )
    return match_outputs(probe, shape[1], config.synsets)


def _add_examples(
    attacked_unit: AttackedUnit,
    shown: UInt8[Tensor, "n 3 height width"],
    others: Tensor,
    masks: Tensor,
    names: dict[int, str],
) -> AttackedUnit:
    """The first examples of distractors that fooled the network, each with another original; else the first ones."""
    hits = np.argwhere(attacked_unit.find_fooled(attacked_unit.answers)).tolist()
    places = hits or [[number, number % len(attacked_unit.columns)] for number in range(len(attacked_unit.rows))]
    chosen: list[tuple[int, int]] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for row, column in [*places, *hits]:
        if (
            len(chosen) < SHOWN_EXAMPLES
            and row not in rows
            and (column not in columns or len(columns) == len(attacked_unit.columns))
        ):
            chosen.append((row, column))
            rows.add(row)
            columns.add(column)
    for row, column in places:  # where one distractor alone fools, its other originals
        if len(chosen) < SHOWN_EXAMPLES and row not in rows:
            chosen.append((row, column))
            rows.add(row)
    made = _paste_regions(shown, others[: len(masks)], masks)
    predictions = [
        names.get(int(attacked_unit.answers[row, column]), str(attacked_unit.answers[row, column]))
        for row, column in chosen
    ]
    examples = tuple(
        AttackExample(
            shown[row],
            others[column],
            made[row, column],
            (names[int(attacked_unit.rows[row])], names[int(attacked_unit.columns[column])], answer),
        )
        for (row, column), answer in zip(chosen, predictions, strict=True)
    )
    return AttackedUnit(**{**vars(attacked_unit), "examples": examples})


def make_unit_views(attacked_units: Sequence[AttackedUnit], page: Path) -> list[dict[str, Any]]:
    """What the page shows of each unit: rows of original, distractor and pasted image, with their classes."""
    return [_make_unit_view(one, page) for one in attacked_units]


def _make_unit_view(one: AttackedUnit, page: Path) -> dict[str, Any]:
    said = [
        {"name": f"{one.unit}", "role": "", "text": one.text, "mark": "", "reason": "", "score": f"{one.distance:.2f}"}
    ]
    for number, each in enumerate(one.examples, 1):
        text = f"{each.classes[0]}, with a piece of a picture of {each.classes[1]}: {each.classes[2]}"
        fooled = each.classes[2] in one.pushed and each.classes[2] not in each.classes[:2]
        said.append(
            {
                "name": f"row {number}",
                "role": "",
                "text": text,
                "mark": "fooled" if fooled else "",
                "reason": "",
                "score": "",
            }
        )
    return {
        "id": str(one.unit),
        "group": one.unit.layer,
        "truth": f"Pushes {', '.join(one.pushed)}",
        "said": said,
        "sheet": _write_examples(one, page),
    }


def _write_examples(one: AttackedUnit, page: Path) -> ContactSheet | None:
    if not one.examples:
        return None
    images = torch.stack(
        [image for each in one.examples for image in (each.original, each.distractor, each.adversarial)]
    )
    height, width = (max(1, round(side * PICTURE_SIZE / max(images.shape[-2:]))) for side in images.shape[-2:])
    shown = interpolate(images.float(), (height, width), mode="nearest" if images.shape[-1] < width else "area").to(
        torch.uint8
    )
    file = f"pasted/{re.sub(r'[^A-Za-z0-9.-]', '_', str(one.unit))}.webp"
    (page / "pasted").mkdir(parents=True, exist_ok=True)
    with atomic_write(page / file) as partial:
        partial.write_bytes(encode_webp(make_image_grid(shown.permute(0, 2, 3, 1).numpy(), PICTURES_PER_ROW)))
    return ContactSheet(file, width, height, [], [])

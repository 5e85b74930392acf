"""Either-or units and the images that are made against them: a region that the unit answers to, pasted where it answered to nothing."""

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

from milan.dissection.hooks import ablated
from milan.errors import BadInput
from milan.experiments.describing.described import Described
from milan.page.sheets import ACROSS, SIZE, Sheet
from milan.pictures import sheet, webp
from milan.probes import Probe
from milan.probes.superclasses import outputs_of, readable_classes
from milan.storage import atomic
from milan.targets import Target
from milan.units import Unit

EITHER = re.compile(r"\bor\b|\|")
LISTED = re.compile(r",|;|\band\b|\bas well as\b|&")
FORMULA = re.compile(r"[()]|\bbut not\b")  # in a formula "and" says that both must hold
EXCEPTED = re.compile(r"\b(?:and|but) not\b.*|\bnot\b.*")
BATCH = 100
QUIET = 0.25  # share of the images that a unit is said not to answer to
SHOWN = 3  # examples of a unit on the page


@dataclass(frozen=True)
class Attacks:
    """How units are attacked: see ``cut_and_paste``."""

    originals: int = 30
    distractors: int = 8
    pushed: int = 3
    synsets: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One adversarial image with what it was made of; classes by name."""

    original: UInt8[Tensor, "3 height width"]
    distractor: UInt8[Tensor, "3 height width"]
    adversarial: UInt8[Tensor, "3 height width"]
    classes: tuple[str, str, str]  # of the original, of the distractor, and what the network says of the pasted image


@dataclass(frozen=True)
class Attacked:
    """One unit and what the pasted images did.

    Attributes:
        apart: how far the two things are apart that its description joins.
        pushed: the names of the classes that it moves the network to.
        answers: what the network says of each pasted image, rows originals and columns distractors.
        without: the same with the unit at 0.
        control: the same of images into which the same regions of images were pasted that the unit does not answer to.
        rows: the class of each original; columns: of each distractor.
        goal: outputs of the pushed classes.
    """

    unit: Unit
    text: str
    apart: float
    pushed: tuple[str, ...]
    answers: Int[np.ndarray, "originals distractors"]
    without: Int[np.ndarray, "originals distractors"]
    control: Int[np.ndarray, "originals distractors"]
    rows: Int[np.ndarray, " originals"]
    columns: Int[np.ndarray, " distractors"]
    goal: tuple[int, ...]
    examples: tuple[Example, ...]

    def fooled(self, answers: Int[np.ndarray, "originals distractors"]) -> Bool[np.ndarray, "originals distractors"]:
        """Where the answer is a class that the unit pushes, and neither the original's nor that of what was pasted."""
        return np.isin(answers, self.goal) & (answers != self.rows[:, None]) & (answers != self.columns[None])

    @cached_property
    def kept(self) -> Bool[np.ndarray, "originals distractors"]:
        """Where the network still says what the original shows."""
        return self.answers == self.rows[:, None]


def halves(text: str) -> list[str]:
    """The things that a description joins, without what it excepts: those beside an "or", else those that it lists.

    >>> halves("dog faces and cupcakes"), halves("((wheel or window) but not sky)"), halves("plain and hat but not red")
    (['dog faces', 'cupcakes'], ['wheel', 'window'], ['plain and hat'])
    """
    said = EXCEPTED.sub("", text.lower())
    joins = EITHER if EITHER.search(said) or FORMULA.search(text) else LISTED
    found = [" ".join(re.sub(r"[()]", " ", part).split()).strip(". ,") for part in joins.split(said)]
    return list(dict.fromkeys(part for part in found if part))


def either_or(described: Described, units: Sequence[str], count: int, vectors: str, device: str) -> list[tuple[Unit, float]]:
    """The units whose descriptions join what is least alike, with the distance (1 - cosine of the two furthest parts).

    Raises:
        BadInput: no description joins two things.
    """
    from milan.pretrained.embedder import load_embedder, text_embeddings

    parts = {unit: halves(text) for unit, text in described.texts.items()}
    wanted = [Unit.parse(name) for name in units] or [unit for unit, several in parts.items() if len(several) > 1]
    if missing := [str(unit) for unit in wanted if unit not in parts]:
        raise BadInput(f"{missing[0]} has no description; those there are: {', '.join(map(str, list(parts)[:5]))} ...")
    if not wanted:
        raise BadInput(
            f"{described.entrant.name} joins two things (a or b; a, b and c) in none of {len(parts)} descriptions; take another describer, "
            "as compositional, or name units"
        )
    words = list(dict.fromkeys(part for unit in wanted for part in parts[unit]))
    known = dict(zip(words, text_embeddings(load_embedder(vectors, device=device), words), strict=True))
    apart = {unit: _apart(torch.stack([known[part] for part in parts[unit]])) for unit in wanted}
    ranked = sorted(wanted, key=lambda unit: -apart[unit])
    return [(unit, apart[unit]) for unit in (ranked if units else ranked[:count])]


def _apart(vectors: Float[Tensor, "parts features"]) -> float:
    alike = torch.nn.functional.normalize(vectors.float(), dim=1)
    return float((1 - alike @ alike.T).max())


def attacked(described: Described, probe: Probe, unit: Unit, apart: float, plan: Attacks) -> Attacked | None:
    """Makes and tries the pasted images of one unit; None where it finds too few originals.

    Distractors are the unit's strongest exemplars, cut along their masks; they are pasted where they were. Originals are of the
    quarter of the images that move the unit least, right as they are, and of a class that the unit does not push.
    """
    target, dissection = described.target, described.dissections[unit.layer]
    outputs = _outputs(target, probe, plan)
    exemplars = dissection.exemplars(unit)
    effect = _effect(target, unit, exemplars.images)
    goal = tuple(int(place) for place in np.argsort(-effect, kind="stable")[: plan.pushed] if effect[place] > 0)
    names = dict(zip(outputs, readable_classes(probe), strict=True))
    labels = np.array([outputs[label] for label in probe.labels or []])
    dice = np.random.default_rng([plan.seed, unit.index])
    quiet = _quiet(dissection.activations("max")[:, dissection.row(unit)].numpy(), dice)
    originals = list(_originals(target, probe, [row for row in quiet.tolist() if labels[row] not in goal], labels, plan.originals))
    if not goal or len(originals) < 2:
        return None
    ids, masks = exemplars.ids[: plan.distractors].numpy(), exemplars.masks[: plan.distractors]
    shown = torch.stack([probe.image(row) for row in originals])
    strangers = torch.stack([probe.image(int(row)) for row in quiet[-len(ids) :]])
    answers = _answers(target, _pasted(shown, exemplars.images[: len(ids)], masks))
    with ablated(target, [unit]):
        without = _answers(target, _pasted(shown, exemplars.images[: len(ids)], masks))
    control = _answers(target, _pasted(shown, strangers, masks))
    found = Attacked(
        unit,
        described.texts[unit],
        apart,
        tuple(names.get(place, str(place)) for place in goal),
        answers,
        without,
        control,
        labels[originals],
        labels[ids],
        goal,
        (),
    )
    return _with_examples(found, shown, exemplars.images, masks, names)


def _quiet(peaks: Float[np.ndarray, " images"], dice: np.random.Generator) -> Int[np.ndarray, " quiet"]:
    """The quarter of the images that move the unit least, in an order drawn by lot."""
    return dice.permutation(np.flatnonzero(peaks <= np.nanquantile(peaks, QUIET)))


def _originals(target: Target, probe: Probe, rows: Sequence[int], labels: Int[np.ndarray, " images"], count: int) -> Iterator[int]:
    """The first so many of the images that the network gets right."""
    found = 0
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        right = target.outputs(target.prepare(torch.stack([probe.image(row) for row in some]))).argmax(1).cpu().numpy() == labels[some]
        for row, good in zip(some, right, strict=True):
            if good and found < count:
                found += 1
                yield row
        if found == count:
            return


def _effect(target: Target, unit: Unit, images: UInt8[Tensor, "k 3 height width"]) -> Float[np.ndarray, " classes"]:
    """By how much the unit moves each logit on its exemplars, on the mean: with it less without it."""
    given = target.prepare(images)
    whole = target.outputs(given)
    with ablated(target, [unit]):
        return (whole - target.outputs(given)).mean(0).float().cpu().numpy()


def _pasted(
    originals: UInt8[Tensor, "n 3 height width"], others: UInt8[Tensor, "d 3 height width"], masks: Bool[Tensor, "d 1 height width"]
) -> UInt8[Tensor, "n d 3 height width"]:
    """Each region of the others in each original, at its own place."""
    return torch.where(masks[None], others[None], originals[:, None])


def _answers(target: Target, images: UInt8[Tensor, "n d 3 height width"]) -> Int[np.ndarray, "n d"]:
    parts = [target.outputs(target.prepare(some)).argmax(1).cpu() for some in images.flatten(0, 1).split(BATCH)]
    return torch.cat(parts).view(images.shape[:2]).numpy()


def _outputs(target: Target, probe: Probe, plan: Attacks) -> list[int]:
    shape = target.outputs(target.prepare(probe.image(0)[None])).shape
    if len(shape) != 2:
        raise BadInput(f"{target.name} answers {tuple(shape[1:])} for an image; only a classifier can be made to see another class")
    return outputs_of(probe, shape[1], plan.synsets)


def _with_examples(
    found: Attacked, shown: UInt8[Tensor, "n 3 height width"], others: Tensor, masks: Tensor, names: dict[int, str]
) -> Attacked:
    """The first examples of distractors that fooled the network, each with another original; else the first ones."""
    hits = np.argwhere(found.fooled(found.answers)).tolist()
    places = hits or [[number, number % len(found.columns)] for number in range(len(found.rows))]
    chosen: list[tuple[int, int]] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for row, column in [*places, *hits]:
        if len(chosen) < SHOWN and row not in rows and (column not in columns or len(columns) == len(found.columns)):
            chosen.append((row, column))
            rows.add(row)
            columns.add(column)
    for row, column in places:  # where one distractor alone fools, its other originals
        if len(chosen) < SHOWN and row not in rows:
            chosen.append((row, column))
            rows.add(row)
    made = _pasted(shown, others[: len(masks)], masks)
    told = [names.get(int(found.answers[row, column]), str(found.answers[row, column])) for row, column in chosen]
    examples = tuple(
        Example(shown[row], others[column], made[row, column], (names[int(found.rows[row])], names[int(found.columns[column])], answer))
        for (row, column), answer in zip(chosen, told, strict=True)
    )
    return Attacked(**{**vars(found), "examples": examples})


def cases(found: Sequence[Attacked], page: Path) -> list[dict[str, Any]]:
    """What the page shows of each unit: rows of original, distractor and pasted image, with their classes."""
    return [_case(one, page) for one in found]


def _case(one: Attacked, page: Path) -> dict[str, Any]:
    said = [{"name": f"{one.unit}", "role": "", "text": one.text, "mark": "", "reason": "", "score": f"{one.apart:.2f}"}]
    for number, each in enumerate(one.examples, 1):
        text = f"{each.classes[0]}, with a piece of a picture of {each.classes[1]}: {each.classes[2]}"
        fooled = each.classes[2] in one.pushed and each.classes[2] not in each.classes[:2]
        said.append({"name": f"row {number}", "role": "", "text": text, "mark": "fooled" if fooled else "", "reason": "", "score": ""})
    return {
        "id": str(one.unit),
        "group": one.unit.layer,
        "truth": f"Pushes {', '.join(one.pushed)}",
        "said": said,
        "sheet": _sheet(one, page),
    }


def _sheet(one: Attacked, page: Path) -> Sheet | None:
    if not one.examples:
        return None
    images = torch.stack([image for each in one.examples for image in (each.original, each.distractor, each.adversarial)])
    height, width = (max(1, round(side * SIZE / max(images.shape[-2:]))) for side in images.shape[-2:])
    shown = interpolate(images.float(), (height, width), mode="nearest" if images.shape[-1] < width else "area").to(torch.uint8)
    file = f"pasted/{re.sub(r'[^A-Za-z0-9.-]', '_', str(one.unit))}.webp"
    (page / "pasted").mkdir(parents=True, exist_ok=True)
    with atomic(page / file) as partial:
        partial.write_bytes(webp(sheet(shown.permute(0, 2, 3, 1).numpy(), ACROSS)))
    return Sheet(file, width, height, [], [])

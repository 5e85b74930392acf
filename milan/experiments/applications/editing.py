"""Units removed one by one: which are said to detect text, in which order they go, and what is left of the accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from milan.errors import BadInput
from milan.experiments.applications.spoilt import Spoilt
from milan.experiments.describing.described import Described
from milan.probes import Probe
from milan.probes.labels import of_diorama
from milan.scores.ablations import right_without
from milan.scores.truth import Truth
from milan.targets import Target
from milan.units import Unit

NAMED, SORTED = "text units", "all units, sorted"  # by held-out training images, as in the paper
PLAIN = "text units, by images without text"
MOVED, ALL_MOVED = "text units, by images with text", "all units, by images with text"
KNOWN = "units that detect text, by images with text"
SPARSE = 3  # of so many steps random orders take one
FIRM, GROWTH = 8, 1.25  # after so many units one by one, steps grow by this
CUT = 0.04  # intersection over union with text from which a unit detects it: Network Dissection's
TEXT = "text"  # Diorama's concept of all letters


@dataclass(frozen=True)
class Plan:
    """What is removed and how far.

    Attributes:
        words: by which a description tells of text, as whole words.
        most: units that are removed, at most.
        draws: random orders.
        seed: of ties and of these.
    """

    words: tuple[str, ...] = ("text", "texts", "word", "words", "letter", "letters")
    most: int = 64
    draws: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Edited:
    """What was found.

    Attributes:
        importance: of each active unit the accuracy without it on held-out training images, half of
            which carry their class's name.
        reliance: of each active unit the accuracy without it on validation images with names of random classes.
        orders: by name, in which units were removed.
        adversarial: of each order, of each count in ``counts``, which adversarial test images were right.
        alike: the same of the held-out training images, of text units in each order and of those that detect text.
        validation: the same of the validation images without text, of the order that they decide.
        lettered: the same of these images with names of random classes, of the order that they decide.
        truths: of each layer what is true of its units, where that is known.
    """

    spoilt: Spoilt
    described: Described
    plan: Plan
    importance: Mapping[Unit, float]
    reliance: Mapping[Unit, float]
    orders: Mapping[str, Sequence[Unit]]
    adversarial: Mapping[str, Bool[np.ndarray, "counts images"]]
    alike: Mapping[str, Bool[np.ndarray, "counts images"]]
    validation: Bool[np.ndarray, "counts images"]
    lettered: Bool[np.ndarray, "counts images"]
    truths: Mapping[str, Truth]

    def counts(self, order: str) -> list[int]:
        """How many units of an order were removed, step by step."""
        return _counts(order, self.orders[order], self.plan)

    @property
    def named(self) -> list[Unit]:
        """The units said to detect text."""
        return list(self.orders[NAMED])

    @property
    def random(self) -> list[str]:
        return [name for name in self.orders if name.startswith("random")]

    def stop(self, order: str) -> int:
        """Where to stop, as a place among the counts, by the paper's rule on held-out training images (appendix E).

        The order by images without text is stopped by these.
        """
        return last_before_decline((self.validation if order == PLAIN else self.alike[order]).mean(1))

    @property
    def best(self) -> int:
        """Where most validation images with names of random classes are right, in the order that these decide."""
        return int(self.lettered.mean(1).argmax())

    def overlap(self, unit: Unit) -> float:
        """How far a unit's masks and the pixels of text are the same, as intersection over union."""
        return self.truths[unit.layer].overlap(unit, TEXT)


def steps(most: int) -> list[int]:
    """
    >>> steps(20)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 20]
    """
    found = list(range(min(most, FIRM) + 1))
    while found[-1] < most:
        found.append(min(most, int(np.ceil(found[-1] * GROWTH))))
    return found


def _counts(name: str, order: Sequence[Unit], plan: Plan) -> list[int]:
    """How many units of an order are removed, step by step; of random ones fewer steps, since there are many."""
    found = steps(min(plan.most, len(order)))
    return [0, *found[SPARSE::SPARSE]] if name.startswith("random") else found


def last_before_decline(accuracy: Float[np.ndarray, " counts"]) -> int:
    """The last place from which on the accuracy is no less than the first: after it, it is below for good (appendix E).

    >>> last_before_decline(np.array([0.7, 0.72, 0.69, 0.7, 0.6, 0.65]))
    3
    """
    return int(np.flatnonzero(accuracy >= accuracy[0])[-1])


def in_order(units: Sequence[Unit], value: Mapping[Unit, float], seed: int) -> list[Unit]:
    """The highest first: of importance the least important, without which the accuracy is highest. Ties by lot, not by layer."""
    lots = dict(zip(units, np.random.default_rng(seed).permutation(len(units)).tolist(), strict=True))
    return sorted(units, key=lambda unit: (-value[unit], lots[unit]))


def edited(spoilt: Spoilt, described: Described, plan: Plan, out: Path) -> Edited:
    """Measures importance and curves; answers are kept in ``out`` as they come, and not asked for again.

    Raises:
        BadInput: no unit is said to detect text.
    """
    if not described.mentioning(plan.words):
        raise BadInput(
            f"{described.entrant.name} says of none of {len(described.texts)} units one of the words {', '.join(plan.words)}; "
            "give others with --words"
        )
    units = described.alive

    def without_each(probe: Probe, kept: str) -> dict[Unit, float]:
        """The accuracy on some images without each unit alone."""
        right = right_without(spoilt.target, probe, [[unit] for unit in units], out / kept)[1]
        return dict(zip(units, right.mean(1).tolist(), strict=True))

    importance = without_each(spoilt.alike, "importance.sqlite")
    reliance = without_each(spoilt.lettered, "reading.sqlite")
    ranked = Ranked(importance, without_each(spoilt.validation, "alone.sqlite"), reliance)
    truths = {layer: Truth.of(one, spoilt.target) for layer, one in described.dissections.items()} if of_diorama(spoilt.seen.spec) else {}
    known = [unit for unit in units if truths and truths[unit.layer].overlap(unit, TEXT) >= CUT]
    orders = _orders(described, ranked, known, plan)
    counts = {name: _counts(name, order, plan) for name, order in orders.items()}

    def curves(probe: Probe, kept: str, names: Sequence[str]) -> dict[str, Bool[np.ndarray, "counts images"]]:
        wanted = {name: orders[name] for name in names if name in orders}
        return _curves(spoilt.target, probe, wanted, counts, out / kept)

    adversarial = curves(spoilt.adversarial, "adversarial.sqlite", list(orders))
    alike = curves(spoilt.alike, "alike.sqlite", [NAMED, PLAIN, MOVED, KNOWN])
    validation = curves(spoilt.validation, "validation.sqlite", [PLAIN])[PLAIN]
    lettered = curves(spoilt.lettered, "lettered.sqlite", [MOVED])[MOVED]
    curved = (adversarial, alike, validation, lettered)
    return Edited(spoilt, described, plan, importance, reliance, orders, *curved, truths)


class Ranked(NamedTuple):
    """By unit, the accuracy without it on three kinds of validation images."""

    alike: Mapping[Unit, float]  # held-out training images, half of them with their class's name: the paper's
    plain: Mapping[Unit, float]  # images without text
    lettered: Mapping[Unit, float]  # the same images with names of random classes


def _orders(described: Described, ranked: Ranked, known: Sequence[Unit], plan: Plan) -> dict[str, list[Unit]]:
    units, named = list(ranked.alike), described.mentioning(plan.words)
    found = {
        NAMED: in_order(named, ranked.alike, plan.seed),
        PLAIN: in_order(named, ranked.plain, plan.seed),
        MOVED: in_order(named, ranked.lettered, plan.seed),
        SORTED: in_order(units, ranked.alike, plan.seed),
        ALL_MOVED: in_order(units, ranked.lettered, plan.seed),
    }
    if known:
        found[KNOWN] = in_order(known, ranked.lettered, plan.seed)
    for draw in range(plan.draws):
        rows = np.random.default_rng([plan.seed, draw]).permutation(len(units))
        found[f"random {draw + 1}"] = [units[row] for row in rows[: len(found[NAMED])].tolist()]
    return found


def _curves(
    target: Target, probe: Probe, orders: Mapping[str, Sequence[Unit]], counts: Mapping[str, Sequence[int]], kept: Path
) -> dict[str, Bool[np.ndarray, "counts images"]]:
    """All orders in one reading of the images; the network as it is is asked once."""
    sets: list[Sequence[Unit]] = [[]]
    for name, order in orders.items():
        sets += [order[:count] for count in counts[name][1:]]
    right = right_without(target, probe, sets, kept)[1]
    ends = np.cumsum([0, *(len(counts[name]) - 1 for name in orders)]) + 1
    return {name: np.concatenate([right[:1], right[start:end]]) for name, (start, end) in zip(orders, pairwise(ends.tolist()), strict=True)}


def cases(found: Edited) -> list[tuple[Unit, dict[str, Any]]]:
    """What the page shows of each text unit, those first without which most images with text are right."""
    order = found.orders[MOVED]
    return [(unit, _case(found, unit, place)) for place, unit in enumerate(order, 1)]


def _case(found: Edited, unit: Unit, place: int) -> dict[str, Any]:
    text = found.described.texts[unit]
    truth = ""
    if found.truths:
        detects = found.overlap(unit) >= CUT
        truth = f"{'Detects' if detects else 'Does not detect'} text (IoU {found.overlap(unit):.2f})"
    told = {
        found.described.entrant.name: (text, f"no. {place}"),
        "without it": (f"{100 * found.importance[unit]:.1f} % of held-out training images right", ""),
        "with text": (f"{100 * found.reliance[unit]:.1f} % of images with names of random classes", ""),
    }
    said = [{"name": name, "role": "", "text": line, "mark": "", "reason": "", "score": score} for name, (line, score) in told.items()]
    return {"id": str(unit), "group": unit.layer, "truth": truth, "said": said}

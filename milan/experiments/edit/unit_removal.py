"""Units removed one by one: which are said to detect text, in which order they go, and what is left of the accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from milan.errors import BadInput
from milan.experiments.core.described_network import DescribedNetwork
from milan.experiments.edit.spurious_networks import SpuriousNetwork
from milan.probes import Probe
from milan.probes.pixel_labels import shows_diorama
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.scores.truth_score import Truth
from milan.targets.target import Target
from milan.units import Unit

TEXT_UNITS, ALL_UNITS = "text units", "all units, sorted"  # by held-out training images, as in the paper
PLAIN = "text units, by images without text"
TEXT_UNITS_BY_LETTERED, ALL_UNITS_BY_LETTERED = "text units, by images with text", "all units, by images with text"
TRUE_TEXT_UNITS = "units that detect text, by images with text"
RANDOM_STEP_STRIDE = 3  # of so many steps random orders take one
SINGLE_STEPS, STEP_GROWTH = 8, 1.25  # after so many units one by one, steps grow by this
MIN_OVERLAP = 0.04  # intersection over union with text from which a unit detects it: Network Dissection's
TEXT_CONCEPT = "text"  # Diorama's concept of all letters


@dataclass(frozen=True)
class RemovalConfig:
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
class EditResult:
    """What was found.

    Attributes:
        importance: of each active unit the accuracy without it on held-out training images, half of
            which carry their class's name.
        reliance: of each active unit the accuracy without it on validation images with names of random classes.
        orders: by name, in which units were removed.
        adversarial: of each order, of each count in ``list_counts``, which adversarial test images were right.
        alike: the same of the held-out training images, of text units in each order and of those that detect text.
        validation: the same of the validation images without text, of the order that they decide.
        lettered: the same of these images with names of random classes, of the order that they decide.
        truths: of each layer what is true of its units, where that is known.
    """

    network: SpuriousNetwork
    described: DescribedNetwork
    config: RemovalConfig
    importance: Mapping[Unit, float]
    reliance: Mapping[Unit, float]
    orders: Mapping[str, Sequence[Unit]]
    adversarial: Mapping[str, Bool[np.ndarray, "counts images"]]
    alike: Mapping[str, Bool[np.ndarray, "counts images"]]
    validation: Bool[np.ndarray, "counts images"]
    lettered: Bool[np.ndarray, "counts images"]
    truths: Mapping[str, Truth]

    def list_counts(self, order: str) -> list[int]:
        """How many units of an order were removed, step by step."""
        return _list_counts(order, self.orders[order], self.config)

    @property
    def text_units(self) -> list[Unit]:
        """The units said to detect text."""
        return list(self.orders[TEXT_UNITS])

    @property
    def random_orders(self) -> list[str]:
        return [name for name in self.orders if name.startswith("random")]

    def find_stop(self, order: str) -> int:
        """Where to stop, as a place among the counts, by the paper's rule on held-out training images (appendix E).

        The order by images without text is stopped by these.
        """
        return find_last_before_decline((self.validation if order == PLAIN else self.alike[order]).mean(1))

    @property
    def find_best(self) -> int:
        """Where most validation images with names of random classes are right, in the order that these decide."""
        return int(self.lettered.mean(1).argmax())

    def compute_overlap(self, unit: Unit) -> float:
        """How far a unit's masks and the pixels of text are the same, as intersection over union."""
        return self.truths[unit.layer].overlap(unit, TEXT_CONCEPT)


def make_steps(most: int) -> list[int]:
    """
    >>> make_steps(20)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 20]
    """
    found = list(range(min(most, SINGLE_STEPS) + 1))
    while found[-1] < most:
        found.append(min(most, int(np.ceil(found[-1] * STEP_GROWTH))))
    return found


def _list_counts(name: str, order: Sequence[Unit], config: RemovalConfig) -> list[int]:
    """How many units of an order are removed, step by step; of random ones fewer steps, since there are many."""
    found = make_steps(min(config.most, len(order)))
    return [0, *found[RANDOM_STEP_STRIDE::RANDOM_STEP_STRIDE]] if name.startswith("random") else found


def find_last_before_decline(accuracy: Float[np.ndarray, " counts"]) -> int:
    """The last place from which on the accuracy is no less than the first: after it, it is below for good (appendix E).

    >>> find_last_before_decline(np.array([0.7, 0.72, 0.69, 0.7, 0.6, 0.65]))
    3
    """
    return int(np.flatnonzero(accuracy >= accuracy[0])[-1])


def sort_units(units: Sequence[Unit], value: Mapping[Unit, float], seed: int) -> list[Unit]:
    """The highest first: of importance the least important, without which the accuracy is highest. Ties by lot, not by
    layer.
    """
    tie_breakers = dict(zip(units, np.random.default_rng(seed).permutation(len(units)).tolist(), strict=True))
    return sorted(units, key=lambda unit: (-value[unit], tie_breakers[unit]))


def measure_removal(
    network: SpuriousNetwork, described: DescribedNetwork, config: RemovalConfig, out: Path
) -> EditResult:
    """Measures importance and curves; answers are kept in ``out`` as they come, and not asked for again.

    Raises:
        BadInput: no unit is said to detect text.
    """
    if not described.find_units_mentioning(config.words):
        raise BadInput(
            f"{described.evaluated.name} says of none of {len(described.texts)} units one of the words"
            f" {', '.join(config.words)}; give others with --words"
        )
    units = described.active_units

    def without_each(probe: Probe, kept: str) -> dict[Unit, float]:
        """The accuracy on some images without each unit alone."""
        right = evaluate_ablations(network.target, probe, [[unit] for unit in units], out / kept)[1]
        return dict(zip(units, right.mean(1).tolist(), strict=True))

    importance = without_each(network.in_distribution, "importance.sqlite")
    reliance = without_each(network.lettered, "reading.sqlite")
    ranked = Ranked(importance, without_each(network.validation, "alone.sqlite"), reliance)
    truths = (
        {layer: Truth.measure(one, network.target) for layer, one in described.dissections.items()}
        if shows_diorama(network.dissection_images.spec)
        else {}
    )
    known = [unit for unit in units if truths and truths[unit.layer].overlap(unit, TEXT_CONCEPT) >= MIN_OVERLAP]
    orders = _make_orders(described, ranked, known, config)
    counts = {name: _list_counts(name, order, config) for name, order in orders.items()}

    def curves(probe: Probe, kept: str, names: Sequence[str]) -> dict[str, Bool[np.ndarray, "counts images"]]:
        wanted = {name: orders[name] for name in names if name in orders}
        return _measure_curves(network.target, probe, wanted, counts, out / kept)

    adversarial = curves(network.adversarial, "adversarial.sqlite", list(orders))
    alike = curves(
        network.in_distribution, "alike.sqlite", [TEXT_UNITS, PLAIN, TEXT_UNITS_BY_LETTERED, TRUE_TEXT_UNITS]
    )
    validation = curves(network.validation, "validation.sqlite", [PLAIN])[PLAIN]
    lettered = curves(network.lettered, "lettered.sqlite", [TEXT_UNITS_BY_LETTERED])[TEXT_UNITS_BY_LETTERED]
    curved = (adversarial, alike, validation, lettered)
    return EditResult(network, described, config, importance, reliance, orders, *curved, truths)


class Ranked(NamedTuple):
    """By unit, the accuracy without it on three kinds of validation images."""

    alike: Mapping[Unit, float]  # held-out training images, half of them with their class's name: the paper's
    plain: Mapping[Unit, float]  # images without text
    lettered: Mapping[Unit, float]  # the same images with names of random classes


def _make_orders(
    described: DescribedNetwork, ranked: Ranked, true_units: Sequence[Unit], config: RemovalConfig
) -> dict[str, list[Unit]]:
    units, named = list(ranked.alike), described.find_units_mentioning(config.words)
    found = {
        TEXT_UNITS: sort_units(named, ranked.alike, config.seed),
        PLAIN: sort_units(named, ranked.plain, config.seed),
        TEXT_UNITS_BY_LETTERED: sort_units(named, ranked.lettered, config.seed),
        ALL_UNITS: sort_units(units, ranked.alike, config.seed),
        ALL_UNITS_BY_LETTERED: sort_units(units, ranked.lettered, config.seed),
    }
    if true_units:
        found[TRUE_TEXT_UNITS] = sort_units(true_units, ranked.lettered, config.seed)
    for draw in range(config.draws):
        rows = np.random.default_rng([config.seed, draw]).permutation(len(units))
        found[f"random {draw + 1}"] = [units[row] for row in rows[: len(found[TEXT_UNITS])].tolist()]
    return found


def _measure_curves(
    target: Target, probe: Probe, orders: Mapping[str, Sequence[Unit]], counts: Mapping[str, Sequence[int]], kept: Path
) -> dict[str, Bool[np.ndarray, "counts images"]]:
    """All orders in one reading of the images; the network as it is is asked once."""
    sets: list[Sequence[Unit]] = [[]]
    for name, order in orders.items():
        sets += [order[:count] for count in counts[name][1:]]
    right = evaluate_ablations(target, probe, sets, kept)[1]
    ends = np.cumsum([0, *(len(counts[name]) - 1 for name in orders)]) + 1
    return {
        name: np.concatenate([right[:1], right[start:end]])
        for name, (start, end) in zip(orders, pairwise(ends.tolist()), strict=True)
    }


def make_unit_views(result: EditResult) -> list[tuple[Unit, dict[str, Any]]]:
    """What the page shows of each text unit, those first without which most images with text are right."""
    order = result.orders[TEXT_UNITS_BY_LETTERED]
    return [(unit, _make_unit_view(result, unit, place)) for place, unit in enumerate(order, 1)]


def _make_unit_view(result: EditResult, unit: Unit, place: int) -> dict[str, Any]:
    text = result.described.texts[unit]
    truth = ""
    if result.truths:
        detects = result.compute_overlap(unit) >= MIN_OVERLAP
        truth = f"{'Detects' if detects else 'Does not detect'} text (IoU {result.compute_overlap(unit):.2f})"
    facts = {
        result.described.evaluated.name: (text, f"no. {place}"),
        "without it": (f"{100 * result.importance[unit]:.1f} % of held-out training images right", ""),
        "with text": (f"{100 * result.reliance[unit]:.1f} % of images with names of random classes", ""),
    }
    said = [
        {"name": name, "role": "", "text": line, "mark": "", "reason": "", "score": score}
        for name, (line, score) in facts.items()
    ]
    return {"id": str(unit), "group": unit.layer, "truth": truth, "said": said}

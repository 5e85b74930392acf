"""The removal of units one by one: which units detect text by their descriptions, in which orders they are removed, and
the accuracy that is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from milan.errors import BadInput
from milan.experiments.core.study import Study
from milan.experiments.core.unit_views import make_text_view, make_unit_view
from milan.experiments.edit.config import EditConfig
from milan.experiments.edit.spurious_networks import SpuriousNetwork
from milan.probes import Probe
from milan.probes.pixel_labels import shows_diorama
from milan.scores.truth_score import Truth
from milan.units import Unit

WORDS = ("text", "texts", "word", "words", "letter", "letters")
# Sorted by held-out training images, as in the paper.
TEXT_UNITS, ALL_UNITS = "text units", "all units, sorted"
PLAIN = "text units, by images without text"
TEXT_UNITS_BY_LETTERED, ALL_UNITS_BY_LETTERED = "text units, by images with text", "all units, by images with text"
TRUE_TEXT_UNITS = "units that detect text, by images with text"
# Random orders take every third step, since there are several of them.
RANDOM_STEP_STRIDE = 3
# After so many units that are removed one by one, steps grow by this factor.
SINGLE_STEPS, STEP_GROWTH = 8, 1.25
# Intersection over union with text from which on a unit detects it, as in Network Dissection.
MIN_IOU = 0.04
TEXT_CONCEPT = "text"  # Diorama's concept of all letters


@dataclass(frozen=True)
class EditResult:
    """The accuracy of a network as units are removed.

    Attributes:
        importance: the accuracy without each active unit on held-out training images, half of which carry their class's
            name.
        reliance: the accuracy without each active unit on validation images with names of random classes.
        orders: the orders in which units are removed, by name.
        adversarial: which adversarial test images are classified correctly, by order and count of ``list_counts``.
        in_distribution: the same of the held-out training images, for text units in each order and units that detect
            text.
        validation: the same of the validation images without text, for the order that they decide.
        lettered: the same of these images with names of random classes, for the order that they decide.
        truths: what is true of the units of each layer, where it is known.
    """

    network: SpuriousNetwork
    study: Study
    config: EditConfig
    importance: Mapping[Unit, float]
    reliance: Mapping[Unit, float]
    orders: Mapping[str, Sequence[Unit]]
    adversarial: Mapping[str, Bool[np.ndarray, "counts images"]]
    in_distribution: Mapping[str, Bool[np.ndarray, "counts images"]]
    validation: Bool[np.ndarray, "counts images"]
    lettered: Bool[np.ndarray, "counts images"]
    truths: Mapping[str, Truth]

    def list_counts(self, order: str) -> list[int]:
        """Return how many units of an order are removed at each step."""
        return _list_counts(order, self.orders[order], self.config)

    @property
    def words(self) -> Sequence[str]:
        """The words of descriptions of text units."""
        return self.config.words or WORDS

    @property
    def text_units(self) -> list[Unit]:
        """The units whose description mentions text."""
        return list(self.orders[TEXT_UNITS])

    @property
    def true_units(self) -> list[Unit]:
        """The active units that detect text; empty where that is not known."""
        return _find_true_units(self.study, self.truths)

    @property
    def random_orders(self) -> list[str]:
        """The names of the random orders."""
        return [name for name in self.orders if name.startswith("random")]

    def find_stop(self, order: str) -> int:
        """Return the step at which to stop by the paper's rule on held-out training images (appendix E).

        The order by images without text is stopped by these.
        """
        correct = self.validation if order == PLAIN else self.in_distribution[order]
        return find_last_before_decline(correct.mean(1))

    @property
    def best_step(self) -> int:
        """The step with the best accuracy on validation images with names of random classes, in their order."""
        return int(self.lettered.mean(1).argmax())

    def compute_iou(self, unit: Unit) -> float:
        """Return the intersection over union of a unit's masks and the pixels of text."""
        return self.truths[unit.layer].overlap(unit, TEXT_CONCEPT)


def make_steps(end: int) -> list[int]:
    """Return counts up to ``end``, one by one at first, then in growing steps.

    >>> make_steps(20)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 20]
    """
    steps = list(range(min(end, SINGLE_STEPS) + 1))
    while steps[-1] < end:
        steps.append(min(end, int(np.ceil(steps[-1] * STEP_GROWTH))))
    return steps


def _list_counts(name: str, order: Sequence[Unit], config: EditConfig) -> list[int]:
    steps = make_steps(min(config.max_units, len(order)))
    return [0, *steps[RANDOM_STEP_STRIDE::RANDOM_STEP_STRIDE]] if name.startswith("random") else steps


def find_last_before_decline(accuracy: Float[np.ndarray, " counts"]) -> int:
    """Return the last step with an accuracy that is no less than the first (appendix E).

    >>> find_last_before_decline(np.array([0.7, 0.72, 0.69, 0.7, 0.6, 0.65]))
    3
    """
    return int(np.flatnonzero(accuracy >= accuracy[0])[-1])


def sort_units(units: Sequence[Unit], value: Mapping[Unit, float], seed: int) -> list[Unit]:
    """Sort units by descending value; ties are broken randomly, not by layer."""
    tie_breakers = dict(zip(units, np.random.default_rng(seed).permutation(len(units)).tolist(), strict=True))
    return sorted(units, key=lambda unit: (-value[unit], tie_breakers[unit]))


def measure_removal(network: SpuriousNetwork, study: Study, config: EditConfig) -> EditResult:
    """Measure the accuracy without each unit, and as units are removed in several orders. Runs are resumable.

    Raises:
        BadInput: no description mentions text.
    """
    units = study.active_units
    if not find_text_units(study, config):
        least = "" if config.min_score is None else f" and a score of at least {config.min_score:g}"
        raise BadInput(
            f"none of {len(study.texts)} descriptions by {study.evaluated.name} has one of the words"
            f" {', '.join(config.words or WORDS)}{least}; give others with --words"
        )

    def measure_each(probe: Probe, name: str) -> dict[Unit, float]:
        """Return the accuracy on some images without each unit alone."""
        correct = network.evaluate(probe, [[unit] for unit in units], study.out / f"{name}.sqlite")
        return dict(zip(units, correct.mean(1).tolist(), strict=True))

    importance = measure_each(network.in_distribution, "importance")
    reliance = measure_each(network.lettered, "reliance")
    accuracies = AccuracyWithoutUnit(importance, measure_each(network.validation, "alone"), reliance)
    truths = {}
    if shows_diorama(study.probe.spec):
        truths = Truth.measure_layers(study.dissections, network.target)
    orders = _make_orders(study, accuracies, _find_true_units(study, truths), config)
    counts = {name: _list_counts(name, order, config) for name, order in orders.items()}

    def measure_curves(probe: Probe, name: str, names: Sequence[str]) -> dict[str, Bool[np.ndarray, "counts images"]]:
        own = {name: orders[name] for name in names if name in orders}
        return _measure_curves(network, probe, own, counts, study.out / f"{name}.sqlite")

    stopped = [TEXT_UNITS, PLAIN, TEXT_UNITS_BY_LETTERED, TRUE_TEXT_UNITS]
    return EditResult(
        network,
        study,
        config,
        importance,
        reliance,
        orders,
        measure_curves(network.adversarial, "adversarial", list(orders)),
        measure_curves(network.in_distribution, "in-distribution", stopped),
        measure_curves(network.validation, "validation", [PLAIN])[PLAIN],
        measure_curves(network.lettered, "lettered", [TEXT_UNITS_BY_LETTERED])[TEXT_UNITS_BY_LETTERED],
        truths,
    )


def find_text_units(study: Study, config: EditConfig) -> list[Unit]:
    """Return the units whose description has one of the words, and the least score if one is given."""
    named = study.find_units_mentioning(config.words or WORDS)
    if config.min_score is None:
        return named
    scores = {each.unit: each.score for each in study.evaluated.descriptions}
    return [unit for unit in named if scores[unit] >= config.min_score]


def _find_true_units(study: Study, truths: Mapping[str, Truth]) -> list[Unit]:
    units = study.active_units if truths else []
    return [unit for unit in units if truths[unit.layer].overlap(unit, TEXT_CONCEPT) >= MIN_IOU]


class AccuracyWithoutUnit(NamedTuple):
    """The accuracy without each unit on three kinds of validation images.

    Attributes:
        in_distribution: held-out training images, half of which carry their class's name, as in the paper.
        plain: images without text.
        lettered: the same images with names of random classes.
    """

    in_distribution: Mapping[Unit, float]
    plain: Mapping[Unit, float]
    lettered: Mapping[Unit, float]


def _make_orders(
    study: Study, accuracies: AccuracyWithoutUnit, true_units: Sequence[Unit], config: EditConfig
) -> dict[str, list[Unit]]:
    units, named = list(accuracies.in_distribution), find_text_units(study, config)
    seed = config.seed
    orders = {
        TEXT_UNITS: sort_units(named, accuracies.in_distribution, seed),
        PLAIN: sort_units(named, accuracies.plain, seed),
        TEXT_UNITS_BY_LETTERED: sort_units(named, accuracies.lettered, seed),
        ALL_UNITS: sort_units(units, accuracies.in_distribution, seed),
        ALL_UNITS_BY_LETTERED: sort_units(units, accuracies.lettered, seed),
    }
    if true_units:
        orders[TRUE_TEXT_UNITS] = sort_units(true_units, accuracies.lettered, seed)
    for draw in range(config.random_orders):
        rows = np.random.default_rng([seed, draw]).permutation(len(units))
        orders[f"random {draw + 1}"] = [units[row] for row in rows[: len(orders[TEXT_UNITS])].tolist()]
    return orders


def _measure_curves(
    network: SpuriousNetwork,
    probe: Probe,
    orders: Mapping[str, Sequence[Unit]],
    counts: Mapping[str, Sequence[int]],
    file: Path,
) -> dict[str, Bool[np.ndarray, "counts images"]]:
    """Return which images are classified correctly at each step of each order; all orders share one pass."""
    sets: list[Sequence[Unit]] = [[]]
    for name, order in orders.items():
        sets += [order[:count] for count in counts[name][1:]]
    correct = network.evaluate(probe, sets, file)
    ends = np.cumsum([0, *(len(counts[name]) - 1 for name in orders)]) + 1
    return {
        name: np.concatenate([correct[:1], correct[start:end]])
        for name, (start, end) in zip(orders, pairwise(ends.tolist()), strict=True)
    }


def make_unit_views(result: EditResult) -> list[tuple[Unit, dict[str, Any]]]:
    """Return what the page shows of each text unit, in the order by images with text."""
    order = result.orders[TEXT_UNITS_BY_LETTERED]
    return [(unit, _make_view(result, unit, place)) for place, unit in enumerate(order, 1)]


def _make_view(result: EditResult, unit: Unit, place: int) -> dict[str, Any]:
    truth = ""
    if result.truths:
        iou = result.compute_iou(unit)
        truth = f"{'Detects' if iou >= MIN_IOU else 'Does not detect'} text (IoU {iou:.2f})"
    importance, reliance = 100 * result.importance[unit], 100 * result.reliance[unit]
    rows = [
        make_text_view(result.study.evaluated.name, result.study.texts[unit], score=f"no. {place}"),
        make_text_view("without it", f"{importance:.1f} % accuracy on held-out training images"),
        make_text_view("with text", f"{reliance:.1f} % accuracy on images with names of random classes"),
    ]
    return make_unit_view(unit, unit.layer, truth, rows)

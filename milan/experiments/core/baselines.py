"""The floors that stand beside every score of descriptions, and counts of descriptions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from milan.experiments.core.report import Column, Value
from milan.scores.confidence_intervals import estimate_mean
from milan.units import Description

FLOORS = ("shuffled", "random", "constant")
FLOORS_NOTE = (
    "Floors: shuffled, the first describer's descriptions of other units of the layer; random, for each unit a random"
    " text or concept of any describer here; constant, the first describer's most common description for every unit."
)
COUNT_COLUMNS = (
    Column("described", "Number of units with a description."),
    Column("distinct", "Number of different descriptions."),
    Column("words", "Mean number of words of a description.", "", 1),
)


def make_floors(
    first: Sequence[Description], all_descriptions: Sequence[Description], seed: int
) -> dict[str, list[Description]]:
    """Return the floors' descriptions of the units that the first describer describes.

    Args:
        first: the first describer's descriptions.
        all_descriptions: those of all describers, from whose texts and concepts random ones are sampled.
    """
    words = sorted({name for each in all_descriptions for name, _ in each.concepts or ((each.text, 1.0),)})
    rng = np.random.default_rng(seed)
    floors: dict[str, list[Description]] = {name: [] for name in FLOORS}
    for layer in dict.fromkeys(each.unit.layer for each in first):
        here = [each for each in first if each.unit.layer == layer]
        order = np.roll(cycle := rng.permutation(len(here)), 1)
        floors["shuffled"] += [
            replace(here[other], unit=here[own].unit) for own, other in zip(cycle, order, strict=True)
        ]
        common = Counter(each.text for each in here).most_common(1)[0][0]
        model = next(each for each in here if each.text == common)
        floors["constant"] += [replace(model, unit=each.unit) for each in here]
        floors["random"] += [Description(each.unit, words[rng.integers(len(words))], 0.0) for each in here]
    return floors


def count_descriptions(descriptions: Sequence[Description], seed: int) -> dict[str, Value]:
    """Return the values of ``COUNT_COLUMNS``."""
    texts = [each.text for each in descriptions]
    words = estimate_mean([float(len(text.split())) for text in texts], seed)
    return {"described": len(texts), "distinct": len(set(texts)), "words": words}

"""The floors that stand beside every score of descriptions, and what is told of any set of them: how many, how many
different, how long.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from milan.experiments.core.report import Column, Value
from milan.scores.confidence_intervals import estimate_mean
from milan.units import Description

FLOORS = ("shuffled", "random", "constant")
FLOORS_NOTE = (
    "Floors: the first describer's descriptions dealt to other units of the layer; for each unit a text or concept"
    " drawn by lot from all that any describer here uses; and the first describer's commonest description, said of"
    " every unit."
)
COUNT_COLUMNS = (
    Column("described", "How many units have a description."),
    Column("distinct", "How many different descriptions there are."),
    Column("words", "The mean number of words of a description.", "", 1),
)


def make_floors(
    first: Sequence[Description], all_descriptions: Sequence[Description], seed: int
) -> dict[str, list[Description]]:
    """What the floors say of the units that are described first.

    Args:
        all_descriptions: all descriptions of all describers, whose texts and concepts are drawn from.
    """
    words = sorted({name for each in all_descriptions for name, _ in each.concepts or ((each.text, 1.0),)})
    rng = np.random.default_rng(seed)
    found: dict[str, list[Description]] = {name: [] for name in FLOORS}
    for layer in dict.fromkeys(each.unit.layer for each in first):
        here = [each for each in first if each.unit.layer == layer]
        order = np.roll(cycle := rng.permutation(len(here)), 1)
        found["shuffled"] += [
            replace(here[other], unit=here[own].unit) for own, other in zip(cycle, order, strict=True)
        ]
        common = Counter(each.text for each in here).most_common(1)[0][0]
        model = next(each for each in here if each.text == common)
        found["constant"] += [replace(model, unit=each.unit) for each in here]
        found["random"] += [Description(each.unit, words[rng.integers(len(words))], 0.0) for each in here]
    return found


def count_descriptions(descriptions: Sequence[Description], seed: int) -> dict[str, Value]:
    """The values of COUNTS."""
    texts: list[Any] = [each.text for each in descriptions]
    return {
        "described": len(texts),
        "distinct": len(set(texts)),
        "words": estimate_mean([float(len(text.split())) for text in texts], seed),
    }

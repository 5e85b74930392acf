"""The floors that stand beside every score of descriptions, and what is told of any set of them: how many, how many different, how long."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from milan.experiments.reporting.report import Column, Value
from milan.scores.intervals import mean
from milan.units import Description

FLOORS = ("shuffled", "random", "constant")
SAID = (
    "Floors: the first describer's descriptions dealt to other units of the layer; for each unit a text or concept drawn by lot from all "
    "that any describer here uses; and the first describer's commonest description, said of every unit."
)
COUNTS = (
    Column("described", "How many units have a description."),
    Column("distinct", "How many different descriptions there are."),
    Column("words", "The mean number of words of a description.", "", 1),
)


def floors_of(first: Sequence[Description], every: Sequence[Description], seed: int) -> dict[str, list[Description]]:
    """What the floors say of the units that are described first.

    Args:
        every: all descriptions of all describers, whose texts and concepts are drawn from.
    """
    words = sorted({name for each in every for name, _ in each.concepts or ((each.text, 1.0),)})
    dice = np.random.default_rng(seed)
    found: dict[str, list[Description]] = {name: [] for name in FLOORS}
    for layer in dict.fromkeys(each.unit.layer for each in first):
        here = [each for each in first if each.unit.layer == layer]
        order = np.roll(cycle := dice.permutation(len(here)), 1)
        found["shuffled"] += [replace(here[other], unit=here[own].unit) for own, other in zip(cycle, order, strict=True)]
        common = Counter(each.text for each in here).most_common(1)[0][0]
        model = next(each for each in here if each.text == common)
        found["constant"] += [replace(model, unit=each.unit) for each in here]
        found["random"] += [Description(each.unit, words[dice.integers(len(words))], 0.0) for each in here]
    return found


def counted(said: Sequence[Description], seed: int) -> dict[str, Value]:
    """The values of COUNTS."""
    texts: list[Any] = [each.text for each in said]
    return {"described": len(texts), "distinct": len(set(texts)), "words": mean([float(len(text.split())) for text in texts], seed)}

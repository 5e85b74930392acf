"""What descriptions predict of units, scored describer by describer, as the tables of the simulation experiment."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from milan.command import warnings_so_far
from milan.dissection.store import Dissection
from milan.experiments.entrants import Entrant
from milan.experiments.report import Column, Report, Row, Table
from milan.scores.intervals import mean
from milan.scores.simulation import BANDS, TRUSTED, Simulator, simulate
from milan.storage import versions
from milan.units import Description

FLOORS = ("shuffled", "constant")
SPREAD = "in standard deviations of the description's predictions"


@dataclass
class Judged:
    """One describer's explanations of all layers, what they score, and how long that took."""

    name: str
    role: str
    said: list[Description] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    bands: list[np.ndarray] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kin: str = ""


def told_by(entrant: Entrant) -> list[Description]:
    """What a describer said, without the units it said nothing of."""
    return [entry.description for entry in entrant.entries if entry.description is not None]


def judge(name: str, role: str, said: Sequence[Description], kept: Mapping[str, Dissection], seer: Simulator) -> Judged:
    """Scores descriptions on the dissections of the images that were kept from whoever gave them."""
    one = Judged(name, role)
    for layer, dissection in kept.items():
        here = [each for each in said if each.unit.layer == layer]
        if not here:
            continue
        seer.encode(sorted({text for each in here for text, _ in each.concepts or ((each.text, 1.0),)}))  # once, and not timed
        start = time.monotonic()
        activation = dissection.activations("mean")[:, [dissection.row(each.unit) for each in here]].numpy()
        simulated = simulate(activation, here, seer)
        one.seconds += time.monotonic() - start
        one.said += here
        one.layers += [layer] * len(here)
        one.bands += list(simulated.bands)
        for metric, values in simulated.scores.items():
            one.scores.setdefault(metric, []).extend(values.tolist())
    return one


def floors(first: Judged, kept: Mapping[str, Dissection], seer: Simulator, seed: int) -> list[Judged]:
    """The first describer's explanations dealt to other units of the layer, and the commonest of them for every unit."""
    dice = np.random.default_rng(seed)
    dealt, same = [], []
    for layer in dict.fromkeys(first.layers):
        here = [each for each in first.said if each.unit.layer == layer]
        order = np.roll(cycle := dice.permutation(len(here)), 1)
        dealt += [replace(here[other], unit=here[own].unit) for own, other in zip(cycle, order, strict=True)]
        common = Counter(each.text for each in here).most_common(1)[0][0]
        model = next(each for each in here if each.text == common)
        same += [replace(model, unit=each.unit) for each in here]
    return [judge(name, "floor", said, kept, seer) for name, said in zip(FLOORS, (dealt, same), strict=True)]


def report_of(found: Sequence[Judged], target: str, seer: Simulator, probe: str, explained: Mapping[str, Dissection], seed: int) -> Report:
    """Tables by describer, by layer and by activation, with what a reader must know."""
    texts = {
        "correlation": "Pearson's correlation of what the description predicts with the unit's mean activation.",
        "cosine": "The cosine of the two.",
        "auprc": "Average precision of the prediction for the 5% of images that move the unit most; by lot 0.05.",
        "f1": "F1 of predicting these images, a prediction counting as yes above the middle of what the description can predict.",
        "iou": "Images predicted and firing, of those that are either.",
    }
    columns = [Column(name, texts[name], "", 3, "more") for name in TRUSTED]
    columns += [
        Column("concepts", "The mean number of concepts in a description."),
        Column("described", "How many units have a description."),
        Column("distinct", "How many different descriptions there are."),
        Column("time", "Wall-clock time to score a unit, beyond encoding the distinct texts and images once.", "s", 5),
    ]
    whole = Table("all units", tuple(columns), tuple(_row(one, seed) for one in found))
    layers = Table(
        "by layer",
        tuple(Column(layer, "The mean correlation over the layer's units.", "", 3, "more") for layer in explained),
        tuple(_by_layer(one, seed) for one in found),
    )
    names = [f"{100 * low:g} to {100 * high:g}%" for low, high in BANDS]
    banded = Table(
        "by activation",
        tuple(
            Column(name, "The mean prediction on these images, in standard deviations of the description's predictions.", "", 2)
            for name in names
        ),
        tuple(_by_band(one, names, seed) for one in found),
    )
    kin = [f"{one.name}: {one.kin}, so its figures may be too high." for one in found if one.kin]
    notes = (
        f"Explained from {probe}, judged on {seer.judged.spec}: no describer, split or calibration has looked at the judged images.",
        f"Simulator: {seer.spec}. A description that never varies on the judged images has no correlation and counts as 0 in the means.",
        "Floors: the first describer's explanations dealt to other units of the layer, and its commonest one for every unit.",
        "By activation: images sorted by each unit's own activation, from its weakest half to its strongest hundredth.",
        *kin,
    )
    facts = {
        "target": target,
        "probe": probe,
        "judged": seer.judged.spec,
        "simulator": seer.spec,
        "images": len(seer.judged),
        "seed": seed,
        "hashes": {layer: dissection.key for layer, dissection in explained.items()},
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    known = [(_mean(one, "correlation", seed).value, one.name) for one in found if one.said and not one.role]
    best = max(known, key=lambda pair: pair[0], default=None)
    heads = ((f"{best[0]:.2f}", f"correlation: {best[1]}"),) if best else ()
    asked, images = len(found) - len(FLOORS), f"{len(seer.judged):,} images"
    lede = f"What {asked} describers say of {len(found[0].said)} units, as predictions of their activations on {images} kept from them."
    return Report("simulation", target, lede, (whole, layers, banded), heads, notes, facts)


def _mean(one: Judged, metric: str, seed: int) -> Any:
    """What is not defined, since the prediction never varies or the unit never fires, counts as nothing predicted."""
    return mean([0.0 if value != value else value for value in one.scores.get(metric, [])], seed)


def _row(one: Judged, seed: int) -> Row:
    values = {metric: _mean(one, metric, seed) for metric in one.scores}
    values |= {
        "concepts": sum(max(1, len(each.concepts)) for each in one.said) / max(1, len(one.said)),
        "described": len(one.said),
        "distinct": len({each.text for each in one.said}),
        "time": one.seconds / max(1, len(one.said)),
    }
    return Row(one.name, values, _role(one))


def _by_layer(one: Judged, seed: int) -> Row:
    values = {}
    for layer in dict.fromkeys(one.layers):
        here = [value for value, where in zip(one.scores["correlation"], one.layers, strict=True) if where == layer]
        values[layer] = mean([0.0 if value != value else value for value in here], seed)
    return Row(one.name, values, _role(one))


def _by_band(one: Judged, names: Sequence[str], seed: int) -> Row:
    return Row(one.name, {name: mean([float(each[place]) for each in one.bands], seed) for place, name in enumerate(names)}, _role(one))


def _role(one: Judged) -> Any:
    return one.role

"""What descriptions predict of units, scored describer by describer, as the tables of the simulation experiment."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milan.command import warnings_so_far
from milan.dissection.store import Dissection
from milan.experiments.comparison import floors
from milan.experiments.describing.entrants import Entrant
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.provenance import Sources
from milan.scores.intervals import mean
from milan.scores.simulation import BANDS, TRUSTED, Simulator, simulate
from milan.storage import versions
from milan.units import Description

DESCRIBERS = ("netdissect", "milan", "clip_dissect", "linear_explanations", "linear_explanations-embedder-diorama.yaml")  # Table 2's
TEXTS = {
    "correlation": "Pearson's correlation of what the description predicts with the unit's mean activation.",
    "cosine": "The cosine of the two.",
    "auprc": "Average precision of the prediction for the 5% of images that move the unit most; by lot 0.05.",
    "f1": "F1 of predicting these images, a prediction counting as yes above the middle of what the description can predict.",
    "iou": "Images predicted and firing, of those that are either.",
}
CONCEPTS = Column("concepts", "The mean number of concepts in a description.")


@dataclass
class Judged:
    """One describer's explanations of all layers, what they score, and how long that took."""

    name: str
    role: str
    said: list[Description] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    bands: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    kin: str = ""

    def mean(self, metric: str, seed: int, layer: str = "") -> Any:
        """What is not defined, since the prediction never varies or the unit never fires, counts as nothing predicted."""
        pairs = zip(self.said, self.scores.get(metric, []), strict=False)
        return mean([0.0 if value != value else value for each, value in pairs if layer in ("", each.unit.layer)], seed)

    def concepts(self, layer: str = "") -> float:
        """The mean number of concepts in an explanation; one without weights is one concept."""
        here = [max(1, len(each.concepts)) for each in self.said if layer in ("", each.unit.layer)]
        return sum(here) / max(1, len(here))


@dataclass(frozen=True)
class Stage:
    """What all are judged on.

    Attributes:
        target: the network, as it was asked for.
        explained: the dissections that describers saw.
        kept: those of images kept from them.
        seer: predicts on the latter.
        seed: of intervals, floors and lots.
    """

    target: str
    explained: Mapping[str, Dissection]
    kept: Mapping[str, Dissection]
    seer: Simulator
    seed: int = 0

    def judge(self, name: str, role: str, said: Sequence[Description]) -> Judged:
        """Scores descriptions on the images that were kept from whoever gave them."""
        one = Judged(name, role)
        for layer, dissection in self.kept.items():
            here = [each for each in said if each.unit.layer == layer]
            if not here:
                continue
            self.seer.encode(sorted({text for each in here for text, _ in each.concepts or ((each.text, 1.0),)}))  # once, and not timed
            start = time.monotonic()
            activation = dissection.activations("mean")[:, [dissection.row(each.unit) for each in here]].numpy()
            simulated = simulate(activation, here, self.seer)
            one.seconds += time.monotonic() - start
            one.said += here
            one.bands += list(simulated.bands)
            for metric, values in simulated.scores.items():
                one.scores.setdefault(metric, []).extend(values.tolist())
        return one

    def floors(self, found: Sequence[Judged]) -> list[Judged]:
        """Judges what is said without looking."""
        said = floors.floors_of(found[0].said, [each for one in found for each in one.said], self.seed)
        return [self.judge(name, "floor", each) for name, each in said.items()]

    def tables(self, found: Sequence[Judged]) -> tuple[Table, Table, Table]:
        """By describer (the paper's Table 2), by layer (its Table 10), and by activation."""
        columns = [Column(name, TEXTS[name], "", 3, "more") for name in TRUSTED]
        columns += [CONCEPTS, *floors.COUNTS]
        columns.append(Column("time", "Wall-clock time to score a unit, beyond encoding the distinct texts and images once.", "s", 5))
        whole = Table("all units", tuple(columns), tuple(self._row(one) for one in found))
        layers = [Column(layer, "The mean correlation over the layer's units.", "", 3, "more") for layer in self.explained]
        lengths = [Column(f"{layer} concepts", "The mean number of concepts in a description of this layer.") for layer in self.explained]
        both = [column for pair in zip(layers, lengths, strict=True) for column in pair]
        text = "The mean prediction on these images, in standard deviations of the description's predictions."
        names = [f"{100 * low:g} to {100 * high:g}%" for low, high in BANDS]
        banded = Table("by activation", tuple(Column(name, text, "", 2) for name in names), tuple(self._band(one, names) for one in found))
        return whole, Table("by layer", tuple(both), tuple(self._layers(one) for one in found)), banded

    def _row(self, one: Judged) -> Row:
        values = {metric: one.mean(metric, self.seed) for metric in one.scores}
        values |= {"concepts": one.concepts(), **floors.counted(one.said, self.seed), "time": one.seconds / max(1, len(one.said))}
        return Row(one.name, values, one.role)  # type: ignore[arg-type]

    def _layers(self, one: Judged) -> Row:
        values: dict[str, Value] = {}
        for layer in dict.fromkeys(each.unit.layer for each in one.said):
            values |= {layer: one.mean("correlation", self.seed, layer), f"{layer} concepts": one.concepts(layer)}
        return Row(one.name, values, one.role)  # type: ignore[arg-type]

    def _band(self, one: Judged, names: Sequence[str]) -> Row:
        values = {name: mean([float(each[place]) for each in one.bands], self.seed) for place, name in enumerate(names)}
        return Row(one.name, values, one.role)  # type: ignore[arg-type]

    def report(
        self,
        found: Sequence[Judged],
        more: Sequence[Table],
        sources: Sources,
        notes: Sequence[str] = (),
    ) -> Report:
        """All tables, with what a reader must know; ``sources`` are the describers', to which what judges is added."""
        sources = {**sources, "simulator": self.seer.spec, "judged images": self.seer.judged.spec}
        probe = next(iter(self.explained.values())).open_probe().spec
        kin = [f"{one.name}: {one.kin}, so its figures may be too high." for one in found if one.kin]
        told = (
            f"Explained from {probe}, judged on {self.seer.judged.spec}, at which no describer, split or calibration has looked. What the "
            "author of an imported table looked at, nobody knows.",
            f"Simulator: {self.seer.spec}. A description that never varies on the judged images has no correlation and counts as 0.",
            floors.SAID,
            "By activation: images sorted by each unit's own activation, from its weakest half to its strongest hundredth.",
            *notes,
            *kin,
        )
        facts = {
            "target": self.target,
            "probe": probe,
            "judged": self.seer.judged.spec,
            "simulator": self.seer.spec,
            "images": len(self.seer.judged),
            "seed": self.seed,
            "hashes": {layer: dissection.key for layer, dissection in self.explained.items()},
            "versions": versions(),
            "warnings": warnings_so_far(),
        }
        known = [(one.mean("correlation", self.seed).value, one.name) for one in found if one.said and not one.role]
        best = max(known, key=lambda pair: pair[0], default=None)
        heads = ((f"{best[0]:.2f}", f"correlation: {best[1]}"),) if best else ()
        asked, images = sum(not one.role for one in found), f"{len(self.seer.judged):,} images"
        lede = f"What {asked} describers say of {len(found[0].said)} units, as predictions of their activations on {images} kept from them."
        tables = (*self.tables(found), *more)
        return Report("simulation", self.target, lede, tables, heads, told, facts, sources=sources)


def told_by(entrant: Entrant) -> list[Description]:
    """What a describer said, without the units it said nothing of."""
    return [entry.description for entry in entrant.entries if entry.description is not None]

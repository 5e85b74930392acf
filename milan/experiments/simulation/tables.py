"""What descriptions predict of units, scored describer by describer, as the tables of the simulation experiment."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.dissection.store import Dissection
from milan.experiments.core import baselines as floors
from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.scores.activation_simulation import BANDS, TRUSTED_METRICS, Simulator, simulate
from milan.scores.confidence_intervals import estimate_mean
from milan.storage.files import collect_versions
from milan.storage.provenance import Sources
from milan.units import Description

DEFAULT_DESCRIBERS = (
    "netdissect",
    "milan",
    "clip_dissect",
    "linear_explanations",
    "linear_explanations-embedder-diorama.yaml",
)  # Table 2's
METRIC_TEXTS = {
    "correlation": "Pearson's correlation of what the description predicts with the unit's mean activation.",
    "cosine": "The cosine of the two.",
    "auprc": "Average precision of the prediction for the 5% of images that move the unit most; by lot 0.05.",
    "f1": (
        "F1 of predicting these images, a prediction counting as yes above the middle of what the description can"
        " predict."
    ),
    "iou": "Images predicted and firing, of those that are either.",
}
CONCEPTS_COLUMN = Column("concepts", "The mean number of concepts in a description.")


@dataclass
class SimulatedDescriber:
    """One describer's explanations of all layers, what they score, and how long that took."""

    name: str
    role: str
    descriptions: list[Description] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    bands: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    shared_source: str = ""

    def compute_mean(self, metric: str, seed: int, layer: str = "") -> Any:
        """What is not defined, since the prediction never varies or the unit never fires, counts as nothing
        predicted.
        """
        pairs = zip(self.descriptions, self.scores.get(metric, []), strict=False)
        return estimate_mean(
            [0.0 if value != value else value for each, value in pairs if layer in ("", each.unit.layer)], seed
        )

    def count_concepts(self, layer: str = "") -> float:
        """The mean number of concepts in an explanation; one without weights is one concept."""
        here = [max(1, len(each.concepts)) for each in self.descriptions if layer in ("", each.unit.layer)]
        return sum(here) / max(1, len(here))


@dataclass(frozen=True)
class SimulationSetup:
    """What all are judged on.

    Attributes:
        target: the network, as it was asked for.
        explained_dissections: the dissections that describers saw.
        kept_dissections: those of images kept from them.
        simulator: predicts on the latter.
        seed: of intervals, floors and lots.
    """

    target: str
    explained_dissections: Mapping[str, Dissection]
    kept_dissections: Mapping[str, Dissection]
    simulator: Simulator
    seed: int = 0

    def score_describer(self, name: str, role: str, descriptions: Sequence[Description]) -> SimulatedDescriber:
        """Scores descriptions on the images that were kept from whoever gave them."""
        one = SimulatedDescriber(name, role)
        for layer, dissection in self.kept_dissections.items():
            here = [each for each in descriptions if each.unit.layer == layer]
            if not here:
                continue
            self.simulator.prepare_texts(
                sorted({text for each in here for text, _ in each.concepts or ((each.text, 1.0),)})
            )  # once, and not timed
            start = time.monotonic()
            activation = dissection.activations("mean")[:, [dissection.row_of(each.unit) for each in here]].numpy()
            simulated = simulate(activation, here, self.simulator)
            one.seconds += time.monotonic() - start
            one.descriptions += here
            one.bands += list(simulated.bands)
            for metric, values in simulated.scores.items():
                one.scores.setdefault(metric, []).extend(values.tolist())
        return one

    def score_floors(self, scored: Sequence[SimulatedDescriber]) -> list[SimulatedDescriber]:
        """Judges what is said without looking."""
        said = floors.make_floors(
            scored[0].descriptions, [each for one in scored for each in one.descriptions], self.seed
        )
        return [self.score_describer(name, "floor", each) for name, each in said.items()]

    def make_tables(self, scored: Sequence[SimulatedDescriber]) -> tuple[Table, Table, Table]:
        """By describer (the paper's Table 2), by layer (its Table 10), and by activation."""
        columns = [Column(name, METRIC_TEXTS[name], "", 3, "more") for name in TRUSTED_METRICS]
        columns += [CONCEPTS_COLUMN, *floors.COUNT_COLUMNS]
        columns.append(
            Column(
                "time", "Wall-clock time to score a unit, beyond encoding the distinct texts and images once.", "s", 5
            )
        )
        whole = Table("all units", tuple(columns), tuple(self._make_row(one) for one in scored))
        layers = [
            Column(layer, "The mean correlation over the layer's units.", "", 3, "more")
            for layer in self.explained_dissections
        ]
        lengths = [
            Column(f"{layer} concepts", "The mean number of concepts in a description of this layer.")
            for layer in self.explained_dissections
        ]
        both = [column for pair in zip(layers, lengths, strict=True) for column in pair]
        text = "The mean prediction on these images, in standard deviations of the description's predictions."
        names = [f"{100 * low:g} to {100 * high:g}%" for low, high in BANDS]
        banded = Table(
            "by activation",
            tuple(Column(name, text, "", 2) for name in names),
            tuple(self._make_band_row(one, names) for one in scored),
        )
        return whole, Table("by layer", tuple(both), tuple(self._make_layer_row(one) for one in scored)), banded

    def _make_row(self, one: SimulatedDescriber) -> Row:
        values = {metric: one.compute_mean(metric, self.seed) for metric in one.scores}
        values |= {
            "concepts": one.count_concepts(),
            **floors.count_descriptions(one.descriptions, self.seed),
            "time": one.seconds / max(1, len(one.descriptions)),
        }
        return Row(one.name, values, one.role)  # type: ignore[arg-type]

    def _make_layer_row(self, one: SimulatedDescriber) -> Row:
        values: dict[str, Value] = {}
        for layer in dict.fromkeys(each.unit.layer for each in one.descriptions):
            values |= {
                layer: one.compute_mean("correlation", self.seed, layer),
                f"{layer} concepts": one.count_concepts(layer),
            }
        return Row(one.name, values, one.role)  # type: ignore[arg-type]

    def _make_band_row(self, one: SimulatedDescriber, names: Sequence[str]) -> Row:
        values = {
            name: estimate_mean([float(each[place]) for each in one.bands], self.seed)
            for place, name in enumerate(names)
        }
        return Row(one.name, values, one.role)  # type: ignore[arg-type]

    def make_report(
        self,
        scored: Sequence[SimulatedDescriber],
        more_tables: Sequence[Table],
        sources: Sources,
        notes: Sequence[str] = (),
    ) -> Report:
        """All tables, with what a reader must know; ``sources`` are the describers', to which what judges is added."""
        sources = {**sources, "simulator": self.simulator.spec, "judged images": self.simulator.probe.spec}
        probe = next(iter(self.explained_dissections.values())).open_probe().spec
        shared_source = [
            f"{one.name}: {one.shared_source}, so its figures may be too high." for one in scored if one.shared_source
        ]
        method_notes = (
            (
                f"Explained from {probe}, judged on {self.simulator.probe.spec}, at which no describer, split or"
                " calibration has looked. What the author of an imported table looked at, nobody knows."
            ),
            (
                f"Simulator: {self.simulator.spec}. A description that never varies on the judged images has no"
                " correlation and counts as 0."
            ),
            floors.FLOORS_NOTE,
            (
                "By activation: images sorted by each unit's own activation, from its weakest half to its strongest"
                " hundredth."
            ),
            *notes,
            *shared_source,
        )
        facts = {
            "target": self.target,
            "probe": probe,
            "judged": self.simulator.probe.spec,
            "simulator": self.simulator.spec,
            "images": len(self.simulator.probe),
            "seed": self.seed,
            "hashes": {layer: dissection.key for layer, dissection in self.explained_dissections.items()},
            "versions": collect_versions(),
            "warnings": get_recorded_warnings(),
        }
        known = [
            (one.compute_mean("correlation", self.seed).value, one.name)
            for one in scored
            if one.descriptions and not one.role
        ]
        best = max(known, key=lambda pair: pair[0], default=None)
        heads = ((f"{best[0]:.2f}", f"correlation: {best[1]}"),) if best else ()
        asked, images = sum(not one.role for one in scored), f"{len(self.simulator.probe):,} images"
        lede = (
            f"What {asked} describers say of {len(scored[0].descriptions)} units, as predictions of their activations"
            f" on {images} kept from them."
        )
        tables = (*self.make_tables(scored), *more_tables)
        return Report("simulation", self.target, lede, tables, heads, method_notes, facts, sources=sources)


def list_descriptions(evaluated: EvaluatedDescriber) -> list[Description]:
    """What a describer said, without the units it said nothing of."""
    return [entry.description for entry in evaluated.entries if entry.description is not None]

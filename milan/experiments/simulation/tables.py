"""The scores of descriptions as predictions of activations, and their tables."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from milan.dissection.dissection import Dissection
from milan.experiments.core.baselines import COUNT_COLUMNS, FLOORS_NOTE, count_descriptions, make_floors
from milan.experiments.core.report import Column, Report, Role, Row, Table, Value
from milan.experiments.core.study import Study
from milan.scores.activation_simulation import BANDS, TRUSTED_METRICS, Simulator, simulate
from milan.scores.confidence_intervals import Measure, estimate_mean
from milan.units import Description

# Those of Table 2 of the paper.
DEFAULT_DESCRIBERS = (
    "netdissect",
    "milan",
    "clip_dissect",
    "linear_explanations",
    "linear_explanations-embedder-diorama.yaml",
)
METRIC_TEXTS = {
    "correlation": "Pearson correlation of the prediction with the unit's mean activation.",
    "cosine": "Cosine similarity of the two.",
    "auprc": "Average precision of the prediction for the 5% of images with the highest activation; 0.05 at random.",
    "f1": (
        "F1 of predicting these images, where a prediction is positive above the middle of what the description can"
        " predict."
    ),
    "iou": "Images that are both predicted and active, as a share of those that are either.",
}
CONCEPTS_COLUMN = Column("concepts", "Mean number of concepts in a description.")


@dataclass
class DescriberSimulation:
    """The scores of one describer's descriptions.

    Attributes:
        scores: of each description, by metric.
        bands: the mean prediction in each band of activations, for each description.
        seconds: that scoring took.
        shared_source: what the describer and the simulator have in common; empty for nothing.
    """

    name: str
    role: Role
    descriptions: list[Description] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    bands: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    shared_source: str = ""

    def compute_mean(self, metric: str, seed: int, layer: str = "") -> Measure:
        """Return the mean over units; an undefined score, of a constant prediction or a dead unit, counts as 0."""
        pairs = zip(self.descriptions, self.scores.get(metric, []), strict=False)
        values = [0.0 if np.isnan(value) else value for each, value in pairs if layer in ("", each.unit.layer)]
        return estimate_mean(values, seed)

    def count_concepts(self, layer: str = "") -> float:
        """Return the mean number of concepts in a description; one without weights is one concept."""
        counts = [max(1, len(each.concepts)) for each in self.descriptions if layer in ("", each.unit.layer)]
        return sum(counts) / max(1, len(counts))


@dataclass(frozen=True)
class SimulationScorer:
    """Scores descriptions on images that no describer has seen.

    Attributes:
        dissections: of these images, by layer.
        simulator: predicts activations on these images.
        seed: the random seed of intervals and floors.
    """

    dissections: Mapping[str, Dissection]
    simulator: Simulator
    seed: int = 0

    def score(self, name: str, role: Role, descriptions: Sequence[Description]) -> DescriberSimulation:
        """Return the scores of a describer's descriptions."""
        result = DescriberSimulation(name, role)
        for layer, dissection in self.dissections.items():
            here = [each for each in descriptions if each.unit.layer == layer]
            if not here:
                continue
            # Texts are encoded once for all describers, which is not timed.
            texts = {text for each in here for text, _ in each.concepts or ((each.text, 1.0),)}
            self.simulator.prepare_texts(sorted(texts))
            start = time.monotonic()
            activation = dissection.activations("mean", [each.unit for each in here]).numpy()
            simulated = simulate(activation, here, self.simulator)
            result.seconds += time.monotonic() - start
            result.descriptions += here
            result.bands += list(simulated.bands)
            for metric, values in simulated.scores.items():
                result.scores.setdefault(metric, []).extend(values.tolist())
        return result

    def score_floors(self, scores: Sequence[DescriberSimulation]) -> list[DescriberSimulation]:
        """Return the scores of the floors beside these describers."""
        everything = [each for one in scores for each in one.descriptions]
        floors = make_floors(scores[0].descriptions, everything, self.seed)
        return [self.score(name, "floor", descriptions) for name, descriptions in floors.items()]


def make_report(
    study: Study,
    scorer: SimulationScorer,
    scores: Sequence[DescriberSimulation],
    more_tables: Sequence[Table],
    more_notes: Sequence[str],
    figures: Sequence[tuple[str, str]] = (),
) -> Report:
    """Return all tables, with what a reader must know."""
    simulator, layers = scorer.simulator, list(scorer.dissections)
    notes = (
        f"Units are described on {study.probe.spec} and predicted on {simulator.probe.spec}, which no describer, split"
        " or calibration has seen; what the authors of an imported table have seen is not known.",
        f"Simulator: {simulator.spec}. A description whose prediction is constant has no correlation and counts as 0.",
        FLOORS_NOTE,
        "By activation: images sorted by each unit's activation, from the lower half to the highest hundredth.",
        *more_notes,
        *(f"{one.name}: {one.shared_source}, so its scores may be too high." for one in scores if one.shared_source),
    )
    tables = [
        _make_main_table(scores, scorer.seed),
        _make_layer_table(scores, layers, scorer.seed),
        _make_band_table(scores, scorer.seed),
        *more_tables,
    ]
    means = {
        one.name: one.compute_mean("correlation", scorer.seed).value
        for one in scores
        if one.descriptions and not one.role
    }
    best = max(means, key=lambda name: means[name], default="")
    images = len(simulator.probe)
    return study.report(
        study.target.name,
        f"Descriptions of {len(scores[0].descriptions)} units by {len(study.describers)} describers, as predictions"
        f" of their activations on {images:,} images that they were not made from.",
        tables,
        headlines=((f"{means[best]:.2f}", f"correlation: {best}"),) if best else (),
        notes=notes,
        figures=tuple(figures),
        facts={"evaluation probe": simulator.probe.spec, "simulator": simulator.spec, "images": images},
        sources={"simulator": simulator.spec, "evaluation images": simulator.probe.spec},
    )


def _make_main_table(scores: Sequence[DescriberSimulation], seed: int) -> Table:
    """Return all metrics over all units (Table 2 of the paper)."""
    columns = [
        *(Column(name, METRIC_TEXTS[name], "", 3, "more") for name in TRUSTED_METRICS),
        CONCEPTS_COLUMN,
        *COUNT_COLUMNS,
        Column("time", "Time to score a unit, without encoding the distinct texts and images once.", "s", 5),
    ]
    rows = []
    for one in scores:
        values: dict[str, Value] = {metric: one.compute_mean(metric, seed) for metric in one.scores}
        values |= {"concepts": one.count_concepts(), "time": one.seconds / max(1, len(one.descriptions))}
        rows.append(Row(one.name, values | count_descriptions(one.descriptions, seed), one.role))
    return Table("all units", tuple(columns), tuple(rows))


def _make_layer_table(scores: Sequence[DescriberSimulation], layers: Sequence[str], seed: int) -> Table:
    """Return the correlation by layer (Table 10 of the paper)."""
    columns = []
    for layer in layers:
        columns += [
            Column(layer, "Mean correlation over the layer's units.", "", 3, "more"),
            Column(f"{layer} concepts", "Mean number of concepts in a description of this layer."),
        ]
    rows = []
    for one in scores:
        values: dict[str, Value] = {}
        for layer in dict.fromkeys(each.unit.layer for each in one.descriptions):
            values[layer] = one.compute_mean("correlation", seed, layer)
            values[f"{layer} concepts"] = one.count_concepts(layer)
        rows.append(Row(one.name, values, one.role))
    return Table("by layer", tuple(columns), tuple(rows))


def _make_band_table(scores: Sequence[DescriberSimulation], seed: int) -> Table:
    text = "Mean prediction on these images, in standard deviations of the description's predictions."
    names = [f"{100 * low:g} to {100 * high:g}%" for low, high in BANDS]
    rows = []
    for one in scores:
        values: dict[str, Value] = {
            name: estimate_mean([float(each[place]) for each in one.bands], seed) for place, name in enumerate(names)
        }
        rows.append(Row(one.name, values, one.role))
    return Table("by activation", tuple(Column(name, text, "", 2) for name in names), tuple(rows))

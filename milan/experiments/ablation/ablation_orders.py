"""Units taken away in many orders, in tables: what accuracy is left, and where in the network the units are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from milan.console.command_line import get_recorded_warnings
from milan.experiments.core.bar_plots import plot_bars
from milan.experiments.core.corpus_tables import make_annotation_tables, make_words_table
from milan.experiments.core.described_network import DescribedNetwork
from milan.experiments.core.line_plots import Curve, plot_lines
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.language import format_pipeline_name, load_pipeline
from milan.scores.accuracy_under_ablation import compute_mean_difference
from milan.scores.confidence_intervals import Measure, estimate_mean
from milan.scores.linguistic_criteria import (
    CRITERIA,
    PIPELINE,
    STRUCTURAL,
    SYNTACTIC,
    compute_tied_share,
    shuffle_within_layers,
    sort_units,
)
from milan.storage.files import collect_versions
from milan.units import Unit

RANDOM = "random"
SAME_LAYERS_PREFIX = "like "  # before a criterion: orders by lot with a unit of the same layer in each place
EXAMPLES_PER_CRITERION = 3  # units of each criterion that the page shows
CRITERION_CAPTIONS = {
    "nouns": "By how many nouns its description has, names too",
    "verbs": "By how many verbs",
    "adpositions": "By how many adpositions (prepositions)",
    "adjectives": "By how many adjectives",
    "length": "By how many words it has",
    "depth": "By how deep its parse tree is",
    "word difference": "By the greatest distance between two of its words' vectors",
}
COLUMNS = (
    Column("accuracy", "Accuracy on the judged images when the last step is done.", "%", 1),
    Column("mean", "The mean accuracy over all steps: one number for the curve.", "%", 1),
    Column(
        "to random",
        "The mean accuracy less that of the orders by lot, on the same images; below 0 where these units matter more.",
        "%", 1
    ),
    Column(
        "to its layers",
        "The mean accuracy less that of orders which take a unit of the same layer, drawn by lot, at each place: what is left of the "
        "difference when the layers are not what makes it.",
        "%",
        1,
    ),
    Column(
        "by lot",
        "Of the units taken away in the end, the share that only the lot put before others of the same value.",
        "%",
        0,
    ),
    Column("value", "The criterion's mean over the units taken away in the end.", "", 2),
)  # fmt: skip
NOTES = (
    (
        "Units are taken away largest value first; equals in an order by lot, drawn anew for each of a criterion's"
        " orders. A unit taken away puts out 0 at every place."
    ),
    (
        "Intervals are of 95%: orders and images are drawn again a thousand times, the same images for both sides of a"
        " difference; means over units by drawing units."
    ),
    (
        "What stands before the first layer that is touched is computed once for each batch of images, and all orders"
        " go on from there."
    ),
)


@dataclass(frozen=True)
class OrderSet:
    """Orders that are averaged over: those of a criterion, or by lot."""

    name: str
    orders: tuple[tuple[Unit, ...], ...]


def make_order_sets(
    values: Mapping[str, Mapping[Unit, float]], draws: int, random_orders: int, seed: int
) -> list[OrderSet]:
    """The orders of each criterion, by lot, and for each criterion those by lot that keep to its layers."""
    seeds = [int(each) for each in np.random.SeedSequence(seed).generate_state(max(draws, random_orders))]
    found = [
        OrderSet(name, tuple(tuple(sort_units(of, order_seed)) for order_seed in seeds[:draws]))
        for name, of in values.items()
    ]
    units = dict.fromkeys(next(iter(values.values())), 0.0)
    like = [
        OrderSet(
            SAME_LAYERS_PREFIX + each.name,
            tuple(
                tuple(shuffle_within_layers(order, order_seed))
                for order, order_seed in zip(each.orders, seeds, strict=False)
            ),
        )
        for each in found
    ]
    return [
        *found,
        OrderSet(RANDOM, tuple(tuple(sort_units(units, order_seed)) for order_seed in seeds[:random_orders])),
        *like,
    ]


@dataclass(frozen=True)
class AblationResult:
    """What was left of a network.

    Attributes:
        described: the network and what is said of its units.
        values: of each criterion, by unit.
        order_sets: in which orders units were taken away.
        counts: how many at each step.
        correct: of the whole network, then of each trial, order and step: which images it got right.
        settings: what the report says of how it was made.
    """

    described: DescribedNetwork
    values: Mapping[str, Mapping[Unit, float]]
    order_sets: Sequence[OrderSet]
    counts: Sequence[int]
    correct: Bool[np.ndarray, "sets images"]
    settings: Mapping[str, Any]

    @cached_property
    def correct_by_set(self) -> dict[str, np.ndarray]:
        """By trial, which images were right: orders x steps x images, the whole network first."""
        whole, found, start = self.correct[0], {}, 1
        for trial in self.order_sets:
            size = len(trial.orders) * len(self.counts)
            part = self.correct[start : start + size].reshape(len(trial.orders), len(self.counts), -1)
            found[trial.name] = np.concatenate([np.broadcast_to(whole, (len(part), 1, len(whole))), part], axis=1)
            start += size
        return found

    @cached_property
    def removed_shares(self) -> list[float]:
        """Of the units, at each step, from 0."""
        return [0.0, *(count / len(self.units) for count in self.counts)]

    @property
    def units(self) -> list[Unit]:
        return list(self.described.texts)

    @cached_property
    def accuracies(self) -> dict[str, list[Measure]]:
        """By trial, the accuracy at each step."""
        nothing = np.zeros((1, self.correct.shape[1]))
        seed = self.settings["seed"]
        return {
            name: [compute_mean_difference(part[:, step].astype(float), nothing, seed) for step in range(part.shape[1])]
            for name, part in self.correct_by_set.items()
        }

    def compute_difference(self, one: str, other: str) -> Measure:
        """How far the mean over the steps of one trial is above that of another."""
        above, below = (self.correct_by_set[name][:, 1:].mean(1) for name in (one, other))
        return compute_mean_difference(above, below, self.settings["seed"])

    def make_report(self, judged: str, annotations: Path | None) -> Report:
        """Tables, figures and notes; with the words of annotations if some are given."""
        language = self.settings["language"]
        tables = [
            self._make_main_table(),
            self._make_curve_table(),
            self._make_layer_table(),
            self._make_first_units_table(),
            make_words_table(self.described.texts, language),
        ]
        counted, table_notes = make_annotation_tables(annotations, language)
        facts = {
            **self.described.facts,
            "judged": judged,
            "judged images": int(self.correct.shape[1]),
            "steps": list(self.counts),
            **self.settings,
            "language": format_pipeline_name(load_pipeline(language)),
            "versions": collect_versions(),
            "warnings": get_recorded_warnings(),
        }
        lede = (
            f"{len(self.units)} described units of {self.described.name} are taken away, up to {self.counts[-1]} of"
            f" them, in the order of seven criteria of what {self.described.evaluated.name} says of them; accuracy on"
            f" {judged}."
        )
        notes = (*NOTES, *self._make_cautions(), *table_notes)
        return Report(
            "ablation",
            "Which units matter, by what is said of them",
            lede,
            (*tables, *counted),
            self._make_headlines(),
            notes,
            facts,
            self._make_figures(),
            sources={**self.described.sources, "judged images": judged, "word vectors": self.settings["vectors"]},
        )

    def _make_cautions(self) -> list[str]:
        pipeline = format_pipeline_name(load_pipeline(self.settings["language"]))
        vectors = self.settings["vectors"]
        if not vectors.startswith(PIPELINE):
            vectors = f"the text side of {vectors}, word by word"
        words = f"Parts of speech and parses by {pipeline}; word vectors: {vectors}."
        cautions = [f"{words} Both are estimates in texts this short."]
        if self.described.evaluated.name == "milan" and self.described.name.startswith("diorama:"):
            cautions.append(
                "MILAN learnt from simulated annotators of Diorama's networks, of some of them about these very units."
            )
        return cautions

    def _make_main_table(self) -> Table:
        rows = [Row(name, self._make_values(name)) for name in CRITERIA]
        rows.append(Row(RANDOM, self._make_end_values(RANDOM), "floor"))
        return Table("after the last step", COLUMNS, tuple(rows), "criterion")

    def _make_end_values(self, name: str) -> dict[str, Value]:
        nothing = np.zeros((1, self.correct.shape[1]))
        return {
            "accuracy": self.accuracies[name][-1],
            "mean": compute_mean_difference(self.correct_by_set[name][:, 1:].mean(1), nothing, self.settings["seed"]),
        }

    def _make_values(self, name: str) -> dict[str, Value]:
        values = self.values[name]
        trial = next(each for each in self.order_sets if each.name == name)
        gone = [values[unit] for unit in trial.orders[0][: self.counts[-1]]]
        return {
            **self._make_end_values(name),
            "to random": self.compute_difference(name, RANDOM),
            "to its layers": self.compute_difference(name, SAME_LAYERS_PREFIX + name),
            "by lot": compute_tied_share(values, self.counts[-1]),
            "value": float(np.mean(gone)),
        }

    def _make_curve_table(self) -> Table:
        columns = tuple(
            Column(f"{100 * share:.0f}%", f"Accuracy without {share:.1%} of the units.", "%", 1)
            for share in self.removed_shares
        )
        rows = []
        for trial in self.order_sets:
            role: Literal["", "floor"] = "" if trial.name in CRITERIA else "floor"
            rows.append(
                Row(
                    trial.name,
                    {column.name: value for column, value in zip(columns, self.accuracies[trial.name], strict=True)},
                    role,
                )
            )
        return Table("accuracy", columns, tuple(rows), "order")

    @cached_property
    def units_by_layer(self) -> dict[str, list[Unit]]:
        found: dict[str, list[Unit]] = {layer: [] for layer in self.described.dissections}
        for unit in self.units:
            found[unit.layer].append(unit)
        return {layer: units for layer, units in found.items() if units}

    def _make_layer_table(self) -> Table:
        columns = tuple(
            Column(
                name, f"{CRITERION_CAPTIONS[name].removeprefix('By ').capitalize()}: its mean over the layer's units."
            )
            for name in CRITERIA
        )
        rows = [
            Row(
                layer,
                {
                    name: estimate_mean([self.values[name][unit] for unit in units], self.settings["seed"])
                    for name in CRITERIA
                },
            )
            for layer, units in self.units_by_layer.items()
        ]
        return Table("criteria by layer", columns, tuple(rows), "layer")

    @cached_property
    def removed_by_layer(self) -> dict[str, dict[str, float]]:
        """Of each criterion and layer, the share of the layer's units that are taken away in the end, a mean over its
        orders.
        """
        found: dict[str, dict[str, float]] = {}
        for trial in (each for each in self.order_sets if each.name in CRITERIA):
            first = [unit.layer for order in trial.orders for unit in order[: self.counts[-1]]]
            found[trial.name] = {
                layer: first.count(layer) / len(units) / len(trial.orders)
                for layer, units in self.units_by_layer.items()
            }
        return found

    def _make_first_units_table(self) -> Table:
        columns = tuple(
            Column(
                name,
                f"{CRITERION_CAPTIONS[name]}: the share of the layer's units among those taken away in the end.",
                "%",
                1,
            )
            for name in CRITERIA
        )
        rows = [
            Row(layer, {name: self.removed_by_layer[name][layer] for name in CRITERIA}) for layer in self.units_by_layer
        ]
        return Table("share of a layer taken away", columns, tuple(rows), "layer")

    def _make_headlines(self) -> tuple[tuple[str, str], ...]:
        whole, random = self.accuracies[RANDOM][0].value, self.accuracies[RANDOM][-1].value
        apart = {name: self.compute_difference(name, RANDOM) for name in CRITERIA}
        worst, best = min(apart, key=lambda name: apart[name].value), max(apart, key=lambda name: apart[name].value)
        end = f"{100 * self.removed_shares[-1]:.0f}%"
        found = [
            (f"{100 * whole:.1f} %", "accuracy of the whole network"),
            (f"{100 * random:.1f} %", f"without {end} of its units, by lot"),
        ]
        for name, text in ((worst, "most"), (best, "least")):
            value, interval = COLUMNS[2].format(apart[name]).split(" ", 1)
            found.append(
                (f"{value} %", f"{interval} to orders by lot, over all steps: {name}, the order that hurts {text}")
            )
        return tuple(found)

    def _make_figures(self) -> tuple[tuple[str, str], ...]:
        across, up = "units taken away, %", "accuracy, %"
        drawn = []
        for text, names in (("parts of speech", SYNTACTIC), ("structure", STRUCTURAL)):
            caption = f"Accuracy as units are taken away by {text} (Figure 4 of the paper), with 95% intervals."
            drawn.append((caption, plot_lines([self._make_curve(name) for name in (RANDOM, *names)], across, up)))
        shares = {name: [100 * share for share in self.removed_by_layer[name].values()] for name in CRITERIA}
        caption = (
            "Where they are: the share of each layer's units that the last step takes away; dotted: what taking by lot"
            " would."
        )
        return (
            *drawn,
            (caption, plot_bars(shares, list(self.units_by_layer), "% of the layer", 100 * self.removed_shares[-1])),
        )

    def _make_curve(self, name: str) -> Curve:
        values, low, high = (
            100 * np.array([getattr(each, part) for each in self.accuracies[name]]) for part in ("value", "low", "high")
        )
        return Curve(name, [100 * share for share in self.removed_shares], values, low, high)

    @cached_property
    def first_units(self) -> list[Unit]:
        """A few that each criterion takes away first; a unit that comes first by several is shown for one."""
        return list(self._examples)

    @cached_property
    def _examples(self) -> dict[Unit, str]:
        found: dict[Unit, str] = {}
        for trial in (each for each in self.order_sets if each.name in CRITERIA):
            fresh = [unit for unit in trial.orders[0][: self.counts[-1]] if unit not in found]
            found |= dict.fromkeys(fresh[:EXAMPLES_PER_CRITERION], trial.name)
        return found

    def make_unit_view(self, unit: Unit, sheet: Any) -> dict[str, Any]:
        """What the page shows of a unit."""
        name = self._examples[unit]
        said = {
            "name": self.described.evaluated.name,
            "role": "",
            "text": self.described.texts[unit],
            "reason": "",
            "mark": "",
        }
        return {
            "id": str(unit),
            "group": name,
            "truth": "",
            "sheet": sheet,
            "said": [{**said, "score": f"{self.values[name][unit]:.3g}"}],
        }

"""Units taken away in many orders, in tables: what accuracy is left, and where in the network the units are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from milan.command import warnings_so_far
from milan.experiments.comparison.corpora import annotation_tables, words_table
from milan.experiments.describing.described import Described
from milan.experiments.reporting.bars import bars
from milan.experiments.reporting.lines import Curve, lines
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.language import load_language, named
from milan.scores.ablations import difference
from milan.scores.criteria import CRITERIA, PIPELINE, STRUCTURAL, SYNTACTIC, by_lot, like_layers, ordered
from milan.scores.intervals import Measure, mean
from milan.storage import versions
from milan.units import Unit

RANDOM = "random"
LIKE = "like "  # before a criterion: orders by lot with a unit of the same layer in each place
EXAMPLES = 3  # units of each criterion that the page shows
SAID = {
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
        "to random", "The mean accuracy less that of the orders by lot, on the same images; below 0 where these units matter more.", "%", 1
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
    "Units are taken away largest value first; equals in an order by lot, drawn anew for each of a criterion's orders. A unit taken away "
    "puts out 0 at every place.",
    "Intervals are of 95%: orders and images are drawn again a thousand times, the same images for both sides of a difference; means over "
    "units by drawing units.",
    "What stands before the first layer that is touched is computed once for each batch of images, and all orders go on from there.",
)


@dataclass(frozen=True)
class Trial:
    """Orders that are averaged over: those of a criterion, or by lot."""

    name: str
    orders: tuple[tuple[Unit, ...], ...]


def trials(values: Mapping[str, Mapping[Unit, float]], draws: int, random_orders: int, seed: int) -> list[Trial]:
    """The orders of each criterion, by lot, and for each criterion those by lot that keep to its layers."""
    seeds = [int(each) for each in np.random.SeedSequence(seed).generate_state(max(draws, random_orders))]
    found = [Trial(name, tuple(tuple(ordered(of, lot)) for lot in seeds[:draws])) for name, of in values.items()]
    units = dict.fromkeys(next(iter(values.values())), 0.0)
    like = [
        Trial(LIKE + each.name, tuple(tuple(like_layers(order, lot)) for order, lot in zip(each.orders, seeds, strict=False)))
        for each in found
    ]
    return [*found, Trial(RANDOM, tuple(tuple(ordered(units, lot)) for lot in seeds[:random_orders])), *like]


@dataclass(frozen=True)
class Outcome:
    """What was left of a network.

    Attributes:
        described: the network and what is said of its units.
        values: of each criterion, by unit.
        trials: in which orders units were taken away.
        counts: how many at each step.
        right: of the whole network, then of each trial, order and step: which images it got right.
        settings: what the report says of how it was made.
    """

    described: Described
    values: Mapping[str, Mapping[Unit, float]]
    trials: Sequence[Trial]
    counts: Sequence[int]
    right: Bool[np.ndarray, "sets images"]
    settings: Mapping[str, Any]

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """By trial, which images were right: orders x steps x images, the whole network first."""
        whole, found, start = self.right[0], {}, 1
        for trial in self.trials:
            size = len(trial.orders) * len(self.counts)
            part = self.right[start : start + size].reshape(len(trial.orders), len(self.counts), -1)
            found[trial.name] = np.concatenate([np.broadcast_to(whole, (len(part), 1, len(whole))), part], axis=1)
            start += size
        return found

    @cached_property
    def shares(self) -> list[float]:
        """Of the units, at each step, from 0."""
        return [0.0, *(count / len(self.units) for count in self.counts)]

    @property
    def units(self) -> list[Unit]:
        return list(self.described.texts)

    @cached_property
    def accuracies(self) -> dict[str, list[Measure]]:
        """By trial, the accuracy at each step."""
        nothing = np.zeros((1, self.right.shape[1]))
        seed = self.settings["seed"]
        return {
            name: [difference(part[:, step].astype(float), nothing, seed) for step in range(part.shape[1])]
            for name, part in self.tables.items()
        }

    def between(self, one: str, other: str) -> Measure:
        """How far the mean over the steps of one trial is above that of another."""
        above, below = (self.tables[name][:, 1:].mean(1) for name in (one, other))
        return difference(above, below, self.settings["seed"])

    def report(self, judged: str, annotations: Path | None) -> Report:
        """Tables, figures and notes; with the words of annotations if some are given."""
        language = self.settings["language"]
        tables = [self._main(), self._curves(), self._layers(), self._first(), words_table(self.described.texts, language)]
        counted, told = annotation_tables(annotations, language)
        facts = {
            **self.described.facts,
            "judged": judged,
            "judged images": int(self.right.shape[1]),
            "steps": list(self.counts),
            **self.settings,
            "language": named(load_language(language)),
            "versions": versions(),
            "warnings": warnings_so_far(),
        }
        lede = (
            f"{len(self.units)} described units of {self.described.name} are taken away, up to {self.counts[-1]} of them, in the order of "
            f"seven criteria of what {self.described.entrant.name} says of them; accuracy on {judged}."
        )
        notes = (*NOTES, *self._cautions(), *told)
        return Report(
            "ablation",
            "Which units matter, by what is said of them",
            lede,
            (*tables, *counted),
            self._headlines(),
            notes,
            facts,
            self._figures(),
            sources={**self.described.sources, "judged images": judged, "word vectors": self.settings["vectors"]},
        )

    def _cautions(self) -> list[str]:
        pipeline = named(load_language(self.settings["language"]))
        vectors = self.settings["vectors"]
        if not vectors.startswith(PIPELINE):
            vectors = f"the text side of {vectors}, word by word"
        words = f"Parts of speech and parses by {pipeline}; word vectors: {vectors}."
        told = [f"{words} Both are estimates in texts this short."]
        if self.described.entrant.name == "milan" and self.described.name.startswith("diorama:"):
            told.append("MILAN learnt from simulated annotators of Diorama's networks, of some of them about these very units.")
        return told

    def _main(self) -> Table:
        rows = [Row(name, self._values(name)) for name in CRITERIA]
        rows.append(Row(RANDOM, self._ends(RANDOM), "floor"))
        return Table("after the last step", COLUMNS, tuple(rows), "criterion")

    def _ends(self, name: str) -> dict[str, Value]:
        nothing = np.zeros((1, self.right.shape[1]))
        return {"accuracy": self.accuracies[name][-1], "mean": difference(self.tables[name][:, 1:].mean(1), nothing, self.settings["seed"])}

    def _values(self, name: str) -> dict[str, Value]:
        values = self.values[name]
        trial = next(each for each in self.trials if each.name == name)
        gone = [values[unit] for unit in trial.orders[0][: self.counts[-1]]]
        return {
            **self._ends(name),
            "to random": self.between(name, RANDOM),
            "to its layers": self.between(name, LIKE + name),
            "by lot": by_lot(values, self.counts[-1]),
            "value": float(np.mean(gone)),
        }

    def _curves(self) -> Table:
        columns = tuple(Column(f"{100 * share:.0f}%", f"Accuracy without {share:.1%} of the units.", "%", 1) for share in self.shares)
        rows = []
        for trial in self.trials:
            role: Literal["", "floor"] = "" if trial.name in CRITERIA else "floor"
            rows.append(
                Row(trial.name, {column.name: value for column, value in zip(columns, self.accuracies[trial.name], strict=True)}, role)
            )
        return Table("accuracy", columns, tuple(rows), "order")

    @cached_property
    def by_layer(self) -> dict[str, list[Unit]]:
        found: dict[str, list[Unit]] = {layer: [] for layer in self.described.dissections}
        for unit in self.units:
            found[unit.layer].append(unit)
        return {layer: units for layer, units in found.items() if units}

    def _layers(self) -> Table:
        columns = tuple(
            Column(name, f"{SAID[name].removeprefix('By ').capitalize()}: its mean over the layer's units.") for name in CRITERIA
        )
        rows = [
            Row(layer, {name: mean([self.values[name][unit] for unit in units], self.settings["seed"]) for name in CRITERIA})
            for layer, units in self.by_layer.items()
        ]
        return Table("criteria by layer", columns, tuple(rows), "layer")

    @cached_property
    def gone(self) -> dict[str, dict[str, float]]:
        """Of each criterion and layer, the share of the layer's units that are taken away in the end, a mean over its orders."""
        found: dict[str, dict[str, float]] = {}
        for trial in (each for each in self.trials if each.name in CRITERIA):
            first = [unit.layer for order in trial.orders for unit in order[: self.counts[-1]]]
            found[trial.name] = {layer: first.count(layer) / len(units) / len(trial.orders) for layer, units in self.by_layer.items()}
        return found

    def _first(self) -> Table:
        columns = tuple(
            Column(name, f"{SAID[name]}: the share of the layer's units among those taken away in the end.", "%", 1) for name in CRITERIA
        )
        rows = [Row(layer, {name: self.gone[name][layer] for name in CRITERIA}) for layer in self.by_layer]
        return Table("share of a layer taken away", columns, tuple(rows), "layer")

    def _headlines(self) -> tuple[tuple[str, str], ...]:
        whole, lot = self.accuracies[RANDOM][0].value, self.accuracies[RANDOM][-1].value
        apart = {name: self.between(name, RANDOM) for name in CRITERIA}
        worst, best = min(apart, key=lambda name: apart[name].value), max(apart, key=lambda name: apart[name].value)
        end = f"{100 * self.shares[-1]:.0f}%"
        found = [(f"{100 * whole:.1f} %", "accuracy of the whole network"), (f"{100 * lot:.1f} %", f"without {end} of its units, by lot")]
        for name, text in ((worst, "most"), (best, "least")):
            value, interval = COLUMNS[2].shown(apart[name]).split(" ", 1)
            found.append((f"{value} %", f"{interval} to orders by lot, over all steps: {name}, the order that hurts {text}"))
        return tuple(found)

    def _figures(self) -> tuple[tuple[str, str], ...]:
        across, up = "units taken away, %", "accuracy, %"
        drawn = []
        for text, names in (("parts of speech", SYNTACTIC), ("structure", STRUCTURAL)):
            caption = f"Accuracy as units are taken away by {text} (Figure 4 of the paper), with 95% intervals."
            drawn.append((caption, lines([self._curve(name) for name in (RANDOM, *names)], across, up)))
        shares = {name: [100 * share for share in self.gone[name].values()] for name in CRITERIA}
        caption = "Where they are: the share of each layer's units that the last step takes away; dotted: what taking by lot would."
        return (*drawn, (caption, bars(shares, list(self.by_layer), "% of the layer", 100 * self.shares[-1])))

    def _curve(self, name: str) -> Curve:
        values, low, high = (100 * np.array([getattr(each, part) for each in self.accuracies[name]]) for part in ("value", "low", "high"))
        return Curve(name, [100 * share for share in self.shares], values, low, high)

    @cached_property
    def first_units(self) -> list[Unit]:
        """A few that each criterion takes away first; a unit that comes first by several is shown for one."""
        return list(self._examples)

    @cached_property
    def _examples(self) -> dict[Unit, str]:
        found: dict[Unit, str] = {}
        for trial in (each for each in self.trials if each.name in CRITERIA):
            fresh = [unit for unit in trial.orders[0][: self.counts[-1]] if unit not in found]
            found |= dict.fromkeys(fresh[:EXAMPLES], trial.name)
        return found

    def case(self, unit: Unit, sheet: Any) -> dict[str, Any]:
        """What the page shows of a unit."""
        name = self._examples[unit]
        said = {"name": self.described.entrant.name, "role": "", "text": self.described.texts[unit], "reason": "", "mark": ""}
        return {"id": str(unit), "group": name, "truth": "", "sheet": sheet, "said": [{**said, "score": f"{self.values[name][unit]:.3g}"}]}

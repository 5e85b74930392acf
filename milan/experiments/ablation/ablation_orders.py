"""The orders in which units are ablated, and the tables and figures of the accuracy that is left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from milan.errors import BadInput, UnknownName
from milan.experiments.ablation.config import AblationConfig
from milan.experiments.core.bar_plots import plot_bars
from milan.experiments.core.corpus_tables import make_annotation_tables, make_words_table
from milan.experiments.core.line_plots import Curve, plot_lines_against
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.core.unit_views import make_text_view, make_unit_view
from milan.language import format_pipeline_name, load_pipeline
from milan.scores.accuracy_under_ablation import compute_mean_difference
from milan.scores.confidence_intervals import Measure, estimate_mean
from milan.scores.linguistic_criteria import (
    CRITERIA,
    PIPELINE,
    STRUCTURAL,
    SYNTACTIC,
    WordVectors,
    compute_criteria,
    compute_tied_share,
    shuffle_within_layers,
    sort_units,
)
from milan.units import Description, Unit

RANDOM = "random"
# Before the name of a criterion: random orders that have a unit of the same layer in each place.
SAME_LAYERS_PREFIX = "like "
EXAMPLES_PER_CRITERION = 3  # units that the page shows
CRITERION_CAPTIONS = {
    "nouns": "The number of nouns and names in the description",
    "verbs": "The number of verbs",
    "adpositions": "The number of adpositions (prepositions)",
    "adjectives": "The number of adjectives",
    "length": "The number of words",
    "depth": "The depth of the parse tree",
    "word difference": "The largest distance between the vectors of two words",
    "score": "The describer's own score of the description",
    "concepts": "The number of weighted concepts",
}
COLUMNS = (
    Column("accuracy", "Accuracy on the evaluation images after the last step.", "%", 1),
    Column("mean", "Mean accuracy over all steps: one number for the curve.", "%", 1),
    Column(
        "to random",
        "Mean accuracy minus that of the random orders on the same images; below 0 if these units matter more.",
        "%",
        1,
    ),
    Column(
        "to its layers",
        "Mean accuracy minus that of orders with a random unit of the same layer in each place: the part of the"
        " difference that the layers do not explain.",
        "%",
        1,
    ),
    Column("tied", "Share of the ablated units that only random tie-breaking put before others.", "%", 0),
    Column("value", "Mean of the criterion over the ablated units.", "", 2),
)
NOTES = (
    "Units are ablated in descending order of the criterion. Ties are broken randomly, anew for each of a criterion's"
    " orders. An ablated unit outputs 0 everywhere.",
    "Intervals are 95% bootstrap intervals over orders and images, with the same images on both sides of a difference;"
    " means over units are resampled by unit.",
    "The part of the network before the first ablated layer runs once per batch of images, for all orders.",
)


def select_criteria(
    descriptions: Sequence[Description], vectors: WordVectors, config: AblationConfig
) -> dict[str, dict[Unit, float]]:
    """Return the value of each chosen criterion for each unit.

    Raises:
        UnknownName: there is no such criterion.
        BadInput: a description has no score, or none has weighted concepts, and these were chosen.
    """
    chosen = config.criteria or list(CRITERIA)
    for name in chosen:
        if name not in CRITERION_CAPTIONS:
            raise UnknownName(
                "criterion", name, list(CRITERION_CAPTIONS), f"choose from {', '.join(CRITERION_CAPTIONS)}"
            )
    found: dict[str, dict[Unit, float]] = {}
    if set(chosen) & set(CRITERIA):
        found |= compute_criteria({each.unit: each.text for each in descriptions}, vectors, config.language)
    if "score" in chosen:
        missing = [each.unit for each in descriptions if np.isnan(each.score)]
        if missing:
            raise BadInput(f"{len(missing)} descriptions have no score ({missing[0]}, ...); choose other criteria")
        found["score"] = {each.unit: each.score for each in descriptions}
    if "concepts" in chosen:
        if not any(each.concepts for each in descriptions):
            raise BadInput("no description has weighted concepts; choose other criteria, or linear_explanations")
        found["concepts"] = {each.unit: float(len(each.concepts)) for each in descriptions}
    return {name: found[name] for name in chosen}


@dataclass(frozen=True)
class OrderSet:
    """Orders that are averaged over: those of one criterion, or random ones."""

    name: str
    orders: tuple[tuple[Unit, ...], ...]


def make_order_sets(
    values: Mapping[str, Mapping[Unit, float]], orders_per_criterion: int, random_orders: int, seed: int
) -> list[OrderSet]:
    """Return the orders of each criterion, the random orders, and for each criterion random orders that have a unit of
    the same layer in each place.

    Args:
        values: of each criterion, by unit.
    """
    seeds = np.random.SeedSequence(seed).generate_state(max(orders_per_criterion, random_orders)).tolist()
    by_criterion = [
        OrderSet(name, tuple(tuple(sort_units(of, order_seed)) for order_seed in seeds[:orders_per_criterion]))
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
        for each in by_criterion
    ]
    return [
        *by_criterion,
        OrderSet(RANDOM, tuple(tuple(sort_units(units, order_seed)) for order_seed in seeds[:random_orders])),
        *like,
    ]


@dataclass(frozen=True)
class AblationResult:
    """The accuracy of a network under ablation.

    Attributes:
        study: the network and the descriptions of its units.
        config: the options of the experiment.
        vectors: the word vectors that were used.
        values: of each criterion, by unit.
        order_sets: the orders in which units were ablated.
        counts: the number of ablated units at each step.
        correct: whether each image is classified correctly: by the whole network, then for each order set, order and
            step.
    """

    study: Study
    config: AblationConfig
    vectors: str
    values: Mapping[str, Mapping[Unit, float]]
    order_sets: Sequence[OrderSet]
    counts: Sequence[int]
    correct: Bool[np.ndarray, "sets images"]

    @cached_property
    def correct_by_set(self) -> dict[str, np.ndarray]:
        """By order set, which images are classified correctly: (orders, steps + 1, images), the whole network first."""
        whole, found, start = self.correct[0], {}, 1
        for each in self.order_sets:
            size = len(each.orders) * len(self.counts)
            part = self.correct[start : start + size].reshape(len(each.orders), len(self.counts), -1)
            found[each.name] = np.concatenate([np.broadcast_to(whole, (len(part), 1, len(whole))), part], axis=1)
            start += size
        return found

    @cached_property
    def removed_shares(self) -> list[float]:
        """The share of the units that is ablated at each step, from 0."""
        return [0.0, *(count / len(self.units) for count in self.counts)]

    @cached_property
    def units(self) -> list[Unit]:
        """The described units."""
        return list(self.study.texts)

    @cached_property
    def criterion_orders(self) -> list[OrderSet]:
        """The order sets of the criteria, without random ones."""
        return [each for each in self.order_sets if each.name in self.values]

    @cached_property
    def accuracies(self) -> dict[str, list[Measure]]:
        """The accuracy at each step, by order set."""
        return {
            name: [self._estimate_mean(part[:, step].astype(float)) for step in range(part.shape[1])]
            for name, part in self.correct_by_set.items()
        }

    def _estimate_mean(self, correct: Float[np.ndarray, "orders images"]) -> Measure:
        return compute_mean_difference(correct, np.zeros((1, correct.shape[1])), self.config.seed)

    def compute_difference(self, name: str, other: str) -> Measure:
        """Return the mean accuracy over all steps of one order set minus that of another."""
        means = [self.correct_by_set[each][:, 1:].mean(1) for each in (name, other)]
        return compute_mean_difference(means[0], means[1], self.config.seed)

    def make_report(self, evaluation_probe: str) -> Report:
        """Return tables, figures and notes; with the words of annotations if there are some."""
        language = self.config.language
        annotation_tables, annotation_notes = make_annotation_tables(self.config.annotations, language)
        tables = [
            self._make_main_table(),
            self._make_curve_table(),
            self._make_layer_table(),
            self._make_ablated_share_table(),
            make_words_table(self.study.texts, language),
            *annotation_tables,
        ]
        lede = (
            f"{len(self.units)} described units of {self.study.target.name} are ablated, up to {self.counts[-1]} of"
            f" them, in the order of {len(self.values)} criteria of their descriptions by {self.study.evaluated.name};"
            f" accuracy on {evaluation_probe}."
        )
        facts = {
            "evaluation probe": evaluation_probe,
            "evaluation images": int(self.correct.shape[1]),
            "steps": list(self.counts),
            "step": self.config.step,
            "vectors": self.vectors,
            "language": format_pipeline_name(load_pipeline(language)),
        }
        return self.study.report(
            "Which units matter, by the language of their descriptions",
            lede,
            tables,
            headlines=self._make_headlines(),
            notes=(*NOTES, *self._make_cautions(), *annotation_notes),
            facts=facts,
            figures=self._make_figures(),
            sources={"evaluation images": evaluation_probe, "word vectors": self.vectors},
        )

    def _make_cautions(self) -> list[str]:
        pipeline, vectors = format_pipeline_name(load_pipeline(self.config.language)), self.vectors
        if not vectors.startswith(PIPELINE):
            vectors = f"the text encoder of {vectors}, applied to single words"
        cautions = [
            f"Parts of speech and parses are by {pipeline}, word vectors by {vectors}. Both are estimates for texts as"
            " short as these."
        ]
        if self.study.evaluated.name == "milan" and self.study.target.name.startswith("diorama:"):
            cautions.append(
                "MILAN was trained on simulated annotations of Diorama's networks, of some of them about these units."
            )
        return cautions

    def _make_main_table(self) -> Table:
        rows = [Row(name, self._make_values(name)) for name in self.values]
        rows.append(Row(RANDOM, self._make_end_values(RANDOM), "floor"))
        return Table("after the last step", COLUMNS, tuple(rows), "criterion")

    def _make_end_values(self, name: str) -> dict[str, Value]:
        means = self.correct_by_set[name][:, 1:].mean(1)
        return {"accuracy": self.accuracies[name][-1], "mean": self._estimate_mean(means)}

    def _make_values(self, name: str) -> dict[str, Value]:
        values = self.values[name]
        order = next(each.orders[0] for each in self.order_sets if each.name == name)
        return {
            **self._make_end_values(name),
            "to random": self.compute_difference(name, RANDOM),
            "to its layers": self.compute_difference(name, SAME_LAYERS_PREFIX + name),
            "tied": compute_tied_share(values, self.counts[-1]),
            "value": float(np.mean([values[unit] for unit in order[: self.counts[-1]]])),
        }

    def _make_curve_table(self) -> Table:
        columns = tuple(
            Column(f"{100 * share:.0f}%", f"Accuracy without {share:.1%} of the units.", "%", 1)
            for share in self.removed_shares
        )
        rows = []
        for name, accuracies in self.accuracies.items():
            values = {column.name: value for column, value in zip(columns, accuracies, strict=True)}
            rows.append(Row(name, values, "" if name in self.values else "floor"))
        return Table("accuracy", columns, tuple(rows), "order")

    def _make_layer_table(self) -> Table:
        columns = tuple(
            Column(name, f"{CRITERION_CAPTIONS[name]}: its mean over the layer's units.") for name in self.values
        )
        rows = [
            Row(
                layer,
                {
                    name: estimate_mean([self.values[name][unit] for unit in units], self.config.seed)
                    for name in self.values
                },
            )
            for layer, units in self.study.described_units.items()
        ]
        return Table("criteria by layer", columns, tuple(rows), "layer")

    @cached_property
    def removed_by_layer(self) -> dict[str, dict[str, float]]:
        """By criterion and layer, the share of the layer's units that the last step ablates, a mean over orders."""
        found: dict[str, dict[str, float]] = {}
        for each in self.criterion_orders:
            ablated = [unit.layer for order in each.orders for unit in order[: self.counts[-1]]]
            found[each.name] = {
                layer: ablated.count(layer) / len(units) / len(each.orders)
                for layer, units in self.study.described_units.items()
            }
        return found

    def _make_ablated_share_table(self) -> Table:
        columns = tuple(
            Column(name, f"{CRITERION_CAPTIONS[name]}: the share of the layer's units that is ablated.", "%", 1)
            for name in self.values
        )
        rows = [
            Row(layer, {name: self.removed_by_layer[name][layer] for name in self.values})
            for layer in self.study.described_units
        ]
        return Table("ablated share of a layer", columns, tuple(rows), "layer")

    def _make_headlines(self) -> tuple[tuple[str, str], ...]:
        whole, random = self.accuracies[RANDOM][0].value, self.accuracies[RANDOM][-1].value
        differences = {name: self.compute_difference(name, RANDOM) for name in self.values}
        headlines = [
            (f"{100 * whole:.1f} %", "accuracy of the whole network"),
            (f"{100 * random:.1f} %", f"accuracy without {100 * self.removed_shares[-1]:.0f}% of its units, at random"),
        ]
        for choose, text in ((min, "most"), (max, "least")):
            name = choose(differences, key=lambda each: differences[each].value)
            value, interval = COLUMNS[2].format(differences[name]).split(" ", 1)
            text = f"{interval} against random orders, over all steps: {name}, the criterion that hurts {text}"
            headlines.append((f"{value} %", text))
        return tuple(headlines)

    def _make_figures(self) -> tuple[tuple[str, str], ...]:
        figures = []
        groups = {
            "parts of speech": SYNTACTIC,
            "structure": STRUCTURAL,
            "what describers say of them": ("score", "concepts"),
        }
        for text, known in groups.items():
            names = [name for name in known if name in self.values]
            if not names:
                continue
            caption = f"Accuracy as units are ablated by {text} (Figure 4 of the paper). Grey: random orders."
            random, *curves = (self._make_curve(name) for name in (RANDOM, *names))
            figures.append((caption, plot_lines_against(random, curves, "ablated units, %", "accuracy, %")))
        shares = {name: [100 * share for share in self.removed_by_layer[name].values()] for name in self.values}
        caption = "The share of each layer's units that the last step ablates; dotted: the share in random orders."
        bars = plot_bars(shares, list(self.study.described_units), "% of the layer", 100 * self.removed_shares[-1])
        return (*figures, (caption, bars))

    def _make_curve(self, name: str) -> Curve:
        values, low, high = (
            100 * np.array([getattr(each, part) for each in self.accuracies[name]]) for part in ("value", "low", "high")
        )
        return Curve(name, [100 * share for share in self.removed_shares], values, low, high)

    @cached_property
    def first_units(self) -> dict[Unit, str]:
        """A few units that each criterion ablates first, with the criterion; each unit once."""
        found: dict[Unit, str] = {}
        for each in self.criterion_orders:
            new = [unit for unit in each.orders[0][: self.counts[-1]] if unit not in found]
            found |= dict.fromkeys(new[:EXAMPLES_PER_CRITERION], each.name)
        return found

    def make_unit_view(self, unit: Unit, pictures: Any) -> dict[str, Any]:
        """Return what the page shows of a unit."""
        criterion = self.first_units[unit]
        score = f"{self.values[criterion][unit]:.3g}"
        row = make_text_view(self.study.evaluated.name, self.study.texts[unit], score=score)
        return make_unit_view(unit, criterion, "", [row]) | {"pictures": pictures}

"""What is pruned, what classifiers make of the rest, and the tables of that: groups of one, terms, as many units drawn
by lot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from milan.console.command_line import get_recorded_warnings
from milan.experiments.core.bar_plots import plot_bars
from milan.experiments.core.described_network import DescribedNetwork
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.pruning.retraining import retrain_classifier
from milan.language import format_pipeline_name, load_pipeline
from milan.pretrained.embedder import Embedder, embed_texts
from milan.probes import Probe
from milan.probes.superclasses import format_class_names
from milan.scores.accuracy_under_ablation import compute_mean_difference, evaluate_ablations, get_features_file
from milan.scores.confidence_intervals import Measure, estimate_share
from milan.scores.description_groups import (
    collect_texts,
    compute_similarities,
    find_most_common,
    find_units_with,
    group_units,
    index_terms,
)
from milan.storage.files import collect_versions
from milan.units import Unit

ALL_LAYERS = "all layers"
SHOWN_GROUPS, PLOTTED_GROUPS = 6, 20  # largest groups of a layer in the table, and in the figure
SHOWN_TERMS = 10  # terms in the table
NOTES = (
    (
        "Groups are of units of one layer in which every two descriptions are at least as similar as asked (complete"
        " linkage); a unit in a group of one is like no other. A pruned unit puts out 0 at every place."
    ),
    (
        "By lot: as many units of the same layers, drawn anew several times. Retrained: a new classifier learns from"
        " what the pruned network makes of the images (the means over the image of the layer named below) and is judged"
        " on others; fixed: the network's own."
    ),
    (
        "Intervals are of 95%: of an accuracy by Wilson's formula, of what is by lot and of differences by drawing"
        " images and lots again."
    ),
    (
        "The paper trains a random forest on Tile2Vec's embeddings of aerial images; neither is at hand here: only the"
        " experiment is the same."
    ),
)


@dataclass(frozen=True)
class PruningSet:
    """Units that are pruned together, and as many that are drawn by lot."""

    name: str
    units: tuple[Unit, ...]
    random_sets: tuple[tuple[Unit, ...], ...]


@dataclass(frozen=True)
class PruningPlan:
    """What is pruned of a described network.

    Attributes:
        groups: by layer, largest first.
        singletons: the units in groups of one, of each layer and of all.
        terms: the units of each of some terms, in the last layer.
        term_units: by layer, the units of each term, the commonest first.
        seed: of lots and intervals.
    """

    described: DescribedNetwork
    groups: Mapping[str, Sequence[Sequence[Unit]]]
    singletons: Sequence[PruningSet]
    terms: Sequence[PruningSet]
    term_units: Mapping[str, Mapping[str, Sequence[Unit]]]
    language: str
    seed: int

    @classmethod
    def make(
        cls,
        described: DescribedNetwork,
        embedder: Embedder,
        similarity: tuple[float, int],
        term_options: tuple[Sequence[str], int, str],
        draws: int,
        seed: int,
    ) -> "PruningPlan":
        """Groups units and finds those of terms.

        Args:
            similarity: the similarity from which on units are alike, and how many texts of each are compared.
            term_options: terms, or how many of the commonest, and the pipeline that reads texts.
        """
        layers = {layer: [unit for unit in described.texts if unit.layer == layer] for layer in described.dissections}
        layers = {layer: units for layer, units in layers.items() if units}
        groups = {layer: _group_layer(described, units, embedder, *similarity) for layer, units in layers.items()}
        alone = {layer: [group[0] for group in each if len(group) == 1] for layer, each in groups.items()}
        random_sets = {
            layer: _draw_random_sets(layers[layer], len(units), draws, seed) for layer, units in alone.items()
        }
        cuts = [PruningSet(layer, tuple(units), random_sets[layer]) for layer, units in alone.items()]
        everywhere = tuple(tuple(unit for each in random_sets.values() for unit in each[draw]) for draw in range(draws))
        cuts.append(PruningSet(ALL_LAYERS, tuple(unit for units in alone.values() for unit in units), everywhere))
        terms, common, language = term_options
        counted = {
            layer: index_terms({unit: described.texts[unit] for unit in units}, language)
            for layer, units in layers.items()
        }
        last = list(layers)[-1]
        texts = {unit: described.texts[unit] for unit in layers[last]}
        found = {
            term: find_units_with(texts, term.split("/"), language) for term in terms or list(counted[last])[:common]
        }
        chosen = [
            PruningSet(term, tuple(units), _draw_random_sets(layers[last], len(units), draws, seed))
            for term, units in found.items()
        ]
        return cls(described, groups, cuts, chosen, counted, language, seed)

    @property
    def last_layer(self) -> str:
        return list(self.groups)[-1]

    @cached_property
    def units(self) -> list[Unit]:
        return list(self.described.texts)


def _group_layer(
    described: DescribedNetwork, units: Sequence[Unit], embedder: Embedder, min_similarity: float, max_texts: int
) -> list[list[Unit]]:
    entries = {entry.unit: entry.description for entry in described.evaluated.entries if entry.description is not None}
    said = [collect_texts(entries[unit], max_texts) for unit in units]
    different = list(dict.fromkeys(text for texts in said for text in texts))
    place = {text: number for number, text in enumerate(different)}
    vectors = embed_texts(embedder, different).numpy()
    found = group_units(
        compute_similarities([[place[text] for text in texts] for texts in said], vectors), min_similarity
    )
    return [[units[each] for each in group] for group in found]


def _draw_random_sets(units: Sequence[Unit], count: int, draws: int, seed: int) -> tuple[tuple[Unit, ...], ...]:
    rng = np.random.default_rng([seed, len(units), count])
    return tuple(
        tuple(units[each] for each in sorted(rng.choice(len(units), count, replace=False).tolist()))
        for _ in range(draws)
    )


@dataclass(frozen=True)
class PruningAccuracy:
    """Which images are still right: by set of units (none, all, each cut and its lots, each term and its lots), and
    image.

    retrained has no terms.
    """

    fixed: Bool[np.ndarray, "sets images"]
    retrained: Bool[np.ndarray, "some images"]
    labels: np.ndarray
    classes: Sequence[str]
    rows: Mapping[str, int] = field(default_factory=dict)  # of the first set of a cut, by "cut NAME" or "term NAME"

    @classmethod
    def evaluate(
        cls, plan: PruningPlan, probes: tuple[Probe, Probe], layer: str, out: Path, synsets: str, classifier: str
    ) -> "PruningAccuracy":
        """Runs the network over the images to learn from and the judged ones, once each, and trains classifiers
        anew.
        """
        sets: list[tuple[Unit, ...]] = [(), tuple(plan.units)]
        places: dict[str, int] = {}
        for kind, cuts in (("cut", plan.singletons), ("term", plan.terms)):
            for cut in cuts:
                places[f"{kind} {cut.name}"] = len(sets)
                sets += [cut.units, *cut.random_sets]
        learnt = places.get(f"term {plan.terms[0].name}", len(sets)) if plan.terms else len(sets)
        target, (learn, judge) = plan.described.target, probes
        files = out / "learn.sqlite", out / "judge.sqlite"
        rows, _ = evaluate_ablations(target, learn, sets[:learnt], files[0], synsets, layer)
        seen, fixed = evaluate_ablations(target, judge, sets, files[1], synsets, layer)
        labels = [np.array(probe.labels)[kept] for probe, kept in ((learn, rows), (judge, seen))]
        given = [np.load(get_features_file(file), mmap_mode="r") for file in files]
        again = [
            retrain_classifier((given[0][number][rows], labels[0]), given[1][number][seen], classifier, plan.seed)
            == labels[1]
            for number in range(learnt)
        ]
        return cls(fixed, np.stack(again), labels[1], format_class_names(judge), places)

    def select_sets(self, which: str, place: str, random_count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a cut, which images are right without its units, and without each lot."""
        table, first = (self.fixed if which == "fixed" else self.retrained), self.rows[place]
        return table[first], table[first + 1 : first + 1 + random_count]


def make_report(plan: PruningPlan, accuracy: PruningAccuracy, settings: Mapping[str, Any]) -> Report:
    main = _make_main_table(plan, accuracy)
    tables = [
        main,
        _make_group_table(plan),
        _make_largest_table(plan),
        _make_term_table(plan, accuracy),
        _make_class_table(plan, accuracy),
        _make_frequency_table(plan),
    ]
    facts = {
        **plan.described.facts, **settings, "seed": plan.seed,
        "language": format_pipeline_name(load_pipeline(plan.language)), "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }  # fmt: skip
    lede = (
        f"Of {len(plan.units)} units of {plan.described.name} that {plan.described.evaluated.name} described, those are"
        " pruned whose description is like no other's in their layer, and those of common terms; accuracy on"
        f" {settings['judged']}."
    )
    judged_by = {"judged images": settings["judged"], "embedder of groups": settings["embedder"]}
    sources = {**plan.described.sources, **judged_by}
    title = "Pruning units that are said to be like no other"
    figures = _make_figures(plan, main)
    return Report("pruning", title, lede, tuple(tables), _make_headlines(main), NOTES, facts, figures, sources=sources)


def _make_main_table(plan: PruningPlan, accuracy: PruningAccuracy) -> Table:
    columns = [Column("pruned", "The share of the units that is pruned: those in groups of one.", "%", 1)]
    for kind, text in (
        ("retrained", "A new classifier on the pruned network's features"),
        ("fixed", "The network's own classifier"),
    ):
        columns.append(Column(kind, f"{text}: accuracy without these units.", "%", 1))
        columns.append(Column(f"{kind}, by lot", f"{text}: accuracy without as many drawn by lot.", "%", 1))
        columns.append(
            Column(
                f"{kind}, more", "The one less the other: above 0 where these units matter less than others.", "%", 1
            )
        )
    whole: dict[str, Value] = {
        "pruned": 0.0,
        "retrained": estimate_share(accuracy.retrained[0].tolist()),
        "fixed": estimate_share(accuracy.fixed[0].tolist()),
    }
    none: dict[str, Value] = {
        "pruned": 1.0,
        "retrained": estimate_share(accuracy.retrained[1].tolist()),
        "fixed": estimate_share(accuracy.fixed[1].tolist()),
    }
    rows = [Row("no pruning", whole, "ceiling"), Row("all pruned", none, "floor")]
    for cut in plan.singletons:
        of = [unit for unit in plan.units if cut.name in (ALL_LAYERS, unit.layer)]
        values: dict[str, Value] = {"pruned": len(cut.units) / len(of)}
        for kind in ("retrained", "fixed"):
            values |= _compare_with_random(
                accuracy.select_sets(kind, f"cut {cut.name}", len(cut.random_sets)), kind, plan.seed
            )
        rows.append(Row(cut.name, values))
    return Table("groups of one", tuple(columns), tuple(rows), "layer")


def _compare_with_random(correct: tuple[np.ndarray, np.ndarray], kind: str, seed: int) -> dict[str, Value]:
    own, random = (part.reshape(-1, part.shape[-1]).astype(float) for part in correct)
    nothing = np.zeros((1, own.shape[1]))
    found: dict[str, Value] = {kind: estimate_share((own[0] > 0).tolist())}
    return found | {
        f"{kind}, by lot": compute_mean_difference(random, nothing, seed),
        f"{kind}, more": compute_mean_difference(own, random, seed),
    }


def _make_group_table(plan: PruningPlan) -> Table:
    columns = (
        Column("units", "Units with a description."),
        Column("groups", "Groups of units that are said to do much the same."),
        Column("alone", "Units in groups of one."),
        Column("in the largest", "Units in the largest group."),
    )
    rows = []
    for layer, groups in plan.groups.items():
        sizes = [len(group) for group in groups]
        rows.append(
            Row(layer, {"units": sum(sizes), "groups": len(sizes), "alone": sizes.count(1), "in the largest": sizes[0]})
        )
    return Table("groups", columns, tuple(rows), "layer")


def _make_largest_table(plan: PruningPlan) -> Table:
    columns = (
        Column("units", "Units in the group."),
        Column("share", "Of the layer's described units.", "%", 1),
        Column("text", "What most of them are said to do."),
    )
    rows = []
    for layer, groups in plan.groups.items():
        total = sum(map(len, groups))
        for number, group in enumerate(groups[:SHOWN_GROUPS], 1):
            text = find_most_common([plan.described.texts[unit] for unit in group])
            rows.append(Row(f"{layer}, {number}", {"units": len(group), "share": len(group) / total, "text": text}))
    return Table("largest groups", columns, tuple(rows), "group")


def _make_term_table(plan: PruningPlan, accuracy: PruningAccuracy) -> Table:
    columns = (
        Column("units", f"Units of {plan.last_layer} whose description has the term."),
        Column("share", "Of the layer's described units.", "%", 1),
        Column("fixed", "Accuracy of the network's own classifier without these units.", "%", 1),
        Column("fixed, by lot", "Without as many units of the layer, drawn by lot.", "%", 1),
        Column("fixed, more", "The one less the other.", "%", 1),
    )
    total = sum(unit.layer == plan.last_layer for unit in plan.units)
    rows = []
    for cut in plan.terms:
        values: dict[str, Value] = {"units": len(cut.units), "share": len(cut.units) / total}
        rows.append(
            Row(
                cut.name,
                values
                | _compare_with_random(
                    accuracy.select_sets("fixed", f"term {cut.name}", len(cut.random_sets)), "fixed", plan.seed
                ),
            )
        )
    return Table(f"terms of {plan.last_layer} pruned", columns, tuple(rows), "term")


def _make_class_table(plan: PruningPlan, accuracy: PruningAccuracy) -> Table:
    """Table 8: the accuracy of each class without the units of each term."""
    columns = [
        Column("images", "Judged images of the class."),
        Column("no pruning", "Accuracy of the whole network.", "%", 0),
    ]
    columns += [
        Column(
            cut.name, f"Accuracy without {len(cut.units)} units of {plan.last_layer} that are said to show it.", "%", 0
        )
        for cut in plan.terms
    ]
    tables = {"no pruning": accuracy.fixed[0]} | {
        cut.name: accuracy.select_sets("fixed", f"term {cut.name}", 0)[0] for cut in plan.terms
    }
    rows = []
    for label in np.unique(accuracy.labels):
        own = accuracy.labels == label
        values: dict[str, Value] = {"images": int(own.sum())} | {
            name: float(right[own].mean()) for name, right in tables.items()
        }
        rows.append(Row(accuracy.classes[label], values))
    return Table("classes", tuple(columns), tuple(rows), "class")


def _make_frequency_table(plan: PruningPlan) -> Table:
    columns = tuple(
        Column(layer, f"The terms most units of {layer} are said to show, with the share of its units.")
        for layer in plan.term_units
    )
    sizes = {layer: sum(map(len, groups)) for layer, groups in plan.groups.items()}
    rows = []
    for place in range(SHOWN_TERMS):
        values: dict[str, Value] = {}
        for layer, found in plan.term_units.items():
            if place < len(found):
                term, units = list(found.items())[place]
                values[layer] = f"{term} {100 * len(units) / sizes[layer]:.0f}%"
        rows.append(Row(str(place + 1), values))
    return Table("term frequencies", columns, tuple(rows), "rank")


def _make_headlines(main: Table) -> tuple[tuple[str, str], ...]:
    whole, everywhere = main.rows[0], main.rows[-1]
    shown = {column.name: column for column in main.columns}

    def make_headline(row: Row, name: str, text: str) -> tuple[str, str]:
        value, _, interval = shown[name].format(row.values[name]).partition(" ")
        return f"{value} %", f"{interval} {text}".strip()

    return (
        make_headline(whole, "fixed", "accuracy of the whole network"),
        make_headline(everywhere, "pruned", "of the units are in groups of one"),
        make_headline(
            everywhere, "fixed, more", "accuracy without them against as many by lot, the network's own classifier"
        ),
        make_headline(everywhere, "retrained, more", "the same, a classifier trained anew"),
    )


def _make_figures(plan: PruningPlan, main: Table) -> tuple[tuple[str, str], ...]:
    most = min(PLOTTED_GROUPS, max(map(len, plan.groups.values())))
    profile = {layer: [float(len(group)) for group in groups[:most]] for layer, groups in plan.groups.items()}
    profile = {layer: sizes + [0.0] * (most - len(sizes)) for layer, sizes in profile.items()}
    ranks = [str(rank) if rank == 1 or rank % 5 == 0 else "" for rank in range(1, most + 1)]
    names = ["retrained", "retrained, by lot", "fixed", "fixed, by lot"]
    heights = {name: [100 * _to_number(row.values[name]) for row in main.rows[2:]] for name in names}
    return (
        (
            "How many units say much the same: the sizes of each layer's largest groups (Figure 4 of the paper).",
            plot_bars(profile, ranks, "units"),
        ),
        (
            (
                "Accuracy without the units in groups of one, and without as many by lot, layer by layer (Tables 7 and"
                " 13)."
            ),
            plot_bars(heights, [row.name for row in main.rows[2:]], "accuracy, %"),
        ),
    )


def _to_number(value: Value) -> float:
    return value.value if isinstance(value, Measure) else float("nan")

"""What is pruned, what classifiers make of the rest, and the tables of that: groups of one, terms, as many units drawn by lot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from milan.command import warnings_so_far
from milan.experiments.describing.described import Described
from milan.experiments.removal.retraining import retrained
from milan.experiments.reporting.bars import bars
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.language import load_language, named
from milan.pretrained.embedder import Embedder, text_embeddings
from milan.probes import Probe
from milan.probes.superclasses import readable_classes
from milan.scores.ablations import difference, features_file, right_without
from milan.scores.grouping import commonest, grouped, having, similarities, term_units, texts_of
from milan.scores.intervals import Measure, share
from milan.storage import versions
from milan.units import Unit

EVERYWHERE = "all layers"
SHOWN, PROFILE = 6, 20  # largest groups of a layer in the table, and in the figure
FREQUENT = 10  # terms in the table
NOTES = (
    "Groups are of units of one layer in which every two descriptions are at least as similar as asked (complete linkage); a unit in a "
    "group of one is like no other. A pruned unit puts out 0 at every place.",
    "By lot: as many units of the same layers, drawn anew several times. Retrained: a new classifier learns from what the pruned network "
    "makes of the images (the means over the image of the layer named below) and is judged on others; fixed: the network's own.",
    "Intervals are of 95%: of an accuracy by Wilson's formula, of what is by lot and of differences by drawing images and lots again.",
    "The paper trains a random forest on Tile2Vec's embeddings of aerial images; neither is at hand here: only the experiment is the same.",
)


@dataclass(frozen=True)
class Cut:
    """Units that are pruned together, and as many that are drawn by lot."""

    name: str
    units: tuple[Unit, ...]
    lots: tuple[tuple[Unit, ...], ...]


@dataclass(frozen=True)
class Plan:
    """What is pruned of a described network.

    Attributes:
        groups: by layer, largest first.
        alone: the units in groups of one, of each layer and of all.
        terms: the units of each of some terms, in the last layer.
        counted: by layer, the units of each term, the commonest first.
        seed: of lots and intervals.
    """

    described: Described
    groups: Mapping[str, Sequence[Sequence[Unit]]]
    alone: Sequence[Cut]
    terms: Sequence[Cut]
    counted: Mapping[str, Mapping[str, Sequence[Unit]]]
    language: str
    seed: int

    @classmethod
    def of(
        cls,
        described: Described,
        embedder: Embedder,
        alike: tuple[float, int],
        wanted: tuple[Sequence[str], int, str],
        draws: int,
        seed: int,
    ) -> "Plan":
        """Groups units and finds those of terms.

        Args:
            alike: the similarity from which on units are alike, and how many texts of each are compared.
            wanted: terms, or how many of the commonest, and the pipeline that reads texts.
        """
        layers = {layer: [unit for unit in described.texts if unit.layer == layer] for layer in described.dissections}
        layers = {layer: units for layer, units in layers.items() if units}
        groups = {layer: _groups(described, units, embedder, *alike) for layer, units in layers.items()}
        alone = {layer: [group[0] for group in each if len(group) == 1] for layer, each in groups.items()}
        lots = {layer: _lots(layers[layer], len(units), draws, seed) for layer, units in alone.items()}
        cuts = [Cut(layer, tuple(units), lots[layer]) for layer, units in alone.items()]
        everywhere = tuple(tuple(unit for each in lots.values() for unit in each[draw]) for draw in range(draws))
        cuts.append(Cut(EVERYWHERE, tuple(unit for units in alone.values() for unit in units), everywhere))
        terms, common, language = wanted
        counted = {layer: term_units({unit: described.texts[unit] for unit in units}, language) for layer, units in layers.items()}
        last = list(layers)[-1]
        texts = {unit: described.texts[unit] for unit in layers[last]}
        found = {term: having(texts, term.split("/"), language) for term in (terms or list(counted[last])[:common])}
        chosen = [Cut(term, tuple(units), _lots(layers[last], len(units), draws, seed)) for term, units in found.items()]
        return cls(described, groups, cuts, chosen, counted, language, seed)

    @property
    def last(self) -> str:
        return list(self.groups)[-1]

    @cached_property
    def units(self) -> list[Unit]:
        return list(self.described.texts)


def _groups(described: Described, units: Sequence[Unit], embedder: Embedder, least: float, most: int) -> list[list[Unit]]:
    entries = {entry.unit: entry.description for entry in described.entrant.entries if entry.description is not None}
    said = [texts_of(entries[unit], most) for unit in units]
    different = list(dict.fromkeys(text for texts in said for text in texts))
    place = {text: number for number, text in enumerate(different)}
    vectors = text_embeddings(embedder, different).numpy()
    found = grouped(similarities([[place[text] for text in texts] for texts in said], vectors), least)
    return [[units[each] for each in group] for group in found]


def _lots(units: Sequence[Unit], count: int, draws: int, seed: int) -> tuple[tuple[Unit, ...], ...]:
    dice = np.random.default_rng([seed, len(units), count])
    return tuple(tuple(units[each] for each in sorted(dice.choice(len(units), count, replace=False).tolist())) for _ in range(draws))


@dataclass(frozen=True)
class Judged:
    """Which images are still right: by set of units (none, all, each cut and its lots, each term and its lots), and image.

    retrained has no terms.
    """

    fixed: Bool[np.ndarray, "sets images"]
    retrained: Bool[np.ndarray, "some images"]
    labels: np.ndarray
    classes: Sequence[str]
    places: Mapping[str, int] = field(default_factory=dict)  # of the first set of a cut, by "cut NAME" or "term NAME"

    @classmethod
    def of(cls, plan: Plan, probes: tuple[Probe, Probe], layer: str, out: Path, synsets: str, classifier: str) -> "Judged":
        """Runs the network over the images to learn from and the judged ones, once each, and trains classifiers anew."""
        sets: list[tuple[Unit, ...]] = [(), tuple(plan.units)]
        places: dict[str, int] = {}
        for kind, cuts in (("cut", plan.alone), ("term", plan.terms)):
            for cut in cuts:
                places[f"{kind} {cut.name}"] = len(sets)
                sets += [cut.units, *cut.lots]
        learnt = places.get(f"term {plan.terms[0].name}", len(sets)) if plan.terms else len(sets)
        target, (learn, judge) = plan.described.target, probes
        files = out / "learn.sqlite", out / "judge.sqlite"
        rows, _ = right_without(target, learn, sets[:learnt], files[0], synsets, layer)
        seen, fixed = right_without(target, judge, sets, files[1], synsets, layer)
        labels = [np.array(probe.labels)[kept] for probe, kept in ((learn, rows), (judge, seen))]
        given = [np.load(features_file(file), mmap_mode="r") for file in files]
        again = [
            retrained((given[0][number][rows], labels[0]), given[1][number][seen], classifier, plan.seed) == labels[1]
            for number in range(learnt)
        ]
        return cls(fixed, np.stack(again), labels[1], readable_classes(judge), places)

    def part(self, which: str, place: str, lots: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a cut, which images are right without its units, and without each lot."""
        table, first = (self.fixed if which == "fixed" else self.retrained), self.places[place]
        return table[first], table[first + 1 : first + 1 + lots]


def report_of(plan: Plan, judged: Judged, settings: Mapping[str, Any]) -> Report:
    main = _main(plan, judged)
    tables = [main, _group_counts(plan), _largest(plan), _terms(plan, judged), _classes(plan, judged), _frequencies(plan)]
    facts = {
        **plan.described.facts, **settings, "seed": plan.seed, "language": named(load_language(plan.language)), "versions": versions(),
        "warnings": warnings_so_far(),
    }  # fmt: skip
    lede = (
        f"Of {len(plan.units)} units of {plan.described.name} that {plan.described.entrant.name} described, those are pruned whose "
        f"description is like no other's in their layer, and those of common terms; accuracy on {settings['judged']}."
    )
    judged_by = {"judged images": settings["judged"], "embedder of groups": settings["embedder"]}
    sources = {**plan.described.sources, **judged_by}
    title = "Pruning units that are said to be like no other"
    figures = _figures(plan, main)
    return Report("pruning", title, lede, tuple(tables), _headlines(main), NOTES, facts, figures, sources=sources)


def _main(plan: Plan, judged: Judged) -> Table:
    columns = [Column("pruned", "The share of the units that is pruned: those in groups of one.", "%", 1)]
    for kind, text in (("retrained", "A new classifier on the pruned network's features"), ("fixed", "The network's own classifier")):
        columns.append(Column(kind, f"{text}: accuracy without these units.", "%", 1))
        columns.append(Column(f"{kind}, by lot", f"{text}: accuracy without as many drawn by lot.", "%", 1))
        columns.append(Column(f"{kind}, more", "The one less the other: above 0 where these units matter less than others.", "%", 1))
    whole: dict[str, Value] = {"pruned": 0.0, "retrained": share(judged.retrained[0].tolist()), "fixed": share(judged.fixed[0].tolist())}
    none: dict[str, Value] = {"pruned": 1.0, "retrained": share(judged.retrained[1].tolist()), "fixed": share(judged.fixed[1].tolist())}
    rows = [Row("no pruning", whole, "ceiling"), Row("all pruned", none, "floor")]
    for cut in plan.alone:
        of = [unit for unit in plan.units if cut.name in (EVERYWHERE, unit.layer)]
        values: dict[str, Value] = {"pruned": len(cut.units) / len(of)}
        for kind in ("retrained", "fixed"):
            values |= _against(judged.part(kind, f"cut {cut.name}", len(cut.lots)), kind, plan.seed)
        rows.append(Row(cut.name, values))
    return Table("groups of one", tuple(columns), tuple(rows), "layer")


def _against(parts: tuple[np.ndarray, np.ndarray], kind: str, seed: int) -> dict[str, Value]:
    own, lots = (part.reshape(-1, part.shape[-1]).astype(float) for part in parts)
    nothing = np.zeros((1, own.shape[1]))
    found: dict[str, Value] = {kind: share((own[0] > 0).tolist())}
    return found | {f"{kind}, by lot": difference(lots, nothing, seed), f"{kind}, more": difference(own, lots, seed)}


def _group_counts(plan: Plan) -> Table:
    columns = (
        Column("units", "Units with a description."),
        Column("groups", "Groups of units that are said to do much the same."),
        Column("alone", "Units in groups of one."),
        Column("in the largest", "Units in the largest group."),
    )
    rows = []
    for layer, groups in plan.groups.items():
        sizes = [len(group) for group in groups]
        rows.append(Row(layer, {"units": sum(sizes), "groups": len(sizes), "alone": sizes.count(1), "in the largest": sizes[0]}))
    return Table("groups", columns, tuple(rows), "layer")


def _largest(plan: Plan) -> Table:
    columns = (
        Column("units", "Units in the group."),
        Column("share", "Of the layer's described units.", "%", 1),
        Column("text", "What most of them are said to do."),
    )
    rows = []
    for layer, groups in plan.groups.items():
        total = sum(map(len, groups))
        for number, group in enumerate(groups[:SHOWN], 1):
            text = commonest([plan.described.texts[unit] for unit in group])
            rows.append(Row(f"{layer}, {number}", {"units": len(group), "share": len(group) / total, "text": text}))
    return Table("largest groups", columns, tuple(rows), "group")


def _terms(plan: Plan, judged: Judged) -> Table:
    columns = (
        Column("units", f"Units of {plan.last} whose description has the term."),
        Column("share", "Of the layer's described units.", "%", 1),
        Column("fixed", "Accuracy of the network's own classifier without these units.", "%", 1),
        Column("fixed, by lot", "Without as many units of the layer, drawn by lot.", "%", 1),
        Column("fixed, more", "The one less the other.", "%", 1),
    )
    total = sum(unit.layer == plan.last for unit in plan.units)
    rows = []
    for cut in plan.terms:
        values: dict[str, Value] = {"units": len(cut.units), "share": len(cut.units) / total}
        rows.append(Row(cut.name, values | _against(judged.part("fixed", f"term {cut.name}", len(cut.lots)), "fixed", plan.seed)))
    return Table(f"terms of {plan.last} pruned", columns, tuple(rows), "term")


def _classes(plan: Plan, judged: Judged) -> Table:
    """Table 8: the accuracy of each class without the units of each term."""
    columns = [Column("images", "Judged images of the class."), Column("no pruning", "Accuracy of the whole network.", "%", 0)]
    columns += [
        Column(cut.name, f"Accuracy without {len(cut.units)} units of {plan.last} that are said to show it.", "%", 0) for cut in plan.terms
    ]
    tables = {"no pruning": judged.fixed[0]} | {cut.name: judged.part("fixed", f"term {cut.name}", 0)[0] for cut in plan.terms}
    rows = []
    for label in np.unique(judged.labels):
        own = judged.labels == label
        values: dict[str, Value] = {"images": int(own.sum())} | {name: float(right[own].mean()) for name, right in tables.items()}
        rows.append(Row(judged.classes[label], values))
    return Table("classes", tuple(columns), tuple(rows), "class")


def _frequencies(plan: Plan) -> Table:
    columns = tuple(
        Column(layer, f"The terms most units of {layer} are said to show, with the share of its units.") for layer in plan.counted
    )
    sizes = {layer: sum(map(len, groups)) for layer, groups in plan.groups.items()}
    rows = []
    for place in range(FREQUENT):
        values: dict[str, Value] = {}
        for layer, found in plan.counted.items():
            if place < len(found):
                term, units = list(found.items())[place]
                values[layer] = f"{term} {100 * len(units) / sizes[layer]:.0f}%"
        rows.append(Row(str(place + 1), values))
    return Table("term frequencies", columns, tuple(rows), "rank")


def _headlines(main: Table) -> tuple[tuple[str, str], ...]:
    whole, everywhere = main.rows[0], main.rows[-1]
    shown = {column.name: column for column in main.columns}

    def told(row: Row, name: str, text: str) -> tuple[str, str]:
        value, _, interval = shown[name].shown(row.values[name]).partition(" ")
        return f"{value} %", f"{interval} {text}".strip()

    return (
        told(whole, "fixed", "accuracy of the whole network"),
        told(everywhere, "pruned", "of the units are in groups of one"),
        told(everywhere, "fixed, more", "accuracy without them against as many by lot, the network's own classifier"),
        told(everywhere, "retrained, more", "the same, a classifier trained anew"),
    )


def _figures(plan: Plan, main: Table) -> tuple[tuple[str, str], ...]:
    most = min(PROFILE, max(map(len, plan.groups.values())))
    profile = {layer: [float(len(group)) for group in groups[:most]] for layer, groups in plan.groups.items()}
    profile = {layer: sizes + [0.0] * (most - len(sizes)) for layer, sizes in profile.items()}
    ranks = [str(rank) if rank == 1 or rank % 5 == 0 else "" for rank in range(1, most + 1)]
    names = ["retrained", "retrained, by lot", "fixed", "fixed, by lot"]
    heights = {name: [100 * _value(row.values[name]) for row in main.rows[2:]] for name in names}
    return (
        (
            "How many units say much the same: the sizes of each layer's largest groups (Figure 4 of the paper).",
            bars(profile, ranks, "units"),
        ),
        (
            "Accuracy without the units in groups of one, and without as many by lot, layer by layer (Tables 7 and 13).",
            bars(heights, [row.name for row in main.rows[2:]], "accuracy, %"),
        ),
    )


def _value(value: Value) -> float:
    return value.value if isinstance(value, Measure) else float("nan")

"""The tables and figures of pruned units: groups of one, terms, and random sets of as many units."""

import numpy as np

from milan.experiments.core.bar_plots import plot_bars
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.pruning.pruned_sets import ALL_LAYERS, PruningAccuracy, PruningPlan
from milan.language import format_pipeline_name, load_pipeline
from milan.scores.accuracy_under_ablation import compute_mean_difference
from milan.scores.confidence_intervals import Measure, estimate_share
from milan.scores.description_groups import find_most_common

SHOWN_GROUPS, PLOTTED_GROUPS = 6, 20  # largest groups of a layer in the table, and in the figure
SHOWN_TERMS = 10  # terms in the table
KINDS = {
    "retrained": "A new classifier that is trained on the pruned network's features",
    "fixed": "The network's own classifier",
}
NOTES = (
    "Groups are of units of one layer in which every two descriptions are at least as similar as min_similarity"
    " (complete linkage). A pruned unit outputs 0 everywhere.",
    "Random: as many units of the same layers, sampled several times. Retrained: a new classifier is trained on the"
    " pruned network's features (means over the image of the feature layer) and evaluated on other images; fixed: the"
    " network's own classifier.",
    "Intervals are 95% intervals: Wilson's of an accuracy, bootstrap intervals over images and random sets of random"
    " accuracies and of differences.",
    "The paper trains a random forest on Tile2Vec's embeddings of aerial images; only the experiment is the same here.",
)


def make_report(plan: PruningPlan, accuracy: PruningAccuracy, evaluation_probe: str, layer: str) -> Report:
    """Return all tables, headlines and figures.

    Args:
        layer: the layer of the features of new classifiers.
    """
    study, config, main = plan.study, plan.config, _make_main_table(plan, accuracy)
    tables = [
        main,
        _make_group_table(plan),
        _make_largest_table(plan),
        _make_term_table(plan, accuracy),
        _make_class_table(plan, accuracy),
        _make_frequency_table(plan),
    ]
    options = ("embedder", "min_similarity", "texts_per_unit", "classifier")
    return study.report(
        "Pruning units whose description is like no other's",
        f"Of {len(plan.units)} units of {study.target.name} that {study.evaluated.name} described, those whose"
        " description is like no other's in their layer and those of common terms are pruned; accuracy on"
        f" {evaluation_probe}.",
        tables,
        headlines=_make_headlines(main),
        notes=NOTES,
        facts={name: getattr(config, name) for name in options}
        | {
            "feature layer": layer,
            "evaluation probe": evaluation_probe,
            "language": format_pipeline_name(load_pipeline(config.language)),
        },
        figures=_make_figures(plan, main),
        sources={"evaluation images": evaluation_probe, "embedder of groups": config.embedder},
    )


def _make_main_table(plan: PruningPlan, accuracy: PruningAccuracy) -> Table:
    columns = [Column("pruned", "Share of the units that is pruned: those in groups of one.", "%", 1)]
    for kind, text in KINDS.items():
        columns += [
            Column(kind, f"{text}: accuracy without these units.", "%", 1),
            Column(f"{kind}, random", f"{text}: accuracy without as many random units.", "%", 1),
            Column(
                f"{kind}, difference",
                f"{text}: the first minus the second; above 0 if these units matter less than others.",
                "%",
                1,
            ),
        ]
    rows = []
    for row, (name, pruned, role) in enumerate((("no pruning", 0.0, "ceiling"), ("all pruned", 1.0, "floor"))):
        values: dict[str, Value] = {kind: estimate_share(getattr(accuracy, kind)[row].tolist()) for kind in KINDS}
        rows.append(Row(name, values | {"pruned": pruned}, role))  # type: ignore[arg-type]
    for each in plan.singletons:
        units = [unit for unit in plan.units if each.name in (ALL_LAYERS, unit.layer)]
        values = {"pruned": len(each.units) / len(units)}
        for kind in KINDS:
            values |= _compare_with_random(plan, accuracy, kind, f"singletons {each.name}")
        rows.append(Row(each.name, values))
    return Table("groups of one", tuple(columns), tuple(rows), "layer")


def _compare_with_random(plan: PruningPlan, accuracy: PruningAccuracy, kind: str, name: str) -> dict[str, Value]:
    """Return the accuracy without a pruned set, without random sets, and their difference."""
    parts = accuracy.select(kind, name, plan.config.random_sets)
    own, random = (part.reshape(-1, part.shape[-1]).astype(float) for part in parts)
    return {
        kind: estimate_share((own[0] > 0).tolist()),
        f"{kind}, random": compute_mean_difference(random, np.zeros((1, own.shape[1])), plan.config.seed),
        f"{kind}, difference": compute_mean_difference(own, random, plan.config.seed),
    }


def _make_group_table(plan: PruningPlan) -> Table:
    columns = (
        Column("units", "Number of units with a description."),
        Column("groups", "Number of groups of units with similar descriptions."),
        Column("alone", "Number of units in groups of one."),
        Column("in the largest", "Number of units in the largest group."),
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
        Column("units", "Number of units in the group."),
        Column("share", "Share of the layer's described units.", "%", 1),
        Column("text", "The most common description in the group."),
    )
    rows = []
    for layer, groups in plan.groups.items():
        total = sum(map(len, groups))
        for number, group in enumerate(groups[:SHOWN_GROUPS], 1):
            text = find_most_common([plan.study.texts[unit] for unit in group])
            rows.append(Row(f"{layer}, {number}", {"units": len(group), "share": len(group) / total, "text": text}))
    return Table("largest groups", columns, tuple(rows), "group")


def _make_term_table(plan: PruningPlan, accuracy: PruningAccuracy) -> Table:
    columns = (
        Column("units", f"Number of units of {plan.last_layer} whose description has the term."),
        Column("share", "Share of the layer's described units.", "%", 1),
        Column("fixed", "Accuracy of the network's own classifier without these units.", "%", 1),
        Column("fixed, random", "Accuracy without as many random units of the layer.", "%", 1),
        Column("fixed, difference", "The first minus the second.", "%", 1),
    )
    total = sum(unit.layer == plan.last_layer for unit in plan.units)
    rows = []
    for term in plan.terms:
        values: dict[str, Value] = {"units": len(term.units), "share": len(term.units) / total}
        rows.append(Row(term.name, values | _compare_with_random(plan, accuracy, "fixed", f"term {term.name}")))
    return Table(f"terms of {plan.last_layer} pruned", columns, tuple(rows), "term")


def _make_class_table(plan: PruningPlan, accuracy: PruningAccuracy) -> Table:
    """Return the accuracy of each class without the units of each term, as in Table 8."""
    columns = [
        Column("images", "Number of evaluation images of the class."),
        Column("no pruning", "Accuracy of the whole network.", "%", 0),
    ]
    correct = {"no pruning": accuracy.fixed[0]}
    for term in plan.terms:
        text = f"Accuracy without the {len(term.units)} units of {plan.last_layer} whose description has the term."
        columns.append(Column(term.name, text, "%", 0))
        correct[term.name] = accuracy.select("fixed", f"term {term.name}")[0]
    rows = []
    for label in np.unique(accuracy.labels):
        own = accuracy.labels == label
        values: dict[str, Value] = {name: float(each[own].mean()) for name, each in correct.items()}
        rows.append(Row(accuracy.classes[label], {"images": int(own.sum())} | values))
    return Table("classes", tuple(columns), tuple(rows), "class")


def _make_frequency_table(plan: PruningPlan) -> Table:
    columns = tuple(
        Column(layer, f"The most common terms in descriptions of {layer}, with the share of its units.")
        for layer in plan.units_by_term
    )
    sizes = {layer: sum(map(len, groups)) for layer, groups in plan.groups.items()}
    rows = []
    for place in range(SHOWN_TERMS):
        values: dict[str, Value] = {}
        for layer, found in plan.units_by_term.items():
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
            everywhere, "fixed, difference", "accuracy without them minus without random units, own classifier"
        ),
        make_headline(everywhere, "retrained, difference", "the same, with a retrained classifier"),
    )


def _make_figures(plan: PruningPlan, main: Table) -> tuple[tuple[str, str], ...]:
    largest = min(PLOTTED_GROUPS, max(map(len, plan.groups.values())))
    sizes = {layer: [float(len(group)) for group in groups[:largest]] for layer, groups in plan.groups.items()}
    sizes = {layer: each + [0.0] * (largest - len(each)) for layer, each in sizes.items()}
    ranks = [str(rank) if rank == 1 or rank % 5 == 0 else "" for rank in range(1, largest + 1)]
    names = ["retrained", "retrained, random", "fixed", "fixed, random"]
    heights = {name: [100 * _to_number(row.values[name]) for row in main.rows[2:]] for name in names}
    return (
        ("The sizes of each layer's largest groups (Figure 4 of the paper).", plot_bars(sizes, ranks, "units")),
        (
            "Accuracy without the units in groups of one, and without random units, by layer (Tables 7 and 13).",
            plot_bars(heights, [row.name for row in main.rows[2:]], "accuracy, %"),
        ),
    )


def _to_number(value: Value) -> float:
    return value.value if isinstance(value, Measure) else float("nan")

"""How many descriptions are the same, and how similar they are, under each perturbation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from milan.describers import sources_of
from milan.errors import BadInput
from milan.experiments.core.bar_plots import plot_bars
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.unit_views import make_text_view, make_unit_view
from milan.experiments.robustness.perturbations import UNCHANGED, Perturbation, Perturbations, unwrap_view
from milan.pretrained.embedder import embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.probes.pixel_labels import shows_diorama
from milan.scores.bootstrap import make_random_cycle
from milan.scores.confidence_intervals import Measure, estimate_mean, estimate_share
from milan.scores.text_similarity import normalize_text
from milan.scores.truth_score import Truth
from milan.units import Unit

OTHER_UNITS = "of another unit"
SHOWN_UNITS = 24  # units on the page
# SAND's Table 1: cosine and exact matches of 50 units each of layer 4 and layer 1 of ResNet50, against η = 0.10.
PAPER_TABLE_1 = {0.05: "0.980, 86 %; 0.967, 76 %", 0.15: "0.974, 86 %; 0.971, 78 %", 0.2: "0.979, 88 %; 0.969, 78 %"}
COLUMNS = (
    Column("units", "Number of units that have a description here and in the unchanged study."),
    Column("same", "Share of units with the same words as in the unchanged study, up to case and final stop.", "%", 1),
    Column(
        "cosine",
        "Mean cosine similarity to the unchanged description, by the text encoder of the embedder named below.",
        "",
        3,
    ),
    Column("distinct", "Number of different descriptions."),
)
TRUTH_COLUMN = Column(
    "truth",
    "Mean truth score of the descriptions with the unchanged masks: whether changed descriptions are worse.",
    "%",
    1,
)
PAPER_COLUMN = Column(
    "paper", "SAND's Table 1, ResNet50 on its images: cosine and share of the same words in layer 4; in layer 1."
)
NOTES = (
    "Every row but the first changes one thing. 'Again' changes nothing: differences there are randomness within the"
    " describer.",
    "Another number of exemplars is read from the same dissection; for other images and quantiles the units are"
    " dissected again.",
    "Of another unit: the unchanged descriptions, shuffled among units of the layer: 'same' and 'cosine' at chance.",
    "Intervals are 95% intervals: Wilson's of shares, bootstrap intervals over units of means.",
)


@dataclass(frozen=True)
class DescriptionChanges:
    """The descriptions under all perturbations.

    Attributes:
        texts: by perturbation and unit.
        vectors: the embedding of each text.
    """

    perturbations: Perturbations
    texts: Mapping[str, Mapping[Unit, str]]
    vectors: Mapping[str, Float[np.ndarray, " features"]]

    @property
    def unchanged(self) -> Mapping[Unit, str]:
        """The texts of the unchanged study."""
        return self.texts[UNCHANGED]

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What is true of the units of each layer, where it is known."""
        study = self.perturbations.study
        if not shows_diorama(study.probe.spec):
            return {}
        dissections = self.perturbations.dissections.items()
        return Truth.measure_layers({layer: unwrap_view(one) for layer, one in dissections}, study.target)

    @cached_property
    def shuffled_texts(self) -> dict[Unit, str]:
        """The unchanged texts, each of another unit of the layer."""
        shuffled: dict[Unit, str] = {}
        for layer in self.perturbations.study.units:
            units = [unit for unit in self.unchanged if unit.layer == layer]
            others = make_random_cycle(len(units), np.random.default_rng(self.perturbations.config.seed))
            shuffled |= {unit: self.unchanged[units[other]] for unit, other in zip(units, others, strict=True)}
        return shuffled

    def make_values(self, texts: Mapping[Unit, str], layer: str = "") -> dict[str, Value]:
        """Return the row of some texts, for one layer or for all."""
        seed = self.perturbations.config.seed
        units = [unit for unit in self.unchanged if unit in texts and unit.layer == (layer or unit.layer)]
        values: dict[str, Value] = {"units": len(units)}
        if not units:
            return values
        values["distinct"] = len({texts[unit] for unit in units})
        if texts is not self.unchanged:
            same = [normalize_text(texts[unit]) == normalize_text(self.unchanged[unit]) for unit in units]
            cosines = [float(self.vectors[texts[unit]] @ self.vectors[self.unchanged[unit]]) for unit in units]
            values |= {"same": estimate_share(same), "cosine": estimate_mean(cosines, seed)}
        if self.truths:
            values["truth"] = estimate_mean([self.truths[unit.layer].score(unit, texts[unit]) for unit in units], seed)
        return values

    def is_changed(self, perturbation: Perturbation, unit: Unit) -> bool:
        """Return whether a unit has another description under a perturbation."""
        text = self.texts[perturbation.name].get(unit, "")
        return bool(text) and normalize_text(text) != normalize_text(self.unchanged[unit])


def compare_descriptions(perturbations: Perturbations, embedder: Embedder) -> DescriptionChanges:
    """Describe the units under all perturbations, and embed the texts.

    Raises:
        BadInput: the describer describes no unit of the unchanged study.
    """
    texts = {each.name: perturbations.describe(each) for each in perturbations.all}
    if not texts[UNCHANGED]:
        name, reasons = perturbations.describer.name, "; ".join(perturbations.refusals)
        raise BadInput(f"{name} described none of the units; there is nothing to compare ({reasons})")
    unique = list(dict.fromkeys(text for each in texts.values() for text in each.values()))
    vectors = embed_texts(embedder, unique).numpy()
    return DescriptionChanges(perturbations, texts, dict(zip(unique, vectors, strict=True)))


def make_report(changes: DescriptionChanges) -> Report:
    """Return a table of all layers, and one of each layer if there are several."""
    perturbations = changes.perturbations
    study, config, describer = perturbations.study, perturbations.config, perturbations.describer
    tables = [_make_table(changes, "")]
    if len(study.units) > 1:
        tables += [_make_table(changes, layer) for layer in study.units]
    facts = {
        "images": len(study.probe),
        "layers": list(study.units),
        "units": len(changes.unchanged),
        "k": config.k,
        "quantile": config.quantile,
        "describer": describer.name,
        "settings": {name: str(value) for name, value in describer.settings.items()},
        "embedder": config.embedder,
    }
    dissections = [unwrap_view(one) for one in perturbations.dissections.values()]
    seed_note = [] if "seed" in describer.settings else [f"{describer.name} has no seed."]
    return study.report(
        f"How robust is {describer.name}?",
        f"{describer.name} describes {len(changes.unchanged)} units of {study.target.name} again under"
        f" {len(perturbations.all) - 1} changes that should not matter, one at a time.",
        tables,
        headlines=_make_headlines(tables[0], perturbations),
        notes=(*NOTES, *seed_note, *perturbations.refusals),
        facts=facts,
        figures=_make_figures(tables[0]),
        sources=sources_of(dissections, {describer.name: describer}) | {"embedder of the comparison": config.embedder},
    )


def _make_table(changes: DescriptionChanges, layer: str) -> Table:
    """Return the table of a layer, or of all layers if it is empty."""
    perturbations = changes.perturbations.all
    columns = COLUMNS + ((TRUTH_COLUMN,) if changes.truths else ())
    if not layer and any(each.kind == "eta" for each in perturbations):
        columns += (PAPER_COLUMN,)
    rows = []
    for each in perturbations:
        values = changes.make_values(changes.texts[each.name], layer)
        if each.kind == "eta" and not layer:
            values["paper"] = PAPER_TABLE_1.get(round(each.value, 4))
        rows.append(Row(each.name, values, "ceiling" if each.name == UNCHANGED else ""))
    rows.append(Row(OTHER_UNITS, changes.make_values(changes.shuffled_texts, layer), "floor"))
    return Table(layer or "all layers", columns, tuple(rows), "changed")


def _make_headlines(table: Table, perturbations: Perturbations) -> tuple[tuple[str, str], ...]:
    """Return, for each kind of perturbation, the one under which fewest descriptions are the same."""
    worst: dict[str, tuple[float, Row]] = {}
    for each, row in zip(perturbations.all, table.rows, strict=False):
        same = row.values.get("same")
        if isinstance(same, Measure) and same.value < worst.get(each.kind, (math.inf, row))[0]:
            worst[each.kind] = (same.value, row)
    cells = [(COLUMNS[1].format(row.values["same"]).split(" ", 1), row.name) for _, row in worst.values()]
    return tuple((f"{value} %", f"{interval} have the same words: {name}") for (value, interval), name in cells)


def _make_figures(table: Table) -> tuple[tuple[str, str], ...]:
    measured = [
        (row.name, same.value, cosine.value)
        for row in table.rows
        if isinstance(same := row.values.get("same"), Measure)
        and isinstance(cosine := row.values.get("cosine"), Measure)
    ]
    panels = {
        "the same words, %": [100 * same for _, same, _ in measured],
        "cosine, %": [100 * cosine for *_, cosine in measured],
    }
    caption = "What stays the same under each change; last, what descriptions of different units have in common."
    return ((caption, plot_bars(panels, [name for name, *_ in measured], "%", wide=True)),)


def make_unit_views(changes: DescriptionChanges) -> dict[Unit, dict[str, Any]]:
    """Return what the page shows of the units whose description changes most often."""
    perturbations = changes.perturbations.all
    counts = {unit: sum(changes.is_changed(each, unit) for each in perturbations) for unit in changes.unchanged}
    views = {}
    for unit in sorted(counts, key=lambda unit: (-counts[unit], unit))[:SHOWN_UNITS]:
        rows = [
            make_text_view(
                each.name,
                changes.texts[each.name].get(unit, ""),
                mark="changed" if changes.is_changed(each, unit) else "",
            )
            for each in perturbations
        ]
        views[unit] = make_unit_view(unit, f"changed {counts[unit]} times", changes.unchanged[unit], rows)
    return views

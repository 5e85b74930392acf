"""The same units described again with one thing changed, and how much of what is said stays: SAND's Table 1, for any
describer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.describers import Describer, sources_of
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.dissection.top_k_view import TopKView
from milan.errors import BadInput, MissingEvidence
from milan.experiments.core.bar_plots import plot_bars
from milan.experiments.core.evaluated_describers import EvaluatedDescriber, run_describer
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.pretrained.embedder import Embedder, embed_texts
from milan.probes import Probe
from milan.probes.pixel_labels import shows_diorama
from milan.scores.confidence_intervals import Measure, estimate_mean, estimate_share
from milan.scores.text_similarity import normalize_text
from milan.scores.truth_score import Truth
from milan.storage.files import collect_versions
from milan.targets.target import Target
from milan.units import Unit

KS, QUANTILES, SEEDS, ETAS = (5, 10, 30), (0.98, 0.995), (1, 2), (0.05, 0.15, 0.2)
Number = int | float
UNCHANGED, OTHER_UNITS = "as it is", "of another unit"
SHOWN_UNITS = 24  # units on the page
# SAND's Table 1: cosine and exact matches of 50 units each of layer 4 and layer 1 of ResNet50, against η = 0.10
PAPER_TABLE_1 = {0.05: "0.980, 86 %; 0.967, 76 %", 0.15: "0.974, 86 %; 0.971, 78 %", 0.2: "0.979, 88 %; 0.969, 78 %"}
COLUMNS = (
    Column("units", "Units that have a description here and as it is."),
    Column("same", "The share that is described in the very same words (capitals and full stops aside).", "%", 1),
    Column(
        "like",
        "The mean cosine between what is said of a unit here and as it is, by the text side of the embedder named"
        " below.",
        "",
        3,
    ),
    Column("distinct", "How many different descriptions there are."),
)
TRUTH_COLUMN = Column(
    "truth",
    "The mean truth score of what is said, by the exemplars' masks as they are: whether what changes gets worse.",
    "%",
    1,
)
PAPER_COLUMN = Column(
    "paper", "SAND's Table 1, ResNet50 on its own images: cosine and share of the same words in layer 4; in layer 1."
)
NOTES = (
    (
        "Every row but the first changes one thing and leaves all others as they are. 'Again' changes nothing: what is"
        " not the same there is chance within the describer."
    ),
    "Another number of exemplars is read from the same dissection; other images and quantiles are dissected again.",
    (
        "Of another unit: the descriptions as they are, dealt to other units of the layer: what 'same' and 'like' come"
        " to by themselves."
    ),
    "Intervals are of 95%, of shares by Wilson's formula, of means by drawing the units again a thousand times.",
)


@dataclass(frozen=True)
class Perturbation:
    """One thing changed: what, and the evidence and describer that there are then."""

    name: str
    kind: str  # probe, k, quantile, seed, or a setting's name
    describer: Describer
    dissections: Mapping[str, Dissection]
    value: Number = math.nan


@dataclass
class RobustnessSetup:
    """What all rows have in common.

    Attributes:
        units: by layer, the indices.
        baseline: k, quantile and seed.
    """

    target: Target
    probe: Probe
    units: Mapping[str, Sequence[int]]
    describer: Describer
    baseline: tuple[int, float, int]
    out: Path
    refusals: list[str] = field(default_factory=list)
    max_k: int = 0  # exemplars that are dissected, of which fewer are shown

    def dissect_again(self, name: str, probe: Probe, quantile: float, k: int) -> dict[str, Dissection]:
        """Another dissection of the same units, of which k exemplars are shown."""
        units = {layer: list(indices) for layer, indices in self.units.items()}
        found = dissect(
            self.target,
            probe,
            list(self.units),
            self.out / "dissections" / name,
            k=max(k, self.max_k),
            quantile=quantile,
            units=units,
        )
        return {layer: TopKView(one, min(k, one.k)) for layer, one in found.items()}

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """The dissection as it is."""
        return self.dissect_again("plain", self.probe, self.baseline[1], self.baseline[0])

    def describe(self, perturbation: Perturbation) -> dict[Unit, str]:
        """What is said of each unit under a change; nothing, with a note, where the describer cannot."""
        evaluated = EvaluatedDescriber(perturbation.name, perturbation.describer)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in self.units.items()}
        try:
            run_describer(
                evaluated,
                perturbation.dissections,
                wanted,
                self.out / "described" / perturbation.name.replace(" ", "-").replace("/", "-"),
            )
        except MissingEvidence as reason:
            self.refusals.append(f"{perturbation.name}: {reason}")
        return evaluated.texts

    def change_setting(self, name: str, value: object) -> Describer:
        """The describer with another value of one of its settings.

        Raises:
            BadInput: it has no such setting.
        """
        settings = self.describer.settings
        if name not in settings:
            raise BadInput(f"{self.describer.name} has no setting {name!r} to vary; it has {', '.join(settings)}")
        kind = type(settings[name])
        return type(self.describer)(**settings | {name: kind(value) if kind in (int, float) else value})


def list_perturbations(
    setup: RobustnessSetup,
    others: Mapping[str, Probe],
    samples: int,
    values: Mapping[str, Sequence[Number] | None],
    vary: Mapping[str, Sequence[Number]] | None,
) -> list[Perturbation]:
    """All changes, the first of which is none."""
    k, quantile, _ = setup.baseline
    ks = [each for each in (KS if values["k"] is None else values["k"]) if each != k]
    setup.max_k = int(max([k, *ks]))
    same = setup.describer
    found = [
        Perturbation(UNCHANGED, "", same, setup.dissections),
        Perturbation("again", "again", same, setup.dissections),
    ]
    for name, probe in {**_sample_halves(setup, samples), **others}.items():
        found.append(
            Perturbation(
                name, "images", same, setup.dissect_again(name.replace(" ", "-").replace("/", "-"), probe, quantile, k)
            )
        )
    whole = setup.dissect_again("plain", setup.probe, quantile, setup.max_k)
    for each in ks:
        found.append(
            Perturbation(
                f"k {each}",
                "k",
                same,
                {layer: TopKView(_unwrap_view(one), int(each)) for layer, one in whole.items()},
                each,
            )
        )
    for each in QUANTILES if values["quantile"] is None else values["quantile"]:
        found.append(
            Perturbation(
                f"quantile {each}",
                "quantile",
                same,
                setup.dissect_again(f"quantile-{each}", setup.probe, each, k),
                each,
            )
        )
    settings = same.settings
    seeds = [
        each
        for each in (SEEDS if values["seed"] is None else values["seed"])
        if "seed" in settings and each != settings["seed"]
    ]
    varied = {"seed": seeds} | dict({"eta": ETAS} if vary is None and "eta" in settings else vary or {})
    for name, numbers in varied.items():
        found += [
            Perturbation(f"{name} {each:g}", name, setup.change_setting(name, each), setup.dissections, each)
            for each in numbers
        ]
    return found


def _unwrap_view(one: Dissection) -> Dissection:
    return one.inner if isinstance(one, TopKView) else one


def _sample_halves(setup: RobustnessSetup, samples: int) -> dict[str, Probe]:
    """Halves of the probe, drawn by lot. They have no name to be loaded by: what asks for labels by the probe's name is
    refused.
    """
    found = {}
    for number in range(samples):
        order = np.random.default_rng([setup.baseline[2], number]).permutation(len(setup.probe))
        half = setup.probe.subset(sorted(order[: len(order) // 2].tolist()))
        half.spec = ""
        found[f"half {number + 1}"] = half
    return found


@dataclass(frozen=True)
class UnitExample:
    """A unit on the page."""

    unit: Unit
    view: dict[str, Any]


@dataclass(frozen=True)
class DescriptionChanges:
    """What was said under each change, beside what is said as it is."""

    setup: RobustnessSetup
    texts: Mapping[str, Mapping[Unit, str]]
    vectors: Mapping[str, np.ndarray]

    @property
    def seed(self) -> int:
        return self.setup.baseline[2]

    @property
    def sources(self) -> dict[str, str]:
        """What was described, and by what, by role."""
        return sources_of(
            map(_unwrap_view, self.setup.dissections.values()), {self.setup.describer.name: self.setup.describer}
        )

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """Of each layer, where it is known."""
        if not shows_diorama(self.setup.probe.spec):
            return {}
        return {
            layer: Truth.measure(_unwrap_view(one), self.setup.target) for layer, one in self.setup.dissections.items()
        }

    def make_values(self, name: str, texts: Mapping[Unit, str], layer: str = "") -> dict[str, Value]:
        """The row of some texts, of one layer or of all."""
        base = self.texts[UNCHANGED]
        units = [unit for unit in base if unit in texts and unit.layer == (layer or unit.layer)]
        if not units:
            return {"units": 0}
        same = [normalize_text(texts[unit]) == normalize_text(base[unit]) for unit in units]
        like = [float(self.vectors[texts[unit]] @ self.vectors[base[unit]]) for unit in units]
        found: dict[str, Value] = {
            "units": len(units), "same": estimate_share(same), "like": estimate_mean(like, self.seed),
            "distinct": len({texts[unit] for unit in units}),
        }  # fmt: skip
        if self.truths:
            found["truth"] = estimate_mean(
                [self.truths[unit.layer].score(unit, texts[unit]) for unit in units], self.seed
            )
        if name in (UNCHANGED,):
            found |= {"same": None, "like": None}
        return found

    @cached_property
    def shuffled_texts(self) -> dict[Unit, str]:
        """The texts as they are, each dealt to the next of the layer's units in an order by lot."""
        base = self.texts[UNCHANGED]
        found: dict[Unit, str] = {}
        for layer in self.setup.units:
            units = [unit for unit in base if unit.layer == layer]
            order = [units[each] for each in np.random.default_rng(self.seed).permutation(len(units))]
            found |= (
                {
                    unit: base[other]
                    for unit, other in zip(order, np.roll(np.array(order, dtype=object), 1), strict=True)
                }
                if order
                else {}
            )
        return found


def make_report(
    setup: RobustnessSetup, perturbations: Sequence[Perturbation], embedder: Embedder, named: str
) -> tuple[Report, list[UnitExample]]:
    said = {change.name: setup.describe(change) for change in perturbations}
    if not said[UNCHANGED]:
        raise BadInput(
            f"{setup.describer.name} described none of the units; there is nothing to compare"
            f" ({'; '.join(setup.refusals)})"
        )
    different = list(dict.fromkeys(text for texts in said.values() for text in texts.values()))
    found = DescriptionChanges(setup, said, dict(zip(different, embed_texts(embedder, different).numpy(), strict=True)))
    columns = (
        COLUMNS
        + ((TRUTH_COLUMN,) if found.truths else ())
        + ((PAPER_COLUMN,) if any(change.kind == "eta" for change in perturbations) else ())
    )
    rows = [_make_row(found, change) for change in perturbations]
    rows.append(Row(OTHER_UNITS, found.make_values(OTHER_UNITS, found.shuffled_texts), "floor"))
    tables = [Table("all layers", columns, tuple(rows), "changed")]
    if len(setup.units) > 1:
        tables += [_make_layer_table(found, perturbations, layer) for layer in setup.units]
    facts = {
        "target": setup.target.name, "weights": setup.target.weights, "probe": setup.probe.spec,
        "images": len(setup.probe), "layers": list(setup.units), "units": len(said[UNCHANGED]), "k": setup.baseline[0],
        "quantile": setup.baseline[1], "seed": setup.baseline[2], "describer": setup.describer.name,
        "settings": {name: str(value) for name, value in setup.describer.settings.items()}, "embedder": named,
        "device": str(setup.target.device), "versions": collect_versions(), "warnings": get_recorded_warnings(),
    }  # fmt: skip
    lede = (
        f"{setup.describer.name} describes {len(said[UNCHANGED])} units of {facts['target']} again under"
        f" {len(perturbations) - 1} changes that should not matter, one at a time."
    )
    notes = (
        *NOTES,
        *([] if "seed" in setup.describer.settings else [f"{setup.describer.name} has no seed."]),
        *setup.refusals,
    )
    report = Report(
        "robustness", f"How steady is {setup.describer.name}?", lede, tuple(tables),
        _make_headlines(tables[0], perturbations), notes, facts,
        _make_figures(tables[0]), sources=found.sources | {"embedder of the comparison": named},
    )  # fmt: skip
    return report, _choose_examples(found, perturbations)


def _make_row(changes: DescriptionChanges, perturbation: Perturbation, layer: str = "") -> Row:
    values = changes.make_values(perturbation.name, changes.texts[perturbation.name], layer)
    if perturbation.kind == "eta" and not layer:
        values["paper"] = PAPER_TABLE_1.get(round(perturbation.value, 4))
    role: Literal["", "ceiling"] = "ceiling" if perturbation.name == UNCHANGED else ""
    return Row(perturbation.name, values, role)


def _make_layer_table(compared: DescriptionChanges, perturbations: Sequence[Perturbation], layer: str) -> Table:
    columns = COLUMNS + ((TRUTH_COLUMN,) if compared.truths else ())
    rows = [
        *(_make_row(compared, change, layer) for change in perturbations),
        Row(OTHER_UNITS, compared.make_values(OTHER_UNITS, compared.shuffled_texts, layer), "floor"),
    ]
    return Table(layer, columns, tuple(rows), "changed")


def _make_headlines(table: Table, perturbations: Sequence[Perturbation]) -> tuple[tuple[str, str], ...]:
    """Of each kind of change the row that leaves least as it is."""
    worst: dict[str, Row] = {}
    for change, row in zip(perturbations, table.rows, strict=False):
        if change.kind and isinstance(row.values.get("same"), Measure):
            before = worst.get(change.kind)
            if before is None or row.values["same"].value < before.values["same"].value:  # type: ignore[union-attr]
                worst[change.kind] = row
    shown = [(COLUMNS[1].format(row.values["same"]).split(" ", 1), row.name) for row in worst.values()]
    return tuple((f"{value} %", f"{interval} have the same words: {name}") for (value, interval), name in shown)


def _make_figures(table: Table) -> tuple[tuple[str, str], ...]:
    rows = [row for row in table.rows if isinstance(row.values.get("same"), Measure)]
    panels = {
        "the same words, %": [100 * row.values["same"].value for row in rows],  # type: ignore[union-attr]
        "cosine, %": [100 * row.values["like"].value for row in rows],  # type: ignore[union-attr]
    }
    caption = "How much stays as it is under each change; last, what the descriptions of other units have in common."
    return ((caption, plot_bars(panels, [row.name for row in rows], "%", wide=True)),)


def _choose_examples(compared: DescriptionChanges, perturbations: Sequence[Perturbation]) -> list[UnitExample]:
    """Units whose description changes most often."""
    base = compared.texts[UNCHANGED]
    changed = {
        unit: sum(
            normalize_text(compared.texts[change.name].get(unit, text)) != normalize_text(text)
            for change in perturbations
        )
        for unit, text in base.items()
    }
    cases = []
    for unit in sorted(base, key=lambda unit: (-changed[unit], unit))[:SHOWN_UNITS]:
        said = []
        for change in perturbations:
            text = compared.texts[change.name].get(unit, "")
            mark = "changed" if text and normalize_text(text) != normalize_text(base[unit]) else ""
            said.append({"name": change.name, "role": "", "text": text, "reason": "", "mark": mark, "score": ""})
        cases.append(
            UnitExample(
                unit, {"id": str(unit), "group": f"changed {changed[unit]} times", "truth": base[unit], "said": said}
            )
        )
    return cases

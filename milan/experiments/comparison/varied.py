"""The same units described again with one thing changed, and how much of what is said stays: SAND's Table 1, for any describer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from milan.command import warnings_so_far
from milan.describers import Describer, sources_of
from milan.dissection.dissect import dissect
from milan.dissection.fewer import FewerExemplars
from milan.dissection.store import Dissection
from milan.errors import BadInput, MissingEvidence
from milan.experiments.describing.entrants import Entrant, describe_with
from milan.experiments.reporting.bars import bars
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.pretrained.embedder import Embedder, text_embeddings
from milan.probes import Probe
from milan.probes.labels import of_diorama
from milan.scores.intervals import Measure, mean, share
from milan.scores.text import tidied
from milan.scores.truth import Truth
from milan.storage import versions
from milan.targets import Target
from milan.units import Unit

KS, QUANTILES, SEEDS, ETAS = (5, 10, 30), (0.98, 0.995), (1, 2), (0.05, 0.15, 0.2)
Number = int | float
PLAIN, OTHER_UNITS = "as it is", "of another unit"
CASES = 24  # units on the page
# SAND's Table 1: cosine and exact matches of 50 units each of layer 4 and layer 1 of ResNet50, against η = 0.10
PAPER = {0.05: "0.980, 86 %; 0.967, 76 %", 0.15: "0.974, 86 %; 0.971, 78 %", 0.2: "0.979, 88 %; 0.969, 78 %"}
COLUMNS = (
    Column("units", "Units that have a description here and as it is."),
    Column("same", "The share that is described in the very same words (capitals and full stops aside).", "%", 1),
    Column(
        "like", "The mean cosine between what is said of a unit here and as it is, by the text side of the embedder named below.", "", 3
    ),
    Column("distinct", "How many different descriptions there are."),
)
TRUTH = Column(
    "truth", "The mean truth score of what is said, by the exemplars' masks as they are: whether what changes gets worse.", "%", 1
)
PAPERS = Column("paper", "SAND's Table 1, ResNet50 on its own images: cosine and share of the same words in layer 4; in layer 1.")
NOTES = (
    "Every row but the first changes one thing and leaves all others as they are. 'Again' changes nothing: what is not the same there is "
    "chance within the describer.",
    "Another number of exemplars is read from the same dissection; other images and quantiles are dissected again.",
    "Of another unit: the descriptions as they are, dealt to other units of the layer: what 'same' and 'like' come to by themselves.",
    "Intervals are of 95%, of shares by Wilson's formula, of means by drawing the units again a thousand times.",
)


@dataclass(frozen=True)
class Change:
    """One thing changed: what, and the evidence and describer that there are then."""

    name: str
    what: str  # probe, k, quantile, seed, or a setting's name
    describer: Describer
    dissections: Mapping[str, Dissection]
    value: Number = math.nan


@dataclass
class Frame:
    """What all rows have in common.

    Attributes:
        units: by layer, the indices.
        plain: k, quantile and seed.
    """

    target: Target
    probe: Probe
    units: Mapping[str, Sequence[int]]
    describer: Describer
    plain: tuple[int, float, int]
    out: Path
    refused: list[str] = field(default_factory=list)
    most: int = 0  # exemplars that are dissected, of which fewer are shown

    def dissected(self, name: str, probe: Probe, quantile: float, k: int) -> dict[str, Dissection]:
        """Another dissection of the same units, of which k exemplars are shown."""
        units = {layer: list(indices) for layer, indices in self.units.items()}
        found = dissect(
            self.target, probe, list(self.units), self.out / "dissections" / name, k=max(k, self.most), quantile=quantile, units=units
        )
        return {layer: FewerExemplars(one, min(k, one.k)) for layer, one in found.items()}

    @cached_property
    def shown(self) -> dict[str, Dissection]:
        """The dissection as it is."""
        return self.dissected("plain", self.probe, self.plain[1], self.plain[0])

    def said(self, change: Change) -> dict[Unit, str]:
        """What is said of each unit under a change; nothing, with a note, where the describer cannot."""
        entrant = Entrant(change.name, change.describer)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in self.units.items()}
        try:
            describe_with(entrant, change.dissections, wanted, self.out / "described" / change.name.replace(" ", "-").replace("/", "-"))
        except MissingEvidence as reason:
            self.refused.append(f"{change.name}: {reason}")
        return entrant.texts

    def with_setting(self, name: str, value: object) -> Describer:
        """The describer with another value of one of its settings.

        Raises:
            BadInput: it has no such setting.
        """
        settings = self.describer.settings
        if name not in settings:
            raise BadInput(f"{self.describer.name} has no setting {name!r} to vary; it has {', '.join(settings)}")
        kind = type(settings[name])
        return type(self.describer)(**settings | {name: kind(value) if kind in (int, float) else value})


def changes_of(
    frame: Frame,
    others: Mapping[str, Probe],
    samples: int,
    values: Mapping[str, Sequence[Number] | None],
    vary: Mapping[str, Sequence[Number]] | None,
) -> list[Change]:
    """All changes, the first of which is none."""
    k, quantile, _ = frame.plain
    ks = [each for each in (KS if values["k"] is None else values["k"]) if each != k]
    frame.most = int(max([k, *ks]))
    same = frame.describer
    found = [Change(PLAIN, "", same, frame.shown), Change("again", "again", same, frame.shown)]
    for name, probe in {**_halves(frame, samples), **others}.items():
        found.append(Change(name, "images", same, frame.dissected(name.replace(" ", "-").replace("/", "-"), probe, quantile, k)))
    whole = frame.dissected("plain", frame.probe, quantile, frame.most)
    for each in ks:
        found.append(Change(f"k {each}", "k", same, {layer: FewerExemplars(_inner(one), int(each)) for layer, one in whole.items()}, each))
    for each in QUANTILES if values["quantile"] is None else values["quantile"]:
        found.append(Change(f"quantile {each}", "quantile", same, frame.dissected(f"quantile-{each}", frame.probe, each, k), each))
    settings = same.settings
    seeds = [each for each in (SEEDS if values["seed"] is None else values["seed"]) if "seed" in settings and each != settings["seed"]]
    varied = {"seed": seeds} | dict({"eta": ETAS} if vary is None and "eta" in settings else vary or {})
    for name, numbers in varied.items():
        found += [Change(f"{name} {each:g}", name, frame.with_setting(name, each), frame.shown, each) for each in numbers]
    return found


def _inner(one: Dissection) -> Dissection:
    return one.inner if isinstance(one, FewerExemplars) else one


def _halves(frame: Frame, samples: int) -> dict[str, Probe]:
    """Halves of the probe, drawn by lot. They have no name to be loaded by: what asks for labels by the probe's name is refused."""
    found = {}
    for number in range(samples):
        order = np.random.default_rng([frame.plain[2], number]).permutation(len(frame.probe))
        half = frame.probe.some(sorted(order[: len(order) // 2].tolist()))
        half.spec = ""
        found[f"half {number + 1}"] = half
    return found


@dataclass(frozen=True)
class Case:
    """A unit on the page."""

    unit: Unit
    plain: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """What was said under each change, beside what is said as it is."""

    frame: Frame
    said: Mapping[str, Mapping[Unit, str]]
    vectors: Mapping[str, np.ndarray]

    @property
    def seed(self) -> int:
        return self.frame.plain[2]

    @property
    def sources(self) -> dict[str, str]:
        """What was described, and by what, by role."""
        return sources_of(map(_inner, self.frame.shown.values()), {self.frame.describer.name: self.frame.describer})

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """Of each layer, where it is known."""
        if not of_diorama(self.frame.probe.spec):
            return {}
        return {layer: Truth.of(_inner(one), self.frame.target) for layer, one in self.frame.shown.items()}

    def values(self, name: str, texts: Mapping[Unit, str], layer: str = "") -> dict[str, Value]:
        """The row of some texts, of one layer or of all."""
        base = self.said[PLAIN]
        units = [unit for unit in base if unit in texts and unit.layer == (layer or unit.layer)]
        if not units:
            return {"units": 0}
        same = [tidied(texts[unit]) == tidied(base[unit]) for unit in units]
        like = [float(self.vectors[texts[unit]] @ self.vectors[base[unit]]) for unit in units]
        found: dict[str, Value] = {
            "units": len(units), "same": share(same), "like": mean(like, self.seed), "distinct": len({texts[unit] for unit in units}),
        }  # fmt: skip
        if self.truths:
            found["truth"] = mean([self.truths[unit.layer].score(unit, texts[unit]) for unit in units], self.seed)
        if name in (PLAIN,):
            found |= {"same": None, "like": None}
        return found

    @cached_property
    def dealt(self) -> dict[Unit, str]:
        """The texts as they are, each dealt to the next of the layer's units in an order by lot."""
        base = self.said[PLAIN]
        found: dict[Unit, str] = {}
        for layer in self.frame.units:
            units = [unit for unit in base if unit.layer == layer]
            order = [units[each] for each in np.random.default_rng(self.seed).permutation(len(units))]
            found |= (
                {unit: base[other] for unit, other in zip(order, np.roll(np.array(order, dtype=object), 1), strict=True)} if order else {}
            )
        return found


def report_of(frame: Frame, changes: Sequence[Change], embedder: Embedder, named: str) -> tuple[Report, list[Case]]:
    said = {change.name: frame.said(change) for change in changes}
    if not said[PLAIN]:
        raise BadInput(f"{frame.describer.name} described none of the units; there is nothing to compare ({'; '.join(frame.refused)})")
    different = list(dict.fromkeys(text for texts in said.values() for text in texts.values()))
    found = Compared(frame, said, dict(zip(different, text_embeddings(embedder, different).numpy(), strict=True)))
    columns = COLUMNS + ((TRUTH,) if found.truths else ()) + ((PAPERS,) if any(change.what == "eta" for change in changes) else ())
    rows = [_row(found, change) for change in changes]
    rows.append(Row(OTHER_UNITS, found.values(OTHER_UNITS, found.dealt), "floor"))
    tables = [Table("all layers", columns, tuple(rows), "changed")]
    if len(frame.units) > 1:
        tables += [_of_layer(found, changes, layer) for layer in frame.units]
    facts = {
        "target": frame.target.spec or frame.target.name, "weights": frame.target.weights, "probe": frame.probe.spec,
        "images": len(frame.probe), "layers": list(frame.units), "units": len(said[PLAIN]), "k": frame.plain[0],
        "quantile": frame.plain[1], "seed": frame.plain[2], "describer": frame.describer.name,
        "settings": {name: str(value) for name, value in frame.describer.settings.items()}, "embedder": named,
        "device": str(frame.target.device), "versions": versions(), "warnings": warnings_so_far(),
    }  # fmt: skip
    lede = (
        f"{frame.describer.name} describes {len(said[PLAIN])} units of {facts['target']} again under {len(changes) - 1} changes that "
        "should not matter, one at a time."
    )
    notes = (*NOTES, *([] if "seed" in frame.describer.settings else [f"{frame.describer.name} has no seed."]), *frame.refused)
    report = Report(
        "robustness", f"How steady is {frame.describer.name}?", lede, tuple(tables), _headlines(tables[0], changes), notes, facts,
        _figures(tables[0]), sources=found.sources | {"embedder of the comparison": named},
    )  # fmt: skip
    return report, _cases(found, changes)


def _row(found: Compared, change: Change, layer: str = "") -> Row:
    values = found.values(change.name, found.said[change.name], layer)
    if change.what == "eta" and not layer:
        values["paper"] = PAPER.get(round(change.value, 4))
    role: Literal["", "ceiling"] = "ceiling" if change.name == PLAIN else ""
    return Row(change.name, values, role)


def _of_layer(found: Compared, changes: Sequence[Change], layer: str) -> Table:
    columns = COLUMNS + ((TRUTH,) if found.truths else ())
    rows = [*(_row(found, change, layer) for change in changes), Row(OTHER_UNITS, found.values(OTHER_UNITS, found.dealt, layer), "floor")]
    return Table(layer, columns, tuple(rows), "changed")


def _headlines(table: Table, changes: Sequence[Change]) -> tuple[tuple[str, str], ...]:
    """Of each kind of change the row that leaves least as it is."""
    worst: dict[str, Row] = {}
    for change, row in zip(changes, table.rows, strict=False):
        if change.what and isinstance(row.values.get("same"), Measure):
            before = worst.get(change.what)
            if before is None or row.values["same"].value < before.values["same"].value:  # type: ignore[union-attr]
                worst[change.what] = row
    shown = [(COLUMNS[1].shown(row.values["same"]).split(" ", 1), row.name) for row in worst.values()]
    return tuple((f"{value} %", f"{interval} have the same words: {name}") for (value, interval), name in shown)


def _figures(table: Table) -> tuple[tuple[str, str], ...]:
    rows = [row for row in table.rows if isinstance(row.values.get("same"), Measure)]
    panels = {
        "the same words, %": [100 * row.values["same"].value for row in rows],  # type: ignore[union-attr]
        "cosine, %": [100 * row.values["like"].value for row in rows],  # type: ignore[union-attr]
    }
    caption = "How much stays as it is under each change; last, what the descriptions of other units have in common."
    return ((caption, bars(panels, [row.name for row in rows], "%", wide=True)),)


def _cases(found: Compared, changes: Sequence[Change]) -> list[Case]:
    """Units whose description changes most often."""
    base = found.said[PLAIN]
    changed = {
        unit: sum(tidied(found.said[change.name].get(unit, text)) != tidied(text) for change in changes) for unit, text in base.items()
    }
    cases = []
    for unit in sorted(base, key=lambda unit: (-changed[unit], unit))[:CASES]:
        said = []
        for change in changes:
            text = found.said[change.name].get(unit, "")
            mark = "changed" if text and tidied(text) != tidied(base[unit]) else ""
            said.append({"name": change.name, "role": "", "text": text, "reason": "", "mark": mark, "score": ""})
        cases.append(Case(unit, {"id": str(unit), "group": f"changed {changed[unit]} times", "truth": base[unit], "said": said}))
    return cases

"""How describers stand: what they said of units against what is true of them, as the tables and the page of a bench."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.catalogue import OK
from milan.command import warnings_so_far
from milan.describers import Describer, sources_of
from milan.dissection.store import Dissection
from milan.experiments.describing.entrants import Entrant
from milan.experiments.reporting.report import Column, Report, Row, Table
from milan.scores.intervals import Measure, mean, share
from milan.scores.naming import named_exactly, named_parts
from milan.scores.truth import Truth
from milan.storage import versions
from milan.tables import read_csv
from milan.targets import Target
from milan.units import Unit

PLANTED = "diorama:planted"
LABELLED = {("labels", "probe"), ("evidence", "pixels")}  # settings of describers that take the probe's own labels
COLUMNS = (
    Column(
        "truth",
        "The mean truth score: how much of the best that could be said of a unit with as many concepts its description says. "
        "A unit without a description counts as 0.",
        "%",
        1,
        "more",
    ),
    Column(
        "exact",
        "Of the units with a planted meaning, the share of which the description says exactly that: read for its concepts, no concept "
        "more, none fewer, joined in the same way.",
        "%",
        1,
        "more",
    ),
    Column(
        "both halves",
        "Of the units planted to answer to either of two things, the share of which the description names both, each as an alternative of "
        "its own, whatever else it says and whatever it excepts (but not ...).",
        "%",
        1,
        "more",
    ),
    Column("described", "How many units have a description."),
    Column("distinct", "How many different descriptions there are."),
    Column("words", "The mean number of words of a description."),
    Column(
        "time",
        "Wall-clock time for each unit, the reading of weights and all embedding included; what an earlier one has left in the cache is "
        "free for the next.",
        "s",
        3,
    ),
)
NOTES = (
    "Intervals are of 95%: of means by drawing the units again a thousand times, of shares by Wilson's formula.",
    "The ceiling repeats what one of the unit's annotators said; they are simulated and know what every pixel shows. Floors: the "
    "annotators' texts dealt to other units of the layer, a concept drawn by lot, and the commonest annotation said of every unit.",
    "All describers had the same exemplars, activations and masks. What several need, as a count of the labels' pixels or the vectors "
    "of the images, is computed once: its seconds are with the first that asked.",
)
NAMED_EXACTLY = (
    "Named exactly: the text, read by milan.diorama.concepts.read with synonyms and plurals, has the same formula as the planted text. "
    "Units planted to mean nothing count for the truth score only."
)


@dataclass(frozen=True)
class Planted:
    """What a unit was made to detect."""

    kind: str  # single, conjunction, either, nothing
    text: str


@dataclass(frozen=True)
class Stage:
    """What all describers are shown, and what is known of it."""

    target: Target
    dissections: Mapping[str, Dissection]
    units: tuple[Unit, ...]  # those that live, in the order of the target's layers
    planted: Mapping[Unit, Planted]

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """Measured when first asked for, after the describers: what is counted here is kept, and would make some of them seem quick."""
        return {layer: Truth.of(dissection, self.target) for layer, dissection in self.dissections.items()}

    def score(self, unit: Unit, text: str | None) -> float:
        """The truth score; 0 if nothing was said, NaN if the unit has no masks."""
        return self.truths[unit.layer].score(unit, text or "")

    def group(self, unit: Unit) -> str:
        """What the units are divided by: what was planted, else their layer."""
        return self.planted[unit].kind if unit in self.planted else unit.layer


def planted_units(target: Target, file: Path | None = None) -> dict[Unit, Planted]:
    """What is known of how the target was made: from a csv, or of Diorama's planted network; else nothing."""
    if file is not None:
        rows = read_csv(file, "layer", "unit", "kind", "text")
        return {Unit(row["layer"], row["unit"]): Planted(row["kind"], row["text"]) for row in rows}
    if target.spec != PLANTED:
        return {}
    from milan.diorama.planted import planted_truth

    return {unit: Planted(known.kind, known.text) for unit, known in planted_truth().items()}


def stage_of(target: Target, dissections: Mapping[str, Dissection], wanted: Mapping[str, Sequence[Unit]], planted: Path | None) -> Stage:
    living = tuple(unit for layer, units in wanted.items() for unit in units if dissections[layer].status[unit] == OK)
    known = planted_units(target, planted)
    return Stage(target, dissections, living, {unit: known[unit] for unit in living if unit in known})


def report_of(stage: Stage, entrants: Sequence[Entrant], seed: int) -> Report:
    columns = tuple(column for column in COLUMNS if stage.planted or column.name not in ("exact", "both halves"))
    table = Table("all units", columns, tuple(_row(stage, entrant, seed) for entrant in entrants))
    first = next(iter(stage.dissections.values()))
    facts = {
        "target": stage.target.spec or stage.target.name,
        "weights": stage.target.weights,
        "probe": first.probe,
        "images": len(first.activations()),
        "layers": list(stage.dissections),
        "units": len(stage.units),
        "k": first.k,
        "quantile": first.quantile,
        "seed": seed,
        "device": str(stage.target.device),
        "describers": {entrant.name: _settings(entrant.describer) for entrant in entrants},
        "hashes": {layer: dissection.key for layer, dissection in stage.dissections.items()}
        | {entrant.name: entrant.describer.key for entrant in entrants},
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    count = f"{len(stage.units)} living units of {len(stage.dissections)} {'layer' if len(stage.dissections) == 1 else 'layers'}"
    lede = f"{len(entrants)} describers say what they see in {count}, from one dissection; what is true of each is known to the pixel."
    notes = [*([NAMED_EXACTLY] if stage.planted else []), *NOTES, *_told_labels(entrants)]
    sources = sources_of(stage.dissections.values(), {entrant.name: entrant.describer for entrant in entrants})
    tables = (table, _divided(stage, entrants, seed))
    name, heads = str(facts["target"]), _headlines(stage, table)
    return Report("bench", name, lede, tables, heads, tuple(notes), facts, sources=sources)


def _told_labels(entrants: Sequence[Entrant]) -> list[str]:
    """A note on those that need not look, since they are told what the pixels show."""
    told = [entrant.name for entrant in entrants if LABELLED & set(_settings(entrant.describer).items())]
    text = "told by the probe what its pixels show, by which the truth score is measured too; natural images tell nobody"
    return [f"{', '.join(told)}: {text}."] if told else []


def _row(stage: Stage, entrant: Entrant, seed: int) -> Row:
    texts = entrant.texts
    said = [texts[unit] for unit in stage.units if unit in texts]
    meant = [unit for unit in stage.units if unit in stage.planted and stage.planted[unit].kind != "nothing"]
    halved = [unit for unit in meant if stage.planted[unit].kind == "either"]
    values: dict[str, Measure | float | int] = {
        "truth": mean([stage.score(unit, texts.get(unit)) for unit in stage.units], seed),
        "described": len(said),
        "distinct": len(set(said)),
        "words": mean([float(len(text.split())) for text in said], seed),
        "time": entrant.seconds,
    }
    if stage.planted:
        values["exact"] = share([_exact(stage, unit, texts) for unit in meant])
        values["both halves"] = share([named_parts(texts.get(unit, ""), stage.planted[unit].text) == 1 for unit in halved])
    return Row(entrant.name, values, entrant.role)  # type: ignore[arg-type]


def _exact(stage: Stage, unit: Unit, texts: Mapping[Unit, str]) -> bool:
    return named_exactly(texts.get(unit, ""), stage.planted[unit].text)


def _divided(stage: Stage, entrants: Sequence[Entrant], seed: int) -> Table:
    """The truth score by kind of unit, or by layer; of planted kinds that mean something, the share named exactly too."""
    groups: dict[str, list[Unit]] = {}
    for unit in stage.units:
        groups.setdefault(stage.group(unit), []).append(unit)
    columns, rows = [], []
    for group, units in groups.items():
        columns.append(Column(group, f"The mean truth score of {len(units)} units.", "%", 1, "more"))
        if _is_meant(stage, units):
            columns.append(Column(f"{group} exact", f"The share of {len(units)} units that are named exactly.", "%", 1, "more"))
    for entrant in entrants:
        texts, values = entrant.texts, {}
        for group, units in groups.items():
            values[group] = mean([stage.score(unit, texts.get(unit)) for unit in units], seed)
            if _is_meant(stage, units):
                values[f"{group} exact"] = share([_exact(stage, unit, texts) for unit in units])
        rows.append(Row(entrant.name, values, entrant.role))  # type: ignore[arg-type]
    return Table("by planted kind" if stage.planted else "by layer", tuple(columns), tuple(rows))


def _is_meant(stage: Stage, units: Sequence[Unit]) -> bool:
    return all(unit in stage.planted and stage.planted[unit].kind != "nothing" for unit in units)


def _headlines(stage: Stage, table: Table) -> tuple[tuple[str, str], ...]:
    """The truest describer and, where it is known, the most exact, with ceiling and floor."""
    found = []
    for name, text in (("truth", "truth score"), ("exact", "named exactly"), ("both halves", "both halves named")):
        ranked = [(row.values[name], row) for row in table.rows if name in row.values and not row.role]
        known = [(value.value, row.name) for value, row in ranked if isinstance(value, Measure) and not math.isnan(value.value)]
        if known:
            best = max(known, key=lambda pair: pair[0])  # of equals the first
            found.append((f"{100 * best[0]:.0f} %", f"{text}: {best[1]}"))
    ends = {row.name: row.values["truth"] for row in table.rows if row.role}
    found += [(f"{100 * value.value:.0f} %", f"truth score: {name}") for name, value in ends.items() if isinstance(value, Measure)]
    return tuple(found)


def case_of(stage: Stage, unit: Unit, entrants: Sequence[Entrant]) -> dict[str, Any]:
    """What the page shows of a unit."""
    known = stage.planted.get(unit)
    meant = known is not None and known.kind != "nothing"
    best = list(dict.fromkeys(stage.truths[unit.layer].best(unit, length).text for length in (1, 2)))
    told = " / ".join(text.replace(" & ", " and ").replace(" | ", " or ") for text in best)
    truth = (known.text or "nothing in particular") if known else f"Best: {told}"
    said = []
    for entrant in entrants:
        entry = next(entry for entry in entrant.entries if entry.unit == unit)
        text = entry.description.text if entry.description else ""
        mark = "exact" if meant and named_exactly(text, known.text) else ""  # type: ignore[union-attr]
        score = stage.score(unit, text)
        said.append(
            {"name": entrant.name, "role": entrant.role, "text": text, "reason": entry.reason, "mark": mark,
             "score": "–" if math.isnan(score) else f"{score:.2f}"}
        )  # fmt: skip
    return {"id": str(unit), "group": stage.group(unit), "truth": truth, "said": said}


def _settings(describer: Describer) -> dict[str, str]:
    return {name: str(value) for name, value in describer.settings.items()}

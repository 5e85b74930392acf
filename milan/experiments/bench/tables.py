"""How describers stand: what they said of units against what is true of them, as the tables and the page of a bench."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.describers import Describer, sources_of
from milan.dissection.store import Dissection
from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.experiments.core.report import Column, Report, Row, Table
from milan.results.catalogue import OK
from milan.scores.confidence_intervals import Measure, estimate_mean, estimate_share
from milan.scores.truth_score import Truth
from milan.storage.files import collect_versions
from milan.storage.tables import read_csv
from milan.targets.target import Target
from milan.units import Unit

PLANTED = "diorama:planted"
LABEL_SETTINGS = {
    ("labels", "probe"),
    ("evidence", "pixels"),
}  # settings of describers that take the probe's own labels
COLUMNS = (
    Column(
        "truth",
        "The mean truth score: the share of the way from a random concept to the best formula of up to three concepts,"
        " by correlation over held-out scenes. Of a unit that no formula describes, silence counts 1, any text 0.",
        "%",
        1,
        "more",
    ),
    Column(
        "correlation",
        "The mean correlation of a unit's activation with the pixels that its text denotes, over held-out scenes.",
        "",
        3,
        "more",
    ),
    Column("overlap", "The mean IoU of a unit's masks with these pixels.", "", 3, "more"),
    Column(
        "exact",
        "Of the units with a planted meaning, the share of which the description denotes exactly the planted pixels"
        " (IoU at least .98 over held-out scenes).",
        "%",
        1,
        "more",
    ),
    Column(
        "both halves",
        "Of the units planted to detect either of two things, the share of which the description covers 80% of the"
        " pixels of each, and 80% of what it denotes belongs to one of them.",
        "%",
        1,
        "more",
    ),
    Column("described", "How many units have a description."),
    Column("distinct", "How many different descriptions there are."),
    Column("words", "The mean number of words of a description."),
    Column(
        "time",
        "Wall-clock time for each unit, the reading of weights and all embedding included; what an earlier one has left"
        " in the cache is free for the next.",
        "s",
        3,
    ),
)
NOTES = (
    "Intervals are of 95%: of means by drawing the units again a thousand times, of shares by Wilson's formula.",
    (
        "The ceiling repeats what one of the unit's annotators said; they are simulated and know what every pixel"
        " shows. Floors: the annotators' texts assigned to other units of the layer, a random concept, and the concept"
        " that scores best if it is said of every unit."
    ),
    (
        "All describers had the same exemplars, activations and masks. What several need, as a count of the labels'"
        " pixels or the vectors of the images, is computed once: its seconds are with the first that asked."
    ),
)
NAMED_EXACTLY = (
    "Named exactly: the text denotes the same pixels as the planted text, read by milan.diorama.text_reader with"
    " synonyms and plurals. Units planted as random directions count for the truth score only."
)


@dataclass(frozen=True)
class PlantedMeaning:
    """What a unit was made to detect."""

    kind: str  # single, conjunction, either, nothing
    text: str


@dataclass(frozen=True)
class BenchData:
    """What all describers are shown, and what is known of it."""

    target: Target
    dissections: Mapping[str, Dissection]
    units: tuple[Unit, ...]  # those that live, in the order of the target's layers
    planted: Mapping[Unit, PlantedMeaning]

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """Measured when first asked for, after the describers: what is counted here is kept, and would make some of
        them seem quick.
        """
        return {layer: Truth.measure(dissection, self.target) for layer, dissection in self.dissections.items()}

    def compute_score(self, unit: Unit, text: str | None) -> float:
        """The truth score; 0 if nothing was said, NaN if the unit has no masks."""
        return self.truths[unit.layer].score(unit, text or "")

    def is_exact(self, unit: Unit, text: str) -> bool:
        """Return whether a text denotes exactly what was planted."""
        return self.truths[unit.layer].is_exact(text, self.planted[unit].text)

    def find_best_constant(self) -> str:
        """Return the concept that scores best in the mean if it is said of every unit of its layer, of all layers."""
        found = {
            truth.find_best_constant([unit for unit in self.units if unit.layer == layer])[0]
            for layer, truth in self.truths.items()
        }
        return max(sorted(found), key=lambda text: np.nanmean([self.compute_score(unit, text) for unit in self.units]))

    def find_group(self, unit: Unit) -> str:
        """What the units are divided by: what was planted, else their layer."""
        return self.planted[unit].kind if unit in self.planted else unit.layer


def read_planted_units(target: Target, file: Path | None = None) -> dict[Unit, PlantedMeaning]:
    """What is known of how the target was made: from a csv, or of Diorama's planted network; else nothing."""
    if file is not None:
        rows = read_csv(file, "layer", "unit", "kind", "text")
        return {Unit(row["layer"], row["unit"]): PlantedMeaning(row["kind"], row["text"]) for row in rows}
    if target.spec != PLANTED:
        return {}
    from milan.diorama.planted_network import load_planted_truth

    return {unit: PlantedMeaning(known.kind, known.text) for unit, known in load_planted_truth().items()}


def prepare_bench(
    target: Target,
    dissections: Mapping[str, Dissection],
    units_by_layer: Mapping[str, Sequence[Unit]],
    planted: Path | None,
) -> BenchData:
    active_units = tuple(
        unit for layer, units in units_by_layer.items() for unit in units if dissections[layer].status[unit] == OK
    )
    known = read_planted_units(target, planted)
    return BenchData(target, dissections, active_units, {unit: known[unit] for unit in active_units if unit in known})


def make_report(data: BenchData, describers: Sequence[EvaluatedDescriber], seed: int) -> Report:
    columns = tuple(column for column in COLUMNS if data.planted or column.name not in ("exact", "both halves"))
    table = Table("all units", columns, tuple(_make_row(data, evaluated, seed) for evaluated in describers))
    first = next(iter(data.dissections.values()))
    facts = {
        "target": data.target.name,
        "weights": data.target.weights,
        "probe": first.probe,
        "images": len(first.activations()),
        "layers": list(data.dissections),
        "units": len(data.units),
        "k": first.k,
        "quantile": first.quantile,
        "seed": seed,
        "device": str(data.target.device),
        "describers": {evaluated.name: _format_settings(evaluated.describer) for evaluated in describers},
        "hashes": (
            {layer: dissection.key for layer, dissection in data.dissections.items()}
            | {evaluated.name: evaluated.describer.key for evaluated in describers}
        ),
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
    count = (
        f"{len(data.units)} living units of {len(data.dissections)}"
        f" {'layer' if len(data.dissections) == 1 else 'layers'}"
    )
    lede = (
        f"{len(describers)} describers say what they see in {count}, from one dissection; what is true of each is known"
        " to the pixel."
    )
    notes = [*([NAMED_EXACTLY] if data.planted else []), *NOTES, *_note_label_users(describers)]
    sources = sources_of(data.dissections.values(), {evaluated.name: evaluated.describer for evaluated in describers})
    tables = (table, _make_group_table(data, describers, seed))
    name, heads = str(facts["target"]), _make_headlines(data, table)
    return Report("bench", name, lede, tables, heads, tuple(notes), facts, sources=sources)


def _note_label_users(describers: Sequence[EvaluatedDescriber]) -> list[str]:
    """A note on those that need not look, since they are told what the pixels show."""
    names = [
        evaluated.name
        for evaluated in describers
        if LABEL_SETTINGS & set(_format_settings(evaluated.describer).items())
    ]
    text = (
        "told by the probe what its pixels show, by which the truth score is measured too; natural images tell nobody"
    )
    return [f"{', '.join(names)}: {text}."] if names else []


def _make_row(data: BenchData, evaluated: EvaluatedDescriber, seed: int) -> Row:
    texts = evaluated.texts
    said = [texts[unit] for unit in data.units if unit in texts]
    meant = [unit for unit in data.units if unit in data.planted and data.planted[unit].kind != "nothing"]
    halved = [unit for unit in meant if data.planted[unit].kind == "either"]
    values: dict[str, Measure | float | int] = {
        "truth": estimate_mean([data.compute_score(unit, texts.get(unit)) for unit in data.units], seed),
        "correlation": _estimate(data, texts, Truth.correlation, seed),
        "overlap": _estimate(data, texts, Truth.overlap, seed),
        "described": len(said),
        "distinct": len(set(said)),
        "words": estimate_mean([float(len(text.split())) for text in said], seed),
        "time": evaluated.seconds,
    }
    if data.planted:
        values["exact"] = estimate_share([data.is_exact(unit, texts.get(unit, "")) for unit in meant])
        values["both halves"] = estimate_share(
            [data.truths[unit.layer].names_all_parts(texts.get(unit, ""), data.planted[unit].text) for unit in halved]
        )
    return Row(evaluated.name, values, evaluated.role)  # type: ignore[arg-type]


def _estimate(
    data: BenchData, texts: Mapping[Unit, str], measure: Callable[[Truth, Unit, str], float], seed: int
) -> Measure:
    return estimate_mean([measure(data.truths[unit.layer], unit, texts.get(unit, "")) for unit in data.units], seed)


def _make_group_table(data: BenchData, describers: Sequence[EvaluatedDescriber], seed: int) -> Table:
    """The truth score by kind of unit, or by layer; of planted kinds that mean something, the share named
    exactly too.
    """
    groups: dict[str, list[Unit]] = {}
    for unit in data.units:
        groups.setdefault(data.find_group(unit), []).append(unit)
    columns, rows = [], []
    for group, units in groups.items():
        columns.append(Column(group, f"The mean truth score of {len(units)} units.", "%", 1, "more"))
        if _has_meaning(data, units):
            columns.append(
                Column(f"{group} exact", f"The share of {len(units)} units that are named exactly.", "%", 1, "more")
            )
    for evaluated in describers:
        texts, values = evaluated.texts, {}
        for group, units in groups.items():
            values[group] = estimate_mean([data.compute_score(unit, texts.get(unit)) for unit in units], seed)
            if _has_meaning(data, units):
                values[f"{group} exact"] = estimate_share([data.is_exact(unit, texts.get(unit, "")) for unit in units])
        rows.append(Row(evaluated.name, values, evaluated.role))  # type: ignore[arg-type]
    return Table("by planted kind" if data.planted else "by layer", tuple(columns), tuple(rows))


def _has_meaning(data: BenchData, units: Sequence[Unit]) -> bool:
    return all(unit in data.planted and data.planted[unit].kind != "nothing" for unit in units)


def _make_headlines(data: BenchData, table: Table) -> tuple[tuple[str, str], ...]:
    """The truest describer and, where it is known, the most exact, with ceiling and floor."""
    found = []
    for name, text in (("truth", "truth score"), ("exact", "named exactly"), ("both halves", "both halves named")):
        ranked = [(row.values[name], row) for row in table.rows if name in row.values and not row.role]
        known = [
            (value.value, row.name)
            for value, row in ranked
            if isinstance(value, Measure) and not math.isnan(value.value)
        ]
        if known:
            best = max(known, key=lambda pair: pair[0])  # of equals the first
            found.append((f"{100 * best[0]:.0f} %", f"{text}: {best[1]}"))
    ends = {row.name: row.values["truth"] for row in table.rows if row.role}
    found += [
        (f"{100 * value.value:.0f} %", f"truth score: {name}")
        for name, value in ends.items()
        if isinstance(value, Measure)
    ]
    return tuple(found)


def make_unit_view(data: BenchData, unit: Unit, describers: Sequence[EvaluatedDescriber]) -> dict[str, Any]:
    """What the page shows of a unit."""
    known = data.planted.get(unit)
    meant = known is not None and known.kind != "nothing"
    best = list(dict.fromkeys(data.truths[unit.layer].find_best(unit, length).text for length in (1, 2)))
    truth_text = " / ".join(best)
    truth = (known.text or "nothing in particular") if known else f"Best: {truth_text}"
    said = []
    for evaluated in describers:
        entry = next(entry for entry in evaluated.entries if entry.unit == unit)
        text = entry.description.text if entry.description else ""
        mark = "exact" if meant and data.is_exact(unit, text) else ""
        score = data.compute_score(unit, text)
        said.append(
            {"name": evaluated.name, "role": evaluated.role, "text": text, "reason": entry.reason, "mark": mark,
             "score": "–" if math.isnan(score) else f"{score:.2f}"}
        )  # fmt: skip
    return {"id": str(unit), "group": data.find_group(unit), "truth": truth, "said": said}


def _format_settings(describer: Describer) -> dict[str, str]:
    return {name: str(value) for name, value in describer.settings.items()}

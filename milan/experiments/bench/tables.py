"""The scores of describers by what is true of units, in tables and on the page of a bench."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.diorama.planted_network import LAYER, PLANTED_NETWORKS, UNMIXED_LAYER, load_planted_truth
from milan.experiments.bench.calibration import make_calibration_tables
from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.core.unit_views import format_best_texts, format_score, make_text_view, make_unit_view
from milan.scores.confidence_intervals import Measure, estimate_difference, estimate_mean, estimate_share
from milan.scores.truth_score import MIN_CEILING, Truth, find_best_constant
from milan.storage.tables import read_csv
from milan.targets.dictionary_files import PLANTED_DIRECTIONS
from milan.targets.target import Target
from milan.units import Unit

# The settings of describers that use the probe's own labels.
LABEL_SETTINGS = {("labels", "probe"), ("evidence", "pixels")}
COLUMNS = (
    Column(
        "truth",
        "Mean truth score: the share of the way from a random concept to the best formula of up to three concepts, by"
        " correlation over held-out scenes. For a unit that no formula describes, no description counts 1, any text 0.",
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
        "Of the units with a planted meaning, the share whose description denotes exactly the planted pixels (IoU at"
        " least .98 over held-out scenes).",
        "%",
        1,
        "more",
    ),
    Column(
        "both halves",
        "Of the units planted to detect either of two things, the share whose description covers 80% of the pixels of"
        " each, and of which 80% of what it denotes belongs to one of them.",
        "%",
        1,
        "more",
    ),
    Column("described", "Number of units with a description."),
    Column("distinct", "Number of different descriptions."),
    Column("words", "Mean number of words of a description."),
    Column(
        "time",
        "Wall-clock time per unit, with the loading of weights and all embedding; what an earlier describer has cached"
        " costs the next one nothing.",
        "s",
        3,
    ),
)
NOTES = (
    "Intervals are 95% intervals: bootstrap intervals over units of means, Wilson's of shares.",
    "The ceiling is a random annotation of each unit by simulated annotators, who know what every pixel shows. Floors:"
    " shuffled, the annotations of other units of the layer; random_concept, a random concept; constant, the"
    " concept that scores best if it is said of every unit.",
    "All describers have the same exemplars, activations and masks. What several need, such as counts of labelled"
    " pixels or embeddings of images, is computed once, and its time is counted for the first of them.",
)
EXACT_NOTE = (
    "Exact: the text denotes the same pixels as the planted text, as milan.diorama.text_reader reads it, with synonyms"
    " and plurals. Units of the kind nothing count for the truth score only."
)
NOTHING, EITHER = "nothing", "either"
# Row of the best formula of each unit.
BEST = "best formula"


@dataclass(frozen=True)
class PlantedMeaning:
    """What a unit was constructed to detect.

    Attributes:
        kind: single, conjunction, either, nothing, or another name.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class BenchData:
    """A described network, and what its units were constructed to detect.

    Attributes:
        units: the active units, in the order of the target's layers.
        planted: what is known of how they were constructed.
    """

    study: Study
    units: tuple[Unit, ...]
    planted: Mapping[Unit, PlantedMeaning]

    @classmethod
    def read(cls, study: Study, planted_units: Path | None) -> "BenchData":
        """Dissect the target and read what its units were constructed to detect."""
        known, units = read_planted_units(study.target, planted_units), tuple(study.active_units)
        return cls(study, units, {unit: known[unit] for unit in units if unit in known})

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What is true of the units, by layer; measured after the describers, which would profit from what it
        caches."""
        return Truth.measure_layers(self.study.dissections, self.study.target)

    @cached_property
    def groups(self) -> dict[str, list[Unit]]:
        """The units by what was planted if there is one layer, or else by layer."""
        groups: dict[str, list[Unit]] = {}
        for unit in self.units:
            groups.setdefault(self.find_group(unit), []).append(unit)
        return groups

    def is_exact(self, unit: Unit, text: str) -> bool:
        """Return whether a text denotes exactly what was planted."""
        return self.truths[unit.layer].is_exact(text, self.planted[unit].text)

    def find_best_constant(self) -> str:
        """Return the concept with the best mean truth score as the description of every unit."""
        return find_best_constant([(self.truths[unit.layer], unit) for unit in self.units])[0]

    def find_group(self, unit: Unit) -> str:
        """Return the kind of a unit's planted meaning, or its layer if that is not known or there are several."""
        is_only_layer = len(self.study.units) == 1
        return self.planted[unit].kind if unit in self.planted and is_only_layer else unit.layer

    def units_of(self, layer: str) -> list[Unit]:
        """Return the active units of a layer."""
        return [unit for unit in self.units if unit.layer == layer]

    @property
    def layer_pairs(self) -> list[tuple[str, str]]:
        """Each layer of the network and the layer of its latents, if both are among the layers."""
        pairs = [(each.layer, f"{each.layer}@{each.name}") for each in self.study.target.dictionaries]
        return [pair for pair in pairs if set(pair) <= set(self.study.units)]

    def compute_score(self, unit: Unit, text: str) -> float:
        """Return the truth score: 0 for an empty text, NaN for a unit without masks."""
        return self.truths[unit.layer].score(unit, text)

    def has_meaning(self, unit: Unit) -> bool:
        """Return whether a unit was constructed to detect something that is known."""
        return unit in self.planted and self.planted[unit].kind != NOTHING


def read_planted_units(target: Target, file: Path | None = None) -> dict[Unit, PlantedMeaning]:
    """Return what the units of a target were constructed to detect: from a CSV file, or in Diorama's planted networks.

    In ``planted-rotated`` these are the units before they are mixed, and the directions of the concepts.
    """
    if file is not None:
        rows = read_csv(file, "layer", "unit", "kind", "text")
        return {Unit(row["layer"], row["unit"]): PlantedMeaning(row["kind"], row["text"]) for row in rows}
    name = target.spec.partition(":")[2]
    layers = [LAYER]
    if target.spec == PLANTED_DIRECTIONS:
        directions = [each for each in target.dictionaries if each.dictionary.config.model == PLANTED_DIRECTIONS]
        directions = [each for each in directions if each.dictionary.config.format == "diorama"]
        name, layers = "planted", [UNMIXED_LAYER, *(f"{each.layer}@{each.name}" for each in directions)]
    if name not in PLANTED_NETWORKS:
        return {}
    return {
        Unit(layer, unit.index): PlantedMeaning(known.kind, known.text)
        for unit, known in load_planted_truth(name=name).items()
        for layer in layers
    }


def make_report(data: BenchData) -> Report:
    """Return the table of all units and that of groups of units."""
    study = data.study
    columns = tuple(column for column in COLUMNS if data.planted or column.name not in ("exact", "both halves"))
    table = Table("all units", columns, tuple(_make_row(data, each) for each in study.describers))
    layers = f"{len(study.units)} {'layer' if len(study.units) == 1 else 'layers'}"
    return study.report(
        study.target.name,
        f"{len(study.describers)} describers of {len(data.units)} active units of {layers}, from one dissection;"
        " what is true of each unit is known exactly.",
        [
            table,
            _make_group_table(data),
            *([_make_latents_table(data)] if data.layer_pairs else []),
            *make_calibration_tables(study.describers, data.compute_score),
        ],
        headlines=_make_headlines(table),
        notes=(
            *([EXACT_NOTE] if data.planted else []),
            *NOTES,
            *_note_label_users(study.describers),
            *_note_describable_units(data),
        ),
        facts={"units": len(data.units)},
    )


def _note_label_users(describers: Sequence[EvaluatedDescriber]) -> list[str]:
    """Return a note on describers that read what the pixels show from labels."""
    names = [
        each.name
        for each in describers
        if LABEL_SETTINGS & {(name, str(value)) for name, value in each.describer.settings.items()}
    ]
    text = "oracle: the probe's labels say what its pixels show, by which the truth score is measured too; natural"
    return [f"{', '.join(names)}: {text} images have no such labels."] if names else []


def _make_row(data: BenchData, evaluated: EvaluatedDescriber) -> Row:
    texts, seed = evaluated.texts, data.study.seed
    own = [texts[unit] for unit in data.units if unit in texts]
    values: dict[str, Value] = {
        "truth": _estimate_truth(data, data.units, texts),
        "correlation": _estimate(data, texts, Truth.correlation),
        "overlap": _estimate(data, texts, Truth.overlap),
        "described": len(own),
        "distinct": len(set(own)),
        "words": estimate_mean([float(len(text.split())) for text in own], seed),
        "time": evaluated.seconds,
    }
    if data.planted:
        meant = [unit for unit in data.units if data.has_meaning(unit)]
        either = [unit for unit in meant if data.planted[unit].kind == EITHER]
        values["exact"] = _estimate_exact(data, meant, texts)
        values["both halves"] = estimate_share(
            [data.truths[unit.layer].names_all_parts(texts.get(unit, ""), data.planted[unit].text) for unit in either]
        )
    return Row(evaluated.name, values, evaluated.role)


def _estimate(data: BenchData, texts: Mapping[Unit, str], measure: Callable[[Truth, Unit, str], float]) -> Measure:
    values = [measure(data.truths[unit.layer], unit, texts.get(unit, "")) for unit in data.units]
    return estimate_mean(values, data.study.seed)


def _estimate_truth(data: BenchData, units: Sequence[Unit], texts: Mapping[Unit, str]) -> Measure:
    return estimate_mean([data.compute_score(unit, texts.get(unit, "")) for unit in units], data.study.seed)


def _estimate_exact(data: BenchData, units: Sequence[Unit], texts: Mapping[Unit, str]) -> Measure:
    return estimate_share([data.is_exact(unit, texts.get(unit, "")) for unit in units])


def _make_group_table(data: BenchData) -> Table:
    """Return the truth score by planted kind or layer, and the share that is named exactly of kinds with a meaning."""
    columns, values_by_describer = [], {each.name: dict[str, Value]() for each in data.study.describers}
    for group, units in data.groups.items():
        meant = [unit for unit in units if data.has_meaning(unit)]
        columns.append(Column(group, f"Mean truth score of {len(units)} units.", "%", 1, "more"))
        if meant:
            text = f"Share of {len(meant)} units that are named exactly."
            columns.append(Column(f"{group} exact", text, "%", 1, "more"))
        for each in data.study.describers:
            values = values_by_describer[each.name]
            values[group] = _estimate_truth(data, units, each.texts)
            if meant:
                values[f"{group} exact"] = _estimate_exact(data, meant, each.texts)
    rows = tuple(Row(each.name, values_by_describer[each.name], each.role) for each in data.study.describers)
    by_layer = not data.planted or len(data.study.units) > 1
    return Table("by layer" if by_layer else "by planted kind", tuple(columns), rows)


def _make_latents_table(data: BenchData) -> Table:
    """Return truth score and correlation of neurons and of latents of the same layer, and the differences."""
    columns: list[Column] = []
    values: dict[str, dict[str, Value]] = {name: {} for name in (*(each.name for each in data.study.describers), BEST)}
    for neurons, latents in data.layer_pairs:
        for measure, unit, digits in (("truth", "%", 1), ("correlation", "", 3)):
            difference = f"{latents} minus {neurons} {measure}"
            for layer in (neurons, latents):
                text = f"Mean {measure} of {len(data.units_of(layer))} active units."
                columns.append(Column(f"{layer} {measure}", text, unit, digits, "more"))  # type: ignore[arg-type]
            text = "The difference, with neurons and latents resampled independently."
            columns.append(Column(difference, text, unit, digits))  # type: ignore[arg-type]
            for name, by_layer in _score_by_describer(data, measure, (neurons, latents)).items():
                for layer in (neurons, latents):
                    values[name][f"{layer} {measure}"] = estimate_mean(by_layer[layer], data.study.seed)
                values[name][difference] = estimate_difference(by_layer[latents], by_layer[neurons], data.study.seed)
    rows = [Row(each.name, values[each.name], each.role) for each in data.study.describers]
    return Table("neurons and latents", tuple(columns), (*rows, Row(BEST, values[BEST], "ceiling")))


def _score_by_describer(data: BenchData, measure: str, layers: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return the truth scores or correlations of units, by describer and layer; correlations of best formulas too."""
    compute = Truth.score if measure == "truth" else Truth.correlation
    found = {
        each.name: {
            layer: [compute(data.truths[layer], unit, each.texts.get(unit, "")) for unit in data.units_of(layer)]
            for layer in layers
        }
        for each in data.study.describers
    }
    if measure == "correlation":
        found[BEST] = {layer: [data.truths[layer].ceiling(unit) for unit in data.units_of(layer)] for layer in layers}
    return found


def _note_describable_units(data: BenchData) -> list[str]:
    """Return a note on the share of units of each layer that any formula describes, if there are latents among them."""
    notes = []
    for layer in dict.fromkeys(layer for pair in data.layer_pairs for layer in pair):
        units = data.units_of(layer)
        described = sum(data.truths[layer].is_describable(unit) for unit in units)
        notes.append(
            f"{layer}: {len(units)} of {len(data.study.units[layer])} units are active, and a formula of up to three"
            f" concepts describes {described} of these (correlation at least {MIN_CEILING}, and better than chance)."
        )
    return notes


def _make_headlines(table: Table) -> tuple[tuple[str, str], ...]:
    """Return the best describer by each score that is known, then ceiling and floors."""
    headlines = []
    for name, text in (("truth", "truth score"), ("exact", "named exactly"), ("both halves", "both halves named")):
        values = {
            row.name: value.value
            for row in table.rows
            if not row.role and isinstance(value := row.values.get(name), Measure) and not math.isnan(value.value)
        }
        if values:
            best = max(values, key=lambda each: values[each])
            headlines.append((f"{100 * values[best]:.0f} %", f"{text}: {best}"))
    for row in table.rows:
        if row.role and isinstance(value := row.values["truth"], Measure):
            headlines.append((f"{100 * value.value:.0f} %", f"truth score: {row.name}"))
    return tuple(headlines)


def make_bench_view(data: BenchData, unit: Unit) -> dict[str, Any]:
    """Return what the page shows of a unit."""
    planted = data.planted.get(unit)
    truth = (planted.text or "nothing in particular") if planted else format_best_texts(data.truths[unit.layer], unit)
    rows = []
    for evaluated in data.study.describers:
        entry = next(entry for entry in evaluated.entries if entry.unit == unit)
        text = entry.description.text if entry.description else ""
        mark = "exact" if data.has_meaning(unit) and data.is_exact(unit, text) else ""
        score = format_score(data.compute_score(unit, text))
        row = make_text_view(evaluated.name, text, role=evaluated.role, reason=entry.reason, mark=mark, score=score)
        rows.append(row)
    return make_unit_view(unit, data.find_group(unit), truth, rows)

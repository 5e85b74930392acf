"""Runs beside each other: how much each said, how far they agree, and how true they are where that is known."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.dissection.store import Dissection
from milan.experiments.core.described_runs import DescribedRun, sources_of
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.probes.pixel_labels import shows_diorama
from milan.scores.confidence_intervals import estimate_mean, estimate_share
from milan.scores.text_similarity import normalize_text
from milan.scores.truth_score import Truth
from milan.storage.files import collect_versions
from milan.units import Unit

ROLES = {"annotators": "ceiling", "shuffled": "floor", "random_concept": "floor", "constant": "floor"}
COLUMNS = (
    Column("described", "Of how many of the units it said something."),
    Column("distinct", "How many different descriptions there are."),
    Column("words", "The mean number of words of a description.", digits=1),
    Column(
        "same",
        "The share of units of which another run said the very same (capitals and full stops aside), a mean over the"
        " others.",
        "%",
        1,
    ),
    Column(
        "like",
        "ROUGE-L (F) between what it said and what each other run said of the same unit: words in common, in their"
        " order.",
        "",
        2,
    ),
)
TRUTH_COLUMN = Column(
    "truth",
    "The mean truth score over the units of Diorama's layers that it described: the share of the way from a random"
    " concept to the best formula of up to three concepts, by correlation over held-out scenes.",
    "%",
    1,
    "more",
)
NOTES = (
    "Intervals are of 95%, by drawing the units again a thousand times (shares: Wilson's).",
    (
        "Runs may have described different units, and from different exemplars: agreement is over the units that both"
        " described."
    ),
)
NO_TRUTH_NOTE = "How good the descriptions are is not told here: only Diorama's units are known. The study asks people."


def sample_units(units: Sequence[Unit], count: int, seed: int) -> list[Unit]:
    """So many of the units, drawn by lot, in their order."""
    if len(units) <= count:
        return list(units)
    rows = np.random.default_rng(seed).choice(len(units), count, replace=False)
    return [units[row] for row in sorted(rows.tolist())]


def make_report(
    runs: Sequence[DescribedRun], units: Sequence[Unit], dissections: Mapping[str, Dissection], shown: int, seed: int
) -> Report:
    """The table of the runs, how like each is to each, and notes."""
    truths = measure_truths(dissections)
    columns = (*([TRUTH_COLUMN] if truths else []), *COLUMNS)
    rows = tuple(Row(run.name, _make_values(run, runs, units, truths, seed), ROLES.get(run.name, "")) for run in runs)  # type: ignore[arg-type]
    tables = [
        Table("all units", columns, rows, "run"),
        *([_make_likeness_table(runs, units, seed)] if len(runs) > 2 else []),
        *_make_layer_tables(runs, units),
    ]
    notes = [*NOTES, *([] if truths else [NO_TRUTH_NOTE])]
    if shown < len(units):
        notes.append(
            f"The page shows {shown} of the {len(units):,} units, drawn by lot (seed {seed}); the tables are of all."
        )
    facts = {
        "target": _find_common_fact(runs, "target"),
        "probe": _find_common_fact(runs, "probe"),
        "units": len(units),
        "seed": seed,
        "runs": {
            run.name: {name: str(run.facts[name]) for name in ("target", "probe", "describer") if run.facts.get(name)}
            for run in runs
        },
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
    both = len([unit for unit in units if all(unit in run.descriptions for run in runs)])
    lede = f"{len(runs)} runs and {len(units):,} units, of which {both:,} are described in every one."
    return Report(
        "compare",
        " · ".join(run.name for run in runs),
        lede,
        tuple(tables),
        _make_headlines(rows),
        tuple(notes),
        facts,
        sources=sources_of(runs),
    )


def make_unit_views(
    runs: Sequence[DescribedRun], units: Sequence[Unit], dissections: Mapping[str, Dissection]
) -> list[dict[str, Any]]:
    """What the page shows of each unit: every run's words, and what is true where that is known."""
    truths = measure_truths(dissections)
    return [_make_unit_view(runs, unit, truths.get(unit.layer)) for unit in units]


@cache
def _measure_truth(dissection: Dissection) -> Truth | None:
    known = shows_diorama(dissection.probe) and hasattr(dissection, "facts")
    return Truth.measure(dissection) if known else None


def measure_truths(dissections: Mapping[str, Dissection]) -> dict[str, Truth]:
    """Of the layers dissected on Diorama what is true of their units."""
    found = {layer: _measure_truth(one) for layer, one in dissections.items()}
    return {layer: one for layer, one in found.items() if one is not None}


def compute_rouge_l(one: str, other: str) -> float:
    """ROUGE-L's F between two texts, by hand of the library's scorer: 0 nothing in common, 1 the same words in the same
    order.
    """
    return float(_load_scorer().score(normalize_text(one), normalize_text(other))["rougeL"].fmeasure)


@cache
def _load_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def _make_values(
    run: DescribedRun, runs: Sequence[DescribedRun], units: Sequence[Unit], truths: Mapping[str, Truth], seed: int
) -> dict[str, Value]:
    texts = {unit: text for unit, text in run.texts.items() if unit in set(units)}
    others = [other for other in runs if other is not run]
    pairs = [(texts[unit], other.texts[unit]) for other in others for unit in texts if unit in other.descriptions]
    values: dict[str, Value] = {
        "described": len(texts),
        "distinct": len({normalize_text(text) for text in texts.values()}),
        "words": estimate_mean([float(len(text.split())) for text in texts.values()], seed),
        "same": estimate_share([normalize_text(one) == normalize_text(other) for one, other in pairs]),
        "like": estimate_mean([compute_rouge_l(one, other) for one, other in pairs], seed),
    }
    if truths:
        known = [unit for unit in texts if unit.layer in truths and unit in truths[unit.layer].units]
        values["truth"] = estimate_mean([truths[unit.layer].score(unit, texts[unit]) for unit in known], seed)
    return values


def _make_likeness_table(runs: Sequence[DescribedRun], units: Sequence[Unit], seed: int) -> Table:
    columns = tuple(
        Column(run.name, f"ROUGE-L (F) with what {run.name} said of the same units.", "", 2) for run in runs
    )
    rows = []
    for one in runs:
        values: dict[str, Value] = {}
        for other in runs:
            shared = [unit for unit in units if unit in one.descriptions and unit in other.descriptions]
            if one is not other and shared:
                values[other.name] = estimate_mean(
                    [compute_rouge_l(one.texts[unit], other.texts[unit]) for unit in shared], seed
                )
        rows.append(Row(one.name, values))
    return Table("how like each is to each", columns, tuple(rows), "run")


def _make_layer_tables(runs: Sequence[DescribedRun], units: Sequence[Unit]) -> list[Table]:
    layers = list(dict.fromkeys(unit.layer for unit in units))
    if len(layers) < 2:
        return []
    columns = tuple(
        Column(layer, f"How many different descriptions its units of {layer} have, of how many.") for layer in layers
    )
    rows = []
    for run in runs:
        said = {
            layer: [
                normalize_text(run.texts[unit]) for unit in units if unit.layer == layer and unit in run.descriptions
            ]
            for layer in layers
        }
        rows.append(
            Row(
                run.name,
                {layer: f"{len(set(texts))} of {len(texts)}" if texts else None for layer, texts in said.items()},
            )
        )
    return [Table("different descriptions by layer", columns, tuple(rows), "run")]


def _make_headlines(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    known = [(row.values["truth"], row.name) for row in rows if "truth" in row.values]
    return tuple((f"{100 * value.value:.0f} %", f"truth score: {name}") for value, name in known[:4])  # type: ignore[union-attr]


def _make_unit_view(runs: Sequence[DescribedRun], unit: Unit, truth: Truth | None) -> dict[str, Any]:
    best = (
        list(dict.fromkeys(truth.find_best(unit, length).text for length in (1, 2)))
        if truth and unit in truth.units
        else []
    )
    said = [_make_description_view(run, unit, truth) for run in runs]
    truth_text = " / ".join(best)
    return {"id": str(unit), "group": unit.layer, "truth": f"Best: {truth_text}" if truth_text else "", "said": said}


def _make_description_view(run: DescribedRun, unit: Unit, truth: Truth | None) -> dict[str, Any]:
    text = run.texts.get(unit, "")
    score = truth.score(unit, text) if truth and unit in truth.units and text else math.nan
    shown = "" if truth is None or not text else "–" if math.isnan(score) else f"{score:.2f}"
    return {
        "name": run.name,
        "role": ROLES.get(run.name, ""),
        "text": text,
        "reason": "not described",
        "mark": "",
        "score": shown,
    }


def _find_common_fact(runs: Sequence[DescribedRun], name: str) -> str:
    """What all runs that tell it have in common."""
    values = {str(run.facts[name]) for run in runs if run.facts.get(name)}
    return values.pop() if len(values) == 1 else ""

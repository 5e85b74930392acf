"""Runs beside each other: how much each said, how far they agree, and how true they are where that is known."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from milan.command import warnings_so_far
from milan.dissection.store import Dissection
from milan.experiments.describing.runs import Run, sources_of
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.probes.labels import of_diorama
from milan.scores.intervals import mean, share
from milan.scores.text import tidied
from milan.scores.truth import Truth
from milan.storage import versions
from milan.units import Unit

ROLES = {"annotators": "ceiling", "shuffled": "floor", "random_concept": "floor", "constant": "floor"}
COLUMNS = (
    Column("described", "Of how many of the units it said something."),
    Column("distinct", "How many different descriptions there are."),
    Column("words", "The mean number of words of a description.", digits=1),
    Column(
        "same",
        "The share of units of which another run said the very same (capitals and full stops aside), a mean over the others.",
        "%",
        1,
    ),
    Column(
        "like", "ROUGE-L (F) between what it said and what each other run said of the same unit: words in common, in their order.", "", 2
    ),
)
TRUTH = Column(
    "truth",
    "The mean truth score over the units of Diorama's layers that it described: how much of the best that could be said of a unit with as "
    "many concepts its description says.",
    "%",
    1,
    "more",
)
NOTES = (
    "Intervals are of 95%, by drawing the units again a thousand times (shares: Wilson's).",
    "Runs may have described different units, and from different exemplars: agreement is over the units that both described.",
)
UNKNOWN = "How good the descriptions are is not told here: only Diorama's units are known. The study asks people."


def drawn(units: Sequence[Unit], count: int, seed: int) -> list[Unit]:
    """So many of the units, drawn by lot, in their order."""
    if len(units) <= count:
        return list(units)
    rows = np.random.default_rng(seed).choice(len(units), count, replace=False)
    return [units[row] for row in sorted(rows.tolist())]


def report_of(runs: Sequence[Run], units: Sequence[Unit], dissections: Mapping[str, Dissection], shown: int, seed: int) -> Report:
    """The table of the runs, how like each is to each, and notes."""
    truths = truths_of(dissections)
    columns = (*([TRUTH] if truths else []), *COLUMNS)
    rows = tuple(Row(run.name, _values(run, runs, units, truths, seed), ROLES.get(run.name, "")) for run in runs)  # type: ignore[arg-type]
    tables = [Table("all units", columns, rows, "run"), *([_likeness(runs, units, seed)] if len(runs) > 2 else []), *_by_layer(runs, units)]
    notes = [*NOTES, *([] if truths else [UNKNOWN])]
    if shown < len(units):
        notes.append(f"The page shows {shown} of the {len(units):,} units, drawn by lot (seed {seed}); the tables are of all.")
    facts = {
        "target": _common(runs, "target"),
        "probe": _common(runs, "probe"),
        "units": len(units),
        "seed": seed,
        "runs": {
            run.name: {name: str(run.facts[name]) for name in ("target", "probe", "describer") if run.facts.get(name)} for run in runs
        },
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    both = len([unit for unit in units if all(unit in run.said for run in runs)])
    lede = f"{len(runs)} runs and {len(units):,} units, of which {both:,} are described in every one."
    return Report(
        "compare",
        " · ".join(run.name for run in runs),
        lede,
        tuple(tables),
        _headlines(rows),
        tuple(notes),
        facts,
        sources=sources_of(runs),
    )


def cases(runs: Sequence[Run], units: Sequence[Unit], dissections: Mapping[str, Dissection]) -> list[dict[str, Any]]:
    """What the page shows of each unit: every run's words, and what is true where that is known."""
    truths = truths_of(dissections)
    return [_case(runs, unit, truths.get(unit.layer)) for unit in units]


@cache
def _truth(dissection: Dissection) -> Truth | None:
    known = of_diorama(dissection.probe) and hasattr(dissection, "facts")
    return Truth.of(dissection) if known else None


def truths_of(dissections: Mapping[str, Dissection]) -> dict[str, Truth]:
    """Of the layers dissected on Diorama what is true of their units."""
    found = {layer: _truth(one) for layer, one in dissections.items()}
    return {layer: one for layer, one in found.items() if one is not None}


def likeness(one: str, other: str) -> float:
    """ROUGE-L's F between two texts, by hand of the library's scorer: 0 nothing in common, 1 the same words in the same order."""
    return float(_scorer().score(tidied(one), tidied(other))["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def _values(run: Run, runs: Sequence[Run], units: Sequence[Unit], truths: Mapping[str, Truth], seed: int) -> dict[str, Value]:
    texts = {unit: text for unit, text in run.texts.items() if unit in set(units)}
    others = [other for other in runs if other is not run]
    pairs = [(texts[unit], other.texts[unit]) for other in others for unit in texts if unit in other.said]
    values: dict[str, Value] = {
        "described": len(texts),
        "distinct": len({tidied(text) for text in texts.values()}),
        "words": mean([float(len(text.split())) for text in texts.values()], seed),
        "same": share([tidied(one) == tidied(other) for one, other in pairs]),
        "like": mean([likeness(one, other) for one, other in pairs], seed),
    }
    if truths:
        known = [unit for unit in texts if unit.layer in truths and unit in truths[unit.layer].units]
        values["truth"] = mean([truths[unit.layer].score(unit, texts[unit]) for unit in known], seed)
    return values


def _likeness(runs: Sequence[Run], units: Sequence[Unit], seed: int) -> Table:
    columns = tuple(Column(run.name, f"ROUGE-L (F) with what {run.name} said of the same units.", "", 2) for run in runs)
    rows = []
    for one in runs:
        values: dict[str, Value] = {}
        for other in runs:
            shared = [unit for unit in units if unit in one.said and unit in other.said]
            if one is not other and shared:
                values[other.name] = mean([likeness(one.texts[unit], other.texts[unit]) for unit in shared], seed)
        rows.append(Row(one.name, values))
    return Table("how like each is to each", columns, tuple(rows), "run")


def _by_layer(runs: Sequence[Run], units: Sequence[Unit]) -> list[Table]:
    layers = list(dict.fromkeys(unit.layer for unit in units))
    if len(layers) < 2:
        return []
    columns = tuple(Column(layer, f"How many different descriptions its units of {layer} have, of how many.") for layer in layers)
    rows = []
    for run in runs:
        said = {layer: [tidied(run.texts[unit]) for unit in units if unit.layer == layer and unit in run.said] for layer in layers}
        rows.append(Row(run.name, {layer: f"{len(set(texts))} of {len(texts)}" if texts else None for layer, texts in said.items()}))
    return [Table("different descriptions by layer", columns, tuple(rows), "run")]


def _headlines(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    known = [(row.values["truth"], row.name) for row in rows if "truth" in row.values]
    return tuple((f"{100 * value.value:.0f} %", f"truth score: {name}") for value, name in known[:4])  # type: ignore[union-attr]


def _case(runs: Sequence[Run], unit: Unit, truth: Truth | None) -> dict[str, Any]:
    best = list(dict.fromkeys(truth.best(unit, length).text for length in (1, 2))) if truth and unit in truth.units else []
    said = [_said(run, unit, truth) for run in runs]
    told = " / ".join(text.replace(" & ", " and ").replace(" | ", " or ") for text in best)
    return {"id": str(unit), "group": unit.layer, "truth": f"Best: {told}" if told else "", "said": said}


def _said(run: Run, unit: Unit, truth: Truth | None) -> dict[str, Any]:
    text = run.texts.get(unit, "")
    score = truth.score(unit, text) if truth and unit in truth.units and text else math.nan
    shown = "" if truth is None or not text else "–" if math.isnan(score) else f"{score:.2f}"
    return {"name": run.name, "role": ROLES.get(run.name, ""), "text": text, "reason": "not described", "mark": "", "score": shown}


def _common(runs: Sequence[Run], name: str) -> str:
    """What all runs that tell it have in common."""
    values = {str(run.facts[name]) for run in runs if run.facts.get(name)}
    return values.pop() if len(values) == 1 else ""

"""Runs side by side: how much each describes, how far they agree, and how true they are where that is known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from milan.dissection.dissection import Dissection
from milan.experiments.core.described_runs import DescribedRun, sources_of
from milan.experiments.core.report import Column, Report, Role, Row, Table, Value
from milan.experiments.core.text_overlap import compute_rouge_l
from milan.experiments.core.unit_views import format_best_texts, format_score, make_text_view, make_unit_view
from milan.probes.pixel_labels import shows_diorama
from milan.scores.confidence_intervals import Measure, estimate_mean, estimate_share
from milan.scores.text_similarity import normalize_text
from milan.scores.truth_score import Truth
from milan.units import Unit

ROLES: Mapping[str, Role] = {
    "annotators": "ceiling",
    "shuffled": "floor",
    "random_concept": "floor",
    "constant": "floor",
}
COLUMNS = (
    Column("described", "Number of the units that the run describes."),
    Column("distinct", "Number of different descriptions."),
    Column("words", "Mean number of words of a description.", digits=1),
    Column(
        "same",
        "Share of units that another run describes with the same words, up to case and final stop, a mean over the"
        " others.",
        "%",
        1,
    ),
    Column("ROUGE-L", "ROUGE-L (F) of its descriptions with those of each other run: common words, in order.", "", 2),
)
TRUTH_COLUMN = Column(
    "truth",
    "Mean truth score over the described units of Diorama's layers: the share of the way from a random"
    " concept to the best formula of up to three concepts, by correlation over held-out scenes.",
    "%",
    1,
    "more",
)
NOTES = (
    "Intervals are 95% bootstrap intervals over units (of shares: Wilson's).",
    "Runs may have described different units, and from different exemplars: agreement is over the units that both"
    " describe.",
)
NO_TRUTH_NOTE = "How good the descriptions are is not known, since the units are not Diorama's; the study asks people."


def sample_units(units: Sequence[Unit], count: int, seed: int) -> list[Unit]:
    """Return a random sample of at most ``count`` units, in their order."""
    if len(units) <= count:
        return list(units)
    rows = np.random.default_rng(seed).choice(len(units), count, replace=False)
    return [units[row] for row in sorted(rows.tolist())]


@dataclass(frozen=True)
class Comparison:
    """Several runs on the same units.

    Attributes:
        dissections: of the units' layers, as far as there are some.
        seed: the random seed of intervals.
    """

    runs: Sequence[DescribedRun]
    units: Sequence[Unit]
    dissections: Mapping[str, Dissection]
    seed: int

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What is true of the units, by layer, for layers that are dissected on Diorama."""
        known = {layer: one for layer, one in self.dissections.items() if shows_diorama(one.probe)}
        return {layer: Truth.measure(one) for layer, one in known.items() if hasattr(one, "facts")}

    def make_report(self, shown: int) -> Report:
        """Return the table of runs, that of their similarity, and that of layers.

        Args:
            shown: the number of units on the page.
        """
        rows = tuple(Row(run.name, self._make_values(run), ROLES.get(run.name, "")) for run in self.runs)
        tables = [Table("all units", (*([TRUTH_COLUMN] if self.truths else []), *COLUMNS), rows, "run")]
        if len(self.runs) > 2:
            tables.append(self._make_similarity_table())
        tables += self._make_layer_tables()
        notes = [*NOTES, *([] if self.truths else [NO_TRUTH_NOTE])]
        if shown < len(self.units):
            notes.append(
                f"The page shows {shown} random units of {len(self.units):,} (seed {self.seed}); the tables are of all."
            )
        facts = {
            "target": self._find_common_fact("target"),
            "probe": self._find_common_fact("probe"),
            "units": len(self.units),
            "seed": self.seed,
            "runs": {
                run.name: {
                    name: str(run.facts[name]) for name in ("target", "probe", "describer") if run.facts.get(name)
                }
                for run in self.runs
            },
        }
        common = sum(all(unit in run.descriptions for run in self.runs) for unit in self.units)
        return Report(
            "compare",
            " · ".join(run.name for run in self.runs),
            f"{len(self.runs)} runs and {len(self.units):,} units, of which every run describes {common:,}.",
            tuple(tables),
            _make_headlines(rows),
            tuple(notes),
            facts,
            sources=sources_of(self.runs),
        )

    def make_view(self, unit: Unit) -> dict[str, Any]:
        """Return what the page shows of a unit: the text of every run, and what is true where that is known."""
        truth = self.truths.get(unit.layer)
        rows = []
        for run in self.runs:
            text = run.texts.get(unit, "")
            score = truth.score(unit, text) if truth and unit in truth.units else math.nan
            shown = format_score(score) if truth and text else ""
            role = ROLES.get(run.name, "")
            rows.append(make_text_view(run.name, text, role=role, reason="not described", score=shown))
        return make_unit_view(unit, unit.layer, format_best_texts(truth, unit), rows)

    def _make_values(self, run: DescribedRun) -> dict[str, Value]:
        units = set(self.units)
        texts = {unit: text for unit, text in run.texts.items() if unit in units}
        others = [other.texts for other in self.runs if other is not run]
        pairs = [(texts[unit], other[unit]) for other in others for unit in texts if unit in other]
        values: dict[str, Value] = {
            "described": len(texts),
            "distinct": len({normalize_text(text) for text in texts.values()}),
            "words": estimate_mean([float(len(text.split())) for text in texts.values()], self.seed),
            "same": estimate_share([normalize_text(text) == normalize_text(other) for text, other in pairs]),
            "ROUGE-L": estimate_mean([compute_rouge_l(text, other) for text, other in pairs], self.seed),
        }
        if self.truths:
            known = [unit for unit in texts if unit.layer in self.truths and unit in self.truths[unit.layer].units]
            scores = [self.truths[unit.layer].score(unit, texts[unit]) for unit in known]
            values["truth"] = estimate_mean(scores, self.seed)
        return values

    def _make_similarity_table(self) -> Table:
        """Return the ROUGE-L of each run with each other run."""
        text = "ROUGE-L (F) with the descriptions of the same units by {}."
        columns = tuple(Column(run.name, text.format(run.name), "", 2) for run in self.runs)
        rows = []
        for run in self.runs:
            values: dict[str, Value] = {}
            for other in (other for other in self.runs if other is not run):
                common = [unit for unit in self.units if unit in run.descriptions and unit in other.descriptions]
                if common:
                    scores = [compute_rouge_l(run.texts[unit], other.texts[unit]) for unit in common]
                    values[other.name] = estimate_mean(scores, self.seed)
            rows.append(Row(run.name, values))
        return Table("similarity of runs", columns, tuple(rows), "run")

    def _make_layer_tables(self) -> list[Table]:
        layers = list(dict.fromkeys(unit.layer for unit in self.units))
        if len(layers) < 2:
            return []
        columns = tuple(
            Column(layer, f"Number of different descriptions of units of {layer}, of how many.") for layer in layers
        )
        rows = []
        for run in self.runs:
            values: dict[str, Value] = {}
            for layer in layers:
                units = [unit for unit in self.units if unit.layer == layer and unit in run.descriptions]
                texts = [normalize_text(run.texts[unit]) for unit in units]
                values[layer] = f"{len(set(texts))} of {len(texts)}" if texts else None
            rows.append(Row(run.name, values))
        return [Table("different descriptions by layer", columns, tuple(rows), "run")]

    def _find_common_fact(self, name: str) -> str:
        """Return the value that all runs with this fact share; empty if they differ."""
        values = {str(run.facts[name]) for run in self.runs if run.facts.get(name)}
        return values.pop() if len(values) == 1 else ""


def _make_headlines(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    truths = [(value, row.name) for row in rows if isinstance(value := row.values.get("truth"), Measure)]
    return tuple((f"{100 * value.value:.0f} %", f"truth score: {name}") for value, name in truths[:4])

"""The ratings of a judge, and their scores in tables."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from milan.console.progress import track_progress
from milan.experiments.core.report import Column, Report, Table, Value
from milan.experiments.core.scored_descriptions import DescriptionSet, DescriptionSets
from milan.experiments.detection.config import DetectionConfig
from milan.probes import Probe
from milan.scores.confidence_intervals import estimate_mean
from milan.scores.example_judges import EmbedderJudge, Judge
from milan.scores.example_scores import (
    BANDS,
    INTRUDER_GROUP,
    ExampleScores,
    UnitExamples,
    compute_example_scores,
    draw_examples,
    make_intruder_groups,
)
from milan.units import Unit

DETECTION = Column(
    "detection", "AUROC of the judge's ratings of active against inactive images; 0.5 at random.", "", 3, "more"
)
FUZZING = Column(
    "fuzzing",
    "Share of active images in which the active region is rated above another one; 0.5 at random.",
    "",
    3,
    "more",
)
BAND_COLUMNS = tuple(
    Column(
        f"band {band + 1}",
        f"Detection of the images in fifth {band + 1} of the active ones, from the weakest to the strongest.",
        "",
        3,
        "more",
    )
    for band in range(BANDS)
)


@dataclass(frozen=True)
class DetectionScores:
    """The scores of each description, and whether the intruders among each unit's images were found."""

    description_sets: DescriptionSets
    judge: Judge
    config: DetectionConfig
    scores: Mapping[tuple[Unit, str], ExampleScores]
    intruders: Mapping[Unit, list[bool]]

    @classmethod
    def compute(
        cls, description_sets: DescriptionSets, probe: Probe, judge: Judge, config: DetectionConfig
    ) -> "DetectionScores":
        """Draw the examples of every described unit from a probe, and ask the judge."""
        study = description_sets.study
        dissections = study.dissect_on(probe, "judged", k=1, quantile=config.quantile)
        negatives = EmbedderJudge(config.negatives, probe, config.device) if config.negatives else judge
        scores: dict[tuple[Unit, str], ExampleScores] = {}
        intruders: dict[Unit, list[bool]] = {}
        for dissection, by_describer in description_sets.iter_layers():
            texts: dict[Unit, dict[str, None]] = {}
            for descriptions in by_describer.values():
                for each in descriptions:
                    texts.setdefault(each.unit, {})[each.text] = None
            judged = dissections[dissection.layer]
            active = set(judged.active_units())
            examples = draw_examples(
                study.target,
                probe,
                judged,
                [unit for unit in texts if unit in active],
                count=config.examples,
                likeness=negatives.likeness,
                seed=config.seed,
            )
            for unit, own in track_progress(examples.items(), description=f"judging {len(examples)} units"):
                scores |= rate_unit(judge, own, list(texts[unit]))
                intruders[unit] = find_intruders(judge, own, config.seed)
        return cls(description_sets, judge, config, scores, intruders)

    def make_report(self) -> Report:
        """Return the report: a row for each describer and floor, and what the intruder test says of the units."""
        study = self.description_sets.study
        tables: list[Table] = [
            self.description_sets.make_table("all examples", [DETECTION, FUZZING], self._compute_values),
            self.description_sets.make_table("by activation", BAND_COLUMNS, self._compute_bands),
        ]
        found = [place for places in self.intruders.values() for place in places]
        notes = (
            f"Examples are drawn from images that no describer has seen. {self._describe_negatives()} The judge,"
            f" {self.judge.name}, sees no activations.",
            "Detection tests texts on as many active as inactive images, so that a text that is too broad loses little"
            " where what it should name is rare; fuzzing tests only the place within an image. Neither replaces the"
            " correlation over all images (the simulation experiment).",
            f"Intruder test, without descriptions: the judge found the one inactive image among {INTRUDER_GROUP}"
            f" active ones in {100 * estimate_mean([float(each) for each in found], self.config.seed).value:.1f}% of"
            f" {len(found)} groups ({100 / (INTRUDER_GROUP + 1):.0f}% at random)."
            if found
            else "Intruder test: no unit has enough examples, or the judge gives no answer.",
            self.description_sets.note,
        )
        return study.report(
            study.target.name,
            f"{self.judge.name} rates the descriptions of {len(self.intruders)} units on {self.config.examples} active"
            f" and as many inactive images of each.",
            tables,
            notes=notes,
            facts={name: getattr(self.config, name) for name in ("examples", "negatives", "max_calls")},
            sources={"judge": self.judge.name}
            | ({"negatives": self.config.negatives} if self.config.negatives else {}),
        )

    def _describe_negatives(self) -> str:
        if self.config.negatives or self.judge.likeness is not None:
            return f"Half of the inactive ones look like the active ones to {self.config.negatives or self.judge.name}."
        return "Inactive ones are drawn at random; set --negatives to an image-text model for some that look alike."

    def _of(self, one: DescriptionSet) -> list[ExampleScores]:
        keys = [(each.unit, each.text) for each in one.descriptions]
        return [self.scores[key] for key in keys if key in self.scores]

    def _compute_values(self, one: DescriptionSet) -> dict[str, Value]:
        return {
            column.name: estimate_mean([getattr(each, column.name) for each in self._of(one)], self.config.seed)
            for column in (DETECTION, FUZZING)
        }

    def _compute_bands(self, one: DescriptionSet) -> dict[str, Value]:
        return {
            column.name: estimate_mean([each.by_band[band] for each in self._of(one)], self.config.seed)
            for band, column in enumerate(BAND_COLUMNS)
        }


def rate_unit(judge: Judge, examples: UnitExamples, texts: list[str]) -> dict[tuple[Unit, str], ExampleScores]:
    """Return the scores of texts as descriptions of a unit."""
    rows = np.concatenate([examples.active, examples.inactive])
    whole = judge.rate(texts, rows)
    regions = np.zeros((len(texts), 0))
    if len(examples.regions):
        twice = np.concatenate([examples.active, examples.active])
        regions = judge.rate(texts, twice, torch.cat([examples.regions, examples.wrong_regions]))
    active, half = len(examples.active), regions.shape[1] // 2
    return {
        (examples.unit, text): compute_example_scores(
            examples, whole[row, :active], whole[row, active:], regions[row, :half], regions[row, half:]
        )
        for row, text in enumerate(texts)
    }


def find_intruders(judge: Judge, examples: UnitExamples, seed: int) -> list[bool]:
    """Return for each group of a unit's images whether the judge finds the one that does not belong."""
    groups = make_intruder_groups(examples, np.random.default_rng([seed, examples.unit.index]))
    answers = [(judge.find_intruder(rows), place) for rows, place in groups]
    return [answer == place for answer, place in answers if answer is not None]

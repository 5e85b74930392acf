"""What describers say where the answer is known, in tables."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from milan.dissection.dissect import dissect
from milan.errors import MissingEvidence
from milan.experiments.core.report import Column, Report, Row, Table
from milan.experiments.core.scored_descriptions import DescriptionSet, DescriptionSets, DissectionConfig
from milan.pretrained.embedder import load_embedder
from milan.pretrained.sentence_encoder import load_sentence_encoder
from milan.probes import Probe
from milan.probes.pixel_labels import shows_diorama
from milan.probes.superclasses import known_labels
from milan.scores.confidence_intervals import estimate_mean
from milan.scores.generated_image_scores import choose_text_to_paint, painted_auc
from milan.scores.known_answers import evaluate_nearest_classifiers, score_final_layer
from milan.scores.text_similarity import TextEncoder
from milan.scores.truth_score import Truth
from milan.targets.target import Target
from milan.units import Description

NAMED = Column("named", "The share of the units that are described by the very name of their class.", "%", 1, "more")
AUROC = Column(
    "AUROC",
    "How well the unit whose description is nearest to the name of a class tells its images from others, a mean over"
    " classes; by lot 0.5.",
    "",
    3,
    "more",
)
TRUTH = Column(
    "truth",
    "The mean truth score: the share of the way from a random concept to the unit's best formula.",
    "%",
    1,
    "more",
)
SENTENCES_PREFIX = "sentences:"


class KnownAnswerTables:
    """Describers on layers of one network, and the tables asked for so far."""

    def __init__(self, describers: Sequence[str], target: Target, probe: Probe, config: DissectionConfig, folder: Path):
        self.describers, self.target, self.probe, self.look, self.folder = describers, target, probe, config, folder
        self.tables: list[Table] = []
        self.notes: list[str] = []
        self._others: dict[str, str] = {}  # sources of single tables

    @cached_property
    def _described(self) -> DescriptionSets:
        return DescriptionSets.dissect_and_describe(
            self.describers, self.target, self.probe, self.look, self.folder / "inner"
        )

    def add_final_layer(self, layer: str) -> None:
        """Adds the table of the final layer, whose unit i is class i of the probe.

        Raises:
            MissingEvidence: the probe has no classes.
        """
        if not self.probe.classes:
            raise MissingEvidence(
                f"the probe {self.probe.spec} tells no class names, so that of a unit of {layer} is not known; set"
                " --final ''"
            )
        scored = DescriptionSets.dissect_and_describe(
            self.describers, self.target, self.probe, self.look._replace(layers=[layer]), self.folder / "final"
        )
        classes = self.probe.classes
        self.tables.append(
            scored.make_table(
                "final layer",
                [NAMED],
                lambda description_set: {NAMED.name: score_final_layer(_list_descriptions(description_set), classes)},
            )
        )
        self.notes.append(
            "Final layer: names are compared without case and signs. Describers that choose among class names have an"
            " advantage."
        )

    def add_unseen_classes(self, probe: Probe, encoder: str) -> None:
        """Adds the table of classes that the network was never taught; that it was not, is the caller's word.

        Raises:
            MissingEvidence: the probe has no labels.
        """
        if not probe.classes:
            raise MissingEvidence(f"the probe {probe.spec} has no class labels to be told apart by; set --unseen ''")
        labels = known_labels(probe)
        looked = dissect(self.target, probe, list(self._described.dissections), self.folder / "unseen", k=1)
        activations = {layer: one.activations("mean").numpy() for layer, one in looked.items()}
        self._others |= {"probe of unseen classes": probe.spec, "encoder of texts": encoder}
        classes, space = probe.classes, _load_encoder(encoder, self.look.device)

        def values(description_set: DescriptionSet) -> dict[str, Any]:
            said = _list_descriptions(description_set)
            if not said:
                return {}
            columns = [activations[each.unit.layer][:, looked[each.unit.layer].row_of(each.unit)] for each in said]
            return {
                AUROC.name: (
                    evaluate_nearest_classifiers(
                        said, np.stack(columns, 1), labels, classes, space, self.look.seed
                    ).auroc
                )
            }

        table = self._described.make_table("unseen classes", [AUROC], values)
        best = Row(
            "the best unit",
            {AUROC.name: _compute_best_auroc(np.concatenate(list(activations.values()), 1), labels, self.look.seed)},
            "ceiling",
        )
        self.tables.append(replace(table, rows=(*table.rows, best)))
        self.notes.append(
            f"Unseen classes: {', '.join(classes[:10])}, of {probe.spec}. The ceiling takes for each class the unit"
            " that tells it best, which nobody could know without the labels. Texts are compared by " + encoder + "."
        )

    def make_report(self) -> Report:
        """The tables asked for, and Diorama's truth where it drew the probe."""
        if shows_diorama(self.probe.spec):
            truths = {layer: Truth.measure(one, self.target) for layer, one in self._described.dissections.items()}

            def values(description_set: DescriptionSet) -> dict[str, Any]:
                return {
                    TRUTH.name: estimate_mean(
                        [truths[each.unit.layer].score(each.unit, each.text) for each in description_set.descriptions],
                        self.look.seed,
                    )
                }

            self.tables.append(self._described.make_table("truth", [TRUTH], values))
        names = ", ".join(self._described.dissections)
        lede = (
            f"{len(self.describers)} describers where the answer is known:"
            f" {', '.join(table.name for table in self.tables)}."
        )
        note = "Of a weighted sum the concept that raises the unit most is compared with a name."
        inner = self._described
        notes, sources = (*self.notes, note, inner.note), {**inner.sources, **self._others}
        title, tables = f"{inner.name}, {names}", tuple(self.tables)
        return Report("known", title, lede, tables, (), notes, inner.facts, sources=sources)


def _list_descriptions(description_set: DescriptionSet) -> list[Description]:
    return [replace(each, text=choose_text_to_paint(each, 1)) for each in description_set.descriptions]


def _compute_best_auroc(activations: np.ndarray, labels: Sequence[int], seed: int) -> Any:
    known = np.asarray(labels)
    found = []
    for number in sorted(set(labels)):
        inside = known == number
        found.append(
            max(painted_auc(column[inside], column[~inside]) for column in activations.T if np.isfinite(column).all())
        )
    return estimate_mean(found, seed)


def _load_encoder(spec: str, device: str) -> TextEncoder:
    if spec.startswith(SENTENCES_PREFIX):
        return load_sentence_encoder(spec.removeprefix(SENTENCES_PREFIX), device=device)
    return load_embedder(spec, device=device)

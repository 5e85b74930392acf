"""The scores of descriptions whose answer is known, in tables."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from milan.dissection.dissection import Dissection
from milan.errors import MissingEvidence
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.scored_descriptions import DescriptionSet, DescriptionSets
from milan.experiments.core.study import Study
from milan.pretrained.embedder import load_embedder
from milan.pretrained.sentence_encoder import load_sentence_encoder
from milan.probes import Probe
from milan.probes.pixel_labels import shows_diorama
from milan.probes.superclasses import known_labels
from milan.scores.confidence_intervals import Measure, estimate_mean
from milan.scores.generated_image_scores import choose_text_to_paint, painted_auc
from milan.scores.known_answers import evaluate_nearest_classifiers, score_final_layer
from milan.scores.text_similarity import TextEmbedder
from milan.scores.truth_score import Truth
from milan.units import Description

NAMED = Column("named", "Share of the units that are described by exactly the name of their class.", "%", 1, "more")
AUROC = Column(
    "AUROC",
    "AUROC of detecting the images of a class with the unit whose description is most similar to the class's name, a"
    " mean over classes; 0.5 at random.",
    "",
    3,
    "more",
)
TRUTH = Column(
    "truth",
    "Mean truth score: the share of the way from a random concept to the unit's best formula.",
    "%",
    1,
    "more",
)
SENTENCES_PREFIX = "sentences:"


class KnownAnswerTables:
    """The tables of known answers that were added so far.

    Args:
        inner: descriptions of the layers in which classifiers of unseen classes are searched.
    """

    def __init__(self, inner: DescriptionSets):
        self.inner, self.study = inner, inner.study
        self.tables: list[Table] = []
        self.notes: list[str] = []
        self._sources: dict[str, str] = {}

    def add_final_layer(self, final: Study, describers: Sequence[str]) -> None:
        """Add the table of the final layer, whose unit i is class i of the probe.

        Raises:
            MissingEvidence: the probe has no classes.
        """
        classes, layer = final.probe.classes, next(iter(final.units))
        if not classes:
            raise MissingEvidence(
                f"the probe {final.probe.spec} has no class names, so the answer for a unit of {layer} is not known;"
                " set --final_layer ''"
            )

        def compute_values(one: DescriptionSet) -> dict[str, Value]:
            return {NAMED.name: score_final_layer(_list_descriptions(one), classes)}

        table = DescriptionSets.describe(final, describers).make_table("final layer", [NAMED], compute_values)
        self.tables.append(table)
        self.notes.append(
            "Final layer: names are compared without case and punctuation. Describers that choose among class names"
            " have an advantage."
        )

    def add_unseen_classes(self, probe: Probe, embedder: str) -> None:
        """Add the table of classes that the network was not trained on, which the caller must ensure.

        Raises:
            MissingEvidence: the probe has no labels.
        """
        classes, seed = probe.classes, self.study.seed
        if not classes:
            raise MissingEvidence(f"the probe {probe.spec} has no class labels to detect; set --unseen_probe ''")
        labels, encoder = known_labels(probe), _load_encoder(embedder, self.study.device)
        dissections = replace(self.study, out=self.study.out.parent).dissect_on(probe, "unseen", k=1)
        self._sources |= {"probe of unseen classes": probe.spec, "embedder of texts": embedder}

        def compute_values(one: DescriptionSet) -> dict[str, Value]:
            said = _list_descriptions(one)
            if not said:
                return {}
            columns = [dissections[each.unit.layer].activations("mean", [each.unit]) for each in said]
            units = torch.cat(columns, 1).numpy()
            return {AUROC.name: evaluate_nearest_classifiers(said, units, labels, classes, encoder, seed).auroc}

        table = self.inner.make_table("unseen classes", [AUROC], compute_values)
        best = _compute_best_auroc(list(dissections.values()), labels, seed)
        self.tables.append(replace(table, rows=(*table.rows, Row("the best unit", {AUROC.name: best}, "ceiling"))))
        self.notes.append(
            f"Unseen classes: {', '.join(classes[:10])}, of {probe.spec}. The ceiling uses the best unit for each"
            f" class, which cannot be known without labels. Texts are compared by {embedder}."
        )

    def make_report(self) -> Report:
        """Return the tables, with Diorama's truth if the probe shows Diorama."""
        layers, study = self.study.dissections, self.study
        if shows_diorama(study.probe.spec):
            truths = Truth.measure_layers(layers, study.target)

            def compute_values(one: DescriptionSet) -> dict[str, Value]:
                scores = [truths[each.unit.layer].score(each.unit, each.text) for each in one.descriptions]
                return {TRUTH.name: estimate_mean(scores, study.seed)}

            self.tables.append(self.inner.make_table("truth", [TRUTH], compute_values))
        return study.report(
            f"{study.target.name}, {', '.join(layers)}",
            f"{len(study.describers)} describers where the answer is known:"
            f" {', '.join(table.name for table in self.tables)}.",
            self.tables,
            notes=(
                *self.notes,
                "Of a weighted sum the concept with the largest weight is compared with a name.",
                self.inner.note,
            ),
            sources=self._sources,
        )


def _list_descriptions(one: DescriptionSet) -> list[Description]:
    """Return the descriptions with the concept of the largest weight as their text."""
    return [replace(each, text=choose_text_to_paint(each, 1)) for each in one.descriptions]


def _compute_best_auroc(dissections: Sequence[Dissection], labels: Sequence[int], seed: int) -> Measure:
    """Return the AUROC of each class's best unit, a mean over classes."""
    classes = np.asarray(labels)
    best = dict.fromkeys(sorted(set(labels)), -np.inf)
    blocks = (values.T.numpy() for one in dissections for _, values in one.iter_activations("mean"))
    for column in (column for block in blocks for column in block if np.isfinite(column).all()):
        for number, most in best.items():
            best[number] = max(most, painted_auc(column[classes == number], column[classes != number]))
    return estimate_mean(list(best.values()), seed)


def _load_encoder(spec: str, device: str) -> TextEmbedder:
    if spec.startswith(SENTENCES_PREFIX):
        return load_sentence_encoder(spec.removeprefix(SENTENCES_PREFIX), device=device)
    return load_embedder(spec, device=device)

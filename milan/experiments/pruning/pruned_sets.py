"""The sets of units that are pruned, and which images a network still classifies correctly without each set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from milan.experiments.core.study import Study
from milan.experiments.pruning.config import PruningConfig
from milan.experiments.pruning.retraining import retrain_classifier
from milan.pretrained.embedder import embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.probes import Probe
from milan.probes.superclasses import format_class_names
from milan.scores.accuracy_under_ablation import evaluate_ablations, get_features_file
from milan.scores.description_groups import (
    collect_texts,
    compute_similarities,
    find_units_with,
    group_units,
    index_terms,
)
from milan.units import Unit

ALL_LAYERS = "all layers"


@dataclass(frozen=True)
class PruningSet:
    """Units that are pruned together, and random sets of as many units of the same layers."""

    name: str
    units: tuple[Unit, ...]
    random_sets: tuple[tuple[Unit, ...], ...]


@dataclass(frozen=True)
class PruningPlan:
    """The units of a described network that are pruned.

    Attributes:
        groups: the groups of units with similar descriptions, by layer, largest first.
        singletons: the units in groups of one, for each layer and for all layers.
        terms: the units of each term, in the last layer.
        units_by_term: the units of each term, by layer, the most common term first.
    """

    study: Study
    config: PruningConfig
    groups: Mapping[str, Sequence[Sequence[Unit]]]
    singletons: Sequence[PruningSet]
    terms: Sequence[PruningSet]
    units_by_term: Mapping[str, Mapping[str, Sequence[Unit]]]

    @classmethod
    def make(cls, study: Study, embedder: Embedder, config: PruningConfig) -> "PruningPlan":
        """Group the described units by the similarity of their descriptions, and find those of terms."""
        layers = study.described_units
        groups = {layer: _group_layer(study, units, embedder, config) for layer, units in layers.items()}
        singletons = [
            _make_set(layer, [group[0] for group in each if len(group) == 1], layers[layer], config)
            for layer, each in groups.items()
        ]
        together = [
            tuple(unit for part in parts for unit in part)
            for parts in zip(*(each.random_sets for each in singletons), strict=True)
        ]
        alone = tuple(unit for each in singletons for unit in each.units)
        by_term = {
            layer: index_terms({unit: study.texts[unit] for unit in units}, config.language)
            for layer, units in layers.items()
        }
        last = list(layers)[-1]
        texts = {unit: study.texts[unit] for unit in layers[last]}
        terms = [
            _make_set(term, find_units_with(texts, term.split("/"), config.language), layers[last], config)
            for term in config.terms or list(by_term[last])[: config.common_terms]
        ]
        return cls(study, config, groups, [*singletons, PruningSet(ALL_LAYERS, alone, tuple(together))], terms, by_term)

    @property
    def last_layer(self) -> str:
        """The last layer with described units, to which terms are applied."""
        return list(self.groups)[-1]

    @cached_property
    def units(self) -> list[Unit]:
        """All described units."""
        return list(self.study.texts)


def _group_layer(study: Study, units: Sequence[Unit], embedder: Embedder, config: PruningConfig) -> list[list[Unit]]:
    entries = {entry.unit: entry.description for entry in study.evaluated.entries if entry.description is not None}
    texts = [collect_texts(entries[unit], config.texts_per_unit) for unit in units]
    unique = list(dict.fromkeys(text for each in texts for text in each))
    rows = {text: row for row, text in enumerate(unique)}
    vectors = embed_texts(embedder, unique).numpy()
    similarities = compute_similarities([[rows[text] for text in each] for each in texts], vectors)
    return [[units[index] for index in group] for group in group_units(similarities, config.min_similarity)]


def _make_set(name: str, units: Sequence[Unit], layer_units: Sequence[Unit], config: PruningConfig) -> PruningSet:
    """Return units of a layer with random sets of as many units of the layer."""
    rng = np.random.default_rng([config.seed, len(layer_units), len(units)])
    random_sets = tuple(
        tuple(layer_units[index] for index in sorted(rng.choice(len(layer_units), len(units), replace=False).tolist()))
        for _ in range(config.random_sets)
    )
    return PruningSet(name, tuple(units), random_sets)


@dataclass(frozen=True)
class PruningAccuracy:
    """Which evaluation images are classified correctly without no unit, all units, each pruned set and its random sets.

    Attributes:
        fixed: by the network's own classifier.
        retrained: by a classifier that is trained anew on the pruned network's features; it has no terms.
        labels: the classes of the images.
        classes: the names of all classes.
        rows: the row of each pruned set, by "singletons NAME" or "term NAME"; its random sets follow it.
    """

    fixed: Bool[np.ndarray, "sets images"]
    retrained: Bool[np.ndarray, "some images"]
    labels: Int[np.ndarray, " images"]
    classes: Sequence[str]
    rows: Mapping[str, int]

    @classmethod
    def evaluate(cls, plan: PruningPlan, evaluation_probe: Probe, layer: str) -> "PruningAccuracy":
        """Run the network on the study's probe and the evaluation images, once each, and train new classifiers.

        Args:
            layer: the layer whose means over the image are the features of new classifiers.
        """
        sets: list[tuple[Unit, ...]] = [(), tuple(plan.units)]
        rows: dict[str, int] = {}
        for kind, pruned in (("singletons", plan.singletons), ("term", plan.terms)):
            for each in pruned:
                rows[f"{kind} {each.name}"] = len(sets)
                sets += [each.units, *each.random_sets]
        retrained_sets = min((row for name, row in rows.items() if name.startswith("term ")), default=len(sets))
        study, config = plan.study, plan.config
        files = study.out / "training.sqlite", study.out / "evaluation.sqlite"
        training_rows, _ = evaluate_ablations(
            study.target, study.probe, sets[:retrained_sets], files[0], config.synsets, layer
        )
        evaluation_rows, fixed = evaluate_ablations(
            study.target, evaluation_probe, sets, files[1], config.synsets, layer
        )
        training_labels = np.array(study.probe.labels)[training_rows]
        labels = np.array(evaluation_probe.labels)[evaluation_rows]
        training, evaluation = (np.load(get_features_file(file), mmap_mode="r") for file in files)
        retrained = [
            retrain_classifier(
                (training[number][training_rows], training_labels),
                evaluation[number][evaluation_rows],
                config.classifier,
                config.seed,
            )
            == labels
            for number in range(retrained_sets)
        ]
        return cls(fixed, np.stack(retrained), labels, format_class_names(evaluation_probe), rows)

    def select(self, kind: str, name: str, random_sets: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return which images are classified correctly without a pruned set, and without each of its random sets.

        Args:
            kind: "fixed" or "retrained".
            name: of the pruned set, as in ``rows``.
        """
        correct, row = getattr(self, kind), self.rows[name]
        return correct[row], correct[row + 1 : row + 1 + random_sets]

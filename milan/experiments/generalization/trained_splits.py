"""MILAN trained on every split under every seed, and its descriptions of the test units; finished work is kept."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from milan.describers import load_describer
from milan.describers._shared.describer_specs import resolve_settings
from milan.describers._shared.runner import describe_units
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.errors import MissingEvidence
from milan.experiments.generalization.config import MIN_STEPS_PER_EPOCH, GeneralizationConfig
from milan.experiments.generalization.model_training import (
    PrincipalComponents,
    TrainedModels,
    choose_texts,
    search_texts,
    train_models,
)
from milan.experiments.generalization.network_splits import AnnotatedNetwork, NetworkSplit, SplitUnits, divide_units
from milan.models import Captioner, Prior
from milan.models.annotated_units import AnnotatedUnit
from milan.models.feature_store import FeatureStore
from milan.models.vocabulary import tokenize
from milan.probes.pixel_labels import shows_diorama
from milan.scores.truth_score import Truth
from milan.storage.files import atomic_write, cache_folder, content_key
from milan.storage.integrity import checksums, is_sound, json_or_none
from milan.storage.journal import Journal
from milan.storage.text_files import read_json_object
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Unit

FORMAT = 1  # version of the stored results; results of another version are computed again
RESULT_FILE, COMPONENTS_FILE, JOURNAL_FILE = "trained.json", "components.safetensors", "learnt.sqlite"


@dataclass(frozen=True)
class SplitResult:
    """The descriptions of one split's test units after one training.

    Attributes:
        test: the test units.
        milan: the text of highest PMI, for each test unit.
        most_likely: the most likely text of the same beam, for each test unit.
        constant: the most common training annotation.
        facts: the training logs.
        unknown_share: fraction of the words in the test units' annotations that no training annotation has.
    """

    test: tuple[AnnotatedUnit, ...]
    milan: tuple[str, ...]
    most_likely: tuple[str, ...]
    constant: str
    facts: Mapping[str, Any]
    unknown_share: float = 0.0


def train_all_splits(
    splits: Sequence[NetworkSplit], config: GeneralizationConfig, store: FeatureStore
) -> dict[NetworkSplit, list[SplitResult]]:
    """Train MILAN on all splits, seed by seed, and describe their test units.

    Finished trainings and descriptions are read from ``config.out``. They are found by what they depend on: exemplars
    and annotations of both sides, encoder, settings and seed.

    Returns:
        The results of each split, in the order of the seeds.
    """
    results: dict[NetworkSplit, list[SplitResult]] = {split: [] for split in splits}
    with Journal(config.out / JOURNAL_FILE, content_key(format=FORMAT)) as journal:
        for seed in config.seed_range:
            for split in splits:
                units = divide_units(split, seed)
                key = content_key(
                    training=compute_training_key(split, units, config, store, seed),
                    said=config.decoding_settings,
                    test=_collect_contents(units.test, store),
                )
                if journal.get(key) is None:
                    models = load_or_train(split, units, config, store, seed)
                    journal.put(key, _describe_test_units(models, units, config, store))
                stored = journal.get(key) or {}
                results[split].append(
                    SplitResult(
                        units.test,
                        tuple(stored["milan"]),
                        tuple(stored["likely"]),
                        find_most_common_text(units.train),
                        stored["facts"],
                        compute_unknown_share(units),
                    )
                )
    return results


def compute_unknown_share(units: SplitUnits) -> float:
    """Return the fraction of the words in the test units' annotations that no training annotation has."""
    known = {word for one in units.train for text in one.texts for word in tokenize(text)}
    words = [word for one in units.test for text in one.texts for word in tokenize(text)]
    return sum(word not in known for word in words) / len(words)


def find_most_common_text(units: Sequence[AnnotatedUnit]) -> str:
    """Return the most common annotation of these units; of equally common ones the first in alphabetical order."""
    counts = Counter(" ".join(text.lower().split()) for one in units for text in one.texts)
    return min(counts, key=lambda text: (-counts[text], text))


def compute_training_key(
    split: NetworkSplit, units: SplitUnits, config: GeneralizationConfig, store: FeatureStore, seed: int
) -> str:
    """Return the content key of what a training depends on."""
    parts = {name: _collect_contents(getattr(units, name), store) for name in ("train", "stop")}
    recipe = config.training_settings | {"least_steps": MIN_STEPS_PER_EPOCH}
    return content_key(**parts, recipe=recipe, encoder=store.encoder.key, patience=split.patience, seed=seed)


def _collect_contents(units: Sequence[AnnotatedUnit], store: FeatureStore) -> list[Any]:
    return [[store.dissection(one.source).key, str(one.unit), list(one.texts)] for one in units]


def load_or_train(
    split: NetworkSplit, units: SplitUnits, config: GeneralizationConfig, store: FeatureStore, seed: int
) -> TrainedModels:
    """Return captioner and prior of a split and seed, from ``config.out/models`` if they were trained before.

    Another λ or beam needs no training.
    """
    home = config.out / "models" / compute_training_key(split, units, config, store, seed)
    if not is_sound(json_or_none(home / RESULT_FILE), home):
        started, started_processor = time.monotonic(), time.process_time()
        models = train_models(units, store, config, seed, max(config.patience, split.patience))
        seconds = {
            "seconds": round(time.monotonic() - started, 1),
            "processor seconds": round(time.process_time() - started_processor, 1),
        }
        counts = {name: len(getattr(units, name)) for name in ("train", "stop", "test")}
        facts = {"split": f"{split.kind}, {split.name}", "seed": seed, "units": counts, **models.facts, **seconds}
        _save_models(models, facts, home)
        print(_format_training(facts), file=sys.stderr, flush=True)
    captioner, prior = Captioner.from_pretrained(home / "captioner"), Prior.from_pretrained(home / "prior")
    file = home / COMPONENTS_FILE
    components = PrincipalComponents(**load_file(file)) if file.is_file() else None
    facts = read_json_object(home / RESULT_FILE)["facts"]
    return TrainedModels(captioner.to(config.device), prior.to(config.device), facts, components)


def _save_models(models: TrainedModels, facts: Mapping[str, Any], home: Path) -> None:
    """Write models and facts; the file of facts, with the checksums of the others, is written last."""
    models.captioner.save_pretrained(home / "captioner")
    models.prior.save_pretrained(home / "prior")
    if models.components:
        save_file(models.components._asdict(), home / COMPONENTS_FILE)
    files = [file for file in sorted(home.rglob("*")) if file.is_file() and file.name != RESULT_FILE]
    marks = checksums(home, [str(file.relative_to(home)) for file in files])
    with atomic_write(home / RESULT_FILE) as partial:
        partial.write_text(json.dumps({"facts": facts, "files": marks}))


def _format_training(facts: Mapping[str, Any]) -> str:
    logs = (", ".join(f"{name} {value:g}" for name, value in facts[model].items()) for model in ("captioner", "prior"))
    captioner, prior = logs
    return f"{facts['split']}, seed {facts['seed']}: captioner {captioner}; prior {prior}; {facts['seconds']} s"


def _describe_test_units(
    models: TrainedModels, units: SplitUnits, config: GeneralizationConfig, store: FeatureStore
) -> dict[str, Any]:
    """Return the texts of MILAN and of p(d|E) for the test units, from one search."""
    results = search_texts(models, store.load_features(units.test), config.beam, config.steps)
    vocabulary = models.captioner.vocabulary
    return {
        "milan": choose_texts(results, vocabulary, config.prior_weight),
        "likely": choose_texts(results, vocabulary, 0.0),
        "facts": models.facts,
    }


@dataclass(frozen=True)
class RedissectedNetwork:
    """An annotated network, loaded and dissected again with its whole probe, where that is possible.

    Attributes:
        network: the annotated network.
        store: reads the annotated exemplars.
    """

    network: AnnotatedNetwork
    store: FeatureStore

    @cached_property
    def target(self) -> Target:
        """The network.

        Raises:
            MissingEvidence: the pixels of its probe have no labels, or the network cannot be loaded.
        """
        first = self.store.dissection(self.network.layers[0])
        if not shows_diorama(first.probe):
            raise MissingEvidence(
                f"{self.network.name}: the pixels of {first.probe or 'its images'} have no labels, so that the truth"
                " score and the describers without training are left out"
            )
        return load_target(first.target)

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """The dissections of the annotated layers, by layer; an earlier dissection is reused."""
        first = self.store.dissection(self.network.layers[0])
        layers = [self.store.dissection(layer).layer for layer in self.network.layers]
        home = cache_folder() / "diorama" / "dissections" / self.network.name
        return dissect(self.target, first.open_probe(), layers, home, k=first.k, quantile=first.quantile)

    def measure_truths(self) -> dict[Path, Truth]:
        """Return the ground truth of each layer's units, by the folder of its annotations.

        Raises:
            MissingEvidence: the ground truth is unknown.
        """
        target = self.target
        layers = {layer: self.dissections[self.store.dissection(layer).layer] for layer in self.network.layers}
        return Truth.measure_layers(layers, target)

    def describe_untrained(self, describer: str, units: Sequence[AnnotatedUnit], folder: Path) -> tuple[str, ...]:
        """Return the descriptions of a describer that needs no training; they are kept in ``folder``.

        Args:
            describer: the name of the describer, which reads the probe's labels.
            units: units of this network.
            folder: where the descriptions are kept.

        Raises:
            MissingEvidence: the probe has no pixel labels.
        """
        layer_units: dict[str, list[Unit]] = {layer: [] for layer in self.dissections}
        for one in units:
            layer_units[one.unit.layer].append(one.unit)
        home = folder / self.network.name / describer
        first = next(iter(self.dissections.values()))
        settings = resolve_settings(describer, {"labels": "probe"}, (first.target, first.probe))
        entries = describe_units(load_describer(describer, **settings), self.dissections, layer_units, home)
        texts = {entry.unit: entry.description.text for entry in entries if entry.description}
        return tuple(texts.get(one.unit, "") for one in units)

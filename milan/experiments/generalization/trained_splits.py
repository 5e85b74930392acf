"""MILAN trained on every split under every seed, what it said then, and what describers say that need no training; all
kept as it comes.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from milan.describers import load_describer
from milan.describers._shared.describer_specs import resolve_settings
from milan.describers._shared.runner import describe_units
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.experiments.generalization.model_training import (
    MIN_STEPS_PER_EPOCH,
    FeatureStore,
    PrincipalComponents,
    SplitTensors,
    TrainedModels,
    TrainingRecipe,
    choose_texts,
    search_texts,
    train_models,
)
from milan.experiments.generalization.network_splits import AnnotatedNetwork, NetworkSplit, SplitUnits, divide_units
from milan.models import Captioner, Prior
from milan.models.data_module import AnnotatedUnit
from milan.models.vocabulary import tokenize
from milan.probes.pixel_labels import shows_diorama
from milan.scores.truth_score import Truth
from milan.storage.files import Journal, atomic_write, cache_folder, content_key
from milan.storage.integrity import checksums, is_sound, json_or_none
from milan.storage.text_files import read_json_object
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Unit

FORMAT = 1  # of what is kept of a training; another number is another training
RESULT_FILE, COMPONENTS_FILE = "trained.json", "components.safetensors"


@dataclass(frozen=True)
class GeneralizationConfig:
    """How MILAN is trained and asked."""

    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)
    seeds: int = 5
    beam: int = 50
    steps: int = 15
    prior_weight: float = 0.2
    device: str = "cpu"
    first_seed: int = 0

    @property
    def seed_range(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def decoding_settings(self) -> dict[str, Any]:
        """What decides answers, once it is trained."""
        return {"beam": self.beam, "steps": self.steps, "prior_weight": self.prior_weight}

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides answers."""
        return self.decoding_settings | self.recipe.settings


@dataclass(frozen=True)
class SplitResult:
    """What MILAN said after one training.

    Attributes:
        test: the units that were described.
        milan: of each, the text of highest PMI.
        most_likely: of each, the likeliest text of the same beam.
        constant: the commonest text of those trained on.
        facts: how the training went.
        unknown_share: share of the words that annotators say of these units which the training texts do not have.
    """

    test: tuple[AnnotatedUnit, ...]
    milan: tuple[str, ...]
    most_likely: tuple[str, ...]
    constant: str
    facts: Mapping[str, Any]
    unknown_share: float = 0.0


def train_all_splits(
    splits: Sequence[NetworkSplit], config: GeneralizationConfig, store: FeatureStore, folder: Path
) -> dict[NetworkSplit, list[SplitResult]]:
    """Trains and asks MILAN, all splits under the first seed, then under the next; what was finished before is read
    instead.

    A training is found again by what it depends on: the exemplars and texts of both sides, the encoder, the recipe and
        the seed.
    """
    found: dict[NetworkSplit, list[SplitResult]] = {split: [] for split in splits}
    with Journal(folder / "learnt.sqlite", content_key(format=FORMAT)) as journal:
        for seed in config.seed_range:
            for split in splits:
                share = divide_units(split, seed)
                key = content_key(
                    training=compute_training_key(split, share, config, store, seed),
                    said=config.decoding_settings,
                    test=_collect_marks(share.test, store),
                )
                if journal.get(key) is None:
                    journal.put(
                        key,
                        _describe_test_units(
                            load_or_train(split, share, config, store, seed, folder), share, config, store
                        ),
                    )
                known = journal.get(key) or {}
                texts = tuple(known["milan"]), tuple(known["likely"])
                found[split].append(
                    SplitResult(
                        share.test,
                        *texts,
                        find_most_common_text(share.train),
                        known["facts"],
                        compute_unknown_share(share),
                    )
                )
    return found


def compute_unknown_share(units: SplitUnits) -> float:
    """The share of the words said of the units that are tested which nobody said of those that are trained on."""
    known = {word for one in units.train for text in one.texts for word in tokenize(text)}
    said = [word for one in units.test for text in one.texts for word in tokenize(text)]
    return sum(word not in known for word in said) / len(said)


def find_most_common_text(units: Sequence[AnnotatedUnit]) -> str:
    """The text that is said most often of these units (ties: the first by alphabet)."""
    said = Counter(" ".join(text.lower().split()) for one in units for text in one.texts)
    return min(said, key=lambda text: (-said[text], text))


def compute_training_key(
    split: NetworkSplit, units: SplitUnits, config: GeneralizationConfig, store: FeatureStore, seed: int
) -> str:
    """What a training depends on."""
    parts = {name: _collect_marks(getattr(units, name), store) for name in ("train", "stop")}
    recipe = config.recipe.settings | {"least_steps": MIN_STEPS_PER_EPOCH}
    return content_key(**parts, recipe=recipe, encoder=store.encoder.key, patience=split.patience, seed=seed)


def _collect_marks(units: Sequence[AnnotatedUnit], store: FeatureStore) -> list[Any]:
    return [[store.dissection(one.source).key, str(one.unit), list(one.texts)] for one in units]


def load_or_train(
    split: NetworkSplit, units: SplitUnits, config: GeneralizationConfig, store: FeatureStore, seed: int, folder: Path
) -> TrainedModels:
    """Captioner and prior of a split and seed, kept under ``folder/models``: another λ or beam needs no training."""
    home = folder / "models" / compute_training_key(split, units, config, store, seed)
    if not is_sound(json_or_none(home / RESULT_FILE), home):
        begun, spent = time.monotonic(), time.process_time()
        fitted = train_models(
            SplitTensors(units, store, config.recipe, seed, config.device), max(config.recipe.patience, split.patience)
        )
        fitted.captioner.save_pretrained(home / "captioner")
        fitted.prior.save_pretrained(home / "prior")
        if fitted.components:
            save_file(fitted.components._asdict(), home / COMPONENTS_FILE)
        counts = {name: len(getattr(units, name)) for name in ("train", "stop", "test")}
        seconds = {
            "seconds": round(time.monotonic() - begun, 1),
            "processor seconds": round(time.process_time() - spent, 1),
        }
        facts = {"split": f"{split.kind}, {split.name}", "seed": seed, "units": counts, **fitted.facts, **seconds}
        files = [file for file in sorted(home.rglob("*")) if file.is_file() and file.name != RESULT_FILE]
        marks = checksums(home, [str(file.relative_to(home)) for file in files])
        with atomic_write(home / RESULT_FILE) as partial:
            partial.write_text(json.dumps({"facts": facts, "files": marks}))
        print(json.dumps(facts), file=sys.stderr, flush=True)
    captioner, prior = Captioner.from_pretrained(home / "captioner"), Prior.from_pretrained(home / "prior")
    components = (
        PrincipalComponents(**load_file(home / COMPONENTS_FILE)) if (home / COMPONENTS_FILE).is_file() else None
    )
    return TrainedModels(
        captioner.to(config.device), prior.to(config.device), read_json_object(home / RESULT_FILE)["facts"], components
    )


def _describe_test_units(
    models: TrainedModels, units: SplitUnits, config: GeneralizationConfig, store: FeatureStore
) -> dict[str, Any]:
    """MILAN's texts and those of p(d|E), from one search."""
    searched = search_texts(models, store.load_features(units.test), config.beam, config.steps)
    vocabulary = models.captioner.vocabulary
    texts = {
        "milan": choose_texts(searched, vocabulary, config.prior_weight),
        "likely": choose_texts(searched, vocabulary, 0.0),
    }
    return {**texts, "facts": models.facts}


@dataclass(frozen=True)
class RedissectedNetwork:
    """An annotated network dissected once more, as far as it can be: with its whole probe, its pixel labels and what is
    true of its units.

    Attributes:
        network: which.
        store: where the annotated exemplars are read from.
    """

    network: AnnotatedNetwork
    store: FeatureStore

    @cached_property
    def target(self) -> Target:
        """Raises MissingEvidence where it is not a network that can be loaded again and was looked at with pictures of
        Diorama.
        """
        first = self.store.dissection(self.network.layers[0])
        if not shows_diorama(first.probe):
            raise MissingEvidence(
                f"{self.network.name}: nobody knows what the pixels of {first.probe or 'its images'} show"
            )
        return load_target(first.target)

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """Of its annotated layers; found again if it was dissected before."""
        first = self.store.dissection(self.network.layers[0])
        layers = [self.store.dissection(layer).layer for layer in self.network.layers]
        home = cache_folder() / "diorama" / "dissections" / self.network.name
        return dissect(self.target, first.open_probe(), layers, home, k=first.k, quantile=first.quantile)

    def measure_truths(self) -> dict[Path, Truth]:
        """What is true of each layer's units, by the folder of its annotations.

        Raises:
            MissingEvidence: nobody knows.
        """
        target = self.target
        return {
            layer: Truth.measure(self.dissections[self.store.dissection(layer).layer], target)
            for layer in self.network.layers
        }

    def describe_untrained(self, describer: str, units: Sequence[AnnotatedUnit], folder: Path) -> tuple[str, ...]:
        """What a describer that needs no training says of units; kept in the folder as it comes.

        Raises:
            MissingEvidence: it has no pixel labels to go by.
        """
        wanted: dict[str, list[Unit]] = {layer: [] for layer in self.dissections}
        for one in units:
            wanted[one.unit.layer].append(one.unit)
        home = folder / self.network.name / describer
        first = next(iter(self.dissections.values()))
        settings = resolve_settings(describer, {"labels": "probe"}, (first.target, first.probe))
        entries = describe_units(load_describer(describer, **settings), self.dissections, wanted, home)
        texts = {entry.unit: entry.description.text for entry in entries if entry.description}
        return tuple(texts.get(one.unit, "") for one in units)

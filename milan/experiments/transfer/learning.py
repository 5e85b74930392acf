"""MILAN trained on every split under every seed, what it said then, and what describers say that need no training; all kept as it comes."""

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

from milan.annotations import Annotated
from milan.describers import load_describer
from milan.describers.resuming import describe_units
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.experiments.transfer.fitting import LEAST_STEPS, Components, Evidence, Fitted, Lessons, Recipe, chosen, fit_models, search
from milan.experiments.transfer.splits import Network, Share, Split, share_of
from milan.integrity import checksums, is_sound, json_or_none
from milan.models import Captioner, Prior
from milan.probes.labels import of_diorama
from milan.scores.truth import Truth
from milan.storage import Journal, atomic, cache_folder, content_key
from milan.targets import Target, load_target
from milan.text_files import read_json_object
from milan.units import Unit
from milan.vocabulary import tokenize

FORMAT = 1  # of what is kept of a training; another number is another training
DONE, COMPONENTS = "trained.json", "components.safetensors"


@dataclass(frozen=True)
class Plan:
    """How MILAN is trained and asked."""

    recipe: Recipe = field(default_factory=Recipe)
    seeds: int = 5
    beam: int = 50
    steps: int = 15
    prior_weight: float = 0.2
    device: str = "cpu"
    first_seed: int = 0

    @property
    def rounds(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def asking(self) -> dict[str, Any]:
        """What decides answers, once it is trained."""
        return {"beam": self.beam, "steps": self.steps, "prior_weight": self.prior_weight}

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides answers."""
        return self.asking | self.recipe.settings


@dataclass(frozen=True)
class Learnt:
    """What MILAN said after one training.

    Attributes:
        test: the units that were described.
        milan: of each, the text of highest PMI.
        likely: of each, the likeliest text of the same beam.
        constant: the commonest text of those trained on.
        facts: how the training went.
        unknown: share of the words that annotators say of these units which the training texts do not have.
    """

    test: tuple[Annotated, ...]
    milan: tuple[str, ...]
    likely: tuple[str, ...]
    constant: str
    facts: Mapping[str, Any]
    unknown: float = 0.0


def learnt(splits: Sequence[Split], plan: Plan, evidence: Evidence, folder: Path) -> dict[Split, list[Learnt]]:
    """Trains and asks MILAN, all splits under the first seed, then under the next; what was finished before is read instead.

    A training is found again by what it depends on: the exemplars and texts of both sides, the encoder, the recipe and the seed.
    """
    found: dict[Split, list[Learnt]] = {split: [] for split in splits}
    with Journal(folder / "learnt.sqlite", content_key(format=FORMAT)) as journal:
        for seed in plan.rounds:
            for split in splits:
                share = share_of(split, seed)
                key = content_key(
                    training=training_key(split, share, plan, evidence, seed), said=plan.asking, test=_marks(share.test, evidence)
                )
                if journal.get(key) is None:
                    journal.put(key, _asked(trained(split, share, plan, evidence, seed, folder), share, plan, evidence))
                known = journal.get(key) or {}
                texts = tuple(known["milan"]), tuple(known["likely"])
                found[split].append(Learnt(share.test, *texts, constant_of(share.train), known["facts"], unknown_words(share)))
    return found


def unknown_words(share: Share) -> float:
    """The share of the words said of the units that are tested which nobody said of those that are trained on."""
    known = {word for one in share.train for text in one.texts for word in tokenize(text)}
    said = [word for one in share.test for text in one.texts for word in tokenize(text)]
    return sum(word not in known for word in said) / len(said)


def constant_of(units: Sequence[Annotated]) -> str:
    """The text that is said most often of these units (ties: the first by alphabet)."""
    said = Counter(" ".join(text.lower().split()) for one in units for text in one.texts)
    return min(said, key=lambda text: (-said[text], text))


def training_key(split: Split, share: Share, plan: Plan, evidence: Evidence, seed: int) -> str:
    """What a training depends on."""
    parts = {name: _marks(getattr(share, name), evidence) for name in ("train", "stop")}
    recipe = plan.recipe.settings | {"least_steps": LEAST_STEPS}
    return content_key(**parts, recipe=recipe, encoder=evidence.encoder.key, patience=split.patience, seed=seed)


def _marks(units: Sequence[Annotated], evidence: Evidence) -> list[Any]:
    return [[evidence.dissection(one.source).key, str(one.unit), list(one.texts)] for one in units]


def trained(split: Split, share: Share, plan: Plan, evidence: Evidence, seed: int, folder: Path) -> Fitted:
    """Captioner and prior of a split and seed, kept under ``folder/models``: another λ or beam needs no training."""
    home = folder / "models" / training_key(split, share, plan, evidence, seed)
    if not is_sound(json_or_none(home / DONE), home):
        begun, spent = time.monotonic(), time.process_time()
        fitted = fit_models(Lessons(share, evidence, plan.recipe, seed, plan.device), max(plan.recipe.patience, split.patience))
        fitted.captioner.save_pretrained(home / "captioner")
        fitted.prior.save_pretrained(home / "prior")
        if fitted.components:
            save_file(fitted.components._asdict(), home / COMPONENTS)
        counts = {name: len(getattr(share, name)) for name in ("train", "stop", "test")}
        seconds = {"seconds": round(time.monotonic() - begun, 1), "processor seconds": round(time.process_time() - spent, 1)}
        facts = {"split": f"{split.kind}, {split.name}", "seed": seed, "units": counts, **fitted.facts, **seconds}
        files = [file for file in sorted(home.rglob("*")) if file.is_file() and file.name != DONE]
        marks = checksums(home, [str(file.relative_to(home)) for file in files])
        with atomic(home / DONE) as partial:
            partial.write_text(json.dumps({"facts": facts, "files": marks}))
        print(json.dumps(facts), file=sys.stderr, flush=True)
    captioner, prior = Captioner.from_pretrained(home / "captioner"), Prior.from_pretrained(home / "prior")
    components = Components(**load_file(home / COMPONENTS)) if (home / COMPONENTS).is_file() else None
    return Fitted(captioner.to(plan.device), prior.to(plan.device), read_json_object(home / DONE)["facts"], components)


def _asked(fitted: Fitted, share: Share, plan: Plan, evidence: Evidence) -> dict[str, Any]:
    """MILAN's texts and those of p(d|E), from one search."""
    searched = search(fitted, evidence.features(share.test), plan.beam, plan.steps)
    vocabulary = fitted.captioner.vocabulary
    texts = {"milan": chosen(searched, vocabulary, plan.prior_weight), "likely": chosen(searched, vocabulary, 0.0)}
    return {**texts, "facts": fitted.facts}


@dataclass(frozen=True)
class Stage:
    """An annotated network dissected once more, as far as it can be: with its whole probe, its pixel labels and what is true of its units.

    Attributes:
        network: which.
        evidence: where the annotated exemplars are read from.
    """

    network: Network
    evidence: Evidence

    @cached_property
    def target(self) -> Target:
        """Raises MissingEvidence where it is not a network that can be loaded again and was looked at with pictures of Diorama."""
        first = self.evidence.dissection(self.network.layers[0])
        if not of_diorama(first.probe):
            raise MissingEvidence(f"{self.network.name}: nobody knows what the pixels of {first.probe or 'its images'} show")
        return load_target(first.target)

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """Of its annotated layers; found again if it was dissected before."""
        first = self.evidence.dissection(self.network.layers[0])
        layers = [self.evidence.dissection(layer).layer for layer in self.network.layers]
        home = cache_folder() / "diorama" / "dissections" / self.network.name
        return dissect(self.target, first.open_probe(), layers, home, k=first.k, quantile=first.quantile)

    def truths(self) -> dict[Path, Truth]:
        """What is true of each layer's units, by the folder of its annotations.

        Raises:
            MissingEvidence: nobody knows.
        """
        target = self.target
        return {layer: Truth.of(self.dissections[self.evidence.dissection(layer).layer], target) for layer in self.network.layers}

    def said(self, describer: str, units: Sequence[Annotated], folder: Path) -> tuple[str, ...]:
        """What a describer that needs no training says of units; kept in the folder as it comes.

        Raises:
            MissingEvidence: it has no pixel labels to go by.
        """
        wanted: dict[str, list[Unit]] = {layer: [] for layer in self.dissections}
        for one in units:
            wanted[one.unit.layer].append(one.unit)
        home = folder / self.network.name / describer
        entries = describe_units(load_describer(describer, labels="probe"), self.dissections, wanted, home)
        texts = {entry.unit: entry.description.text for entry in entries if entry.description}
        return tuple(texts.get(one.unit, "") for one in units)

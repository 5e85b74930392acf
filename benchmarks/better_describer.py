"""Which choice among the beam's texts makes MILAN's descriptions truer?

    python -m benchmarks.better_describer --out runs/generalization [--seeds 5] [--embedder diorama]

Uses the captioners and priors that ``python -m milan.experiments generalization --kinds left-out`` trained in the same
folder; missing ones are trained. Of each kind of change the setting with the best truth score on the AlexNets is
chosen. The table shows its truth score there and on the ResNets, which had no part in the choice, and the difference to
MILAN (beam 50, λ 0.2) with its interval over units. Annotators and world are simulated (Diorama).
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from milan.describers.sand import mask_images
from milan.experiments.core.description_scores import DescriptionScorer, TextsWithReferences
from milan.experiments.generalization.config import GeneralizationConfig
from milan.experiments.generalization.model_training import TrainedModels, search_texts
from milan.experiments.generalization.network_splits import NetworkSplit, divide_units, load_networks, make_splits
from milan.experiments.generalization.trained_splits import RedissectedNetwork, load_or_train
from milan.models import load_encoder
from milan.models.annotated_units import AnnotatedUnit
from milan.models.feature_store import FeatureStore
from milan.pretrained.embedder import load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.scores.confidence_intervals import estimate_mean
from milan.scores.truth_score import Truth
from milan.storage.packaged_data import locate_packaged_data

BEAM, STEPS, WEIGHT = 50, 15, 0.2  # as published
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
COSINE_WEIGHTS = (0.0, 2.0, 5.0, 10.0, 20.0)
EMBEDDER_SEEDS = 2
Texts = list[str]  # one of each unit


@dataclass(frozen=True)
class BeamTexts:
    """The texts that a beam search finds for some units, with log p(d|E) and log p(d) of each."""

    units: tuple[AnnotatedUnit, ...]
    texts: list[Texts]
    likelihood: list[np.ndarray]
    prior: list[np.ndarray]

    def choose(self, weight: float = WEIGHT, cosine_weight: float = 0.0, cosines: Sequence[np.ndarray] = ()) -> Texts:
        """Return each unit's text with the highest log p(d|E) - weight * log p(d) + cosine_weight * cosine."""
        chosen = []
        for row, texts in enumerate(self.texts):
            scores = self.likelihood[row] - weight * self.prior[row]
            if cosine_weight:
                scores = scores + cosine_weight * cosines[row]
            chosen.append(texts[int(np.argmax(scores))])
        return chosen


@dataclass
class LeftOutNetwork:
    """A network that was left out of training, with the models trained on the others."""

    split: NetworkSplit
    config: GeneralizationConfig
    store: FeatureStore
    scorer: DescriptionScorer
    _cache: dict[object, BeamTexts] = field(default_factory=dict)

    @property
    def is_for_choosing(self) -> bool:
        """Whether settings are chosen on this network, and not evaluated."""
        return self.split.name.startswith("alexnet")

    @property
    def units(self) -> tuple[AnnotatedUnit, ...]:
        """The units of the network, which are the same under every seed."""
        return self.search(self.config.seed).units

    def compute_truth(self, units: Sequence[AnnotatedUnit], texts: Texts) -> np.ndarray:
        """Return the truth score of each unit's text, 0..1; NaN of dead units."""
        return np.array(
            list(self.scorer.compute_truth_scores(TextsWithReferences.from_annotations(units, texts)).values())
        )

    def models(self, seed: int) -> TrainedModels:
        return load_or_train(self.split, divide_units(self.split, seed), self.config, self.store, seed)

    def search(self, seed: int, *, validation: bool = False) -> BeamTexts:
        """Return what the beam finds for the network's units, or for the units held out for early stopping."""
        if (seed, validation) not in self._cache:
            divided, models = divide_units(self.split, seed), self.models(seed)
            units = divided.stop if validation else divided.test
            vocabulary, found = models.captioner.vocabulary, BeamTexts(tuple(units), [], [], [])
            for batch in search_texts(models, self.store.load_features(units), BEAM, STEPS):
                for row in range(len(batch.likelihood)):
                    finite = batch.likelihood[row].isfinite()
                    found.texts.append([vocabulary.decode(ids.tolist()) for ids in batch.decoded.tokens[row][finite]])
                    found.likelihood.append(batch.likelihood[row][finite].numpy())
                    found.prior.append(batch.prior[row][finite].numpy())
            self._cache[seed, validation] = found
        return self._cache[seed, validation]

    def search_together(self) -> BeamTexts:
        """Return the texts of the beams of all seeds, with the means over all models of log p(d|E) and log p(d)."""
        if "together" not in self._cache:
            parts = [self.search(seed) for seed in self.config.seed_range]
            texts = [
                list(dict.fromkeys(text for part in parts for text in part.texts[row]))
                for row in range(len(self.units))
            ]
            features = self.store.load_features(self.units)
            scores = [score_texts(self.models(seed), features, texts) for seed in self.config.seed_range]
            likelihood, prior = ([np.mean(rows, axis=0) for rows in zip(*part)] for part in zip(*scores))  # noqa: B905
            self._cache["together"] = BeamTexts(self.units, texts, likelihood, prior)
        return self._cache["together"]


@torch.no_grad()
def score_texts(
    models: TrainedModels, features: Tensor, texts: list[Texts]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return log p(d|E) and log p(d) of each unit's texts."""
    vocabulary, inputs = models.captioner.vocabulary, models.project(features)
    likelihood, prior = [], []
    for row, candidates in enumerate(texts):
        ids = [torch.tensor(vocabulary.encode(text)) for text in candidates]
        tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=vocabulary.stop)
        likelihood.append(models.captioner.score(inputs[row : row + 1], tokens.unsqueeze(0))[0].numpy())
        prior.append(models.prior.score(tokens).numpy())
    return likelihood, prior


@dataclass
class CosineScores:
    """Cosines of texts with the mean of a unit's exemplars, black outside their masks, by an image-text model."""

    spec: str
    _vectors: dict[str, Tensor] = field(default_factory=dict)
    _images: dict[tuple[Path, str], Tensor] = field(default_factory=dict)

    @cached_property
    def embedder(self) -> Embedder:
        return load_embedder(self.spec)

    def compute(self, network: LeftOutNetwork, seed: int) -> list[np.ndarray]:
        """Return the cosine of each of the beam's texts."""
        found = network.search(seed)
        new = sorted({text for texts in found.texts for text in texts} - self._vectors.keys())
        for begin in range(0, len(new), 256):
            part = new[begin : begin + 256]
            self._vectors.update(zip(part, self.embedder.encode_texts(part), strict=True))
        return [
            (torch.stack([self._vectors[text] for text in texts]) @ self._embed(network, one)).numpy()
            for one, texts in zip(found.units, found.texts, strict=True)
        ]

    def _embed(self, network: LeftOutNetwork, one: AnnotatedUnit) -> Tensor:
        key = (one.source, str(one.unit))
        if key not in self._images:
            exemplars = network.store.dissection(one.source).exemplars(one.unit)
            self._images[key] = self.embedder.encode_images(mask_images(exemplars.images, exemplars.masks)).mean(0)
        return self._images[key]


@dataclass(frozen=True)
class Change:
    """One kind of change.

    Attributes:
        name: what is changed.
        settings: by name, the texts of each setting for the units of a network under a seed.
        seeds: number of seeds; 0 for all.
    """

    name: str
    settings: Mapping[str, Callable[[LeftOutNetwork, int], Texts]]
    seeds: int = 0

    def seed_range(self, config: GeneralizationConfig) -> range:
        return config.seed_range[: self.seeds or config.seeds]


def make_changes(embedder: str) -> list[Change]:
    """Return the compared changes; reranking by the image-text model is left out if that is ``none``."""
    cosines = CosineScores(embedder)
    changes = [
        Change("MILAN", {"beam 50, λ 0.2": lambda network, seed: network.search(seed).choose()}),
        Change("λ", {f"λ {w:g}": lambda network, seed, w=w: network.search(seed).choose(w) for w in WEIGHTS}),
        Change("λ by validation", {"truth of the units held out for stopping": choose_by_validation}),
        Change(
            "ensemble of all seeds",
            {f"λ {w:g}": lambda network, _seed, w=w: network.search_together().choose(w) for w in WEIGHTS},
            1,
        ),
        Change(
            "reranking by the image-text model",
            {
                f"cosine × {c:g}, λ {w:g}": lambda network, seed, c=c, w=w: network.search(seed).choose(
                    w, c, cosines.compute(network, seed)
                )
                for c in COSINE_WEIGHTS
                for w in (0.0, WEIGHT)
            },
            EMBEDDER_SEEDS,
        ),
    ]
    return changes[:-1] if embedder == "none" else changes


def choose_by_validation(network: LeftOutNetwork, seed: int) -> Texts:
    """Return the texts with the λ whose truth score is best on units of the training networks that were held out."""
    held_out = network.search(seed, validation=True)
    means = [np.nanmean(network.compute_truth(held_out.units, held_out.choose(weight))) for weight in WEIGHTS]
    return network.search(seed).choose(WEIGHTS[int(np.argmax(means))])


def evaluate(networks: Sequence[LeftOutNetwork], changes: Sequence[Change]) -> Iterator[str]:
    """Return a table's row for each change, with the setting that has the best truth score on the AlexNets."""
    for change in changes:
        seeds = change.seed_range(networks[0].config)
        means = {
            name: np.mean(
                [
                    np.nanmean(network.compute_truth(network.units, describe(network, seed)))
                    for network in networks
                    if network.is_for_choosing
                    for seed in seeds
                ]
            )
            for name, describe in change.settings.items()
        }
        best = max(means, key=lambda name: means[name])
        print(f"{change.name}: {', '.join(f'{name} {value:.3f}' for name, value in means.items())}", flush=True)
        differences, scores, rouge, distinct = [], [], [], []
        for network in (network for network in networks if not network.is_for_choosing):
            texts = [change.settings[best](network, seed) for seed in seeds]
            truth = np.mean([network.compute_truth(network.units, each) for each in texts], axis=0)
            every = network.config.seed_range if len(seeds) == 1 else seeds
            base = [network.compute_truth(network.units, network.search(seed).choose()) for seed in every]
            scores += truth.tolist()
            differences += (truth - np.mean(base, axis=0)).tolist()
            rounds = [TextsWithReferences.from_annotations(network.units, each) for each in texts]
            found = network.scorer.compute_scores(rounds)
            rouge.append(found["ROUGE-L"].value)  # type: ignore[union-attr]
            distinct.append(found["distinct"].value)  # type: ignore[union-attr]
        gain = estimate_mean(differences)
        cells = [change.name, best, f"{means[best]:.3f}", f"{np.nanmean(scores):.3f}"]
        cells.append(f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
        yield f"| {' | '.join([*cells, f'{np.mean(rouge):.3f}', f'{np.mean(distinct):.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/generalization"), help="the experiment's folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--embedder", default="diorama", help="image-text model to rerank by, or none")
    options = parser.parse_args()
    known = yaml.safe_load((locate_packaged_data("configs/experiments") / "generalization.yaml").read_text())
    config = GeneralizationConfig(**known | {"seeds": options.seeds, "out": options.out})
    store, networks = FeatureStore(load_encoder(config.encoder)), load_networks(["diorama"])
    splits = [
        split
        for split in make_splits(networks)
        if split.kind == "leave one out" and split.name.startswith(("alexnet", "resnet"))
    ]
    # Also of the other networks, of which units are held out for early stopping.
    truths: dict[Path, Truth] = {}
    for network in networks:
        truths |= RedissectedNetwork(network, store).measure_truths()
    scorer = DescriptionScorer(truths)
    cases = [LeftOutNetwork(split, config, store, scorer) for split in splits]
    rows = list(evaluate(cases, make_changes(options.embedder)))
    print("\n| change | setting | truth, AlexNets | truth, ResNets | difference to MILAN | ROUGE-L | distinct |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

"""Captioner and prior trained on the annotations of one split, and the texts that they find for units."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from milan.experiments.generalization.config import (
    DROPOUT,
    EMBEDDING,
    MIN_STEPS_PER_EPOCH,
    MINIMUM,
    GeneralizationConfig,
)
from milan.experiments.generalization.network_splits import SplitUnits
from milan.models import Captioner, Prior
from milan.models.annotated_units import AnnotatedUnit, AnnotationSplit
from milan.models.data_module import AnnotationDataModule
from milan.models.decoding import DecodedTexts, TokenConstraints, beam_search
from milan.models.feature_store import FeatureStore
from milan.models.reranking import rank_texts
from milan.models.training import TrainingConfig, TrainingResult, train
from milan.models.vocabulary import Vocabulary

UNITS_PER_SEARCH = 16  # units that are searched for together; changes no result
PRIOR_PATIENCE = 4  # epochs without a lower loss before the prior's training stops


class PrincipalComponents(NamedTuple):
    """A projection of features onto principal components, scaled so that their mean variance is 1."""

    mean: Float[Tensor, " features"]
    basis: Float[Tensor, "features components"]

    @classmethod
    def fit(cls, features: Float[Tensor, "units k features"], count: int) -> "PrincipalComponents":
        """Return the components of greatest variance over the exemplars of these units."""
        rows = features.flatten(0, 1).double()
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).t() @ (rows - mean) / len(rows))
        basis = vectors[:, -count:] / values[-count:].mean().sqrt()
        return cls(mean.float(), basis.float().contiguous())

    def __call__(self, features: Float[Tensor, "units k features"]) -> Float[Tensor, "units k components"]:
        """Return the features in the basis of the components, centred."""
        return (features - self.mean) @ self.basis


class TrainedModels(NamedTuple):
    """A captioner and a prior trained on the same split, with their training logs.

    Attributes:
        captioner: the captioner.
        prior: the prior, of the same vocabulary.
        facts: the training logs.
        components: the projection of the features that the captioner reads; None if it reads the features themselves.
    """

    captioner: Captioner
    prior: Prior
    facts: dict[str, Any]
    components: PrincipalComponents | None = None

    def project(self, features: Float[Tensor, "units k features"]) -> Float[Tensor, "units k inputs"]:
        """Return the captioner's inputs, given the encoder's features."""
        return self.components(features) if self.components else features


class BeamSearchResult(NamedTuple):
    """The texts of a beam search over some units.

    Attributes:
        decoded: the texts of each unit.
        likelihood: log p(d|E) of each text.
        prior: log p(d) of each text.
    """

    decoded: DecodedTexts
    likelihood: Float[Tensor, "units texts"]
    prior: Float[Tensor, "units texts"]


class SplitDataModule(AnnotationDataModule):
    """The annotations of one split, with features in memory.

    Training batches are small enough for ``MIN_STEPS_PER_EPOCH`` steps per epoch. The units kept for early stopping are
    one validation batch.

    Args:
        units: the units of the split.
        store: the encoder's features.
        config: batch size and number of principal components.
        seed: random seed of the order of the batches, and of the training.
        texts_only: whether batches hold no features, for the prior.
    """

    def __init__(
        self, units: SplitUnits, store: FeatureStore, config: GeneralizationConfig, seed: int, texts_only: bool = False
    ):
        super().__init__()
        self.units, self.store, self.config = units, store, config
        self.seed, self.texts_only = seed, texts_only
        self.annotation_count = sum(len(one.texts) for one in units.train)
        self.batch_size = max(1, min(config.batch_size, self.annotation_count // MIN_STEPS_PER_EPOCH))
        self.validation_batch_size = sum(len(one.texts) for one in units.stop)

    @cached_property
    def split(self) -> AnnotationSplit:
        """The training units, and the units kept for early stopping."""
        return AnnotationSplit(self.units.train, self.units.stop)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the training annotations."""
        return Vocabulary.build((text for one in self.units.train for text in one.texts), minimum=MINIMUM)

    @cached_property
    def components(self) -> PrincipalComponents | None:
        """The principal components of the training units' features, if the config asks for them."""
        features = self.store.load_features(self.units.train)
        count = min(self.config.components, features.shape[-1])
        return PrincipalComponents.fit(features, count) if count else None

    @cached_property
    def training_features(self) -> Float[Tensor, "units k inputs"]:
        """The captioner's inputs for the training units."""
        return self.load_features(self.units.train)

    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k inputs"]:
        """Return the captioner's inputs for some units."""
        features = self.store.load_features(units)
        return self.components(features) if self.components else features

    def load_training_features(self, rows: Sequence[int]) -> Float[Tensor, "rows k inputs"]:
        """Return the captioner's inputs for training units, by their positions."""
        return self.training_features[list(rows)]

    def limit_updates(self, updates: int) -> int:
        """Return a number of updates, at most that of all epochs of the config."""
        return min(updates, self.config.epochs * math.ceil(self.annotation_count / self.batch_size))

    def make_training_config(self, updates: int, patience: int) -> TrainingConfig:
        """Return how long to train on this split: for some updates, or by patience if ``updates`` is 0."""
        return TrainingConfig(
            max_epochs=self.config.epochs,
            patience=patience,
            updates=self.limit_updates(updates),
            precision="bf16-mixed" if self.config.half else "32-true",
            device=self.config.device,
        )


def train_models(
    units: SplitUnits, store: FeatureStore, config: GeneralizationConfig, seed: int, patience: int
) -> TrainedModels:
    """Train captioner and prior on a split; the global random state is restored afterwards.

    Args:
        units: the units of the split.
        store: the encoder's features.
        config: sizes, learning rates and durations.
        seed: random seed of initial weights, dropout and batches.
        patience: epochs without a better BLEU before the captioner's training stops.
    """
    data = SplitDataModule(units, store, config, seed)
    captioner = train_captioner(data, patience)
    data.texts_only = True
    prior = train_prior(data)
    facts = {"captioner": captioner.log, "prior": prior.log, "words": len(data.vocabulary.words)}
    return TrainedModels(captioner.model, prior.model, facts, data.components)


def train_captioner(data: SplitDataModule, patience: int) -> TrainingResult:
    """Train the captioner on a split; greedy BLEU on the units kept for early stopping selects the weights."""
    config = data.config
    with fork_seed(data.seed):
        model = Captioner(
            data.vocabulary.words,
            features=data.training_features.shape[-1],
            embedding=EMBEDDING,
            hidden=config.hidden,
            attention=config.hidden,
            dropout=DROPOUT,
            learning_rate=config.learning_rate,
            encoder=data.store.encoder.settings,
        )
        return train(model, data, data.make_training_config(config.updates, patience))


def train_prior(data: SplitDataModule, patience: int = PRIOR_PATIENCE) -> TrainingResult:
    """Train the prior on a split; the loss on the annotations kept for early stopping selects the weights."""
    config = data.config
    with fork_seed(data.seed):
        model = Prior(
            data.vocabulary.words,
            embedding=EMBEDDING,
            hidden=config.prior_hidden,
            dropout=DROPOUT,
            learning_rate=config.prior_learning_rate,
        )
        return train(model, data, data.make_training_config(config.prior_updates, patience))


@contextmanager
def fork_seed(seed: int) -> Iterator[None]:
    """Seed torch's global random generator, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def search_texts(
    models: TrainedModels, features: Float[Tensor, "units k features"], beam: int, steps: int
) -> list[BeamSearchResult]:
    """Return the texts of a beam search with their log p(d|E) and log p(d), a few units at a time."""
    constraints, results = TokenConstraints(models.captioner.vocabulary), []
    device = models.prior.readout.weight.device
    for part in models.project(features).to(device).split(UNITS_PER_SEARCH):
        decoded = beam_search(models.captioner.start_decoding(part), len(part), constraints, beam=beam, steps=steps)
        results.append(BeamSearchResult(decoded, decoded.scores, models.prior.score(decoded.tokens)))
    return results


def choose_texts(results: Sequence[BeamSearchResult], vocabulary: Vocabulary, prior_weight: float) -> list[str]:
    """Return each unit's text of highest log p(d|E) - λ log p(d).

    Args:
        results: the beam's texts.
        vocabulary: the vocabulary of captioner and prior.
        prior_weight: λ; with 0 the most likely text is chosen.
    """
    best = [rank_texts(*each, weight=prior_weight, by="pmi").tokens[:, 0] for each in results]
    return [vocabulary.decode(tokens.tolist()) for batch in best for tokens in batch]

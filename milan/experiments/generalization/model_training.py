"""Captioner and prior trained on features that are computed once, so that many splits and seeds can be tried."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from milan.dissection.store import Dissection, load_dissection
from milan.errors import BadInput
from milan.experiments.generalization.network_splits import SplitUnits
from milan.models import CaptionBatch, Captioner, Encoder, Prior
from milan.models.captioner import compute_bleu
from milan.models.data_module import AnnotatedUnit, EpochBatchSampler, cache_features
from milan.models.decoding import DecodedTexts, TokenConstraints, beam_search
from milan.models.prior import TextBatch
from milan.models.reranking import rank_texts
from milan.models.vocabulary import Vocabulary

UNITS_PER_SEARCH = 16  # units whose texts are sought together; changes no answer
WARMUP_UPDATES = 20  # updates in which the learning rate rises, where it falls after that
MIN_STEPS_PER_EPOCH = (
    8  # in an epoch: batches are smaller where there are few annotations, else it would stop after a few dozen steps
)


@dataclass(frozen=True)
class TrainingRecipe:
    """How captioner and prior are trained.

    In the paper (Hernandez et al. 2022, appendix B) the states are 512 long, a batch is 64 annotations and the learning
    rate 1e-3. Larger batches take fewer steps before the patience, which counts epochs, is spent: with few annotations
    they stop too early. There BLEU of the hundred units kept for stopping goes up and down by chance, so that a fixed
    number of ``updates`` at a rate that falls to zero gives descriptions that are as true, in half the time
    (docs/generalization.md has the figures).

    Attributes:
        hidden: length of the captioner's states and of the space of its attention.
        prior_hidden: length of the prior's states.
        embedding: length of a word's vector.
        dropout: before a word is read off the state, and between the prior's layers.
        learning_rate: of AdamW, for the captioner.
        prior_learning_rate: the same for the prior.
        batch_size: annotations.
        epochs: at most.
        patience: epochs without a better score before the captioner's training ends; at least those that the split has
            in the paper.
        minimum: how often a word must occur in the training texts.
        updates: batches that the captioner sees while its rate falls to zero, of no more than ``epochs``; 0 for the
            paper's stopping.
        prior_updates: likewise of the prior.
        components: how many principal components of the features the captioner reads; 0 for the features themselves, as
            in the paper.
        half: whether matrix products are made of 16-bit numbers (bfloat16); the weights and sums keep 32 bits.
    """

    hidden: int = 256
    prior_hidden: int = 256
    embedding: int = 128
    dropout: float = 0.5
    learning_rate: float = 1e-3
    prior_learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: int = 100
    patience: int = 0
    minimum: int = 2
    updates: int = 0
    prior_updates: int = 0
    components: int = 0
    half: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)


class PrincipalComponents(NamedTuple):
    """Features as their principal components, divided by one number, so that a value's standard deviation is 1 in the
    mean.
    """

    mean: Float[Tensor, " features"]
    basis: Float[Tensor, "features components"]

    @classmethod
    def fit(cls, features: Float[Tensor, "units k features"], count: int) -> "PrincipalComponents":
        """Those of greatest variance over the exemplars of these units."""
        rows = features.flatten(0, 1).double()
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).t() @ (rows - mean) / len(rows))
        basis = vectors[:, -count:] / values[-count:].mean().sqrt()
        return cls(mean.float(), basis.float().contiguous())

    def __call__(self, features: Float[Tensor, "units k features"]) -> Float[Tensor, "units k components"]:
        return (features - self.mean) @ self.basis


class TrainedModels(NamedTuple):
    """Captioner and prior of one vocabulary, how their training went, and what the captioner reads of the features, if
    not all.
    """

    captioner: Captioner
    prior: Prior
    facts: dict[str, Any]
    components: PrincipalComponents | None = None

    def project(self, features: Float[Tensor, "units k features"]) -> Float[Tensor, "units k seen"]:
        """What the captioner reads of them."""
        return self.components(features) if self.components else features


class BeamSearchResult(NamedTuple):
    """The texts that a search found for some units, and how likely each is of its unit and of units in general."""

    decoded: DecodedTexts
    likelihood: Float[Tensor, "units texts"]
    prior: Float[Tensor, "units texts"]


class FeatureStore:
    """The encoder's features of annotated units, read from files that are made once.

    Args:
        encoder: what looks at the exemplars.
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self._files: dict[Path, np.ndarray] = {}
        self._dissections: dict[Path, Dissection] = {}

    def dissection(self, layer: Path) -> Dissection:
        """The layer's, read once."""
        if layer not in self._dissections:
            self._dissections[layer] = load_dissection(layer)
        return self._dissections[layer]

    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k features"]:
        """One row for each unit.

        Raises:
            BadInput: not all of them have as many exemplars.
        """
        rows = [self._rows(one.source)[self.dissection(one.source).row_of(one.unit)] for one in units]
        if counts := sorted({len(row) for row in rows})[1:]:
            raise BadInput(
                f"some units have {counts[0]} exemplars and others fewer; dissect all with one k to learn from them"
                " together"
            )
        return torch.from_numpy(np.stack(rows))

    def _rows(self, layer: Path) -> np.ndarray:
        if layer not in self._files:
            self._files[layer] = np.load(cache_features(self.dissection(layer), self.encoder), mmap_mode="r")
        return self._files[layer]


@dataclass(frozen=True)
class SplitTensors:
    """A split's annotations as tensors, and the vocabulary of those that are trained on."""

    units: SplitUnits
    store: FeatureStore
    recipe: TrainingRecipe
    seed: int
    device: str = "cpu"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.build((text for one in self.units.train for text in one.texts), minimum=self.recipe.minimum)

    @cached_property
    def components(self) -> PrincipalComponents | None:
        """Of the features of the units that are trained on, if the recipe asks for them."""
        count = min(self.recipe.components, self.encoder_features.shape[-1])
        return PrincipalComponents.fit(self.encoder_features, count) if count else None

    @cached_property
    def encoder_features(self) -> Float[Tensor, "units k features"]:
        """The encoder's features of the units that are trained on."""
        return self.store.load_features(self.units.train)

    @cached_property
    def features(self) -> Float[Tensor, "units k seen"]:
        """What the captioner reads of them."""
        return self.components(self.encoder_features) if self.components else self.encoder_features

    @cached_property
    def stop_features(self) -> Float[Tensor, "units k seen"]:
        features = self.store.load_features(self.units.stop)
        return (self.components(features) if self.components else features).to(self.device)

    @cached_property
    def annotations(self) -> list[tuple[int, Int[Tensor, " length"]]]:
        """Every annotation, with the place of its unit."""
        return [(place, self._encode(text)) for place, one in enumerate(self.units.train) for text in one.texts]

    @cached_property
    def stop_texts(self) -> Int[Tensor, "texts length"]:
        return self._pad([self._encode(text) for one in self.units.stop for text in one.texts])

    def iter_batches(self, epoch: int) -> Iterator[CaptionBatch]:
        """The annotations in the order of that epoch, which the seed and its number decide."""
        for chosen in self._shuffle(epoch):
            batch = [self.annotations[place] for place in chosen.tolist()]
            features = self.features[[place for place, _ in batch]]
            yield CaptionBatch(features.to(self.device), self._pad([tokens for _, tokens in batch]))

    def iter_text_batches(self, epoch: int) -> Iterator[TextBatch]:
        """The texts alone."""
        for chosen in self._shuffle(epoch):
            yield TextBatch(self._pad([self.annotations[place][1] for place in chosen.tolist()]))

    @property
    def batch_size(self) -> int:
        """Of a batch."""
        return max(1, min(self.recipe.batch_size, len(self.annotations) // MIN_STEPS_PER_EPOCH))

    def limit_updates(self, wanted: int) -> int:
        """So many batches, or those of the recipe's epochs if these are fewer."""
        return min(wanted, self.recipe.epochs * math.ceil(len(self.annotations) / self.batch_size))

    def _shuffle(self, epoch: int) -> tuple[Int[Tensor, " batch"], ...]:
        return EpochBatchSampler(len(self.annotations), self.batch_size, self.seed).order(epoch).split(self.batch_size)

    def _encode(self, text: str) -> Int[Tensor, " length"]:
        return torch.tensor(self.vocabulary.encode(text))

    def _pad(self, texts: Sequence[Tensor]) -> Int[Tensor, "texts length"]:
        return pad_sequence(list(texts), batch_first=True, padding_value=self.vocabulary.pad).to(self.device)


def train_models(tensors: SplitTensors, patience: int) -> TrainedModels:
    """Trains captioner and prior; the random generators are left as they were."""
    captioner, of_captioner = train_captioner(tensors, patience)
    prior, of_prior = train_prior(tensors)
    facts = {"captioner": of_captioner, "prior": of_prior, "words": len(tensors.vocabulary.words)}
    return TrainedModels(captioner, prior, facts, tensors.components)


def train_captioner(tensors: SplitTensors, patience: int) -> tuple[Captioner, dict[str, Any]]:
    """The captioner, stopped where greedy BLEU on the units kept for that rises no more, with its best weights."""
    recipe = tensors.recipe
    with fork_seed(tensors.seed):
        model = Captioner(
            tensors.vocabulary.words,
            features=tensors.features.shape[-1],
            embedding=recipe.embedding,
            hidden=recipe.hidden,
            attention=recipe.hidden,
            dropout=recipe.dropout,
            learning_rate=recipe.learning_rate,
            encoder=tensors.store.encoder.settings,
        ).to(tensors.device)
        references = [list(one.texts) for one in tensors.units.stop]

        if recipe.updates:
            return model, train_for_updates(
                model,
                model.loss,
                tensors.iter_batches,
                tensors.limit_updates(recipe.updates),
                learning_rate=recipe.learning_rate,
                half=recipe.half,
            )

        def evaluate() -> float:
            return compute_bleu(model.decode_greedily(tensors.stop_features), references)

        facts = train_with_early_stopping(
            model,
            model.loss,
            tensors.iter_batches,
            evaluate,
            recipe,
            learning_rate=recipe.learning_rate,
            patience=patience,
        )
    return model, {"epochs": facts["epochs"], "bleu": facts["best"]}


def train_prior(tensors: SplitTensors, patience: int = 4) -> tuple[Prior, dict[str, Any]]:
    """The prior, stopped where the loss on the texts kept for that falls no more, with its best weights."""
    recipe = tensors.recipe
    with fork_seed(tensors.seed):
        words, sizes = tensors.vocabulary.words, {"embedding": recipe.embedding, "hidden": recipe.prior_hidden}
        model = Prior(words, **sizes, dropout=recipe.dropout, learning_rate=recipe.prior_learning_rate).to(
            tensors.device
        )

        loss, rate = (lambda batch: compute_text_loss(model, batch.tokens)), recipe.prior_learning_rate
        if recipe.prior_updates:
            return model, train_for_updates(
                model,
                loss,
                tensors.iter_text_batches,
                tensors.limit_updates(recipe.prior_updates),
                learning_rate=rate,
                half=recipe.half,
            )

        def evaluate() -> float:
            return -compute_text_loss(model, tensors.stop_texts).item()

        facts = train_with_early_stopping(
            model, loss, tensors.iter_text_batches, evaluate, recipe, learning_rate=rate, patience=patience
        )
    return model, {"epochs": facts["epochs"], "loss": -facts["best"]}


def compute_text_loss(prior: Prior, tokens: Int[Tensor, "texts length"]) -> Float[Tensor, ""]:
    """What ``Prior.loss`` gives, without a step for any padded token: half the time where most texts are shorter than
    the longest.
    """
    lengths = (tokens != prior.vocabulary.pad).sum(1).cpu()
    before = torch.cat([torch.full_like(tokens[:, :1], prior.vocabulary.start), tokens[:, :-1]], 1)
    states, said = (
        pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        for values in (prior.embedding(before), tokens)
    )
    return F.cross_entropy(prior.readout(prior.lstm(states)[0].data), said.data)


def train_with_early_stopping(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Callable[[int], Iterator[Any]],
    evaluate: Callable[[], float],
    recipe: TrainingRecipe,
    *,
    learning_rate: float,
    patience: int,
) -> dict[str, Any]:
    """Trains until ``evaluate`` has not risen for ``patience`` epochs, and leaves the model with the weights that it
    judged best.

    Args:
        model: what is trained.
        loss: of a batch.
        batches: of an epoch, by its number.
        evaluate: called after each epoch in evaluation mode; larger is better.
        recipe: greatest number of epochs, and precision.
        learning_rate: of learning, of AdamW.
        patience: epochs without a better judgement.
    """
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
    best, kept, since, epoch = -float("inf"), copy.deepcopy(model.state_dict()), 0, 0
    for epoch in range(recipe.epochs):
        model.train()
        for batch in batches(epoch):
            _train_step(optimizer, loss, batch, half=recipe.half)
        model.eval()
        with torch.no_grad():
            score = evaluate()
        since = 0 if score > best else since + 1
        if score > best:
            best, kept = score, copy.deepcopy(model.state_dict())
        if since >= patience:
            break
    model.load_state_dict(kept)
    return {"epochs": epoch + 1, "best": round(best, 4)}


def train_for_updates(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Callable[[int], Iterator[Any]],
    updates: int,
    *,
    learning_rate: float,
    half: bool,
) -> dict[str, Any]:
    """Trains on so many batches, one epoch after the other; the rate rises for 20 of them and falls to zero from the
    first to the last.

    The model is left as it is then, in evaluation mode.
    """
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / WARMUP_UPDATES, 1 - done / updates)
    )
    model.train()
    for batch in islice(chain.from_iterable(map(batches, count())), updates):
        last = _train_step(optimizer, loss, batch, half=half)
        falling.step()
    model.eval()
    return {"updates": updates, "loss": round(float(last), 4)}


def _train_step(optimizer: torch.optim.Optimizer, loss: Callable[[Any], Tensor], batch: Any, *, half: bool) -> Tensor:
    optimizer.zero_grad()
    with torch.autocast(optimizer.param_groups[0]["params"][0].device.type, torch.bfloat16, enabled=half):
        value = loss(batch)
    value.backward()
    optimizer.step()
    return value.detach()


@contextmanager
def fork_seed(seed: int) -> Iterator[None]:
    """Random numbers of a seed within the block; after it the generators are as they were before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def search_texts(
    models: TrainedModels, features: Float[Tensor, "units k features"], beam: int, steps: int
) -> list[BeamSearchResult]:
    """The beam's texts for each unit, with their log p(d|E) and log p(d), a few units at a time."""
    speller, found = TokenConstraints(models.captioner.vocabulary), []
    for part in models.project(features).to(models.prior.readout.weight.device).split(UNITS_PER_SEARCH):
        texts = beam_search(models.captioner.start_decoding(part), len(part), speller, beam=beam, steps=steps)
        found.append(BeamSearchResult(texts, texts.scores, models.prior.score(texts.tokens)))
    return found


def choose_texts(results: Sequence[BeamSearchResult], vocabulary: Vocabulary, prior_weight: float) -> list[str]:
    """Of each unit's texts the one of highest log p(d|E) - weight * log p(d); with weight 0 the likeliest."""
    best = [rank_texts(*each, weight=prior_weight, by="pmi").tokens[:, 0] for each in results]
    return [vocabulary.decode(tokens.tolist()) for batch in best for tokens in batch]

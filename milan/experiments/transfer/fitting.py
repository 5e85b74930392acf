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

from milan.annotations import Annotated, Shuffled, features_file
from milan.dissection.store import Dissection, load_dissection
from milan.errors import BadInput
from milan.experiments.transfer.splits import Share
from milan.models import CaptionBatch, Captioner, Encoder, Prior
from milan.models.captioner import bleu
from milan.models.decoding import Found, Speller, beam_search
from milan.models.prior import TextBatch
from milan.models.reranking import ranked
from milan.vocabulary import Vocabulary

AT_ONCE = 16  # units whose texts are sought together; changes no answer
RISING = 20  # updates in which the learning rate rises, where it falls after that
LEAST_STEPS = 8  # in an epoch: batches are smaller where there are few annotations, else it would stop after a few dozen steps


@dataclass(frozen=True)
class Recipe:
    """How captioner and prior are trained.

    In the paper (Hernandez et al. 2022, appendix B) the states are 512 long, a batch is 64 annotations and the learning rate 1e-3. Larger
    batches take fewer steps before the patience, which counts epochs, is spent: with few annotations they stop too early. There BLEU of
    the hundred units kept for stopping goes up and down by chance, so that a fixed number of ``updates`` at a rate that falls to zero gives
    descriptions that are as true, in half the time (docs/generalization.md has the figures).

    Attributes:
        hidden: length of the captioner's states and of the space of its attention.
        prior_hidden: length of the prior's states.
        embedding: length of a word's vector.
        dropout: before a word is read off the state, and between the prior's layers.
        learning_rate: of AdamW, for the captioner.
        prior_learning_rate: the same for the prior.
        batch_size: annotations.
        epochs: at most.
        patience: epochs without a better score before the captioner's training ends; at least those that the split has in the paper.
        minimum: how often a word must occur in the training texts.
        updates: batches that the captioner sees while its rate falls to zero, of no more than ``epochs``; 0 for the paper's stopping.
        prior_updates: likewise of the prior.
        components: how many principal components of the features the captioner reads; 0 for the features themselves, as in the paper.
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


class Components(NamedTuple):
    """Features as their principal components, divided by one number, so that a value's standard deviation is 1 in the mean."""

    mean: Float[Tensor, " features"]
    basis: Float[Tensor, "features components"]

    @classmethod
    def of(cls, features: Float[Tensor, "units k features"], count: int) -> "Components":
        """Those of greatest variance over the exemplars of these units."""
        rows = features.flatten(0, 1).double()
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).t() @ (rows - mean) / len(rows))
        basis = vectors[:, -count:] / values[-count:].mean().sqrt()
        return cls(mean.float(), basis.float().contiguous())

    def __call__(self, features: Float[Tensor, "units k features"]) -> Float[Tensor, "units k components"]:
        return (features - self.mean) @ self.basis


class Fitted(NamedTuple):
    """Captioner and prior of one vocabulary, how their training went, and what the captioner reads of the features, if not all."""

    captioner: Captioner
    prior: Prior
    facts: dict[str, Any]
    components: Components | None = None

    def seen(self, features: Float[Tensor, "units k features"]) -> Float[Tensor, "units k seen"]:
        """What the captioner reads of them."""
        return self.components(features) if self.components else features


class Searched(NamedTuple):
    """The texts that a search found for some units, and how likely each is of its unit and of units in general."""

    found: Found
    likelihood: Float[Tensor, "units texts"]
    prior: Float[Tensor, "units texts"]


class Evidence:
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

    def features(self, units: Sequence[Annotated]) -> Float[Tensor, "units k features"]:
        """One row for each unit.

        Raises:
            BadInput: not all of them have as many exemplars.
        """
        rows = [self._rows(one.source)[self.dissection(one.source).row(one.unit)] for one in units]
        if counts := sorted({len(row) for row in rows})[1:]:
            raise BadInput(f"some units have {counts[0]} exemplars and others fewer; dissect all with one k to learn from them together")
        return torch.from_numpy(np.stack(rows))

    def _rows(self, layer: Path) -> np.ndarray:
        if layer not in self._files:
            self._files[layer] = np.load(features_file(self.dissection(layer), self.encoder), mmap_mode="r")
        return self._files[layer]


@dataclass(frozen=True)
class Lessons:
    """A split's annotations as tensors, and the vocabulary of those that are trained on."""

    share: Share
    evidence: Evidence
    recipe: Recipe
    seed: int
    device: str = "cpu"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.build((text for one in self.share.train for text in one.texts), minimum=self.recipe.minimum)

    @cached_property
    def components(self) -> Components | None:
        """Of the features of the units that are trained on, if the recipe asks for them."""
        count = min(self.recipe.components, self.whole.shape[-1])
        return Components.of(self.whole, count) if count else None

    @cached_property
    def whole(self) -> Float[Tensor, "units k features"]:
        """The encoder's features of the units that are trained on."""
        return self.evidence.features(self.share.train)

    @cached_property
    def features(self) -> Float[Tensor, "units k seen"]:
        """What the captioner reads of them."""
        return self.components(self.whole) if self.components else self.whole

    @cached_property
    def stop_features(self) -> Float[Tensor, "units k seen"]:
        features = self.evidence.features(self.share.stop)
        return (self.components(features) if self.components else features).to(self.device)

    @cached_property
    def said(self) -> list[tuple[int, Int[Tensor, " length"]]]:
        """Every annotation, with the place of its unit."""
        return [(place, self._encoded(text)) for place, one in enumerate(self.share.train) for text in one.texts]

    @cached_property
    def stop_texts(self) -> Int[Tensor, "texts length"]:
        return self._padded([self._encoded(text) for one in self.share.stop for text in one.texts])

    def batches(self, epoch: int) -> Iterator[CaptionBatch]:
        """The annotations in the order of that epoch, which the seed and its number decide."""
        for chosen in self._order(epoch):
            batch = [self.said[place] for place in chosen.tolist()]
            features = self.features[[place for place, _ in batch]]
            yield CaptionBatch(features.to(self.device), self._padded([tokens for _, tokens in batch]))

    def text_batches(self, epoch: int) -> Iterator[TextBatch]:
        """The texts alone."""
        for chosen in self._order(epoch):
            yield TextBatch(self._padded([self.said[place][1] for place in chosen.tolist()]))

    @property
    def size(self) -> int:
        """Of a batch."""
        return max(1, min(self.recipe.batch_size, len(self.said) // LEAST_STEPS))

    def updates(self, wanted: int) -> int:
        """So many batches, or those of the recipe's epochs if these are fewer."""
        return min(wanted, self.recipe.epochs * math.ceil(len(self.said) / self.size))

    def _order(self, epoch: int) -> tuple[Int[Tensor, " batch"], ...]:
        return Shuffled(len(self.said), self.size, self.seed).order(epoch).split(self.size)

    def _encoded(self, text: str) -> Int[Tensor, " length"]:
        return torch.tensor(self.vocabulary.encode(text))

    def _padded(self, texts: Sequence[Tensor]) -> Int[Tensor, "texts length"]:
        return pad_sequence(list(texts), batch_first=True, padding_value=self.vocabulary.pad).to(self.device)


def fit_models(lessons: Lessons, patience: int) -> Fitted:
    """Trains captioner and prior; the random generators are left as they were."""
    captioner, of_captioner = fit_captioner(lessons, patience)
    prior, of_prior = fit_prior(lessons)
    facts = {"captioner": of_captioner, "prior": of_prior, "words": len(lessons.vocabulary.words)}
    return Fitted(captioner, prior, facts, lessons.components)


def fit_captioner(lessons: Lessons, patience: int) -> tuple[Captioner, dict[str, Any]]:
    """The captioner, stopped where greedy BLEU on the units kept for that rises no more, with its best weights."""
    recipe = lessons.recipe
    with seeded(lessons.seed):
        model = Captioner(
            lessons.vocabulary.words,
            features=lessons.features.shape[-1],
            embedding=recipe.embedding,
            hidden=recipe.hidden,
            attention=recipe.hidden,
            dropout=recipe.dropout,
            learning_rate=recipe.learning_rate,
            encoder=lessons.evidence.encoder.settings,
        ).to(lessons.device)
        references = [list(one.texts) for one in lessons.share.stop]

        if recipe.updates:
            return model, fit_by_schedule(
                model, model.loss, lessons.batches, lessons.updates(recipe.updates), rate=recipe.learning_rate, half=recipe.half
            )

        def judged() -> float:
            return bleu(model.greedy_texts(lessons.stop_features), references)

        facts = fit(model, model.loss, lessons.batches, judged, recipe, rate=recipe.learning_rate, patience=patience)
    return model, {"epochs": facts["epochs"], "bleu": facts["best"]}


def fit_prior(lessons: Lessons, patience: int = 4) -> tuple[Prior, dict[str, Any]]:
    """The prior, stopped where the loss on the texts kept for that falls no more, with its best weights."""
    recipe = lessons.recipe
    with seeded(lessons.seed):
        words, sizes = lessons.vocabulary.words, {"embedding": recipe.embedding, "hidden": recipe.prior_hidden}
        model = Prior(words, **sizes, dropout=recipe.dropout, learning_rate=recipe.prior_learning_rate).to(lessons.device)

        loss, rate = (lambda batch: text_loss(model, batch.tokens)), recipe.prior_learning_rate
        if recipe.prior_updates:
            return model, fit_by_schedule(
                model, loss, lessons.text_batches, lessons.updates(recipe.prior_updates), rate=rate, half=recipe.half
            )

        def judged() -> float:
            return -text_loss(model, lessons.stop_texts).item()

        facts = fit(model, loss, lessons.text_batches, judged, recipe, rate=rate, patience=patience)
    return model, {"epochs": facts["epochs"], "loss": -facts["best"]}


def text_loss(prior: Prior, tokens: Int[Tensor, "texts length"]) -> Float[Tensor, ""]:
    """What ``Prior.loss`` gives, without a step for any padded token: half the time where most texts are shorter than the longest."""
    lengths = (tokens != prior.vocabulary.pad).sum(1).cpu()
    before = torch.cat([torch.full_like(tokens[:, :1], prior.vocabulary.start), tokens[:, :-1]], 1)
    states, said = (
        pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False) for values in (prior.embedding(before), tokens)
    )
    return F.cross_entropy(prior.readout(prior.lstm(states)[0].data), said.data)


def fit(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Callable[[int], Iterator[Any]],
    judge: Callable[[], float],
    recipe: Recipe,
    *,
    rate: float,
    patience: int,
) -> dict[str, Any]:
    """Trains until ``judge`` has not risen for ``patience`` epochs, and leaves the model with the weights that it judged best.

    Args:
        model: what is trained.
        loss: of a batch.
        batches: of an epoch, by its number.
        judge: called after each epoch in evaluation mode; larger is better.
        recipe: greatest number of epochs, and precision.
        rate: of learning, of AdamW.
        patience: epochs without a better judgement.
    """
    optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True)
    best, kept, since, epoch = -float("inf"), copy.deepcopy(model.state_dict()), 0, 0
    for epoch in range(recipe.epochs):
        model.train()
        for batch in batches(epoch):
            _update(optimizer, loss, batch, half=recipe.half)
        model.eval()
        with torch.no_grad():
            score = judge()
        since = 0 if score > best else since + 1
        if score > best:
            best, kept = score, copy.deepcopy(model.state_dict())
        if since >= patience:
            break
    model.load_state_dict(kept)
    return {"epochs": epoch + 1, "best": round(best, 4)}


def fit_by_schedule(
    model: nn.Module, loss: Callable[[Any], Tensor], batches: Callable[[int], Iterator[Any]], updates: int, *, rate: float, half: bool
) -> dict[str, Any]:
    """Trains on so many batches, one epoch after the other; the rate rises for 20 of them and falls to zero from the first to the last.

    The model is left as it is then, in evaluation mode.
    """
    optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min((done + 1) / RISING, 1 - done / updates))
    model.train()
    for batch in islice(chain.from_iterable(map(batches, count())), updates):
        last = _update(optimizer, loss, batch, half=half)
        falling.step()
    model.eval()
    return {"updates": updates, "loss": round(float(last), 4)}


def _update(optimizer: torch.optim.Optimizer, loss: Callable[[Any], Tensor], batch: Any, *, half: bool) -> Tensor:
    optimizer.zero_grad()
    with torch.autocast(optimizer.param_groups[0]["params"][0].device.type, torch.bfloat16, enabled=half):
        value = loss(batch)
    value.backward()
    optimizer.step()
    return value.detach()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of a seed within the block; after it the generators are as they were before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def search(fitted: Fitted, features: Float[Tensor, "units k features"], beam: int, steps: int) -> list[Searched]:
    """The beam's texts for each unit, with their log p(d|E) and log p(d), a few units at a time."""
    speller, found = Speller(fitted.captioner.vocabulary), []
    for part in fitted.seen(features).to(fitted.prior.readout.weight.device).split(AT_ONCE):
        texts = beam_search(fitted.captioner.walk(part), len(part), speller, beam=beam, steps=steps)
        found.append(Searched(texts, texts.scores, fitted.prior.score(texts.tokens)))
    return found


def chosen(searched: Sequence[Searched], vocabulary: Vocabulary, weight: float) -> list[str]:
    """Of each unit's texts the one of highest log p(d|E) - weight * log p(d); with weight 0 the likeliest."""
    best = [ranked(*each, weight=weight, by="pmi").tokens[:, 0] for each in searched]
    return [vocabulary.decode(tokens.tolist()) for batch in best for tokens in batch]

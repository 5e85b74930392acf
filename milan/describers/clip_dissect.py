"""CLIP-Dissect (Oikarinen & Weng 2023): the concept whose likeness to the probe's images goes with the unit's activations."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.concepts import concept_set
from milan.describers.base import Describer, living
from milan.dissection.store import Dissection, Pooling
from milan.errors import BadInput, MilanWarning
from milan.pretrained.embedder import Embedder, load_embedder, probe_embeddings, text_embeddings
from milan.pretrained.sources import Precision
from milan.units import Candidate, Description, Unit

Similarity = Literal["soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"]
# Constants of the released code, similarity.py (Trustworthy-ML-Lab/CLIP-dissect at 21e7697).
TOP = {"soft_wpmi": 100, "wpmi": 28}
TEMPERATURE = {"soft_wpmi": 10.0, "wpmi": 2.0}
OWN_TEMPERATURE = 1.0  # with Diorama's embedders: the best of 10, 5, 2 and 1 by truth score on alexnet-scenes
PRIOR_WEIGHT = {"soft_wpmi": 1.0, "wpmi": 0.6}
FIRST, LAST = 0.998, 0.970  # how surely the strongest image, and the one after the last, belongs to the unit's images
TOP_SHARE, POWER, LIKENESS_POWER = 0.05, 3, 0.5  # of rank_reorder
LEAST_NORM = 1e-3  # of the cosines
FEWEST = 10  # images of rank_reorder, so that there is an order to speak of
LEAST_LIKENESS = 1e-6  # mean likeness that rank_reorder divides by; the released code has NaN where it is negative
SHOWN = 10  # candidates kept with a description
CONCEPTS, UNITS = 128, 512  # of a block of soft WPMI: 256 kB, so that it stays near the processor
ROWS = 64  # images whose softmax is summed together
FULL = 80.0  # log of the largest product kept in float32


class _Layer(NamedTuple):
    """What is known of a layer once for all of its units."""

    likeness: Tensor  # images concepts
    activations: Tensor  # images units, of the living units and the background
    columns: dict[Unit, int]  # of the activations
    prior: Tensor  # concepts


class ClipDissect(Describer):
    """Chooses from a set of concepts by the likeness that an image-text model sees between it and images that activate the unit.

    Of the five similarities ``soft_wpmi`` is the paper's best: how likely a concept is of the unit's strongest images, over how likely it
    is of those of the layer's units in general. The released code takes "in general" over whatever units are dissected together, so that
    one unit alone scores 0 for every concept; here it is over ``background_units``, the whole layer unless given, and an answer never
    depends on what else is asked. Scores compare concepts of one unit and grow as the concept set shrinks; ``deviations`` of a candidate
    says how many standard deviations it stands above the unit's mean concept.

    Differences from the released code: rank_reorder's baseline is the exact mean over all orders, not five random ones; soft_wpmi has no
    1e-7 added inside the logarithm; ties between images go by their place in the probe. An image that cannot be read is left out.

    Args:
        similarity: soft_wpmi, wpmi, rank_reorder, cos_similarity, or cos_similarity_cubed (in the released code, not in the paper).
        concepts: the set to choose from, as ``milan.concepts.concept_set`` takes it.
        embedder: the image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        prompt: what a concept is put into; the released code takes the bare concept.
        pooling: of an activation map into one number for an image: mean (published), max, cls or tokens.
        background_units: indices of the layer's units over which the prior of soft_wpmi and wpmi is taken; all living ones unless given.
        top: strongest images taken; 100 for soft_wpmi, 28 for wpmi unless given, and never more than there are.
        temperature: that multiplies likeness before the softmax over concepts; unless given 10 for soft_wpmi and 2 for wpmi, as published,
            and 1 with Diorama's embedders, whose cosines differ by more: at 10 a single image would decide.
        prior_weight: λ; 1 for soft_wpmi, 0.6 for wpmi unless given.
        spacy_model: finds the phrases where ``concepts`` asks for a harvest.
        precision: of the image-text model.
        batch_size: units scored together; changes no answer.
        device: where the image-text model runs.
    """

    name: ClassVar[str] = "clip_dissect"
    version: ClassVar[int] = 1

    def __init__(
        self,
        similarity: Similarity = "soft_wpmi",
        concepts: str | list[str] = "diorama",
        embedder: str = "diorama",
        prompt: str = "{}",
        pooling: Pooling = "mean",
        background_units: list[int] | None = None,
        top: int | None = None,
        temperature: float | None = None,
        prior_weight: float | None = None,
        spacy_model: str = "lexicon",
        precision: Precision = "float32",
        batch_size: int = 256,
        device: str = "cpu",
    ):
        if "{}" not in prompt:
            raise BadInput(f"the prompt {prompt!r} has no {{}} for the concept")
        self.similarity, self.concepts, self.embedder, self.prompt, self.pooling = similarity, concepts, embedder, prompt, pooling
        self.background_units, self.top, self.temperature, self.prior_weight = background_units, top, temperature, prior_weight
        self.spacy_model, self.precision, self.batch_size, self.device = spacy_model, precision, batch_size, device
        self._known: tuple[str, _Layer] | None = None

    @property
    def key(self) -> str:
        """Content key of the settings that change answers, of the concepts themselves and of the image-text model."""
        places = ("batch_size", "device", "concepts", "embedder", "precision", "spacy_model")
        settings = {name: value for name, value in self.settings.items() if name not in places} | {"temperature": self._temperature}
        return self.key_of(choices=self.choices, model=self.model.key, **settings)

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded when first asked for."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def choices(self) -> list[str]:
        """The concepts, each once."""
        return concept_set(self.concepts, spacy_model=self.spacy_model)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        alive = living(dissection, units)
        if not alive:
            return
        layer = self._layer(dissection)
        for begin in range(0, len(alive), self.batch_size):
            batch = alive[begin : begin + self.batch_size]
            evidence = self._evidence(layer, [layer.columns[unit] for unit in batch])
            for unit, row in zip(batch, evidence, strict=True):
                yield self._description(unit, row, layer.prior)

    def _description(self, unit: Unit, evidence: Float[Tensor, " concepts"], prior: Float[Tensor, " concepts"]) -> Description:
        scores = evidence - self._setting("prior_weight", PRIOR_WEIGHT, 0.0) * prior
        spread = float(scores.std(correction=0)) or 1.0
        best = torch.sort(scores, descending=True, stable=True).indices[:SHOWN].tolist()
        candidates = []
        for place in best:
            score = float(scores[place])
            parts = (("deviations", (score - float(scores.mean())) / spread),)
            if self.similarity in TOP:
                parts += (("likelihood", float(evidence[place])), ("prior", float(prior[place])))  # type: ignore[assignment]
            candidates.append(Candidate(self.choices[place], score, parts))
        return Description(unit, candidates[0].text, candidates[0].score, candidates=tuple(candidates))

    def _layer(self, dissection: Dissection) -> _Layer:
        """Read once for a dissection, however often units of it are asked for."""
        if self._known is None or self._known[0] != dissection.key:
            self._known = dissection.key, self._read(dissection)
        return self._known[1]

    def _read(self, dissection: Dissection) -> _Layer:
        background = self._background(dissection)
        units = list(dict.fromkeys([*dissection.alive(), *background]))
        activations = dissection.activations(self.pooling)[:, [dissection.row(unit) for unit in units]].float()
        pictures = probe_embeddings(self.model, dissection.open_probe())
        seen = ~(activations.isnan().all(1) | pictures.isnan().any(1))
        texts = text_embeddings(self.model, [self.prompt.replace("{}", concept) for concept in self.choices])
        layer = _Layer(
            pictures[seen] @ texts.T, finite(activations[seen]), {unit: place for place, unit in enumerate(units)}, texts[:, 0] * 0
        )
        if self.similarity not in TOP:
            return layer
        columns = [layer.columns[unit] for unit in background]
        parts = (self._evidence(layer, columns[begin : begin + self.batch_size]) for begin in range(0, len(columns), self.batch_size))
        return layer._replace(prior=over_units(parts))

    def _background(self, dissection: Dissection) -> list[Unit]:
        indices = self.background_units
        found = dissection.alive() if indices is None else [Unit(dissection.layer, index) for index in indices]
        if len(found) < 2 and self.similarity in TOP:
            given = ", ".join(map(str, found)) or "none"
            text = f"{dissection.layer}: the prior is over {len(found)} background units ({given}); it says little"
            warnings.warn(text, MilanWarning, stacklevel=2)
        return found

    def _evidence(self, layer: _Layer, columns: Sequence[int]) -> Float[Tensor, "units concepts"]:
        """How well each concept fits each unit, before the prior."""
        if self.similarity in TOP:
            best = strongest(layer.activations[:, columns], self._setting("top", TOP, 1))
            temperature = self._temperature
            if self.similarity == "wpmi":
                return log_likelihood(layer.likeness, best, temperature)
            return soft_log_likelihood(layer.likeness, best, inclusion(best.shape[1]), temperature)
        if self.similarity == "rank_reorder":
            return rank_reorder(layer.likeness, layer.activations[:, columns])
        together = torch.zeros(len(layer.activations), max(self.batch_size, len(columns)))
        together[:, : len(columns)] = layer.activations[:, columns]  # always as many at once: a product's last digits vary with its shape
        return (cosine_cubed if self.similarity == "cos_similarity_cubed" else cosine)(layer.likeness, together)[: len(columns)]

    @property
    def _temperature(self) -> float:
        if self.temperature is None and self.embedder.partition(":")[0] == "diorama":
            return OWN_TEMPERATURE
        return self._setting("temperature", TEMPERATURE, 1.0)

    def _setting(self, name: str, published: Mapping[str, Any], other: Any) -> Any:
        """A setting as it was given, else as published for the similarity."""
        given = getattr(self, name)
        return published.get(self.similarity, other) if given is None else given


def finite(activations: Float[Tensor, "images units"]) -> Float[Tensor, "images units"]:
    """Values that are not finite as each unit's least finite one."""
    good = activations.isfinite()
    if good.all():
        return activations
    least = activations.where(good, torch.inf).amin(0)
    return activations.where(good, least.where(least.isfinite(), 0.0))


def strongest(activations: Float[Tensor, "images units"], count: int) -> Int[Tensor, "units top"]:
    """The images that activate each unit most, strongest first, ties by number; all images where there are fewer than ``count``.

    >>> strongest(torch.tensor([[0.0, 2.0], [1.0, 2.0], [0.0, 3.0]]), 2)
    tensor([[1, 0],
            [2, 0]])
    """
    rows = activations.T.contiguous()
    count = min(count, rows.shape[1])
    found = rows.topk(count)
    last = found.values[:, -1:]
    tied = (found.values[:, 1:] == found.values[:, :-1]).any(1) | ((rows >= last).sum(1) > count)  # topk breaks ties as it likes
    best = found.indices
    best[tied] = rows[tied].sort(dim=1, descending=True, stable=True).indices[:, :count]
    return best


def inclusion(count: int, first: float = FIRST, last: float = LAST) -> Float[Tensor, " top"]:
    """How surely each of the strongest images belongs to the unit's: from ``first`` down to just above ``last``.

    >>> inclusion(4)
    tensor([0.9980, 0.9910, 0.9840, 0.9770])
    """
    return (first + (last - first) * torch.arange(count, dtype=torch.float64) / count).float()


def soft_log_likelihood(
    likeness: Float[Tensor, "images concepts"], best: Int[Tensor, "units top"], surely: Float[Tensor, " top"], temperature: float
) -> Float[Tensor, "units concepts"]:
    """log p(concept | the unit's images) of soft WPMI: Σ log(1 + p (x - 1)), x the softmax over concepts of likeness times temperature.

    It is given without the constant Σ log(1 - p), the same for all units and concepts, whose size would cost float32 its last digits:
    what is left is log Π (1 + x p / (1 - p)), and the product needs one multiplication for each image and no logarithm.
    """
    odds = (surely.double() / (1 - surely.double())).tolist()
    norms = log_norms(likeness, temperature)[:, None]
    ranks = [rank.split(UNITS) for rank in best.T.contiguous()]
    total = torch.empty(len(best), likeness.shape[1])
    chances = work = torch.empty(0)
    for begin in range(0, likeness.shape[1], CONCEPTS):
        block = likeness[:, begin : begin + CONCEPTS]
        if block.shape != chances.shape:  # new memory for each block would have to be cleared by the system first
            chances, work = torch.empty(block.shape), torch.empty(2, min(UNITS, len(best)), block.shape[1])
        torch.sub(torch.mul(block, temperature, out=chances), norms, out=chances).exp_()
        for start, part in zip(range(0, len(best), UNITS), zip(*ranks, strict=True), strict=True):
            total[start : start + UNITS, begin : begin + CONCEPTS] = _log_product(chances, part, odds, work)
    return total


def _log_product(
    chances: Float[Tensor, "images some"], ranks: Sequence[Tensor], odds: Sequence[float], work: Float[Tensor, "2 most some"]
) -> Float[Tensor, "units some"]:
    """Σ log(1 + odds x) over ranks; the logarithm is taken whenever the product might leave float32."""
    product, rows = work[:, : len(ranks[0])]
    largest, size = float(chances.max()), 0.0
    total = torch.zeros_like(product)
    product.fill_(1.0)
    for rank, factor in zip(ranks, odds, strict=True):
        size += math.log1p(factor * largest)
        if size > FULL:
            total += product.log_()
            product.fill_(1.0)
            size = math.log1p(factor * largest)
        torch.index_select(chances, 0, rank, out=rows)
        product.addcmul_(product, rows, value=factor)
    return total.add_(product.log_())


def log_likelihood(
    likeness: Float[Tensor, "images concepts"], best: Int[Tensor, "units top"], temperature: float
) -> Float[Tensor, "units concepts"]:
    """log p(concept | the unit's images) of WPMI: Σ log x, x the softmax over concepts of likeness times temperature."""
    norms = log_norms(likeness, temperature)[best].sum(1)
    summed = torch.nn.functional.embedding_bag(best, likeness, mode="sum")
    return summed * temperature - norms[:, None]


def log_norms(likeness: Float[Tensor, "images concepts"], temperature: float) -> Float[Tensor, " images"]:
    """The logarithm of each image's sum over concepts of exp(temperature likeness)."""
    norms, work = torch.empty(len(likeness)), torch.empty(ROWS, likeness.shape[1])
    for begin in range(0, len(likeness), ROWS):
        rows = torch.mul(likeness[begin : begin + ROWS], temperature, out=work[: len(likeness) - begin])
        most = rows.amax(1, keepdim=True)
        norms[begin : begin + ROWS] = rows.sub_(most).exp_().sum(1).log_().add_(most[:, 0])
    return norms


def over_units(parts: Iterator[Float[Tensor, "units concepts"]]) -> Float[Tensor, " concepts"]:
    """log p(concept): the mean over units, some at a time, of p(concept | the unit's images)."""
    sums, count = [], 0
    for part in parts:
        sums.append(torch.logsumexp(part, dim=0))
        count += len(part)
    return torch.logsumexp(torch.stack(sums), dim=0) - math.log(count)


def soft_wpmi(
    likeness: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"], prior_weight: float = 1.0
) -> Float[Tensor, "units concepts"]:
    """Soft WPMI of all units of a layer, which are their own background, with the published constants; larger is better.

    Exact up to rounding (``benchmarks/soft_wpmi.py``), whatever the size of the concept set; beside its arguments it takes the memory of
    the result and little more.
    """
    best = strongest(activations, TOP["soft_wpmi"])
    surely = inclusion(best.shape[1])
    scores = soft_log_likelihood(likeness, best, surely, TEMPERATURE["soft_wpmi"])
    constant = float(torch.log1p(-surely.double()).sum())
    for block in scores.split(1024, dim=1):
        block -= prior_weight * over_units(iter([block]))
        block += (1 - prior_weight) * constant
    return scores


def rank_reorder(likeness: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"]) -> Float[Tensor, "units concepts"]:
    """How far the order of a unit's strongest images by likeness to a concept is from that by activation; 0 is the same, less is worse.

    The strongest 5% (at least 10) of the images are put in the order of their likeness, and what each then has for an activation is
    compared with its own: mean of |difference|³, over the same for orders drawn by lot, over the square root of the mean likeness.
    """
    best = strongest(activations, max(int(len(likeness) * TOP_SHARE), FEWEST))
    return torch.stack([_reordered(likeness[images], activations[images, unit]) for unit, images in enumerate(best)])


def _reordered(likeness: Float[Tensor, "top concepts"], strength: Float[Tensor, " top"]) -> Float[Tensor, " concepts"]:
    order = likeness.T.contiguous().argsort(dim=1, stable=True)
    weakest_first = strength.flip(0)
    error = (strength[order] - weakest_first).abs().pow(POWER).mean(1)
    chance = (strength[:, None] - strength).abs().pow(POWER).mean()
    error = error / chance if chance > 0 else torch.ones_like(error)  # all equally strong: any order is as good
    return -error / likeness.mean(0).clamp_min(LEAST_LIKENESS).pow(LIKENESS_POWER)


def cosine(likeness: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"]) -> Float[Tensor, "units concepts"]:
    """The cosine over images of likeness and activation; nothing is centred."""
    products = (activations / _norm(activations)).T @ likeness
    return products / torch.cat([_norm(block) for block in likeness.split(256, dim=1)])


def cosine_cubed(likeness: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"]) -> Float[Tensor, "units concepts"]:
    """The cosine over images of the cubes of likeness and activation, each less its mean: strong images count most."""
    units = _cubed(activations)
    units = (units / _norm(units)).T
    return torch.cat([units @ (cubed / _norm(cubed)) for block in likeness.split(256, dim=1) for cubed in [_cubed(block)]], dim=1)


def _cubed(values: Float[Tensor, "images some"]) -> Float[Tensor, "images some"]:
    return (values - values.mean(0)).pow(3)


def _norm(values: Float[Tensor, "images some"]) -> Float[Tensor, " some"]:
    return values.norm(dim=0).clamp_min(LEAST_NORM)

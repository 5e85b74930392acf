"""CLIP-Dissect (Oikarinen & Weng 2023): the concept whose similarity to images goes with the unit's activations."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.concepts.concept_sets import load_concept_set
from milan.describers._shared.base import Describer, select_active
from milan.dissection.store import ActivationPooling, Dissection
from milan.errors import BadInput, MilanWarning
from milan.pretrained.embedder import embed_probe, embed_texts, load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.model_sources import Precision
from milan.units import Candidate, Description, Unit

Similarity = Literal["soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"]
# Constants of the released code, similarity.py (Trustworthy-ML-Lab/CLIP-dissect at 21e7697).
TOP = {"soft_wpmi": 100, "wpmi": 28}
TEMPERATURE = {"soft_wpmi": 10.0, "wpmi": 2.0}
PRIOR_WEIGHT = {"soft_wpmi": 1.0, "wpmi": 0.6}
FIRST_INCLUSION, LAST_INCLUSION = (
    0.998,
    0.970,
)  # how surely the strongest image, and the one after the last, belongs to the unit's images
TOP_SHARE, DIFFERENCE_POWER, SIMILARITY_POWER = 0.05, 3, 0.5  # of rank_reorder
MIN_NORM = 1e-3  # of the cosines
MIN_RANKED_IMAGES = 10  # images of rank_reorder, so that there is an order to speak of
MIN_SIMILARITY = 1e-6  # mean likeness that rank_reorder divides by; the released code has NaN where it is negative
KEPT_CANDIDATES = 10  # candidates kept with a description
CONCEPTS_PER_BLOCK, UNITS_PER_BLOCK = 128, 512  # of a block of soft WPMI: 256 kB, so that it stays near the processor
IMAGES_PER_BLOCK = 64  # images whose softmax is summed together
MAX_LOG_PRODUCT = 80.0  # log of the largest product kept in float32


class _LayerEvidence(NamedTuple):
    """What is computed once for all units of a layer."""

    similarities: Tensor  # images concepts
    load: Callable[[Sequence[Unit]], Tensor]  # activations of units in these images
    prior: Tensor  # concepts


class ClipDissect(Describer):
    """Chooses the concept whose similarity to images, by an image-text model, goes with the unit's activations.

    ``soft_wpmi`` is the best of the paper's similarity functions: how likely a concept is for the images that activate
    the unit most, relative to how likely it is for those of the layer's units in general. The released code takes "in
    general" over the units that are dissected together, so that a single unit scores 0 for every concept; here it is
    over ``background_units``, by default the whole layer, so that a description does not depend on which other units
    are described. Scores compare concepts of one unit and grow as the concept set shrinks; the part ``deviations`` of a
    candidate is its distance from the unit's mean concept in standard deviations.

    Differences from the released code: the baseline of rank_reorder is the exact mean over all orders, not over five
    random ones; soft_wpmi adds no 1e-7 inside the logarithm; ties between images go by their index. Unreadable images
    are left out.

    Args:
        similarity: soft_wpmi, wpmi, rank_reorder, cos_similarity, or cos_similarity_cubed (in the released code, not in
            the paper).
        concepts: concept set, as ``milan.concepts.concept_sets.load_concept_set`` takes it.
        embedder: image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        prompt: text that a concept is put into, with {} for the concept; the released code takes the bare concept.
        pooling: how an activation map becomes one number per image: mean (published), max, cls or tokens.
        background_units: indices of the units over which the prior of soft_wpmi and wpmi is taken; None for all active
            units of the layer.
        top: number of top-activating images; None for 100 (soft_wpmi) or 28 (wpmi), or all if there are fewer.
        temperature: factor of the similarity before the softmax over concepts; None for the published 10 (soft_wpmi) or
            2 (wpmi).
        prior_weight: λ; None for 1 (soft_wpmi) or 0.6 (wpmi).
        spacy_model: spaCy pipeline that finds phrases if ``concepts`` is a harvest.
        precision: of the image-text model.
        batch_size: number of units that are scored together; changes no description.
        device: device of the image-text model.
    """

    name: ClassVar[str] = "clip_dissect"
    version: ClassVar[int] = 1
    words = "the concept set"

    def __init__(
        self,
        similarity: Similarity = "soft_wpmi",
        concepts: str | list[str] = "20k",
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        prompt: str = "{}",
        pooling: ActivationPooling = "mean",
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
        self.similarity, self.concepts, self.embedder, self.prompt, self.pooling = (
            similarity,
            concepts,
            embedder,
            prompt,
            pooling,
        )
        self.background_units, self.top, self.temperature, self.prior_weight = (
            background_units,
            top,
            temperature,
            prior_weight,
        )
        self.spacy_model, self.precision, self.batch_size, self.device = spacy_model, precision, batch_size, device
        self._cached_layer: tuple[str, _LayerEvidence] | None = None

    @property
    def key(self) -> str:
        """Content key of the settings that change answers, of the concepts themselves and of the image-text model."""
        places = ("batch_size", "device", "concepts", "embedder", "precision", "spacy_model")
        settings = {name: value for name, value in self.settings.items() if name not in places} | {
            "temperature": self._resolved_temperature
        }
        return self.key_of(choices=self.concept_names, model=self.model.key, **settings)

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded when first used."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def concept_names(self) -> list[str]:
        """The concepts without duplicates."""
        return load_concept_set(self.concepts, spacy_model=self.spacy_model)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the concept whose similarity to the probe's images matches each unit's activations best."""
        active = select_active(dissection, units)
        if not active:
            return
        layer = self._load_layer(dissection)
        for begin in range(0, len(active), self.batch_size):
            batch = active[begin : begin + self.batch_size]
            evidence = self._compute_evidence(layer, batch)
            for unit, row in zip(batch, evidence, strict=True):
                yield self._make_description(unit, row, layer.prior)

    def _make_description(
        self, unit: Unit, evidence: Float[Tensor, " concepts"], prior: Float[Tensor, " concepts"]
    ) -> Description:
        scores = evidence - self._resolve_setting("prior_weight", PRIOR_WEIGHT, 0.0) * prior
        spread = float(scores.std(correction=0)) or 1.0
        best = torch.sort(scores, descending=True, stable=True).indices[:KEPT_CANDIDATES].tolist()
        candidates = []
        for place in best:
            score = float(scores[place])
            parts = (("deviations", (score - float(scores.mean())) / spread),)
            if self.similarity in TOP:
                parts += (("likelihood", float(evidence[place])), ("prior", float(prior[place])))  # type: ignore[assignment]
            candidates.append(Candidate(self.concept_names[place], score, parts))
        return Description(unit, candidates[0].text, candidates[0].score, candidates=tuple(candidates))

    def _load_layer(self, dissection: Dissection) -> _LayerEvidence:
        """Return the layer's evidence, which is computed once per dissection."""
        if self._cached_layer is None or self._cached_layer[0] != dissection.key:
            self._cached_layer = dissection.key, self._compute_layer(dissection)
        return self._cached_layer[1]

    def _compute_layer(self, dissection: Dissection) -> _LayerEvidence:
        background = self._select_background(dissection)
        units = list(dict.fromkeys([*dissection.active_units(), *background]))
        active = dissection.has_activations(self.pooling, units)
        pictures = embed_probe(self.model, dissection.open_probe())
        seen = active & ~pictures.isnan().any(1)
        texts = embed_texts(self.model, [self.prompt.replace("{}", concept) for concept in self.concept_names])
        layer = _LayerEvidence(
            pictures[seen] @ texts.T,
            lambda some: replace_nonfinite(dissection.activations(self.pooling, some)[seen].float()),
            texts[:, 0] * 0,
        )
        if self.similarity not in TOP:
            return layer
        parts = (
            self._compute_evidence(layer, background[begin : begin + self.batch_size])
            for begin in range(0, len(background), self.batch_size)
        )
        return layer._replace(prior=average_over_units(parts))

    def _select_background(self, dissection: Dissection) -> list[Unit]:
        indices = self.background_units
        found = dissection.active_units() if indices is None else [Unit(dissection.layer, index) for index in indices]
        if len(found) < 2 and self.similarity in TOP:
            given = ", ".join(map(str, found)) or "none"
            text = f"{dissection.layer}: the prior is over {len(found)} background units ({given}); it says little"
            warnings.warn(text, MilanWarning, stacklevel=2)
        return found

    def _compute_evidence(self, layer: _LayerEvidence, units: Sequence[Unit]) -> Float[Tensor, "units concepts"]:
        """Return how well each concept fits each unit, before the prior."""
        activations = layer.load(units)
        if self.similarity in TOP:
            best = find_top_images(activations, self._resolve_setting("top", TOP, 1))
            temperature = self._resolved_temperature
            if self.similarity == "wpmi":
                return compute_log_likelihood(layer.similarities, best, temperature)
            return compute_soft_log_likelihood(layer.similarities, best, make_inclusion(best.shape[1]), temperature)
        if self.similarity == "rank_reorder":
            return rank_reorder(layer.similarities, activations)
        # Always as many at once: a product's last digits vary with its shape.
        together = torch.zeros(len(activations), max(self.batch_size, len(units)))
        together[:, : len(units)] = activations
        return (cosine_cubed if self.similarity == "cos_similarity_cubed" else cosine)(layer.similarities, together)[
            : len(units)
        ]

    @property
    def _resolved_temperature(self) -> float:
        return self._resolve_setting("temperature", TEMPERATURE, 1.0)

    def _resolve_setting(self, name: str, published: Mapping[str, Any], other: Any) -> Any:
        """Return a setting, or its published value for the similarity if it is None."""
        given = getattr(self, name)
        return published.get(self.similarity, other) if given is None else given


def replace_nonfinite(activations: Float[Tensor, "images units"]) -> Float[Tensor, "images units"]:
    """Replace values that are not finite by the unit's smallest finite value."""
    good = activations.isfinite()
    if good.all():
        return activations
    least = activations.where(good, torch.inf).amin(0)
    return activations.where(good, least.where(least.isfinite(), 0.0))


def find_top_images(activations: Float[Tensor, "images units"], count: int) -> Int[Tensor, "units top"]:
    """Return the ``count`` images that activate each unit most, strongest first, ties by index; all if there are fewer.

    >>> find_top_images(torch.tensor([[0.0, 2.0], [1.0, 2.0], [0.0, 3.0]]), 2)
    tensor([[1, 0],
            [2, 0]])
    """
    rows = activations.T.contiguous()
    count = min(count, rows.shape[1])
    found = rows.topk(count)
    last = found.values[:, -1:]
    tied = (found.values[:, 1:] == found.values[:, :-1]).any(1) | (
        (rows >= last).sum(1) > count
    )  # topk breaks ties as it likes
    best = found.indices
    best[tied] = rows[tied].sort(dim=1, descending=True, stable=True).indices[:, :count]
    return best


def make_inclusion(count: int, first: float = FIRST_INCLUSION, last: float = LAST_INCLUSION) -> Float[Tensor, " top"]:
    """Return the probability that each top image belongs to the unit's images, from ``first`` down to above ``last``.

    >>> make_inclusion(4)
    tensor([0.9980, 0.9910, 0.9840, 0.9770])
    """
    return (first + (last - first) * torch.arange(count, dtype=torch.float64) / count).float()


def compute_soft_log_likelihood(
    similarities: Float[Tensor, "images concepts"],
    top_images: Int[Tensor, "units top"],
    inclusion: Float[Tensor, " top"],
    temperature: float,
) -> Float[Tensor, "units concepts"]:
    """Return log p(concept | the unit's images) of soft WPMI, Σ log(1 + p (x - 1)).

    x is the softmax over concepts of similarity times temperature. The constant Σ log(1 - p), the same for all units
    and concepts, is left out, since its size would cost float32 its last digits: the rest is log Π (1 + x p / (1 - p)),
    which takes one multiplication for each image and no logarithm.
    """
    odds = (inclusion.double() / (1 - inclusion.double())).tolist()
    norms = compute_log_norms(similarities, temperature)[:, None]
    ranks = [rank.split(UNITS_PER_BLOCK) for rank in top_images.T.contiguous()]
    total = torch.empty(len(top_images), similarities.shape[1])
    chances = work = torch.empty(0)
    for begin in range(0, similarities.shape[1], CONCEPTS_PER_BLOCK):
        block = similarities[:, begin : begin + CONCEPTS_PER_BLOCK]
        if block.shape != chances.shape:  # new memory for each block would have to be cleared by the system first
            chances, work = (
                torch.empty(block.shape),
                torch.empty(2, min(UNITS_PER_BLOCK, len(top_images)), block.shape[1]),
            )
        torch.sub(torch.mul(block, temperature, out=chances), norms, out=chances).exp_()
        for start, part in zip(range(0, len(top_images), UNITS_PER_BLOCK), zip(*ranks, strict=True), strict=True):
            total[start : start + UNITS_PER_BLOCK, begin : begin + CONCEPTS_PER_BLOCK] = _compute_log_product(
                chances, part, odds, work
            )
    return total


def _compute_log_product(
    chances: Float[Tensor, "images some"],
    ranks: Sequence[Tensor],
    odds: Sequence[float],
    work: Float[Tensor, "2 most some"],
) -> Float[Tensor, "units some"]:
    """Return Σ log(1 + odds x) over ranks; the logarithm is taken whenever the product might overflow float32."""
    product, rows = work[:, : len(ranks[0])]
    largest, size = float(chances.max()), 0.0
    total = torch.zeros_like(product)
    product.fill_(1.0)
    for rank, factor in zip(ranks, odds, strict=True):
        size += math.log1p(factor * largest)
        if size > MAX_LOG_PRODUCT:
            total += product.log_()
            product.fill_(1.0)
            size = math.log1p(factor * largest)
        torch.index_select(chances, 0, rank, out=rows)
        product.addcmul_(product, rows, value=factor)
    return total.add_(product.log_())


def compute_log_likelihood(
    similarities: Float[Tensor, "images concepts"], top_images: Int[Tensor, "units top"], temperature: float
) -> Float[Tensor, "units concepts"]:
    """Return log p(concept | the unit's images) of WPMI, Σ log x, x being the softmax over concepts of similarity times
    temperature.
    """
    norms = compute_log_norms(similarities, temperature)[top_images].sum(1)
    summed = torch.nn.functional.embedding_bag(top_images, similarities, mode="sum")
    return summed * temperature - norms[:, None]


def compute_log_norms(similarities: Float[Tensor, "images concepts"], temperature: float) -> Float[Tensor, " images"]:
    """Return the logarithm of each image's sum over concepts of exp(temperature * similarity)."""
    norms, work = torch.empty(len(similarities)), torch.empty(IMAGES_PER_BLOCK, similarities.shape[1])
    for begin in range(0, len(similarities), IMAGES_PER_BLOCK):
        rows = torch.mul(
            similarities[begin : begin + IMAGES_PER_BLOCK], temperature, out=work[: len(similarities) - begin]
        )
        most = rows.amax(1, keepdim=True)
        norms[begin : begin + IMAGES_PER_BLOCK] = rows.sub_(most).exp_().sum(1).log_().add_(most[:, 0])
    return norms


def average_over_units(parts: Iterator[Float[Tensor, "units concepts"]]) -> Float[Tensor, " concepts"]:
    """Return log p(concept), the mean over units of p(concept | the unit's images), from blocks of units."""
    sums, count = [], 0
    for part in parts:
        sums.append(torch.logsumexp(part, dim=0))
        count += len(part)
    return torch.logsumexp(torch.stack(sums), dim=0) - math.log(count)


def soft_wpmi(
    similarities: Float[Tensor, "images concepts"],
    activations: Float[Tensor, "images units"],
    prior_weight: float = 1.0,
) -> Float[Tensor, "units concepts"]:
    """Return the soft WPMI of all units of a layer with the published constants; larger is better.

    The units are their own background. Exact up to rounding (``benchmarks/soft_wpmi.py``) for any size of the concept
    set; takes little more memory than its arguments and its result.
    """
    best = find_top_images(activations, TOP["soft_wpmi"])
    surely = make_inclusion(best.shape[1])
    scores = compute_soft_log_likelihood(similarities, best, surely, TEMPERATURE["soft_wpmi"])
    constant = float(torch.log1p(-surely.double()).sum())
    for block in scores.split(1024, dim=1):
        block -= prior_weight * average_over_units(iter([block]))
        block += (1 - prior_weight) * constant
    return scores


def rank_reorder(
    similarities: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"]
) -> Float[Tensor, "units concepts"]:
    """Return the negative distance between the orders of a unit's top images by similarity and by activation.

    The top 5% of the images (at least 10) are sorted by similarity to the concept, and the activations at the same
    ranks are compared: mean |difference|³, divided by its mean over random orders and by the square root of the mean
    similarity. 0 means equal orders; smaller is worse.
    """
    best = find_top_images(activations, max(int(len(similarities) * TOP_SHARE), MIN_RANKED_IMAGES))
    return torch.stack(
        [_score_reordering(similarities[images], activations[images, unit]) for unit, images in enumerate(best)]
    )


def _score_reordering(
    similarities: Float[Tensor, "top concepts"], strength: Float[Tensor, " top"]
) -> Float[Tensor, " concepts"]:
    order = similarities.T.contiguous().argsort(dim=1, stable=True)
    weakest_first = strength.flip(0)
    error = (strength[order] - weakest_first).abs().pow(DIFFERENCE_POWER).mean(1)
    chance = (strength[:, None] - strength).abs().pow(DIFFERENCE_POWER).mean()
    error = error / chance if chance > 0 else torch.ones_like(error)  # equal activations: all orders are equal
    return -error / similarities.mean(0).clamp_min(MIN_SIMILARITY).pow(SIMILARITY_POWER)


def cosine(
    similarities: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"]
) -> Float[Tensor, "units concepts"]:
    """Return the cosine over images between similarity and activation, without centring."""
    products = (activations / _compute_norm(activations)).T @ similarities
    return products / torch.cat([_compute_norm(block) for block in similarities.split(256, dim=1)])


def cosine_cubed(
    similarities: Float[Tensor, "images concepts"], activations: Float[Tensor, "images units"]
) -> Float[Tensor, "units concepts"]:
    """Return the cosine over images between the cubes of centred similarity and centred activation."""
    units = _cube_centred(activations)
    units = (units / _compute_norm(units)).T
    return torch.cat(
        [
            units @ (cubed / _compute_norm(cubed))
            for block in similarities.split(256, dim=1)
            for cubed in [_cube_centred(block)]
        ],
        dim=1,
    )


def _cube_centred(values: Float[Tensor, "images some"]) -> Float[Tensor, "images some"]:
    return (values - values.mean(0)).pow(3)


def _compute_norm(values: Float[Tensor, "images some"]) -> Float[Tensor, " some"]:
    return values.norm(dim=0).clamp_min(MIN_NORM)

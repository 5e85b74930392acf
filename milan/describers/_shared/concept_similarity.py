"""How similar concepts are to a unit's activations: soft WPMI and the other functions of CLIP-Dissect."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Constants of the released code, similarity.py (Trustworthy-ML-Lab/CLIP-dissect at 21e7697).
TOP = {"soft_wpmi": 100, "wpmi": 28}
TEMPERATURE = {"soft_wpmi": 10.0, "wpmi": 2.0}
PRIOR_WEIGHT = {"soft_wpmi": 1.0, "wpmi": 0.6}
# Probability that the strongest image, and the one after the last, belongs to the unit's images.
FIRST_INCLUSION, LAST_INCLUSION = 0.998, 0.970
TOP_SHARE, DIFFERENCE_POWER, SIMILARITY_POWER = 0.05, 3, 0.5  # constants of rank_reorder
MIN_NORM = 1e-3  # smallest norm that cosines divide by
MIN_RANKED_IMAGES = 10  # smallest number of images that rank_reorder orders
# Smallest mean similarity that rank_reorder divides by; the released code has NaN where it is negative.
MIN_SIMILARITY = 1e-6
CONCEPTS_PER_BLOCK, UNITS_PER_BLOCK = 128, 512  # a block of soft WPMI has 256 kB and fits into a processor's cache
IMAGES_PER_BLOCK = 64  # images whose softmax is summed together
MAX_LOG_PRODUCT = 80.0  # log of the largest product kept in float32


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
    strongest = rows.topk(count)
    last = strongest.values[:, -1:]
    # topk breaks ties in no fixed order.
    tied = (strongest.values[:, 1:] == strongest.values[:, :-1]).any(1) | ((rows >= last).sum(1) > count)
    best = strongest.indices
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
    log_norms: Float[Tensor, " images"] | None = None,
) -> Float[Tensor, "units concepts"]:
    """Return log p(concept | the unit's images) of soft WPMI, Σ log(1 + p (x - 1)).

    ``log_norms`` are those of :func:`compute_log_norms`, where ``similarities`` are those of some of the concepts only.

    x is the softmax over concepts of similarity times temperature. The constant Σ log(1 - p), the same for all units
    and concepts, is left out, since its size would cost float32 its last digits: the rest is log Π (1 + x p / (1 - p)),
    which takes one multiplication for each image and no logarithm.
    """
    odds = (inclusion.double() / (1 - inclusion.double())).tolist()
    norms = (compute_log_norms([similarities], temperature) if log_norms is None else log_norms)[:, None]
    ranks = [rank.split(UNITS_PER_BLOCK) for rank in top_images.T.contiguous()]
    total = torch.empty(len(top_images), similarities.shape[1])
    chances = work = torch.empty(0)
    for begin in range(0, similarities.shape[1], CONCEPTS_PER_BLOCK):
        block = similarities[:, begin : begin + CONCEPTS_PER_BLOCK]
        # Memory is reused, since the system clears new memory first.
        if block.shape != chances.shape:
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
    similarities: Float[Tensor, "images concepts"],
    top_images: Int[Tensor, "units top"],
    temperature: float,
    log_norms: Float[Tensor, " images"] | None = None,
) -> Float[Tensor, "units concepts"]:
    """Return log p(concept | the unit's images) of WPMI, Σ log x, x being the softmax over concepts of similarity times
    temperature; see :func:`compute_soft_log_likelihood`.
    """
    norms = (compute_log_norms([similarities], temperature) if log_norms is None else log_norms)[top_images].sum(1)
    summed = torch.nn.functional.embedding_bag(top_images, similarities, mode="sum")
    return summed * temperature - norms[:, None]


def compute_log_norms(blocks: Iterable[Float[Tensor, "some concepts"]], temperature: float) -> Float[Tensor, " images"]:
    """Return the logarithm of each image's sum over concepts of exp(temperature * similarity).

    Args:
        blocks: the similarities of all images, some images at a time.
        temperature: factor of the similarities.
    """
    norms = []
    work = torch.empty(0)
    for similarities in (part for block in blocks for part in block.split(IMAGES_PER_BLOCK)):
        if work.shape[1:] != similarities.shape[1:]:
            work = torch.empty(IMAGES_PER_BLOCK, similarities.shape[1])
        rows = torch.mul(similarities, temperature, out=work[: len(similarities)])
        most = rows.amax(1, keepdim=True)
        norms.append(rows.sub_(most).exp_().sum(1).log_().add_(most[:, 0]))
    return torch.cat(norms)


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


def find_ranked_images(
    activations: Float[Tensor, "images units"],
) -> tuple[Int[Tensor, "units top"], Float[Tensor, "units top"]]:
    """Return the top images that :func:`rank_reorder` compares, 5% of all (at least 10), and their activations."""
    best = find_top_images(activations, max(int(len(activations) * TOP_SHARE), MIN_RANKED_IMAGES))
    return best, activations.T.gather(1, best)


def rank_reorder(
    similarities: Float[Tensor, "images concepts"],
    top_images: Int[Tensor, "units top"],
    activations: Float[Tensor, "units top"],
) -> Float[Tensor, "units concepts"]:
    """Return the negative distance between the orders of a unit's top images by similarity and by activation.

    The top images are sorted by similarity to the concept, and the activations at the same ranks are compared: mean
    |difference|³, divided by its mean over random orders and by the square root of the mean similarity. 0 means equal
    orders; smaller is worse.
    """
    return torch.stack(
        [
            _score_reordering(similarities[images], strength)
            for images, strength in zip(top_images, activations, strict=True)
        ]
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

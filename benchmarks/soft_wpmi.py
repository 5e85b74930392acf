"""Soft WPMI of a whole layer: time and memory, and the error against float64, beside the published formula written down
plainly.

``python -m benchmarks.soft_wpmi`` (10,000 images, 2,048 units, 20,000 concepts) prints a table. Pictures and words are
random vectors of 512 numbers, drawn so that their cosines lie where CLIP's do and a unit's strongest images are alike.
Ours and the plain one take turns in one process; the plain one, unit after unit in float32 with the logarithm of each
probability, does ``--plain`` units, which are scaled up. The error is over all units and concepts, in blocks, against
the formula in float64. The released implementation took 72 to 129 s and 3 to 18 GB for the whole on a machine of this
kind.
"""

import argparse
import math
import resource
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import normalize

from milan.describers._shared.concept_similarity import (
    FIRST_INCLUSION,
    LAST_INCLUSION,
    TEMPERATURE,
    TOP,
    find_top_images,
    soft_wpmi,
)

FEATURES, PARTS = 512, 200  # parts: what the random pictures and words have in common


def world(images: int, units: int, concepts: int) -> tuple[Tensor, Tensor]:
    """Likeness (images, concepts), about 0.2 ± 0.05 as CLIP's is, and activations (images, units) that go with what is
    in the images.
    """
    rng = torch.Generator().manual_seed(0)
    parts = normalize(torch.randn(PARTS, FEATURES, generator=rng), dim=1)
    shown = torch.rand(images, PARTS, generator=rng).pow(20)
    pictures = normalize(normalize(shown @ parts, dim=1) + 0.04 * torch.randn(images, FEATURES, generator=rng), dim=1)
    meant = torch.randint(PARTS, (concepts,), generator=rng)
    words = normalize(parts[meant] + 0.1 * torch.randn(concepts, FEATURES, generator=rng), dim=1)
    likeness = (pictures @ words.T).mul_(0.7).add_(0.15)
    sought = torch.randint(PARTS, (units,), generator=rng)
    activations = (shown[:, sought] + 0.3 * torch.randn(images, units, generator=rng)).clamp_min_(0)
    return likeness, activations


def surely(dtype: torch.dtype) -> Tensor:
    top = TOP["soft_wpmi"]
    return FIRST_INCLUSION + (LAST_INCLUSION - FIRST_INCLUSION) * torch.arange(top, dtype=dtype)[:, None] / top


def plain(likeness: Tensor, activations: Tensor, units: int) -> None:
    """The formula as it is printed, for the first units: a softmax, then for each unit the sum of logarithms."""
    chances = torch.softmax(TEMPERATURE["soft_wpmi"] * likeness, dim=1)
    best = activations.topk(TOP["soft_wpmi"], dim=0).indices
    evidence = torch.stack(
        [torch.log(1 + surely(torch.float32) * (chances[best[:, unit]] - 1)).sum(0) for unit in range(units)]
    )
    evidence -= torch.logsumexp(evidence, dim=0) - math.log(units)


def exact(likeness: Tensor, activations: Tensor, block: int) -> Iterator[tuple[int, Tensor]]:
    """The formula in float64, some concepts at a time: where they begin, and (units, some)."""
    best = find_top_images(activations, TOP["soft_wpmi"])
    norms = torch.cat(
        [torch.logsumexp(TEMPERATURE["soft_wpmi"] * rows.double(), dim=1) for rows in likeness.split(256)]
    )
    chance = surely(torch.float64)
    for begin in range(0, likeness.shape[1], block):
        chances = torch.exp(TEMPERATURE["soft_wpmi"] * likeness[:, begin : begin + block].double() - norms[:, None])
        evidence = torch.zeros(len(best), chances.shape[1], dtype=torch.float64)
        for rank in range(best.shape[1]):
            evidence += torch.log1p(chance[rank] * (chances[best[:, rank]] - 1))
        yield begin, evidence - (torch.logsumexp(evidence, dim=0) - math.log(len(best)))


def errors(scores: Tensor, likeness: Tensor, activations: Tensor, concepts: int) -> tuple[float, float]:
    """The largest error, and the share of units whose best concept (of those compared) is the same."""
    largest, best = 0.0, torch.full((len(scores),), -math.inf, dtype=torch.float64)
    where = torch.zeros(len(scores), dtype=torch.long)
    for begin, block in exact(likeness, activations, 128):
        if begin >= concepts:
            break
        largest = max(largest, float((scores[:, begin : begin + block.shape[1]].double() - block).abs().max()))
        values, places = block.max(1)
        where = torch.where(values > best, places + begin, where)
        best = torch.maximum(best, values)
    return largest, float((scores[:, :concepts].argmax(1) == where).float().mean())


def timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def peak() -> float:
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def compare(options: argparse.Namespace) -> None:
    likeness, activations = world(options.images, options.units, options.concepts)
    before = peak()
    ours, others, memory = [], [], 0.0
    for _ in range(options.rounds):
        seconds, scores = timed(lambda: soft_wpmi(likeness, activations))
        ours.append(seconds)
        memory = memory or peak()  # of the first round: the plain one has not run yet
        part, _ = timed(lambda: plain(likeness, activations, options.plain))
        others.append(part * options.units / options.plain)
    assert isinstance(scores, Tensor)
    print(
        f"{options.images:,} images, {options.units:,} units, {options.concepts:,} concepts, {torch.get_num_threads()}"
        " threads\n"
    )
    print(f"| median of {options.rounds} | seconds | peak GB |\n|---|---|---|")
    print(
        f"| ours | {median(ours):.1f} ({min(ours):.1f} to {max(ours):.1f}) | {memory:.2f}, of which arguments"
        f" {before:.2f} |"
    )
    print(f"| plain, from {options.plain} units | {median(others):.0f} ({min(others):.0f} to {max(others):.0f}) | |")
    print(f"\nratio {median(others) / median(ours):.1f}")
    compared = min(options.checked or options.concepts, options.concepts)
    largest, same = errors(scores, likeness, activations, compared)
    print(
        f"largest error against float64, {options.units:,} units x {compared:,} concepts: {largest:.1e}; same best"
        f" concept: {same:.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=2_048)
    parser.add_argument("--concepts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", type=int, default=64, help="units of the plain formula")
    parser.add_argument("--checked", type=int, default=0, help="concepts compared with float64; all unless given")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compare(options)


if __name__ == "__main__":
    main()

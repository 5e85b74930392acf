"""How the image tower of a stand-in learns to see: what helps a small transformer that has only minutes to learn in."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.diorama.views import GRID


def sines(width: int) -> Float[Tensor, "places width"]:
    """Sines and cosines of the row and the column of each of GRID x GRID places."""
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    pace = math.pi / 2 / 30 ** (torch.arange(width // 4) * 4 / width)
    angles = [where.flatten()[:, None] * pace for where in (columns, rows)]
    return torch.cat([wave for each in angles for wave in (each.sin(), each.cos())], dim=1)


@torch.no_grad()
def look_near(
    query: Float[Tensor, "width width"],
    key: Float[Tensor, "width width"],
    value: Float[Tensor, "width width"],
    projection: Float[Tensor, "width width"],
    heads: int,
) -> None:
    """Lets each place look at places near it and alike before anything is learnt (Trockman & Kolter 2023, section 3).

    The product of queries and keys begins near the identity, that of values and projection near its negative; positions are to begin
    as ``0.5 * sines``. The weights are overwritten.
    """
    width = len(query)
    few = width // heads
    for head in range(heads):
        one, scale, other = torch.linalg.svd(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width))
        some = scale[:few, None].sqrt()
        query[head * few : (head + 1) * few] = some * one.T[:few]
        key[head * few : (head + 1) * few] = some * other[:few]
    one, scale, other = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width))
    value.copy_(scale[:, None].sqrt() * other)
    projection.copy_(one * scale.sqrt())


def some_places(count: int, step: int) -> Int[Tensor, "count half"]:
    """A random half of the places for each picture, by the step's number.

    To look at twice as many pictures and at half of each costs the same and teaches more (Li et al. 2023, "Scaling language-image
    pre-training via masking", section 3).
    """
    dice = torch.Generator().manual_seed(step)
    return torch.rand(count, GRID * GRID, generator=dice).argsort(1)[:, : GRID * GRID // 2]


def taken(values: Tensor, places: Int[Tensor, "b some"]) -> Tensor:
    """The values, (b, places, features), at some places of each picture."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))

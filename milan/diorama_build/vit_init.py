"""Initialization and token sampling that let a small vision transformer train within minutes."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.diorama_build.image_text_batches import PLACE_GRID


def make_position_sines(width: int) -> Float[Tensor, "places width"]:
    """Return sines and cosines of the row and the column of each of PLACE_GRID x PLACE_GRID places."""
    rows, columns = torch.meshgrid(torch.arange(PLACE_GRID), torch.arange(PLACE_GRID), indexing="ij")
    pace = math.pi / 2 / 30 ** (torch.arange(width // 4) * 4 / width)
    angles = [where.flatten()[:, None] * pace for where in (columns, rows)]
    return torch.cat([wave for each in angles for wave in (each.sin(), each.cos())], dim=1)


@torch.no_grad()
def initialize_local_attention(
    query: Float[Tensor, "width width"],
    key: Float[Tensor, "width width"],
    value: Float[Tensor, "width width"],
    projection: Float[Tensor, "width width"],
    heads: int,
) -> None:
    """Initialize attention so that each place attends to near and similar ones (Trockman & Kolter 2023, section 3).

    The product of queries and keys is near the identity, that of values and projection near its negative; position
    embeddings should be ``0.5 * make_position_sines``. The weights are overwritten.
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


def sample_places(count: int, step: int) -> Int[Tensor, "count half"]:
    """Return a random half of the places of each image; it depends on the step alone.

    Training on half of the places of twice as many images costs the same and gives better models (Li et al. 2023,
    "Scaling language-image pre-training via masking", section 3).
    """
    rng = torch.Generator().manual_seed(step)
    return torch.rand(count, PLACE_GRID * PLACE_GRID, generator=rng).argsort(1)[:, : PLACE_GRID * PLACE_GRID // 2]


def gather_places(values: Tensor, places: Int[Tensor, "b some"]) -> Tensor:
    """Return values (b, places, features) at some places of each image, (b, some, features)."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))

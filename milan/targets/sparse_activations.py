"""The activations of a sparse layer: those that are not 0, with their images, places and units."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SparseActivations:
    """The activations of a batch of images that are not 0, in any order.

    Attributes:
        images: index in the batch of each value.
        places: index of its place in the grid, row by row; the number of places of the grid for the class token.
        units: index of its unit.
        values: the activations.
    """

    images: Int[Tensor, " values"]
    places: Int[Tensor, " values"]
    units: Int[Tensor, " values"]
    values: Float[Tensor, " values"]

    @classmethod
    def from_dense(
        cls, maps: Float[Tensor, "b units h w"], class_tokens: Float[Tensor, "b units"] | None
    ) -> "SparseActivations":
        """Return the activations that are not 0 in maps and, if there are any, in class tokens."""
        rows = maps.flatten(2)
        if class_tokens is not None:
            rows = torch.cat([rows, class_tokens[:, :, None]], 2)
        images, units, places = rows.nonzero(as_tuple=True)
        return cls(images, places, units, rows[images, units, places])

    def followed_by(self, other: "SparseActivations", images: int) -> "SparseActivations":
        """Return the activations of a batch of so many images, and of another batch after it."""
        return SparseActivations(
            torch.cat([self.images, other.images + images]),
            torch.cat([self.places, other.places]),
            torch.cat([self.units, other.units]),
            torch.cat([self.values, other.values]),
        )

"""Bands displayed as RGB images, for people and image-text models."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from milan.errors import BadInput

Bands = tuple[int, int, int]
# Quantiles of a band's values that are displayed as black and as full brightness.
DARK, BRIGHT = 0.02, 0.98
# Number of images on which these quantiles are computed.
SAMPLED = 32


def shown_bands(stated: tuple[int, ...] | None, count: int) -> Bands:
    """Return the bands displayed as red, green and blue: the stated ones, else the first three.

    >>> shown_bands((3, 2, 1), 13), shown_bands(None, 4), shown_bands(None, 1)
    ((3, 2, 1), (0, 1, 2), (0, 0, 0))

    Raises:
        BadInput: there is no such band.
    """
    if stated is None:
        return 0, min(1, count - 1), min(2, count - 1)
    if wrong := [band for band in stated if not 0 <= band < count]:
        raise BadInput(f"display_bands names band {wrong[0]}; the images have {count}, numbered from 0 to {count - 1}")
    red, green, blue = stated
    return red, green, blue


def levels(images: Iterable[Float[Tensor, "bands h w"]], bands: Bands) -> Float[Tensor, "2 3"]:
    """Return the values displayed as black and as full brightness, for each displayed band."""
    values = torch.cat([image[list(bands)].flatten(1) for image in images], dim=1)
    # ``torch.quantile`` takes a limited number of values.
    some = values[:, :: -(-values.shape[1] // 2**20)]
    return torch.stack([some.nanquantile(share, dim=1) for share in (DARK, BRIGHT)]).nan_to_num()


def as_rgb(images: Float[Tensor, "b bands h w"], bands: Bands, range: Float[Tensor, "2 3"]) -> UInt8[Tensor, "b 3 h w"]:
    """Return three bands of each image as pixels."""
    low, high = range[:, :, None, None]
    scaled = (images[:, list(bands)] - low) / (high - low).clamp_min(1e-12)
    return (scaled.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)

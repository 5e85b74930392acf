"""Whether the places of a layer's maps follow those of the image, and their order if they do not.

Two images of noise are mixed: a mixture shows the first where a mask is true, and the second elsewhere. At each place
of a layer the response to the mixture is compared with the responses to the two images. In maps that follow the image,
the places under the mask respond as to the first image.
"""

from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Grid = tuple[int, int]
Order = tuple[int, ...]

# Measured on 207 networks: the smallest of each module of timm and of each class of torchvision and transformers, with
# random weights. Where the response is local (locality 0.6 or more), maps that follow the image agree with the masks by
# 0.89 or more, and no column by less than -0.14 (MobileNetV1, which pads one side, and shifted windows). Hiera's order
# and attention agree by 0.38 or less. A column of -1 shows that one token more precedes the grid.
LOCAL, AGREES, COLUMN = 0.6, 0.6, -0.3
# The locality and the agreement that confirm an ambiguous layout.
PRESENT, CONFIRMED = 0.1, 0.8
# Places that are compared with all others at a time, which bounds the memory.
_PIECE = 1024


class Verdict(Enum):
    """The order of a layer's places: that of the image, another one, or unclear."""

    FOLLOWS = "follows"
    SCRAMBLED = "scrambled"
    UNCLEAR = "unclear"


def halves(height: int, width: int) -> Bool[Tensor, "2 height width"]:
    """Return the masks of an image's left half and of its top half."""
    left = torch.arange(width) < width // 2
    top = torch.arange(height) < height // 2
    return torch.stack([left.expand(height, width), top[:, None].expand(height, width)])


def digits(grid: Grid, height: int, width: int) -> Bool[Tensor, "masks height width"]:
    """Return masks that number the rows, then the columns, of a grid over the image: one for each binary digit."""
    rows = (torch.arange(height) * grid[0] // height)[:, None].expand(height, width)
    columns = (torch.arange(width) * grid[1] // width).expand(height, width)
    counted = zip((rows, columns), grid, strict=True)
    return torch.stack([numbers >> digit & 1 for numbers, count in counted for digit in range(_digits(count))]).bool()


def mixed(images: Float[Tensor, "2 c h w"], masks: Bool[Tensor, "masks h w"]) -> Float[Tensor, "images c h w"]:
    """Return the two images and, for each mask, a mixture that shows the first where the mask is true."""
    first, second = images
    return torch.cat([images, torch.where(masks[:, None].to(images.device), first, second)])


def closeness(output: Tensor, axis: int) -> Float[Tensor, "masks *places"]:
    """Return to which image each place's response to a mixture is closer: 1 the first, -1 the second, 0 neither.

    Args:
        output: a layer's output for the images of ``mixed``; a difference of NaN counts as 0.
        axis: axis of the units.
    """
    output = output.detach().float()
    first, second = ((output[2:] - output[one]).square_().nan_to_num_().sum(axis).sqrt_() for one in (0, 1))
    return ((second - first) / (first + second).clamp_min(1e-30)).cpu()


def verdict(near: Float[Tensor, "2 height width"]) -> Verdict:
    """Return the order of places, given their closeness for the masks of ``halves``."""
    found = [_agreement(map) for map in (near[0], near[1].T) if map.shape[1] > 1]
    if not found:
        return Verdict.UNCLEAR
    locality, agreement, worst = (min(values) for values in zip(*found, strict=True))
    if locality >= LOCAL and (agreement < AGREES or worst < COLUMN):
        return Verdict.SCRAMBLED
    confirmed = locality >= PRESENT and agreement >= CONFIRMED and worst >= COLUMN
    return Verdict.FOLLOWS if confirmed else Verdict.UNCLEAR


def raster_order(
    near: Float[Tensor, "masks places"],
    grid: Grid,
    like: Float[Tensor, "masks places"] | None = None,
) -> Order | None:
    """Return the layer's place for each place of the image, row by row; None if there is not one for each.

    Args:
        near: closeness for the masks of ``digits``.
        grid: rows and columns.
        like: closeness in a layer of the same grid whose places follow the image; by default that of a layer in which
            each place responds to itself alone.
    """
    expected = digits(grid, *grid).flatten(1) * 2.0 - 1 if like is None else like
    places = torch.cat([torch.cdist(part, expected.T).argmin(1) for part in near.T.split(_PIECE)])
    # A place that does not respond differs from all of them by 1 in each mask.
    found = len(places.unique()) == len(places) and bool((near - expected[:, places]).abs().max() < 1)
    return tuple(places.argsort().tolist()) if found else None


def _agreement(near: Float[Tensor, "rows columns"]) -> tuple[float, float, float]:
    """Return the locality of the response to a mask of the left half, its agreement, and its worst column's agreement.

    Columns near the mask's border are left out. The mean over all places is subtracted, since a layer that responds to
    the whole image may be close to one of the two images everywhere.
    """
    count = near.shape[1]
    offset = 2 * torch.arange(count) + 1 - count
    aside = offset.abs() > count / 3
    centred = (near - near.mean())[:, aside]
    signed = centred * -offset[aside].sign()
    agreement = signed.sum() / centred.abs().sum().clamp_min(1e-12)
    return float(centred.abs().mean()), float(agreement), float(signed.mean(0).min())


def _digits(count: int) -> int:
    return (count - 1).bit_length()

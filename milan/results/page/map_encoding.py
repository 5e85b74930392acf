"""Activation maps in few bytes, from which a page draws the region in which each exemplar activates a unit.

A map is stored as its distance to the unit's threshold, a signed byte for each cell, so that the region is where the
map, upsampled bilinearly as in ``milan.dissection.masks``, is positive. The scale is logarithmic: the region's border
depends on the ratio of neighbouring cells, also where both are small. Cells whose neighbours are all on their side of
the threshold have no part in the border: they get the largest value of their side, which compresses well. Maps with
smaller cells have fewer levels.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor
from torch.nn.functional import interpolate

from milan.targets.preprocessing import Size, height_width

LARGEST = 127  # of a signed byte; static/pictures.js has the inverse of this scale
RANGE = 1e4  # ratio of the largest distance to the smallest that differs from it in the encoding
# Levels on each side of the threshold, which place the border to a fraction of a pixel of the picture.
LEVELS_PER_PIXEL = 7
MIN_LEVELS = 8


class EncodedMaps(NamedTuple):
    """The maps of a unit's exemplars.

    Attributes:
        height, width: number of cells of a map.
        data: raw DEFLATE of int8 values in the order exemplar, row, column; positive within the region.
    """

    height: int
    width: int
    data: bytes


def encode_maps(
    maps: Float[Tensor, "units k h w"], thresholds: Float[Tensor, " units"], picture: Size
) -> list[EncodedMaps]:
    """Return the encoded maps of each unit; a map that nowhere exceeds the threshold stands for the whole image.

    Args:
        maps: activation maps of the exemplars.
        thresholds: the mask threshold of each unit.
        picture: height and width in pixels at which the region will be drawn.
    """
    maps = _shrink(maps, height_width(picture))
    height, width = maps.shape[-2:]
    side = max(height_width(picture)) / max(height, width)
    levels = min(LARGEST, max(MIN_LEVELS, round(LEVELS_PER_PIXEL * side)))
    codes = quantize_maps(maps.float().numpy(), thresholds.float().numpy(), levels)
    # As fill_empty_masks does.
    codes[(codes < 0).all((-2, -1))] = LARGEST
    return [EncodedMaps(height, width, _deflate(each.tobytes())) for each in codes]


def encode_masks(masks: Bool[Tensor, "k 1 height width"], picture: Size) -> EncodedMaps:
    """Return masks in the form of encoded maps, at the resolution at which they will be drawn."""
    size = height_width(picture)
    values = masks.float()
    if tuple(masks.shape[-2:]) != size:
        values = interpolate(values, size, mode="bilinear", antialias=size[0] < masks.shape[-2])
    codes = torch.where(values > 0.5, LARGEST, -LARGEST).to(torch.int8)
    return EncodedMaps(*size, _deflate(codes.numpy().tobytes()))


def quantize_maps(
    maps: Float[np.ndarray, "units k h w"], thresholds: Float[np.ndarray, " units"], levels: int
) -> Int8[np.ndarray, "units k h w"]:
    """Return the distance of each map to its unit's threshold, from -127 to 127 without 0.

    Values are positive exactly where the map exceeds the threshold. Each map has a scale of its own, which does not
    move the border.

    Args:
        maps: activation maps.
        thresholds: the threshold of each unit.
        levels: the number of different values on each side of the threshold.

    >>> quantize_maps(np.array([[[[0.0, 1.0, 3.0, 9.0]]]]), np.array([2.0]), 127).tolist()
    [[[[-127, -127, 127, 127]]]]
    """
    with np.errstate(over="ignore", invalid="ignore"):
        distance = maps - thresholds[:, None, None, None]
    above = distance > 0
    if not np.isfinite(distance).all():
        distance = np.nan_to_num(distance, nan=-1.0)
    border = _is_beside_border(above)
    size = np.where(border, np.abs(distance), np.float32(0)).max((-2, -1), keepdims=True)
    share = np.abs(distance[border]) / np.broadcast_to(size, maps.shape)[border]
    steps = np.ceil(np.log1p(share * RANGE) / math.log1p(RANGE) * levels).clip(1, levels)
    codes = np.full(maps.shape, LARGEST, np.int8)
    codes[border] = np.rint(steps * (LARGEST / levels))
    return np.where(above, codes, -codes)


def _is_beside_border(above: Bool[np.ndarray, "units k h w"]) -> Bool[np.ndarray, "units k h w"]:
    """Return the cells with a neighbour, also a diagonal one, on the other side of the threshold."""
    some, every = above, above
    for axis in (-1, -2):
        some, every = _join_neighbours(some, axis, np.logical_or), _join_neighbours(every, axis, np.logical_and)
    return some & ~every


def _join_neighbours(cells: Bool[np.ndarray, "units k h w"], axis: int, join: np.ufunc) -> np.ndarray:
    before, after = (np.moveaxis(cells, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
    joined = cells.copy()
    view = np.moveaxis(joined, axis, 0)
    join(view[1:], before, out=view[1:])
    join(view[:-1], after, out=view[:-1])
    return joined


def _shrink(maps: Float[Tensor, "units k h w"], size: tuple[int, int]) -> Float[Tensor, "units k h2 w2"]:
    """Scale maps down that are larger than the picture."""
    if maps.shape[-2] <= size[0] and maps.shape[-1] <= size[1]:
        return maps
    flat = maps.flatten(0, 1)[:, None].float()
    return interpolate(flat, size, mode="bilinear", antialias=True)[:, 0].unflatten(0, maps.shape[:2])


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(4, wbits=-15)
    return packer.compress(data) + packer.flush()

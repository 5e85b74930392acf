"""Pixels of masks, found without upsampling whole maps: most of a map lies below its unit's threshold.

The pixels between four neighbouring places of a map are weighted means of the four, so that only squares with a place
above the threshold can have pixels in the mask.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from milan.dissection.masks import masks_from_maps
from milan.targets.preprocessing import Size, height_width

SQUARE_PIXELS = 4  # with fewer pixels in a square, whole maps are upsampled
CHUNK = 2**22  # pixels evaluated at a time
# Pixels that are nearer to the threshold, relative to the largest value, are decided by upsampling the whole map, since
# the order of additions decides their last bits.
MARGIN = 1e-5


@dataclass(frozen=True, eq=False)
class Axis:
    """How the pixels along an axis lie between the places of a map; n is the largest number between two places.

    Attributes:
        first: first pixel that lies after each place.
        counts: number of pixels between a place and the next one.
        weight: weight of the next place for each of these pixels.
    """

    first: Int[np.ndarray, " places"]
    counts: Int[np.ndarray, " places"]
    weight: Float[np.ndarray, "places n"]


@lru_cache(maxsize=16)
def make_axis(places: int, pixels: int) -> Axis:
    """Return where pixels lie between places, with half-pixel centres and repeated edges as ``masks_from_maps`` has.

    >>> make_axis(2, 4).first.tolist(), make_axis(2, 4).counts.tolist(), make_axis(2, 4).weight.tolist()
    ([0, 3], [3, 1], [[0.0, 0.25, 0.75], [0.0, 0.0, 0.0]])
    """
    at = np.maximum((np.arange(pixels) + 0.5) * (places / pixels) - 0.5, 0)
    place = np.minimum(at.astype(np.int64), places - 1)
    count = np.bincount(place, minlength=places)
    first = np.cumsum(count) - count
    weight = np.zeros((places, int(count.max())), dtype=np.float32)
    # After the last place the edge is repeated.
    weight[place, np.arange(pixels) - first[place]] = np.where(place < places - 1, at - place, 0)
    return Axis(first, count, weight)


def find_mask_pixels(
    maps: Float[np.ndarray, "n h w"], thresholds: Float[np.ndarray, " n"], size: Size
) -> tuple[Int[np.ndarray, " inside"], Int[np.ndarray, " inside"]]:
    """Return the map and the pixel, counted row by row, of each pixel that ``masks_from_maps`` puts into a mask.

    Args:
        maps: activation maps.
        thresholds: threshold of each map.
        size: size of the masks.
    """
    height, width = height_width(size)
    rows, columns = make_axis(maps.shape[1], height), make_axis(maps.shape[2], width)
    if maps.shape[1:] == (1, 1) or rows.weight.shape[1] * columns.weight.shape[1] < SQUARE_PIXELS:
        return _find_in_whole_maps(maps, np.arange(len(maps)), thresholds, size)
    corners = _stack_corners(maps)
    margin = MARGIN * np.maximum(np.abs(corners).max(0), np.abs(thresholds)[:, None, None])
    # With the margin, since a mean of equal values can be rounded to more than the values.
    # Of a flat array, which is several times as fast as of one with axes.
    hot = np.flatnonzero(corners.max(0) > thresholds[:, None, None] - margin)
    which, row, column = np.unravel_index(hot, margin.shape)
    pixels_per_square = rows.weight.shape[1] * columns.weight.shape[1]
    # Pixel of each place of a square, counted from its first one.
    within = (np.arange(rows.weight.shape[1])[:, None] * width + np.arange(columns.weight.shape[1])).ravel()
    parts = max(1, -(-len(which) * pixels_per_square // CHUNK))
    found, unclear = [], np.zeros(len(maps), dtype=bool)
    for chunk in np.array_split(np.arange(len(which)), parts):
        square = (which[chunk], row[chunk], column[chunk])
        inside, near = _evaluate_squares(
            corners[:, *square], thresholds[square[0]], margin[square], square[1:], (rows, columns)
        )
        unclear[square[0][near]] = True
        at = np.repeat(np.arange(len(chunk)), np.count_nonzero(inside, axis=(1, 2)))
        first = rows.first[square[1]] * width + columns.first[square[2]]
        found.append((square[0][at], first[at] + within[np.flatnonzero(inside) - at * pixels_per_square]))
    clear = [~unclear[each] for each, _ in found]
    whole = _find_in_whole_maps(maps, np.flatnonzero(unclear), thresholds, size)
    found = [(each[kept], pixel[kept]) for (each, pixel), kept in zip(found, clear, strict=True)]
    return np.concatenate([*(each for each, _ in found), whole[0]]), np.concatenate([*(p for _, p in found), whole[1]])


def _stack_corners(maps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "4 n h w"]:
    """Return each place with those to the right, below, and to the right below; edges are repeated."""
    right = np.concatenate([maps[:, :, 1:], maps[:, :, -1:]], 2)
    below, both = (np.concatenate([each[:, 1:], each[:, -1:]], 1) for each in (maps, right))
    return np.stack([maps, right, below, both])


def _evaluate_squares(
    corners: Float[np.ndarray, "4 squares"],
    thresholds: Float[np.ndarray, " squares"],
    margin: Float[np.ndarray, " squares"],
    places: tuple[Int[np.ndarray, " squares"], Int[np.ndarray, " squares"]],
    axes: tuple[Axis, Axis],
) -> tuple[Bool[np.ndarray, "squares rows columns"], Bool[np.ndarray, " squares"]]:
    """Return which pixels of each square exceed the threshold, and the squares where that is too close to say."""
    (row, column), (rows, columns) = places, axes
    down, right = rows.weight[row][:, :, None], columns.weight[column][:, None, :]
    a, b, c, d = corners[:, :, None, None]
    # First between columns, so that few operations take as many values as there are pixels.
    above = a + right * (b - a) - thresholds[:, None, None]
    below = c + right * (d - c) - thresholds[:, None, None]
    values = down * (below - above)
    values += above
    exists = (np.arange(down.shape[1]) < rows.counts[row][:, None])[:, :, None]
    exists = exists & (np.arange(right.shape[2]) < columns.counts[column][:, None])[:, None, :]
    # Values that are no numbers, from infinite activations, are not clear either.
    near = ~(np.abs(values) > margin[:, None, None]) & exists
    return (values > 0) & exists, near.any((1, 2))


def _find_in_whole_maps(
    maps: Float[np.ndarray, "n h w"],
    chosen: Int[np.ndarray, " some"],
    thresholds: Float[np.ndarray, " n"],
    size: Size,
) -> tuple[Int[np.ndarray, " inside"], Int[np.ndarray, " inside"]]:
    """Return the same as ``find_mask_pixels`` for some maps, from masks of all pixels."""
    height, width = height_width(size)
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for some in np.array_split(chosen, max(1, -(-len(chosen) * height * width // CHUNK))):
        masks = masks_from_maps(torch.from_numpy(maps[some]), torch.from_numpy(thresholds[some]), size)
        which, pixel = np.nonzero(masks.flatten(1).numpy())
        found.append((some[which], pixel))
    return np.concatenate([each for each, _ in found]), np.concatenate([pixel for _, pixel in found])

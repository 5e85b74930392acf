"""Rasterization of polygons, patterns and letters in integer arithmetic, so that every machine renders the same bytes.

Places are whole numbers from 0 to ``SPAN`` across the picture, whatever its size in pixels.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

SPAN = 1 << 14
COSINE_TABLE = tuple(round(1024 * float(np.cos(2 * np.pi * step / 64))) for step in range(64))  # a turn is 64 steps


class MaskPatch(NamedTuple):
    """A mask and the position of its top left corner."""

    row: int
    column: int
    mask: np.ndarray  # bool, (height, width)


def make_ellipse(x: int, y: int, radius_x: int, radius_y: int, corners: int = 16) -> np.ndarray:
    """Return the corners of a polygon that approximates an ellipse, int64 (corners, 2)."""
    step = 64 // corners
    turns = [(COSINE_TABLE[(i * step) % 64], COSINE_TABLE[(i * step - 16) % 64]) for i in range(corners)]
    return np.array([(x + (c * radius_x) // 1024, y + (s * radius_y) // 1024) for c, s in turns], dtype=np.int64)


def rotate_points(points: np.ndarray, steps: int) -> np.ndarray:
    """Rotate points about the origin by ``steps`` 64ths of a turn."""
    cos, sin = COSINE_TABLE[steps % 64], COSINE_TABLE[(steps - 16) % 64]
    x, y = points[:, 0], points[:, 1]
    return np.stack([(x * cos - y * sin) >> 10, (x * sin + y * cos) >> 10], axis=1)


def fill_polygon(points: np.ndarray, size: int) -> MaskPatch | None:
    """Return the pixels whose centre lies inside the polygon (even-odd rule), within the image; None if there are none.

    points: (corners, 2) of x, y. A pixel's centre is at ``(2 i + 1) SPAN / (2 size)``.
    """
    low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    left, top = (max(0, (2 * size * value + SPAN - 1) // (2 * SPAN)) for value in low)
    right, bottom = (min(size, (2 * size * value + SPAN - 1) // (2 * SPAN)) for value in high)
    if left >= right or top >= bottom:
        return None
    x, y = points[:, :1], points[:, 1:]
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    rows = (2 * np.arange(top, bottom) + 1) * SPAN // (2 * size)
    crossed = (y > rows) != (next_y > rows)
    rise = next_y - y
    crossing = x + (rows - y) * (next_x - x) // (rise + (rise == 0))
    column = np.clip((2 * size * crossing + SPAN - 1) // (2 * SPAN) - left, 0, right - left)
    # An edge flips everything to its right: count the flips per place, and take the parity of the running sum.
    width = right - left + 1
    places = (column + width * np.arange(bottom - top))[crossed]
    flips = np.bincount(places, minlength=width * (bottom - top)).reshape(bottom - top, width)
    mask = (np.cumsum(flips, axis=1)[:, :-1] & 1).astype(bool)
    return MaskPatch(top, left, mask)


@cache
def make_pattern_tile(pattern: str, period: int, size: int) -> np.ndarray:
    """Return where a pattern's second colour lies, uint8 0 or 1 (2 size, 2 size); ``period`` in 64ths of the image."""
    step = np.arange(2 * size) * 64 * 4 // size  # quarters of a 64th
    row, column = step[:, None], step[None, :]
    turn, half, fifth = 4 * period, 2 * period, period
    along = np.abs(column % (2 * turn) - turn)  # a triangle wave, 0..turn
    bits = {
        "plain": np.zeros((2 * size, 2 * size), bool),
        "horizontal stripes": (row % turn < half) & (column >= 0),
        "vertical stripes": (column % turn < half) & (row >= 0),
        "diagonal stripes": (row + column) % (turn + half) < half + fifth,
        "dots": (row % turn - half + 2) ** 2 + (column % turn - half + 2) ** 2 < (fifth + fifth // 3) ** 2,
        "checks": (row % turn < half) ^ (column % turn < half),
        "grid": (row % turn < fifth) | (column % turn < fifth),
        "waves": (row + along * (2 * turn - along) // (turn + half)) % (turn + half) < half,
        "zigzag": (row + along) % turn < half - 1,
        "speckle": _scatter_bits(row // 6, column // 6) % 100 < 22,
    }[pattern]
    return bits.astype(np.uint8)


def _scatter_bits(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    mixed = (row * 73856093) ^ (column * 19349663)
    return ((mixed ^ (mixed >> 13)) * 1274126177 & 0x7FFFFFFF) >> 8


GLYPHS = {
    "a": "0e11111f111111", "b": "1e11111e11111e", "c": "0e11101010110e", "d": "1e11111111111e", "e": "1f10101e10101f",
    "f": "1f10101e101010", "g": "0e11101713110f", "h": "1111111f111111", "i": "0e04040404040e", "j": "0702020202120c",
    "k": "11121418141211", "l": "1010101010101f", "m": "111b1515111111", "n": "11191915131311", "o": "0e11111111110e",
    "p": "1e11111e101010", "q": "0e11111115120d", "r": "1e11111e141211", "s": "0f10100e01011e", "t": "1f040404040404",
    "u": "1111111111110e", "v": "11111111110a04", "w": "11111115151b11", "x": "11110a040a1111", "y": "11110a04040404",
    "z": "1f01020408101f",
}  # fmt: skip


@cache
def get_letter_mask(letter: str) -> np.ndarray:
    """Return the mask of a capital letter, bool (7, 5).

    >>> print("\\n".join("".join(".#"[bit] for bit in row) for row in get_letter_mask("l").astype(int)))
    #....
    #....
    #....
    #....
    #....
    #....
    #####
    """
    rows = bytes.fromhex(GLYPHS[letter])
    return np.array([[bool(row >> (4 - column) & 1) for column in range(5)] for row in rows])


def make_letter_cells(word: str, height: int) -> list[np.ndarray]:
    """Return each letter's cell, bool (height, width), with a margin of one stroke; ``height`` in pixels, margins
    included.
    """
    width = height * 6 // 9
    rows = (np.arange(height) * 9 // height)[:, None]
    columns = (np.arange(width) * 6 // width)[None, :]
    return [np.pad(get_letter_mask(letter), ((1, 1), (0, 1)))[rows, columns] for letter in word]

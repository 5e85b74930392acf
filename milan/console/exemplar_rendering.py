"""Exemplars as the annotators of MILAN saw them: the masked region lit and outlined, the rest dimmed."""

import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

DIMMED_BRIGHTNESS = 0.25  # what is left of the brightness outside the mask, as in the forms of the 2022 study
OUTLINE_COLOUR = (255, 214, 92)  # a warm yellow, seen on dark and on light pictures alike
WEBP_QUALITY = 74  # of WebP
LONGEST = 16383  # pixels of a WebP picture's side at most


def highlight_masks(
    images: UInt8[Tensor, "k 3 height width"], masks: Bool[Tensor, "k 1 height width"], size: int = 128
) -> UInt8[np.ndarray, "k rows columns 3"]:
    """The images with what is outside their masks dimmed and the masks' border drawn, their longer side ``size``
    pixels.

    The border is drawn at that size, so it is one or two pixels wide whatever the size of the images.
    """
    height, width = (round(side * size / max(images.shape[-2:])) or 1 for side in images.shape[-2:])
    small = _resize(images.float(), (height, width))
    inside = _resize(masks.float(), (height, width)) > 0.5
    shown = small * torch.where(inside, 1.0, DIMMED_BRIGHTNESS)
    shown = torch.where(
        _find_border(inside, max(1, size // 96)),
        torch.tensor(OUTLINE_COLOUR, dtype=torch.float32)[:, None, None],
        shown,
    )
    return shown.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def make_image_grid(
    pictures: UInt8[np.ndarray, "k rows columns 3"], per_row: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The pictures in rows of ``per_row``, left to right and down; what is left over of the last row is black."""
    count, rows, columns, _ = pictures.shape
    down = -(-count // per_row)
    full = np.zeros((down * per_row, rows, columns, 3), np.uint8)
    full[:count] = pictures
    return (
        full.reshape(down, per_row, rows, columns, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(down * rows, per_row * columns, 3)
    )


def fitting(size: int, count: int, across: int) -> int:
    """The side of each of ``count`` pictures in rows of ``across``: ``size``, or less to keep the sheet within WebP's.

    >>> fitting(128, 30, 3), fitting(128, 1000, 3)
    (128, 49)
    """
    return max(1, min(size, LONGEST // max(across, -(-count // across))))


def encode_webp(picture: UInt8[np.ndarray, "height width 3"], quality: int = WEBP_QUALITY) -> bytes:
    """The picture as a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def is_whole_webp(file: Path) -> bool:
    """Return whether a WebP file is there and has the length that its header states."""
    try:
        with file.open("rb") as opened:
            head = opened.read(12)
        size = file.stat().st_size
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:] == b"WEBP" and size >= 8 + int.from_bytes(head[4:8], "little")


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear; antialiased where that makes them smaller."""
    if values.shape[-2:] == size:
        return values
    return interpolate(values, size, mode="bilinear", antialias=size[0] < values.shape[-2])


def _find_border(inside: Bool[Tensor, "k 1 height width"], width: int) -> Bool[Tensor, "k 1 height width"]:
    """The pixels just outside each mask, within ``width`` of it."""
    grown = max_pool2d(inside.float(), 2 * width + 1, stride=1, padding=width) > 0
    return grown & ~inside

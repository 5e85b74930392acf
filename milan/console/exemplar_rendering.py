"""Pictures of exemplars as MILAN's annotators saw them: the masked region outlined, the rest dimmed."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

DIMMED_BRIGHTNESS = 0.25  # share of the brightness outside the mask, as in the forms of the 2022 study
OUTLINE_COLOUR = (255, 214, 92)  # a yellow that is visible on dark and on light pictures
WEBP_QUALITY = 74
MAX_WEBP_SIDE = 16383  # pixels


def highlight_masks(
    images: UInt8[Tensor, "k 3 height width"], masks: Bool[Tensor, "k 1 height width"], size: int = 128
) -> UInt8[np.ndarray, "k rows columns 3"]:
    """Scale images to a longer side of ``size`` pixels, dim them outside their masks, and outline the masks.

    The outline is drawn after scaling, so that it is one or two pixels wide for images of any size.
    """
    height, width = scaled_size(images.shape[-2:], size)
    small = _resize(images.float(), (height, width))
    inside = _resize(masks.float(), (height, width)) > 0.5
    dimmed = small * torch.where(inside, 1.0, DIMMED_BRIGHTNESS)
    dimmed = torch.where(
        _find_border(inside, max(1, size // 96)),
        torch.tensor(OUTLINE_COLOUR, dtype=torch.float32)[:, None, None],
        dimmed,
    )
    return dimmed.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def scale_images(images: UInt8[Tensor, "k 3 height width"], size: int = 128) -> UInt8[np.ndarray, "k rows columns 3"]:
    """Scale images to a longer side of ``size`` pixels."""
    small = _resize(images.float(), scaled_size(images.shape[-2:], size))
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def scaled_size(shape: Sequence[int], size: int) -> tuple[int, int]:
    """Return height and width, scaled to a longer side of ``size`` pixels.

    >>> scaled_size((224, 448), 128)
    (64, 128)
    """
    height, width = (round(side * size / max(shape)) or 1 for side in shape)
    return height, width


def make_image_grid(
    pictures: UInt8[np.ndarray, "k rows columns 3"], per_row: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Arrange pictures in rows of ``per_row``, left to right and top to bottom; unused cells are black."""
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
    """Return the side of ``count`` pictures in rows of ``across``: ``size``, or less to keep within WebP's limit.

    >>> fitting(128, 30, 3), fitting(128, 1000, 3)
    (128, 49)
    """
    return max(1, min(size, MAX_WEBP_SIDE // max(across, -(-count // across))))


def encode_webp(picture: UInt8[np.ndarray, "height width 3"], quality: int = WEBP_QUALITY) -> bytes:
    """Return the picture as the bytes of a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def is_whole_webp(file: Path) -> bool:
    """Return whether a WebP file exists and has the length that its header states."""
    try:
        with file.open("rb") as opened:
            head = opened.read(12)
        size = file.stat().st_size
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:] == b"WEBP" and size >= 8 + int.from_bytes(head[4:8], "little")


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly, with antialiasing when shrinking."""
    if values.shape[-2:] == size:
        return values
    return interpolate(values, size, mode="bilinear", antialias=size[0] < values.shape[-2])


def _find_border(inside: Bool[Tensor, "k 1 height width"], width: int) -> Bool[Tensor, "k 1 height width"]:
    """Return the pixels outside each mask within ``width`` pixels of it."""
    grown = max_pool2d(inside.float(), 2 * width + 1, stride=1, padding=width) > 0
    return grown & ~inside

"""From a picture file of any kind to the pixels a network sees: one decoder, one crop, for pictures and for their label maps."""

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from milan.errors import BadInput

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
LONGEST = 8  # a picture is cut to this ratio of sides before it is resized: a 1 x 10,000 one would otherwise fill the memory


class Unreadable(Exception):
    """A picture that cannot be decoded; the text says why."""


@dataclass(frozen=True)
class Crop:
    """How a picture becomes a square of ``size`` pixels.

    "center": the short side is resized to ``resize`` and the middle cut out, as torchvision's Resize and CenterCrop do;
    "squash": both sides are resized to ``size``, whatever the picture's shape.
    """

    size: int
    resize: int
    kind: Literal["center", "squash"] = "center"

    def __post_init__(self) -> None:
        if self.kind not in ("center", "squash"):
            raise BadInput(f"unknown crop {self.kind!r}; choose center or squash")
        if self.size < 1:
            raise BadInput(f"images of {self.size} pixels a side; give a size of at least 1")
        if self.kind == "center" and self.resize < self.size:
            raise BadInput(f"resize {self.resize} is smaller than the size {self.size} that is cut out; give at least {self.size}")

    def apply(self, image: Image.Image, filter: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
        """The square; a label map takes NEAREST, and then lies on its picture exactly."""
        if self.kind == "squash":
            return image.resize((self.size, self.size), filter)
        image = _not_too_long(image)
        width, height = image.size
        short = min(width, height)
        wide, high = self.resize * width // short, self.resize * height // short
        left, top = round((wide - self.size) / 2), round((high - self.size) / 2)
        return image.resize((wide, high), filter).crop((left, top, left + self.size, top + self.size))


def decoded(source: Path | bytes) -> Image.Image:
    """A picture in RGB, upright, opaque: EXIF rotation done, transparency over white, 16 bits scaled to 8, first frame of several.

    Raises:
        Unreadable: it is damaged, cut short, empty, no picture, or so large that it can only be an attack (PIL's limit).
    """
    try:
        with Image.open(_stream(source)) as image:
            image.load()
            return _rgb(_upright(image))
    except Unreadable:
        raise
    except MemoryError:
        raise
    except Exception as error:  # decoders meet wild bytes with every kind of exception
        raise Unreadable(_reason(error)) from None


def label_map(source: Path | bytes) -> Image.Image:
    """A picture whose pixel values are class numbers (modes L, P or 16 bits), as they are.

    Raises:
        Unreadable: it cannot be decoded, or has colours in place of class numbers.
    """
    try:
        with Image.open(_stream(source)) as image:
            image.load()
            if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
                return image.convert("I") if image.mode[0] == "I" else image.copy()
            raise Unreadable(f"a label map needs one channel of class numbers, this has mode {image.mode}")
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def pixels(image: Image.Image) -> UInt8[np.ndarray, "3 height width"]:
    """An RGB picture's pixels, channels first."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _stream(source: Path | bytes) -> io.BytesIO:
    if isinstance(source, Path):
        if not stat.S_ISREG(source.stat().st_mode):  # reading a pipe would wait for ever
            raise Unreadable("not a regular file")
        source = source.read_bytes()
    if not source:
        raise Unreadable("empty file")
    return io.BytesIO(source)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF around a sound picture: common in ImageNet
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8; a float picture counts 0..1 as black to white, or 0..255 where any value exceeds 1."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    scale = 1 / 257 if image.mode != "F" else (255.0 if values.max() <= 1 else 1.0)
    return Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))


def _not_too_long(image: Image.Image) -> Image.Image:
    width, height = image.size
    most = min(width, height) * LONGEST
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than PIL's limit (a decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

"""From a picture file of any kind to an RGB picture: one decoder for pictures, one for label maps."""

import io
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


class Unreadable(Exception):
    """A picture that cannot be decoded; the text says why."""


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


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than PIL's limit (a decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

"""From a picture file of any kind to an RGB picture: one decoder for pictures, one for label maps."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

# Pillow's formats that are read, and what their files' names end in. Only these are opened, whatever a file's name:
# others start programs (PostScript: Ghostscript), need handlers of the system, or are hardly ever photographs.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "QOI": (".qoi",),
}
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # formats that some builds of Pillow lack
MOST_FILE_BYTES = 2**29  # of a picture's file
# Of a decoded picture and of its RGB form: Pillow's own limit is 179 million pixels, which can take 5 GB.
MOST_BYTES = 3 * 2**28
STRIP = 2**20  # pixels that are converted to RGB at a time


class UnreadableImage(Exception):
    """A picture that cannot be decoded; the text says why."""


def decode_image(source: Path | bytes) -> Image.Image:
    """A picture in RGB, upright, opaque: EXIF rotation done, transparency over white, 16 bits scaled to 8, first frame
    of several.

    Raises:
        Unreadable: it is damaged, cut short, empty, not in one of ``FORMATS``, or larger than is decoded.
    """
    with _opened(source) as image:
        return to_upright_rgb(image)


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened picture in RGB, upright and opaque, as :func:`decode_image` does."""
    return _to_rgb(_apply_orientation(image))


def decode_label_map(source: Path | bytes) -> Image.Image:
    """A picture whose pixel values are class numbers (modes L, P or 16 bits), as they are.

    Raises:
        Unreadable: it cannot be decoded, or has colours in place of class numbers.
    """
    with _opened(source) as image:
        if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
            return image.convert("I") if image.mode[0] == "I" else image.copy()
        raise UnreadableImage(f"a label map needs one channel of class numbers, this has mode {image.mode}")


@cache
def formats() -> tuple[str, ...]:
    """Return the formats of ``FORMATS`` that this build of Pillow reads."""
    known = {*features.modules, *features.codecs}
    missing = [name for name, part in OPTIONAL.items() if part not in known or not features.check(part)]
    return tuple(name for name in FORMATS if name not in missing)


def suffixes() -> tuple[str, ...]:
    """Return what the names of picture files end in."""
    return tuple(suffix for name in formats() for suffix in FORMATS[name])


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """The decoded picture; whatever is raised about it is ``UnreadableImage``."""
    try:
        with Image.open(_open_stream(source), formats=formats()) as image:
            _check_size(image)
            image.load()
            yield image
    except UnreadableImage:
        raise
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    except Exception as error:  # decoders meet wild bytes with every kind of exception
        raise UnreadableImage(_format_reason(error)) from None


def _check_size(image: Image.Image) -> None:
    """Before anything is decoded: a file of some hundred kilobytes can hold a picture of gigabytes."""
    per_pixel = _bytes_per_pixel(image.mode) + (0 if image.mode == "RGB" else 4)
    needed = image.width * image.height * per_pixel
    if needed > MOST_BYTES:
        size = f"{image.width} x {image.height} pixels of mode {image.mode}"
        raise UnreadableImage(f"{size} take {needed / 1e9:.1f} GB; at most {MOST_BYTES / 1e9:.1f} GB are decoded")


def _bytes_per_pixel(mode: str) -> int:
    """How many bytes Pillow keeps a pixel in: it pads two and three channels to four."""
    return 2 if mode.startswith("I;16") else 1 if mode in ("1", "L", "P") else 4


def _open_stream(source: Path | bytes) -> io.BytesIO:
    if isinstance(source, Path):
        facts = source.stat()
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for ever
            raise UnreadableImage("not a regular file")
        if facts.st_size > MOST_FILE_BYTES:
            raise UnreadableImage(
                f"a file of {facts.st_size / 1e9:.1f} GB; at most {MOST_FILE_BYTES / 1e9:.1f} GB are read"
            )
        source = source.read_bytes()
    if not source:
        raise UnreadableImage("empty file")
    return io.BytesIO(source)


def _apply_orientation(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF around a sound picture: common in ImageNet
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, converted strip by strip, since some conversions take many times the picture's memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    scale = _grey_scale(image)
    rows = max(1, STRIP // image.width)
    found = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        found.paste(_rgb_strip(strip, scale), (0, top))
    return found


def _rgb_strip(image: Image.Image, scale: float | None) -> Image.Image:
    if scale is not None:
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        image = Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _grey_scale(image: Image.Image) -> float | None:
    """What scales grey of 16 bits or floats (0..1, or 0..255 if any exceeds 1) to 0..255; None for other pictures."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return 1 / 257
    if image.mode != "F":
        return None
    return 255.0 if np.nan_to_num(np.asarray(image)).max() <= 1 else 1.0


def _format_reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in a format that is read"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than PIL's limit (a decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

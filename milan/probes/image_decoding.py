"""Decoders of picture files of any kind: one for RGB pictures, one for label maps."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

# Pillow's formats that are read, with the suffixes of their files. Only these are opened, whatever a file's suffix:
# others start programs (PostScript: Ghostscript), need handlers of the system, or are rarely photographs.
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
MAX_FILE_BYTES = 2**29  # largest size of a picture's file
# Largest size of a decoded picture and of its RGB form. Pillow's limit of 179 million pixels can take 5 GB.
MAX_DECODED_BYTES = 3 * 2**28
STRIP = 2**20  # pixels that are converted to RGB at a time


class UnreadableImage(Exception):
    """A picture cannot be decoded; the message says why."""


def decode_image(source: Path | bytes) -> Image.Image:
    """Decode a picture as RGB: EXIF rotation applied, transparency over white, 16 bits scaled to 8, first frame.

    Raises:
        UnreadableImage: the file is damaged, truncated, empty, too large, or not in one of ``FORMATS``.
    """
    with _opened(source) as image:
        return to_upright_rgb(image)


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened picture in RGB, upright and opaque, as :func:`decode_image` does."""
    return _to_rgb(_apply_orientation(image))


def decode_label_map(source: Path | bytes) -> Image.Image:
    """Decode a picture whose pixel values are class numbers (modes L, P or 16 bits).

    Raises:
        UnreadableImage: it cannot be decoded, or holds colours instead of class numbers.
    """
    with _opened(source) as image:
        if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
            return image.convert("I") if image.mode[0] == "I" else image.copy()
        raise UnreadableImage(f"a label map needs one channel of class numbers, this has mode {image.mode}")


@cache
def formats() -> tuple[str, ...]:
    """Return the formats of ``FORMATS`` that the installed Pillow reads."""
    supported = {*features.modules, *features.codecs}
    missing = [name for name, part in OPTIONAL.items() if part not in supported or not features.check(part)]
    return tuple(name for name in FORMATS if name not in missing)


def suffixes() -> tuple[str, ...]:
    """Return the suffixes of picture files."""
    return tuple(suffix for name in formats() for suffix in FORMATS[name])


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Yield the decoded picture; raise ``UnreadableImage`` for any error in its file."""
    try:
        with Image.open(_open_stream(source), formats=formats()) as image:
            _check_size(image)
            image.load()
            yield image
    except UnreadableImage:
        raise
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    # Decoders raise anything for arbitrary bytes.
    except Exception as error:
        raise UnreadableImage(_format_reason(error)) from None


def _check_size(image: Image.Image) -> None:
    """Raise UnreadableImage before decoding a picture that is too large, as a small file can hold gigabytes."""
    per_pixel = _bytes_per_pixel(image.mode) + (0 if image.mode == "RGB" else 4)
    needed = image.width * image.height * per_pixel
    if needed > MAX_DECODED_BYTES:
        size = f"{image.width} x {image.height} pixels of mode {image.mode}"
        raise UnreadableImage(
            f"{size} take {needed / 1e9:.1f} GB; at most {MAX_DECODED_BYTES / 1e9:.1f} GB are decoded"
        )


def _bytes_per_pixel(mode: str) -> int:
    """Return the bytes per pixel in Pillow, which pads two and three channels to four."""
    return 2 if mode.startswith("I;16") else 1 if mode in ("1", "L", "P") else 4


def _open_stream(source: Path | bytes) -> io.BytesIO:
    if isinstance(source, Path):
        check_file(source)
        source = source.read_bytes()
    if not source:
        raise UnreadableImage("empty file")
    return io.BytesIO(source)


def check_file(file: Path) -> None:
    """Raise UnreadableImage for a file that is too large or no regular one, as reading a pipe would block."""
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableImage("not a regular file")
    if facts.st_size > MAX_FILE_BYTES:
        size = f"{facts.st_size / 1e9:.1f} GB"
        raise UnreadableImage(f"the file has {size}; at most {MAX_FILE_BYTES / 1e9:.1f} GB are read")


def _apply_orientation(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # Sound pictures with damaged EXIF data are common in ImageNet.
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture in RGB, converted strip by strip, since some conversions take many times its memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    scale = _grey_scale(image)
    rows = max(1, STRIP // image.width)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_rgb_strip(strip, scale), (0, top))
    return rgb


def _rgb_strip(image: Image.Image, scale: float | None) -> Image.Image:
    if scale is not None:
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        image = Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _grey_scale(image: Image.Image) -> float | None:
    """Return the factor from 16-bit or float grey (0..1, or 0..255 if any exceeds 1) to 0..255; None for others."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return 1 / 257
    if image.mode != "F":
        return None
    return 255.0 if np.nan_to_num(np.asarray(image)).max() <= 1 else 1.0


def _format_reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in a supported format"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than PIL's limit (a decompression bomb?)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

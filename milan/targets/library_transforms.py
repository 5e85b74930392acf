"""A library's transform as a ``Preprocessing``, measured on test pictures, since each class interprets its settings.

The network's input then differs from the library's by at most ``TOLERANCE``; otherwise the network is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageFilter
from torch import Tensor

from milan.errors import BadInput
from milan.storage.hub_access import format_error_line
from milan.targets.preprocessing import Crop, Preprocessing, Size, height_width

TOLERANCE = 0.05  # grey levels of 255, a mean over a picture
# Widths and heights of test pictures for which rounding rules differ.
PICTURES = ((500, 375), (333, 401), (427, 341), (640, 431), (389, 500))
PLAIN = (64, 64)
DIGITS = 6  # significant digits of a measured mean, which float32 keeps after a subtraction

Transform = Callable[[Image.Image], Float[Tensor, "3 h w"]]
Frame = tuple[Crop, Size | None]


@dataclass(frozen=True)
class KnownPreprocessing:
    """The preprocessing of a network, as far as it is known.

    Attributes:
        preprocessing: the one most similar to the library's.
        fault: how it differs from the library's; empty if it does not.
        note: what the user should know about it, otherwise.
    """

    preprocessing: Preprocessing
    fault: str = ""
    note: str = ""


def reproduced(library: str, transform: Transform, guess: Preprocessing, frames: Sequence[Frame]) -> KnownPreprocessing:
    """Return the preprocessing that reproduces the pixels of a library's transform.

    Args:
        library: name of the library or class, for messages.
        transform: maps an RGB picture to the network's input.
        guess: interpolation, resampler and rounding; mean and std as declared by the library, which are used if they
            agree with the measured ones; and the image size for a transform whose output size depends on the picture.
        frames: candidate crops and sizes, of which the first that agrees is used.
    """
    subject = f"the transform of {library}"
    try:
        seen = {picture: transform(_picture(picture)) for picture in PICTURES}
        guess = _normalized(transform, guess)
    # Transforms raise anything.
    except Exception as error:
        reason = format_error_line(error)[:150]
        return KnownPreprocessing(guess, f"{subject} fails on a picture ({type(error).__name__}: {reason})")
    shapes = {tuple(pixels.shape) for pixels in seen.values()}
    if any(len(shape) != 3 or shape[0] != len(guess.mean) for shape in shapes):
        made = " and ".join(map(str, sorted(shapes)))
        return KnownPreprocessing(guess, f"{subject} returns {made} for a picture instead of 3 x height x width")
    # The transform does not resize.
    if all(tuple(pixels.shape[1:]) == picture[::-1] for picture, pixels in seen.items()):
        own = height_width(guess.image_size)[::-1]
        seen, frames = {own: transform(_picture(own))}, [(guess.crop, None)]
    elif len(shapes) == 1:
        guess = guess.changed(image_size=next(iter(shapes))[1:])
    best, least = _nearest(_candidates(guess, frames), seen, guess)
    if least > TOLERANCE:
        by = f"by {least:.2f} grey levels" if least < float("inf") else "in size"
        return KnownPreprocessing(best, f"{subject} differs from the most similar preprocessing {by}")
    varies = f"{subject} gives each picture another size; here each is {best.geometry_text}"
    return KnownPreprocessing(best, note=varies if len(shapes) > 1 else "")


def _nearest(
    candidates: Iterable[Preprocessing], seen: dict[tuple[int, int], Tensor], fallback: Preprocessing
) -> tuple[Preprocessing, float]:
    """Return the first candidate that reproduces the pictures, or else the most similar one, and its difference."""
    best, least = fallback, float("inf")
    for tried in candidates:
        difference = _difference(tried, seen)
        if difference < least:
            best, least = tried, difference
        if least <= TOLERANCE:
            break
    return best, least


def declared(values: Any, channels: int = 3) -> tuple[float, ...] | None:
    """Return a mean or standard deviation of a library's settings; None if there is not one for each channel."""
    numbers = [values] * channels if isinstance(values, int | float) else list(values or ())
    return tuple(map(float, numbers)) if len(numbers) == channels else None


def _candidates(guess: Preprocessing, frames: Sequence[Frame]) -> Iterator[Preprocessing]:
    for crop, frame in frames:
        # For a frame smaller than the image, the transform pads.
        with suppress(BadInput):
            yield replace(guess, crop=crop, resize=frame)


def _difference(tried: Preprocessing, seen: dict[tuple[int, int], Tensor]) -> float:
    """Return the mean difference in grey levels on the first picture that differs, at the centre of a larger input."""
    worst = 0.0
    for picture, pixels in seen.items():
        middle = pixels[:, *tried.cut((pixels.shape[1], pixels.shape[2]))].double()
        mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (tried.mean, tried.std))
        levels = (middle * std + mean) * 255
        own = torch.from_numpy(tried.pixels(_picture(picture))).double()
        own = own.flip(0) if tried.channel_order == "bgr" else own
        if own.shape != levels.shape:
            return float("inf")
        worst = max(worst, float((levels - own).abs().mean()))
        if worst > TOLERANCE:
            break
    return worst


def _normalized(transform: Transform, guess: Preprocessing) -> Preprocessing:
    """Return a guess with the mean, standard deviation and channel order measured on pictures of one colour.

    Raises:
        BadInput: the transform mixes channels.
    """
    black, white, red = (_middle(transform(Image.new("RGB", PLAIN, colour))) for colour in ("black", "white", "red"))
    scale = white - black
    lit = ((red - black) / scale).tolist()
    order = next(
        (
            name
            for name, place in (("rgb", 0), ("bgr", -1))
            if np.allclose(lit, np.roll([1.0, 0.0, 0.0], place), atol=1e-3)
        ),
        None,
    )
    if order is None:
        raise BadInput(f"red becomes {lit}: channels are mixed")
    mean, std = _as_declared(-black / scale, guess.mean), _as_declared(1 / scale, guess.std)
    return guess.changed(mean=mean, std=std, channel_order=order)


def _middle(pixels: Tensor) -> Float[Tensor, " c"]:
    return pixels[:, pixels.shape[-2] // 2, pixels.shape[-1] // 2].double()


def _as_declared(found: Tensor, values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the declared values if they agree with the measured ones, which have rounding errors."""
    if len(values) == len(found) and np.allclose(found, values, rtol=1e-5, atol=1e-6):
        return values
    return tuple(float(f"{value:.{DIGITS}g}") for value in found.tolist())


@lru_cache(maxsize=8)
def _picture(size: tuple[int, int]) -> Image.Image:
    """Return a test picture of a width and height: noise as smooth as a photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))

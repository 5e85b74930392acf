"""Preprocessing of images for a network: resize, crop and normalize. Targets and probes share this description.

This module does not import torch, so that ``--help`` is fast.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from milan.errors import BadInput

Size = int | tuple[int, int]  # side of a square, or height and width, in pixels
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Crop = Literal["center", "squash"]
Precision = Literal["fp32", "bf16"]
IMAGE_SIZE = 224  # assumed for a network of unknown input size
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Pictures are cropped to this aspect ratio before they are resized: one of 1 x 10,000 would fill the memory.
LONGEST = 8


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a network's input.

    Attributes:
        image_size: side of the network's input in pixels, or height and width.
        resize: the frame that a picture is resized to, and from whose centre ``image_size`` is cropped: its short side,
            or height and width; by default ``image_size``.
        interpolation: filter of the resizing; all but nearest are antialiased.
        crop: "center": the picture keeps its aspect ratio and is resized to cover the frame; "squash": both of its
            sides are resized to the frame's.
        mean, std: normalization of each channel, for pixels in 0..1; for bands that are no bytes in their own units.
        channel_order: "rgb", or "bgr" for a network that takes blue first.
        resampler: "pillow" (torchvision and timm) or "torch" (image processors of transformers), which differ in the
            order of passes.
        crop_rounding: rounding of the crop's position: "nearest" (torchvision and timm) or "down" (transformers).
        display_bands: indices of the bands that people and describers see as red, green and blue; by default the first
            three.

    Raises:
        BadInput: a value is out of range.
    """

    image_size: Size = IMAGE_SIZE
    resize: Size | None = None
    interpolation: Interpolation = "bilinear"
    crop: Crop = "center"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["rgb", "bgr"] = "rgb"
    resampler: Literal["pillow", "torch"] = "pillow"
    crop_rounding: Literal["nearest", "down"] = "nearest"
    display_bands: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise BadInput(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
        size = as_size(self.image_size, "image_size")
        object.__setattr__(self, "image_size", size)
        if self.resize is not None:
            object.__setattr__(self, "resize", _frame(self.resize, size))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.mean or len(self.mean) != len(self.std) or not all(self.std):
            raise BadInput(f"mean and std need one value for each channel, std none of them 0: {self.mean}, {self.std}")
        if self.display_bands is not None:
            object.__setattr__(self, "display_bands", tuple(self.display_bands))
            if len(self.display_bands) != 3:
                raise BadInput(f"display_bands is {self.display_bands}; name three bands, for red, green and blue")

    def __str__(self) -> str:
        colours = ", ".join(
            f"{name} {' '.join(f'{value:g}' for value in getattr(self, name))}" for name in ("mean", "std")
        )
        return f"{self.geometry_text}, {colours}"

    @property
    def geometry_text(self) -> str:
        """Resizing and cropping, as text for messages."""
        frame = size_text(self.image_size if self.resize is None else self.resize)
        way = f"squashed to {frame}" if self.crop == "squash" else f"scaled to cover {frame}"
        cut = (
            ""
            if self.crop == "squash" and self.resize in (None, self.image_size)
            else f", middle {size_text(self.image_size)} cut out"
        )
        return f"{way} pixels ({self.interpolation}){cut}"

    @property
    def geometry(self) -> dict[str, Any]:
        """All fields that determine the pixels before normalization."""
        kept = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("mean", "std", "channel_order")
        }
        return kept | {"resize": self.image_size if self.resize is None else self.resize}

    def changed(self, **options: Any) -> "Preprocessing":
        """Return a copy with other values; ``resize`` keeps its ratio to ``image_size`` unless it is given too."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in options.items()
            if value is not None
        }
        given |= {name: as_size(given[name], name) for name in ("image_size", "resize") if name in given}
        if "image_size" in given and "resize" not in given and self.resize is not None:
            sizes = (height_width(size) for size in (self.resize, self.image_size, given["image_size"]))
            given["resize"] = tuple(frame * new // old for frame, old, new in zip(*sizes, strict=True))
        return replace(self, **given)

    @property
    def channels(self) -> int:
        """Number of the network's input channels."""
        return len(self.mean)

    def bands(self, bands: Float[np.ndarray, "bands rows columns"]) -> Float[np.ndarray, "bands height width"]:
        """Resize and crop an image of any number of bands."""
        return np.stack([self._band(Image.fromarray(np.ascontiguousarray(band))) for band in bands])

    def _band(self, band: Image.Image) -> np.ndarray:
        band = self._prepared(band)
        size = self.scaled_size(band.size)
        scaled = (
            band if size[::-1] == band.size else band.resize(size[::-1], Image.Resampling[self.interpolation.upper()])
        )
        return np.asarray(scaled)[self.cut(size)]

    def pixels(self, picture: Image.Image) -> UInt8[np.ndarray, "3 height width"]:
        """Resize and crop an RGB picture."""
        picture = self._prepared(picture)
        size = self.scaled_size(picture.size)
        scale = {"pillow": _scaled_by_pillow, "torch": _scaled_by_torch}[self.resampler]
        return np.ascontiguousarray(scale(picture, size, self.interpolation)[:, *self.cut(size)])

    def label_map(self, labels: Image.Image) -> np.ndarray:
        """Resize (nearest neighbour) and crop a picture's label map as ``pixels`` does the picture."""
        labels = self._prepared(labels)
        size = self.scaled_size(labels.size)
        return np.asarray(labels.resize(size[::-1], Image.Resampling.NEAREST))[self.cut(size)]

    def scaled_size(self, picture_size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width to which a picture of a width and height is resized."""
        rows, columns = height_width(self.image_size if self.resize is None else self.resize)
        if self.crop == "squash":
            return rows, columns
        width, height = picture_size
        # torchvision's rule.
        if rows == columns:
            short = min(width, height)
            return rows * height // short, rows * width // short
        # timm's rule.
        ratio = min(height / rows, width / columns)
        return round(height / ratio), round(width / ratio)

    def cut(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of the centre crop of an image of a height and width."""
        halves = [(side - kept) / 2 for side, kept in zip(size, height_width(self.image_size), strict=True)]
        starts = [int(half) if self.crop_rounding == "down" else round(half) for half in halves]
        rows, columns = (
            slice(start, start + kept) for start, kept in zip(starts, height_width(self.image_size), strict=True)
        )
        return rows, columns

    def _prepared(self, picture: Image.Image) -> Image.Image:
        if self.crop == "squash":
            return picture
        rows, columns = height_width(self.image_size if self.resize is None else self.resize)
        return _without_far_ends(picture, max(LONGEST, 2 * rows // columns, 2 * columns // rows))


CHOICES: dict[str, tuple[str, ...]] = {
    "interpolation": get_args(Interpolation),
    "crop": get_args(Crop),
    "channel_order": ("rgb", "bgr"),
    "resampler": ("pillow", "torch"),
    "crop_rounding": ("nearest", "down"),
}


@dataclass(frozen=True)
class TargetOptions:
    """Options of a target besides its spec and weights; None means the library's or the custom function's value.

    Attributes:
        name: name of the network in messages, tables and the default output folder
        image_size: side of the network's input in pixels, or height and width
        resize: side of the frame to which an image is resized before its centre is cropped, or height and width; equal
            to IMAGE_SIZE for no crop
        interpolation: filter of the resizing: nearest, bilinear, bicubic, lanczos, box or hamming
        crop: center (crop the centre of each image) or squash (resize it to the input's shape)
        mean: mean of each channel in 0..1, as 0.485 0.456 0.406; one value for a network that takes grey images
        std: standard deviation of each channel in 0..1, as 0.229 0.224 0.225
        display_bands: indices of the bands displayed as red, green and blue, as 3 2 1, for networks that take other
            images than grey or RGB
        layout: BCHW, BHWC, BNC or BC, where it cannot be inferred from the outputs' shapes
        prefix_tokens: number of tokens before the grid, where it cannot be inferred
        output_index: index of the tensor to use where a layer puts out several
        allow_nondeterministic: continue, with a warning, if the activations of an image change from one pass to the
            next or with the other images of a batch
        precision: bf16 (half the memory; faster on hardware that has it) or fp32; by default that of the weights.
            Statistics are computed in 32 bits in any case
        dictionary: sparse autoencoder or set of directions (a file or folder) whose latents are further units, as the
            layer LAYER@sae
        dictionary_layer: layer that it encodes, as blocks.10 or blocks.10.hook_resid_post; by default its file's
    """

    # On the command line the fields are options without a prefix.
    flat: ClassVar[bool] = True

    name: str | None = None
    image_size: list[int] | tuple[int, ...] | int | None = None
    resize: list[int] | tuple[int, ...] | int | None = None
    interpolation: Interpolation | None = None
    crop: Crop | None = None
    mean: list[float] | tuple[float, ...] | None = None
    std: list[float] | tuple[float, ...] | None = None
    display_bands: list[int] | tuple[int, ...] | None = None
    layout: str | None = None
    prefix_tokens: int | None = None
    output_index: int | None = None
    allow_nondeterministic: bool | None = None
    precision: Precision | None = None
    dictionary: str | None = None
    dictionary_layer: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The given options that are fields of ``Preprocessing``."""
        return {name: value for name, value in self.given.items() if name in _PREPROCESSING}

    @property
    def reading(self) -> dict[str, Any]:
        """The given options that concern how the network is run and how its outputs are laid out."""
        return {name: value for name, value in self.given.items() if name in READING}


READING = ("layout", "prefix_tokens", "output_index", "allow_nondeterministic", "precision")
_PREPROCESSING = {field.name for field in fields(Preprocessing)}


def as_size(value: Any, name: str = "size") -> Size:
    """Return a size given as one or two whole numbers, in a list or not.

    >>> as_size(224), as_size([32, 32]), as_size((48, 64))
    (224, 32, (48, 64))

    Raises:
        BadInput: the value has another form.
    """
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    whole = all(isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in sides)
    if not whole or len(sides) not in (1, 2):
        raise BadInput(f"{name} is {value!r}; give the side of a square, or height and width, in pixels")
    height, width = int(sides[0]), int(sides[-1])
    return height if height == width else (height, width)


def height_width(size: Size) -> tuple[int, int]:
    """Return height and width in pixels.

    >>> height_width(32), height_width((48, 64))
    ((32, 32), (48, 64))
    """
    return (size, size) if isinstance(size, int) else size


def pixel_count(size: Size) -> int:
    """Return the number of pixels of an image of a size."""
    height, width = height_width(size)
    return height * width


def size_text(size: Size) -> str:
    """Return a size as text.

    >>> size_text(32), size_text((48, 64))
    ('32 x 32', '48 x 64')
    """
    return " x ".join(map(str, height_width(size)))


def _frame(resize: Size, size: Size) -> Size:
    """Return the frame as one number if it and the image are square, else as height and width."""
    height, width = height_width(size)
    frame = as_size(resize, "resize")
    rows, columns = height_width(frame)
    if isinstance(resize, int) and height != width:
        rows, columns = (round(resize * side / min(height, width)) for side in (height, width))
    if rows < height or columns < width:
        raise BadInput(
            f"resize {size_text((rows, columns))} is smaller than the {size_text(size)} pixels of the crop; give"
            " at least its size"
        )
    return frame if height == width else (rows, columns)


def _scaled_by_pillow(
    picture: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> UInt8[np.ndarray, "3 height width"]:
    return np.asarray(picture.resize(size[::-1], Image.Resampling[interpolation.upper()])).transpose(2, 0, 1)


def _scaled_by_torch(
    picture: Image.Image, size: tuple[int, int], interpolation: Interpolation
) -> UInt8[np.ndarray, "3 height width"]:
    """Resize with torchvision's kernels, as transformers' image processors do."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
    return functional.resize(pixels, list(size), InterpolationMode(interpolation), antialias=True).numpy()


def _without_far_ends(picture: Image.Image, longest: int) -> Image.Image:
    width, height = picture.size
    most = min(width, height) * longest
    if max(width, height) <= most:
        return picture
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))

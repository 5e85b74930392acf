"""The preprocessing of torchvision, timm and transformers: a guess from their settings, then measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from milan.storage.hub_access import format_error_line, quiet
from milan.targets.detectors import assumed_preprocessing
from milan.targets.library_transforms import Frame, KnownPreprocessing, declared, reproduced
from milan.targets.preprocessing import IMAGE_SIZE, Crop, Interpolation, Preprocessing, as_size

# Pillow's numbers of its filters.
FILTERS: dict[Any, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def torchvision_preprocessing(model: nn.Module, published: Any) -> KnownPreprocessing | None:
    """Return the preprocessing of published weights of torchvision; None without weights."""
    if published is None:
        return None
    transform = published.transforms()
    filter = getattr(getattr(transform, "interpolation", None), "value", None)
    colours = {name: declared(getattr(transform, name, None)) for name in ("mean", "std")}
    guess = assumed_preprocessing(model).changed(interpolation=filter, **colours)
    frame = as_size(transform.resize_size) if getattr(transform, "resize_size", None) else None
    # Transforms of semantic segmentation do not crop.
    if frame and not hasattr(transform, "crop_size"):
        guess = guess.changed(image_size=frame)
    return reproduced("torchvision", transform, guess, [(guess.crop, frame)])


def timm_preprocessing(data: Mapping[str, Any]) -> KnownPreprocessing:
    """Return the preprocessing of a data configuration of timm."""
    import timm

    size = data["input_size"][-2:]
    colours = {name: declared(data[name]) for name in ("mean", "std")}
    guess = Preprocessing().changed(image_size=size, interpolation=data["interpolation"], **colours)
    frame = as_size([math.floor(side / data["crop_pct"]) for side in size])
    crop: Crop = "squash" if data["crop_mode"] == "squash" else "center"
    return reproduced("timm", timm.data.create_transform(**data, is_training=False), guess, [(crop, frame)])


def processor_preprocessing(name: str, config: Any, local: bool) -> KnownPreprocessing:
    """Return the preprocessing of the image processor that is saved with a network of transformers."""
    import transformers

    fallback = Preprocessing(as_size(getattr(config, "image_size", None) or IMAGE_SIZE))
    try:
        with quiet():
            processor = transformers.AutoImageProcessor.from_pretrained(
                name, local_files_only=local, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        note = (
            f"{name} has no image processor that can be loaded ({format_error_line(error)[:100]}): assumed {fallback}"
        )
        return KnownPreprocessing(fallback, note=note)
    # The processor of timm's networks within transformers.
    if isinstance(getattr(processor, "data_config", None), Mapping):
        return timm_preprocessing(processor.data_config)
    sides = _sides(processor)
    guess = fallback.changed(
        image_size=None if getattr(config, "image_size", None) or not sides else sides[0],
        interpolation=FILTERS.get(getattr(processor, "resample", None)),
        resampler="torch" if getattr(processor, "backend", "") == "torchvision" else "pillow",
        crop_rounding="down",
        **{key: declared(getattr(processor, f"image_{key}", None)) for key in ("mean", "std")},
    )
    with quiet():
        named, frames = type(processor).__name__, _frames(processor, sides)
        found = reproduced(named, lambda picture: _pixel_values(processor, picture), guess, frames)
    return _of_grey(found) if getattr(config, "num_channels", 3) == 1 else found


def _of_grey(found: KnownPreprocessing) -> KnownPreprocessing:
    """Return the same for a network with one channel, if all channels of RGB pictures are treated alike."""
    mean, std = set(found.preprocessing.mean), set(found.preprocessing.std)
    if len(mean) > 1 or len(std) > 1:
        return found
    return replace(found, preprocessing=found.preprocessing.changed(mean=tuple(mean), std=tuple(std)))


def _pixel_values(processor: Any, picture: Any) -> Any:
    pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
    return pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels


def _frames(processor: Any, sides: Sequence[int]) -> list[Frame]:
    """Return the ways in which image processors of transformers resize, most common first."""
    # ConvNeXt and PoolFormer have a crop_pct; LeViT resizes to 256 / 224 of its size.
    share = getattr(processor, "crop_pct", None) or 1
    scaled = [*sides, *(int(side / share) for side in sides), *(int(256 / 224 * side) for side in sides)]
    center: list[Frame] = [("center", (side, side)) for side in scaled]
    squash: list[Frame] = [("squash", None), *(("squash", (side, side)) for side in scaled)]
    return list(dict.fromkeys([*center, *squash]))


def _sides(processor: Any) -> list[int]:
    """Return the sizes in an image processor's settings, the one to which it resizes first."""
    found = []
    for size in (getattr(processor, "size", None), getattr(processor, "crop_size", None)):
        named = [getattr(size, key, None) for key in ("shortest_edge", "height", "width", "longest_edge")]
        found += [int(side) for side in [size if isinstance(size, int) else None, *named] if side]
    return list(dict.fromkeys(found))

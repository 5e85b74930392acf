"""Attention crops (Describe-and-Dissect, appendix A.1.1): the parts of an image where a unit's activation map stands
out.

The released code makes an 8-bit picture of the raw activations, so that values above 1 wrap around; here each map is
scaled to its own range first. It enlarges that picture bicubically, and stretches crops so; here both are done
bilinearly. Otsu's threshold is OpenCV's: of the 256 levels the last one of the lower group.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from milan.targets.preprocessing import Size, height_width

CROPS = 2  # raised when other crops come out of the same map: 2 cuts at OpenCV's threshold, 1 in the middle of its bin
MAX_CROPS = 4  # crops of one image: the paper's α (released code, describe_neurons.py line 152)
MAX_OVERLAP = 0.5  # IoU of two crops at most: the paper's η
MAX_WHOLE_OVERLAP = 0.8  # IoU with the whole image, from which a crop adds nothing (released code, DnD_models.py)
BINS = 256
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)  # places that touch at a corner are one region, as OpenCV's contours have it

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two not included


def otsu_threshold(levels: UInt8[np.ndarray, "..."]) -> int | None:
    """Return the level that splits a picture of 8 bits into two groups as different as can be (Otsu 1979), as OpenCV.

    The level belongs to the lower group: what is above it is lit. Of equally good levels the lowest; None where all
    values are the same.

    >>> otsu_threshold(np.array([0, 25, 229, 255], dtype=np.uint8))
    25
    """
    counts = np.bincount(levels.ravel(), minlength=BINS)
    below = np.cumsum(counts).astype(np.float64)
    sums = np.cumsum(counts * np.arange(BINS))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(below * above * (sums / below - (sums[-1] - sums) / above) ** 2)
    return int(between.argmax()) if between.any() else None


def eight_bit(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return values as levels of 0 to 255, the smallest becoming 0 and the largest 255, rounded down."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-30) * (BINS - 1)).astype(np.uint8)


def find_attention_boxes(
    heat_map: Float[np.ndarray, "height width"],
    max_boxes: int = MAX_CROPS,
    max_overlap: float = MAX_OVERLAP,
    max_whole_overlap: float = MAX_WHOLE_OVERLAP,
) -> list[Box]:
    """Boxes around the regions above Otsu's threshold, the largest first; none that overlaps an earlier one, or is
    nearly the whole.

    heat_map: an activation map at the image's size; only its shape counts, not its scale. A region within a hole of
        another belongs to that.
    """
    levels = eight_bit(heat_map)
    threshold = otsu_threshold(levels)
    if threshold is None:
        return []
    lit = ndimage.binary_fill_holes(levels > threshold)
    labels, _ = ndimage.label(lit, EIGHT_NEIGHBOURS)
    found = [(part[0].start, part[1].start, part[0].stop, part[1].stop) for part in ndimage.find_objects(labels)]
    frame = (0, 0, *heat_map.shape)
    kept: list[Box] = []
    for box in sorted(found, key=lambda box: (-_box_area(box), box)):
        if len(kept) == max_boxes:
            break
        if box_iou(box, frame) < max_whole_overlap and all(box_iou(box, other) <= max_overlap for other in kept):
            kept.append(box)
    return kept


def box_iou(one: Box, other: Box) -> float:
    """
    >>> box_iou((0, 0, 2, 2), (0, 1, 2, 3))
    0.3333333333333333
    """
    shared = _box_area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return shared / (_box_area(one) + _box_area(other) - shared)


def _box_area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def make_heat_maps(maps: Float[Tensor, "b h w"], size: Size) -> Float[np.ndarray, "b height width"]:
    """Activation maps at the image's size, each scaled to 0..1; all 0 where a map is the same everywhere or holds no
    number.
    """
    maps = maps.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    height, width = height_width(size)
    large = (
        interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        if maps.shape[1:] != (1, 1)
        else None
    )
    if large is None:
        return np.zeros((len(maps), height, width))
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return ((large - low) / (high - low).clamp_min(1e-30) * (high > low)).numpy()


def crop_and_resize(image: UInt8[Tensor, "3 height width"], box: Box) -> UInt8[Tensor, "3 height width"]:
    """The part of an image in a box, stretched to the image's own size."""
    part = image[None, :, box[0] : box[2], box[1] : box[3]].float()
    large = interpolate(part, image.shape[-2:], mode="bilinear", antialias=True, align_corners=False)[0]
    return large.round().clamp(0, 255).to(torch.uint8)

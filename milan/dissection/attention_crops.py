"""Attention crops (Describe-and-Dissect, appendix A.1.1): the parts of an image where a unit is most active.

The released code converts raw activations to 8 bits, so that values above 1 wrap around; here each map is scaled to its
own range first. It resizes the maps and the crops bicubically; here both are resized bilinearly. Otsu's threshold is
that of OpenCV: the last of the 256 levels in the lower group.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from milan.targets.preprocessing import Size, height_width

# Version of the crops. Version 1 thresholded in the middle of the bin, version 2 as OpenCV.
CROPS = 2
MAX_CROPS = 4  # crops of one image: the paper's α (released code, describe_neurons.py line 152)
MAX_OVERLAP = 0.5  # largest IoU of two crops: the paper's η
MAX_WHOLE_OVERLAP = 0.8  # IoU with the whole image above which a crop is dropped (released code, DnD_models.py)
BINS = 256
# Places that touch at a corner are one region, as in OpenCV's contours.
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two are exclusive


def otsu_threshold(levels: UInt8[np.ndarray, "..."]) -> int | None:
    """Return the level that best separates an 8-bit picture into two groups (Otsu 1979), as OpenCV does.

    The level belongs to the lower group. Of equally good levels it is the lowest; None if all values are equal.

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
    """Return values scaled from their range to 0..255, rounded down."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-30) * (BINS - 1)).astype(np.uint8)


def find_attention_boxes(
    heat_map: Float[np.ndarray, "height width"],
    max_boxes: int = MAX_CROPS,
    max_overlap: float = MAX_OVERLAP,
    max_whole_overlap: float = MAX_WHOLE_OVERLAP,
) -> list[Box]:
    """Return boxes around the regions above Otsu's threshold, largest first.

    Args:
        heat_map: an activation map at the image's size and of any scale. A region within a hole of another belongs to
            the other.
        max_boxes: number of boxes.
        max_overlap: largest IoU with an earlier box.
        max_whole_overlap: IoU with the whole image from which a box is dropped.
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
    """Return the intersection over union of two boxes.

    >>> box_iou((0, 0, 2, 2), (0, 1, 2, 3))
    0.3333333333333333
    """
    shared = _box_area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return shared / (_box_area(one) + _box_area(other) - shared)


def _box_area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def make_heat_maps(maps: Float[Tensor, "b h w"], size: Size) -> Float[np.ndarray, "b height width"]:
    """Return activation maps at the image's size, each scaled to 0..1; 0 for a constant map or one of NaN."""
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
    """Return the part of an image in a box, resized to the image's size."""
    part = image[None, :, box[0] : box[2], box[1] : box[3]].float()
    large = interpolate(part, image.shape[-2:], mode="bilinear", antialias=True, align_corners=False)[0]
    return large.round().clamp(0, 255).to(torch.uint8)

"""Attention crops against a plain reference: thresholds by trying them all, regions by walking from pixel to pixel."""

import itertools

import numpy as np
import pytest
import torch

from milan.dissection.attention_crops import (
    MAX_CROPS,
    MAX_OVERLAP,
    MAX_WHOLE_OVERLAP,
    box_iou,
    crop_and_resize,
    eight_bit,
    find_attention_boxes,
    make_heat_maps,
    otsu_threshold,
)


def reference_threshold(levels: np.ndarray) -> int:
    """The level that splits the values with the greatest variance between the groups, by the definition."""
    best, found = 0.0, -1
    for level in range(255):
        one, other = levels[levels <= level].astype(float), levels[levels > level].astype(float)
        if len(one) and len(other):
            between = len(one) * len(other) * (one.mean() - other.mean()) ** 2
            if between > best * (1 + 1e-12):
                best, found = between, level
    return found


def reference_boxes(heat: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of regions that touch at sides or corners, but for those inside a hole of another."""
    levels = np.floor(heat * 255)
    lit = levels > reference_threshold(levels)
    outside = walked(
        ~lit, [(row, column) for row, column in borders(*lit.shape) if not lit[row, column]], corners=False
    )
    solid = [(int(row), int(column)) for row, column in np.argwhere(~outside)]
    left, found = set(solid), []
    while left:
        region = walked(~outside, [next(iter(left))], corners=True)
        rows, columns = np.where(region)
        found.append((int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1))
        left -= {(int(row), int(column)) for row, column in np.argwhere(region)}
    kept: list[tuple[int, int, int, int]] = []
    for box in sorted(found, key=lambda box: (-(box[2] - box[0]) * (box[3] - box[1]), box)):
        apart = all(shared(box, other) <= MAX_OVERLAP for other in kept)
        if len(kept) < MAX_CROPS and shared(box, (0, 0, *heat.shape)) < MAX_WHOLE_OVERLAP and apart:
            kept.append(box)
    return kept


def borders(height: int, width: int) -> list[tuple[int, int]]:
    return [
        (row, column)
        for row in range(height)
        for column in range(width)
        if row in (0, height - 1) or column in (0, width - 1)
    ]


def walked(open_: np.ndarray, starts: list[tuple[int, int]], corners: bool) -> np.ndarray:
    """All that can be reached."""
    seen = np.zeros(open_.shape, bool)
    waiting = list(starts)
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < open_.shape[0] and 0 <= column < open_.shape[1] and open_[row, column] and not seen[row, column]:
            seen[row, column] = True
            steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if corners or not down or not right]
            waiting += [(row + down, column + right) for down, right in steps]
    return seen


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """IoU by counting pixels."""
    pixels = [
        {(row, column) for row in range(box[0], box[2]) for column in range(box[1], box[3])} for box in (one, other)
    ]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


@pytest.mark.parametrize("seed", range(25))
def test_boxes_and_thresholds_are_those_of_the_reference(seed):
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, *rng.integers(3, 9, 2))) ** rng.integers(1, 5))
    heat = make_heat_maps(coarse.float(), 24)[0]
    assert heat.min() == 0
    assert heat.max() == 1
    assert otsu_threshold(eight_bit(heat)) == reference_threshold(eight_bit(heat))
    assert find_attention_boxes(heat) == reference_boxes(heat)


def test_a_heat_map_is_scaled_and_not_wrapped():
    rows = torch.arange(14.0)
    bump = torch.exp(-((rows[:, None] - 6.5) ** 2 + (rows[None] - 6.5) ** 2) / 18)
    boxes = [find_attention_boxes(make_heat_maps(peak * bump[None], 140)[0]) for peak in (0.5, 1.0, 4.0, 300.0)]
    assert boxes[0] == boxes[1] == boxes[2] == boxes[3]
    top, left, bottom, right = boxes[0][0]
    assert (top + bottom, left + right) == (140, 140)
    assert 60 < bottom - top < 110


def test_flat_maps_and_single_values_have_no_crops():
    for maps in (torch.zeros(1, 4, 4), torch.ones(1, 1, 1), torch.full((1, 3, 3), float("nan"))):
        assert find_attention_boxes(make_heat_maps(maps, 16)[0]) == []


def test_what_is_in_the_lower_group_is_not_lit():
    """OpenCV's threshold is the last level of the lower group: 10.9 is of that group, like 10.1."""
    values = np.array([[0.0, 10.1, 10.9, 200.0, 255.0]]).repeat(4, 0)
    assert otsu_threshold(eight_bit(values)) == 10
    assert find_attention_boxes(values) == [(0, 3, 4, 5)]


def test_crops_are_few_and_apart():
    heat = np.zeros((40, 40))
    for top, left in itertools.product((2, 15, 28), (2, 15, 28)):
        heat[top : top + 9, left : left + 9 - (top == left)] = 1
    boxes = find_attention_boxes(heat)
    assert len(boxes) == MAX_CROPS
    assert all(box_iou(one, other) == 0 for one, other in itertools.combinations(boxes, 2))
    ring = np.ones((20, 20))
    ring[5:15, 5:15] = 0
    assert find_attention_boxes(ring) == [], "nearly the whole image"


def test_a_crop_is_stretched_to_the_image():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[0, 2:4, 4:8] = 200
    assert torch.equal(
        crop_and_resize(image, (2, 4, 4, 8)),
        torch.stack([torch.full((8, 8), 200), *[torch.zeros(8, 8)] * 2]).to(torch.uint8),
    )

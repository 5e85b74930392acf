"""Masks: upsampled as image libraries do, and the same over the whole probe as for the exemplars."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from milan.dissection.masks import fill_empty_masks, iter_unit_masks, masks_from_maps
from milan.errors import BadInput
from milan.probes import Probe
from tests.dissection.world import SIZE, all_maps, toy_images, toy_target


def upsampled(row: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation between pixel centres, with the edge values repeated, written out."""
    centres = np.clip((np.arange(size) + 0.5) * len(row) / size - 0.5, 0, len(row) - 1)
    return np.interp(centres, np.arange(len(row)), row)


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=7), st.integers(1, 40), st.floats(-3, 3, width=32))
def test_one_axis_is_linear_between_centres(row: list[float], factor: int, level: float) -> None:
    size = len(row) * factor
    expected = upsampled(np.array(row), size)
    found = masks_from_maps(torch.tensor([row]), level, (2, size))
    certain = np.abs(expected - level) > 1e-4
    for line in found.numpy():
        assert np.array_equal(line[certain], (expected > level)[certain])


def test_one_value_is_compared_as_it_is() -> None:
    value = 1.458486795425415  # interpolating between it and itself rounds up in places
    assert not masks_from_maps(torch.tensor([[value]]), value, 4).any()
    assert masks_from_maps(torch.tensor([[value]]), value - 1e-6, 4).all()


def test_both_axes_are_as_pillow_upsamples() -> None:
    maps = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    for one, mask in zip(maps, masks_from_maps(maps, 0.3, (40, 56)), strict=True):
        expected = np.asarray(Image.fromarray(one.numpy()).resize((56, 40), Image.Resampling.BILINEAR))
        certain = np.abs(expected - 0.3) > 1e-4
        assert np.array_equal(mask.numpy()[certain], (expected > 0.3)[certain])


def test_values_at_the_border_do_not_fade() -> None:
    assert masks_from_maps(torch.ones(3, 3), 0.99, 24).all()


def test_thresholds_belong_to_the_axis_before_the_map() -> None:
    maps = torch.ones(2, 3, 2, 2)
    found = masks_from_maps(maps, torch.tensor([0.5, 1.0, 2.0]), 4)
    assert found.flatten(2).float().mean(2).tolist() == [[1, 0, 0]] * 2
    assert masks_from_maps(maps[0, 0], torch.tensor(0.5), 4).shape == (4, 4)


def test_many_maps_are_done_in_parts() -> None:
    maps = torch.rand(300, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(masks_from_maps(maps, 0.5, 300)[257], masks_from_maps(maps[257], 0.5, 300))


def test_nothing_exceeds_nan() -> None:
    assert not masks_from_maps(torch.ones(1, 2, 2), float("nan"), 4).any()


def test_an_empty_mask_becomes_the_whole_image() -> None:
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[1, 2, 0, 0] = True
    found = fill_empty_masks(masks)
    assert found.flatten(2).sum(2).tolist() == [[16, 16, 16], [16, 16, 1]]


@pytest.mark.parametrize("size", [None, 12])
def test_masks_over_the_whole_probe(size: int | None) -> None:
    target, images = toy_target(), toy_images(70)
    thresholds = torch.linspace(-0.2, 0.2, 8)
    parts = list(iter_unit_masks(target, Probe.from_tensor(images), "conv2", thresholds, size=size, batch_size=5))
    assert torch.equal(torch.cat([ids for ids, _ in parts]), torch.arange(70))
    found = torch.cat([masks for _, masks in parts])
    assert torch.equal(found, masks_from_maps(all_maps(target, images)["conv2"], thresholds, size or SIZE))


def test_thresholds_must_fit_the_layer() -> None:
    with pytest.raises(BadInput, match="7 thresholds for the 8 units of conv2"):
        next(iter_unit_masks(toy_target(), Probe.from_tensor(toy_images(3)), "conv2", torch.zeros(7)))


def test_masks_given_up_early_leave_no_thread_behind() -> None:
    threads = torch.get_num_threads()
    masks = iter_unit_masks(toy_target(), Probe.from_tensor(toy_images(200)), "conv2", torch.zeros(8))
    next(masks)
    masks.close()
    assert torch.get_num_threads() == threads

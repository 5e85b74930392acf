"""The pixels of masks are those of ``masks_from_maps``, whatever the sizes, the thresholds and the ties."""

import numpy as np
import pytest
import torch

from milan.dissection import mask_pixels as module
from milan.dissection.mask_pixels import find_mask_pixels
from milan.dissection.masks import masks_from_maps


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 4), (7, 13), (13, 9), (32, 32), (40, 40)])
@pytest.mark.parametrize("size", [32, (24, 52), 61])
def test_pixels_are_those_of_whole_masks(grid: tuple[int, int], size: int | tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(grid))
    plain = rng.standard_normal((40, *grid)).astype(np.float32)
    # Whole numbers tie with their thresholds, and rectified maps lie at theirs over wide areas.
    maps = np.concatenate([plain, np.round(plain), np.maximum(plain, 0)])
    thresholds = np.concatenate([rng.uniform(0, 2, 40), rng.integers(0, 2, 40), np.zeros(40)]).astype(np.float32)
    masks = masks_from_maps(torch.from_numpy(maps), torch.from_numpy(thresholds), size).flatten(1).numpy()
    which, pixel = find_mask_pixels(maps, thresholds, size)
    found = np.zeros_like(masks, dtype=int)
    np.add.at(found, (which, pixel), 1)
    assert np.array_equal(found, masks.astype(int))


def test_whole_maps_are_upsampled_only_where_it_is_too_close_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = module._find_in_whole_maps

    def record(maps, chosen, *rest):
        calls.append(chosen.tolist())
        return real(maps, chosen, *rest)

    monkeypatch.setattr(module, "_find_in_whole_maps", record)
    maps = np.random.default_rng(0).standard_normal((30, 7, 7)).astype(np.float32)
    maps[3, 2, 2] = 1.5
    find_mask_pixels(maps, np.full(30, 1.5, np.float32), 21)
    assert calls == [[3]]

"""The pixels of a run's exemplars, of which only those that fit the given space on disk are stored."""

from pathlib import Path

import pytest
import torch

from milan.dissection import exemplar_pixels
from milan.dissection.exemplar_pixels import ExemplarPixels

IMAGES = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 8, 8)
BYTES = 3 * 8 * 8


def test_needed_images_survive_compaction_and_reopening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exemplar_pixels, "MAX_BYTES_IN_MEMORY", 2 * BYTES)
    # With the file's header a stored image takes about 300 bytes; every fifth image stays an exemplar.
    pixels = ExemplarPixels(tmp_path, 30 * BYTES)
    for start in range(0, 40, 4):
        ids = torch.arange(start, start + 4)
        pixels.add(ids, IMAGES[ids], lambda stop=start + 4: {*range(0, stop, 5), *range(stop - 4, stop)})
    pixels.store(set(range(0, 40, 5)))
    for some in (pixels, ExemplarPixels(tmp_path, 0)):
        assert [int(some[id][0, 0, 0]) for id in range(0, 40, 5)] == list(range(0, 40, 5))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 30 * BYTES


def test_images_beyond_the_space_are_left_out(tmp_path: Path) -> None:
    pixels = ExemplarPixels(tmp_path, BYTES)
    pixels.add(torch.arange(2), IMAGES[:2], lambda: {0, 1})
    with pytest.raises(KeyError):
        pixels[0]
    pixels.add(torch.tensor([2]), IMAGES[2:3], lambda: {2})
    assert int(pixels[2][0, 0, 0]) == 2


def test_an_image_that_cannot_be_read_again_is_left_out_of_compaction(tmp_path: Path) -> None:
    class Unreadable:
        def get_tensor(self, _name: str) -> torch.Tensor:
            raise OSError

    pixels = ExemplarPixels(tmp_path, 10 * BYTES)
    pixels.add(torch.arange(3), IMAGES[:3], lambda: {0, 1, 2})
    pixels.store({0, 1, 2})
    pixels._stored[0] = Unreadable()
    pixels._compact({0, 1})
    assert int(pixels[1][0, 0, 0]) == 1
    with pytest.raises(KeyError):
        pixels[0]

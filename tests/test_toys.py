"""The toy world's literal answers are those its network really gives."""

import pytest
import torch

from tests import toys


def peaks() -> torch.Tensor:
    network = toys.ToyNet()
    return network.conv(toys.pictures().float() / 255).detach().amax((2, 3))


@pytest.mark.parametrize("unit", range(len(toys.UNITS)), ids=toys.UNITS)
def test_peaks(unit: int) -> None:
    torch.testing.assert_close(
        peaks()[:, unit], torch.tensor(toys.PEAKS[unit], dtype=torch.float32), equal_nan=True, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("unit", toys.TOP, ids=[toys.UNITS[unit] for unit in toys.TOP])
def test_top(unit: int) -> None:
    order = sorted(range(len(toys.PICTURES)), key=lambda index: (-round(toys.PEAKS[unit][index], 6), index))
    assert order[:5] == toys.TOP[unit]


def test_head_tells_red() -> None:
    assert toys.ToyNet()(toys.pictures().float() / 255).argmax(1).tolist() == toys.LABELS


def test_target_and_probe_agree_in_size() -> None:
    probe, target = toys.probe(), toys.target()
    assert (probe.size, len(probe), target.image_size) == (toys.SIZE, len(toys.PICTURES), toys.SIZE)
    (ids, images), *_ = probe.batches(12)
    assert ids.tolist() == list(range(12))
    assert torch.equal(target.prepare(images), images / 255)

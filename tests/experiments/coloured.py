"""A classifier whose units are known by heart: three that tell red, green and blue pictures apart, three that the
answer does not need.

``python -m milan.experiments ablation --target tests/experiments/coloured.py:coloured``
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from milan.describers import Describer, select_active
from milan.dissection.dissection import Dissection
from milan.targets.target import Target
from milan.units import Description

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}  # in the order of the classes
EACH = 6  # pictures of a class


class Coloured(nn.Module):
    """Units 0 to 2 answer to red, green and blue; 3 to 5 to brightness, and nothing follows from them. Without its
    units it says blue.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.units, self.last = nn.Conv2d(3, 6, 1, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.mixed.weight.copy_(torch.cat([torch.eye(3), torch.full((3, 3), 0.5)])[:, :, None, None])
            self.last.weight.zero_()
            for answer, unit in enumerate((2, 1, 0)):
                self.last.weight[answer, unit] = 1.0

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.units(self.mixed(images)).mean((2, 3)))


def coloured() -> Target:
    return Target(Coloured(), name="coloured", image_size=16, resize=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pictures(folder: Path) -> Path:
    """A folder of pictures, a folder for each colour, a little brighter from one to the next."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            tint = tuple(value and value + 2 * number for value in colour)
            Image.new("RGB", (16, 16), tint).save(folder / name / f"{number}.png")  # type: ignore[arg-type]
    return folder


class Swayed(Describer):
    """Each unit's text depends on one thing alone: η, the seed, k, the quantile, the number of images; the last one's
    on nothing.
    """

    name: ClassVar[str] = "swayed"

    def __init__(self, eta: float = 0.1, seed: int = 0):
        self.eta, self.seed = eta, seed

    def describe(self, dissection: Dissection, units: Sequence) -> Iterator[Description]:
        parts = (
            self.eta,
            self.seed,
            dissection.k,
            dissection.quantile,
            len(dissection.activations()),
            "always the same",
        )
        for unit in select_active(dissection, units):
            yield Description(unit, f"red {parts[unit.index]}" if unit.index < 5 else str(parts[5]), 1.0)

"""A toy world whose every answer is known by heart: a network of hand-set units and a probe of hand-made pictures.

``conv`` has one unit for each name in UNITS; ``relu`` works on it in place; ``head`` are two classes. Pixels go in as
0..1.
"""

import math

import torch
from torch import Tensor, nn

from milan.probes import Probe
from milan.targets.target import Target

SIZE = 16
RED, GREEN, BLUE, EDGE, DEAD, NEGATIVE, CONSTANT, INVALID = range(8)
UNITS = ("red", "green", "blue", "vertical edge", "dead", "all negative", "constant", "nan")
PICTURES = (
    "black",
    "red",
    "green",
    "blue",
    "left half dark red",
    "top left quarter darker green",
    "bottom right quarter dark blue",
    "white left of black",
    "white",
    "grey",
    "black left of white",
    "yellow",
)
LABELS = [0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]  # 1: has red in it
CLASSES = ["no red", "red"]

# The largest value of each unit of `conv` in each picture.
PEAKS = {
    RED: [0, 1, -0.5, -0.5, 0.8, 0, 0, 0, 0, 0, 0, 0.5],
    GREEN: [0, -0.5, 1, -0.5, 0, 0.6, 0, 0, 0, 0, 0, 0.5],
    BLUE: [0, -0.5, -0.5, 1, 0, 0, 0.8, 0, 0, 0, 0, -1],
    EDGE: [0, 0, 0, 0, 0.8 / 3, 0.2, 0, 1, 0, 0, 0, 0],
    DEAD: [0] * 12,
    NEGATIVE: [-1, -0.9, -1, -1, -0.92, -1, -1, -0.9, -0.9, -0.96, -0.9, -0.9],
    CONSTANT: [0.5] * 12,
    INVALID: [math.nan] * 12,
}
# The pictures that activate a unit most, strongest first, ties by number.
TOP = {
    RED: [1, 4, 11, 0, 5],
    GREEN: [2, 5, 11, 0, 4],
    BLUE: [3, 6, 0, 4, 5],
    EDGE: [7, 4, 5, 0, 1],
    NEGATIVE: [1, 7, 8, 10, 11],
}


class ToyNet(nn.Module):
    """One convolution with units known by heart, a ReLU in place, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, len(UNITS), 3, padding=1, padding_mode="replicate")
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(len(UNITS), 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor([0, 0, 0, 0, 0, -1, 0.5, math.nan]))
            self.conv.weight[:3, :, 1, 1] = 1.5 * torch.eye(3) - 0.5
            self.conv.weight[EDGE, :, 1, 0] = 1 / 3
            self.conv.weight[EDGE, :, 1, 2] = -1 / 3
            self.conv.weight[NEGATIVE, 0, 1, 1] = 0.1
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[1, RED] = 4
            self.head.bias[0] = 0.2

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(images)).amax((2, 3)).nan_to_num())


def target() -> Target:
    """The toy network, taking pixels as 0..1."""
    return Target(ToyNet(), name="toy", image_size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pictures() -> Tensor:
    """The pictures of PICTURES, uint8 (12, 3, 16, 16)."""
    images = torch.zeros(len(PICTURES), 3, SIZE, SIZE, dtype=torch.uint8)
    half = SIZE // 2
    for index in (1, 2, 3):
        images[index, index - 1] = 255
    images[4, 0, :, :half] = 204
    images[5, 1, :half, :half] = 153
    images[6, 2, half:, half:] = 204
    images[7, :, :, :half] = 255
    images[8] = 255
    images[9] = 102
    images[10, :, :, half:] = 255
    images[11, :2] = 255
    return images


def probe() -> Probe:
    """The toy pictures, with labels that say which have red in them."""
    return Probe.from_tensor(pictures(), LABELS, CLASSES)

"""A segmenter for tests: every pixel shows the colour that it is nearest to."""

import torch
from torch import Tensor

from milan.pretrained.segmenter import Segmenter

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 70, 220),
    "grey": (128, 128, 128),
    "dark": (20, 20, 20),
}


class ColourSegmenter(Segmenter):
    """Colours on one level, on a second one whether a pixel is colourful; dark pixels are nothing there."""

    key = "colours"

    def __init__(self) -> None:
        self.concepts = [*COLOURS, "colourful"]
        self.level_names = ["colour", "kind"]

    def _segment(self, images: Tensor) -> Tensor:
        colours = torch.tensor(list(COLOURS.values())).float()
        nearest = (images.float()[:, None] - colours[None, :, :, None, None]).square().sum(2).argmin(1)
        colourful = torch.where(nearest < 3, len(COLOURS), -1)
        return torch.stack([nearest, colourful], dim=1)

"""An embedder whose answers are known by heart: pictures are their mean colour, texts the colours that they name."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from milan.pretrained.embedder_interface import Embedder

COLOURS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.1, 0.1, 1.0), "magenta": (1.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
           "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "grey": (1.0, 1.0, 1.0)}  # fmt: skip
DARK = 40 / 255  # what is darker counts as nothing: the toy world's ground, and what a mask blacks out


class ColourEmbedder(Embedder):
    """Pictures by the mean of what is not dark in them, texts by the mean of the colours they name, both as unit
    vectors.

    The fourth number is what neither has a colour for: a text that names none, a picture that is all dark.
    ``load_embedder`` takes it as ``PATH/colour_embedder.py:ColourEmbedder``. ``seen`` and ``read`` count what it was
    asked.
    """

    key = "colours"
    features = 4
    scale = 10.0
    bias = -8.0

    def __init__(self, batch_size: int = 8):
        self.batch_size = batch_size
        self.seen = 0
        self.read: list[str] = []

    def encode_images(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b features"]:
        self.seen += len(images)
        pixels = images.float() / 255
        lit = (pixels.amax(1, keepdim=True) > DARK).float()
        mean = (pixels * lit).sum((2, 3)) / lit.sum((2, 3)).clamp_min(1)
        return _unit(mean, lit.sum((1, 2, 3)) == 0)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        self.read += texts
        found = [[COLOURS[word] for word in text.lower().split() if word in COLOURS] for text in texts]
        mean = torch.tensor(
            [[sum(column) / len(each) for column in zip(*each, strict=True)] if each else [0.0] * 3 for each in found]
        )
        return _unit(mean.reshape(-1, 3), mean.reshape(-1, 3).sum(1) == 0)


def _unit(colours: Tensor, nothing: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.cat([colours, nothing[:, None].float()], dim=1), dim=1)

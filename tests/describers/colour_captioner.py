"""A captioner and a painter whose answers are known by heart: squares of the colours of ``colour_embedder``."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from milan.pretrained.image_captioner import ImageCaptioner
from milan.pretrained.painter import Painter, PictureRequest

DARK = 40
NAMES = {(True, False, False): "red", (False, True, False): "green", (False, False, True): "blue",
    (True, False, True): "magenta",
         (True, True, True): "grey", (False, False, False): "black"}  # fmt: skip


class ColourCaptioner(ImageCaptioner):
    """Says "a red square on black ground", or "a red wall" where no ground is to be seen. ``seen`` counts the
    pictures.
    """

    key = "colour captioner"

    def __init__(self) -> None:
        self.seen = 0

    def caption_images(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
        self.seen += len(images)
        return [self._caption(image.float()) for image in images]

    def _caption(self, image: Tensor) -> str:
        lit = image.amax(0) > DARK
        mean = image[:, lit].mean(1) if lit.any() else torch.zeros(3)
        name = NAMES.get(tuple((mean > 100).tolist()), "grey")
        return f"a {name} square on black ground" if lit.float().mean() < 0.9 else f"a {name} wall"


class ColourPainter(Painter):
    """Paints squares of the colours that a text names, one beside the other, larger with each number; black where it
    names none.
    """

    key = "colour painter"
    side = 64
    batch_size = 8

    def draw(self, requests: Sequence[PictureRequest]) -> UInt8[Tensor, "b 3 side side"]:
        return torch.stack([self._one(each) for each in requests])

    def _one(self, each: PictureRequest) -> Tensor:
        picture = torch.full((3, self.side, self.side), 20, dtype=torch.uint8)
        named = [key for word in re.findall(r"\w+", each.text.lower()) for key, name in NAMES.items() if name == word]
        for place, lit in enumerate(key for key in named if any(key)):
            left, wide = 32 * place, 16 + each.number % 10
            picture[:, 8 : 8 + wide, left : left + wide] = torch.tensor(
                [220 if on else 40 for on in lit], dtype=torch.uint8
            )[:, None, None]
        return picture

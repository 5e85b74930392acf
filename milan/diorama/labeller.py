"""The network that says of every pixel of a picture what it shows: the embedded segmenter, and what ``planted`` is made of.

Its weights lie in ``data/diorama/segmenter``.
"""

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from milan.diorama.concepts import by_name, read
from milan.diorama.names import COLOURS, LETTERS, OBJECTS, PARTS, PATTERNS, SETTINGS, words_for
from milan.embedded import embedded
from milan.errors import MissingEvidence

NAMES = {"colour": COLOURS, "pattern": PATTERNS, "part": PARTS, "object": OBJECTS, "text": LETTERS, "setting": SETTINGS}
MAY_BE_NONE = ("part", "object", "text")  # kinds of which a pixel may show nothing: their class 0; every pixel has the others
WIDTHS = (24, 48, 80, 128, 160)  # channels at 64, 32, 16, 8 and 4 places a side
TRUNK = 48  # channels that all heads but the setting's look at


def classes(kind: str) -> int:
    """How many logits a kind has.

    >>> classes("setting"), classes("text")
    (10, 27)
    """
    return len(NAMES[kind]) + (kind in MAY_BE_NONE)


def first_label(kind: str) -> int:
    """The label that class 0 of a kind stands for, where labels count from 1 and 0 is nothing of the kind."""
    return 0 if kind in MAY_BE_NONE else 1


def label_name(kind: str, name: str) -> str:
    """A label's name as it is read back from a text.

    >>> label_name("part", "top"), label_name("text", "a"), label_name("object", "cat")
    ('table top', 'letter a', 'cat')
    """
    concept = by_name()[f"letter {name}" if kind == "text" else name]
    return next((word for word in words_for(concept.name) if read(word).phrases == (((concept,),),)), concept.name)


class Stage(nn.Sequential):
    """Two convolutions, the first of which may halve the side."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        for number, (channels, step) in enumerate(((before, stride), (width, 1)), 1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, width, 3, step, 1, bias=False))
            self.add_module(f"norm{number}", nn.BatchNorm2d(width))
            self.add_module(f"relu{number}", nn.ReLU())


class Join(nn.Module):
    """What was seen at half the side, spread out, together with what was seen at this side."""

    def __init__(self, below: int, width: int):
        super().__init__()
        self.narrow = nn.Conv2d(below, width, 1)
        self.conv, self.norm, self.relu = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, below: Tensor, here: Tensor) -> Tensor:
        wide = interpolate(self.narrow(below), size=here.shape[-2:], mode="bilinear", align_corners=False)
        return self.relu(self.norm(self.conv(wide + here)))


class Labeller(nn.Module):
    """A small U-Net with one trunk and a head for each kind of label.

    Pictures (b, 3, h, w), normalised as Diorama's networks want them, in; sides of 64 pixels are what it was trained on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        self.down = nn.ModuleList(Stage(before, width, 2) for before, width in pairwise(WIDTHS))
        self.up = nn.ModuleList(Join(below, width) for below, width in zip(WIDTHS[:1:-1], WIDTHS[-2:0:-1], strict=True))
        self.narrow = nn.Conv2d(WIDTHS[1], 32, 1)
        self.trunk = nn.Sequential(nn.Conv2d(32 + WIDTHS[0], TRUNK, 3, 1, 1, bias=False), nn.BatchNorm2d(TRUNK), nn.ReLU())
        self.heads = nn.ModuleDict({kind: nn.Conv2d(TRUNK, classes(kind), 1) for kind in NAMES if kind != "setting"})
        self.setting = nn.Linear(WIDTHS[-1], classes("setting"))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the trunk puts out at each pixel, (b, 48, h, w), and the setting's logits, (b, 10)."""
        fine = self.stem(images)
        seen = [fine]
        for stage in self.down:
            seen.append(stage(seen[-1]))
        maps = seen[-1]
        for join, here in zip(self.up, seen[-2:0:-1], strict=True):
            maps = join(maps, here)
        wide = interpolate(self.narrow(maps), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.trunk(torch.cat([wide, fine], dim=1)), self.setting(seen[-1].mean(dim=(2, 3)))

    def judged(self, trunk: Tensor, setting: Tensor) -> dict[str, Tensor]:
        """The logits of each kind at each pixel of the trunk's output, (b, classes, h, w)."""
        found = {kind: head(trunk) for kind, head in self.heads.items()}
        return {**found, "setting": setting[:, :, None, None].expand(-1, -1, *trunk.shape[-2:])}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.judged(*self.features(images))


def segmenter_file() -> Path:
    """Where the embedded labeller's weights are, or would be."""
    return embedded("data") / "diorama" / "segmenter" / "model.safetensors"


def load_labeller(path: Path | None = None) -> Labeller:
    """The trained labeller in evaluation mode; the embedded one unless a safetensors file of another is given.

    Raises MissingEvidence if its weights were not built.
    """
    path = path or segmenter_file()
    if not path.is_file():
        raise MissingEvidence(
            f"no weights of Diorama's segmenter at {path}; make them with: python -m milan.diorama build --only segmenter"
        )
    model = Labeller()
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()})
    return model.eval()

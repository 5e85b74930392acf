"""A network set by hand whose units' meanings on Diorama are known, and describers whose standing against it can be
counted on fingers.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from milan.describers import Describer, DescriptionFailure, select_active
from milan.dissection.dissection import Dissection
from milan.targets.target import Target
from milan.units import Description, Unit

# unit: red, green, blue, "red or blue", brightness (nothing in particular), never fires
WEIGHTS = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, -2, 1], [1, 1, 1], [0, 0, 0]]
PLANTED = """layer,unit,kind,text
looks,0,single,red
looks,1,single,green
looks,2,single,blue
looks,3,either,red or blue
looks,4,nothing,nothing in particular
looks,5,single,purple
"""


class Looks(nn.Module):
    """Each unit of ``looks`` answers to a mixture of the channels of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(3, len(WEIGHTS), 1, bias=False)
        self.mixed.weight.data = torch.tensor(WEIGHTS, dtype=torch.float32)[:, :, None, None]
        self.looks = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.looks(self.mixed(images)).amax((2, 3))


def looks() -> Target:
    return Target(Looks(), name="looks", image_size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Saying(Describer):
    """Says what it is reported to of each unit, by number; of others it fails. Notes each unit that it is asked of in a
    file.
    """

    name: ClassVar[str] = "saying"

    def __init__(self, words: str = "", asked: str = ""):
        self.words, self.asked = words, asked

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        words = dict(enumerate(self.words.split(";")))
        for unit in select_active(dissection, units):
            if self.asked:
                with Path(self.asked).open("a") as file:
                    print(unit, file=file)
            if os.environ.get("STOP_AT") == str(unit):
                raise KeyboardInterrupt
            text = words.get(unit.index, "")
            yield Description(unit, text, 1.0) if text else DescriptionFailure(unit, "it has no word for it")

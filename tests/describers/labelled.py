"""A probe of two labelled pictures, and a network whose one unit is how red a pixel is: overlaps can be counted on
fingers.

Picture 0 is red in its left half; "cat" are its columns 0 to 2, "dog" its columns 3 and 4. Picture 1 is black; "sky"
are its upper four rows. So the unit's masks are 32 pixels, of which 24 show the cat (of 24 in all), 8 the dog (of 16),
none the sky.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.probes import load_probe
from milan.targets.target import Target

SIZE = 8
CLASSES = ("cat", "dog", "sky", "unlabelled")


class Redness(nn.Module):
    """Units "red" and "less red", which answer to the same pixels, and one that never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.red = nn.Conv2d(3, 3, 1, bias=False)
        self.red.weight.data = torch.tensor([[1.0, 0, 0], [0.5, 0, 0], [0, 0, 0]])[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        return self.red(images).amax((2, 3))


def parquet(folder: Path, names: bool = True) -> Path:
    """The probe, with ``classes.txt`` beside it if it is to have names."""
    pictures, maps = np.zeros((2, SIZE, SIZE, 3), np.uint8), np.full((2, SIZE, SIZE), 3, np.uint8)
    pictures[0, :, :4, 0] = 200
    maps[0, :, :3], maps[0, :, 3:5], maps[1, :4] = 0, 1, 2
    maps[1, 7, 7] = 255  # where nobody labelled
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [png(each) for each in pictures], "segmentation": [png(each) for each in maps]})
    pq.write_table(table, folder / "two.parquet")
    if names:
        (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder / "two.parquet"


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def labelled(folder: Path, names: bool = True) -> Dissection:
    """The dissected layer; the quantile lies between black and red."""
    target = Target(Redness(), name="redness", image_size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    probe = load_probe(str(parquet(folder / "data", names)), size=SIZE, resize=SIZE)
    return dissect(target, probe, ["red"], folder / "dissection", k=1, quantile=0.5)["red"]

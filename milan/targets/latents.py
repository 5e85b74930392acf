"""The latents that an image generator takes."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from milan.errors import BadInput
from milan.storage.files import content_key

DEFAULT_COUNT = 3_000  # images of a generator's probe


class Latents:
    """Rows of normally distributed numbers, followed by a one-hot class vector where the generator has classes.

    A row depends only on its index and the seed. The rows take the classes in turn.

    Args:
        width: number of normally distributed numbers.
        classes: class names; empty for a generator without classes.
        count: number of rows.
        seed: random seed.

    >>> latents = Latents(2, ["cat", "dog"])
    >>> latents.rows(torch.tensor([4, 7])).shape, [latents.label(row) for row in (4, 7)]
    (torch.Size([2, 4]), [0, 1])
    """

    def __init__(self, width: int, classes: Sequence[str] = (), *, count: int = DEFAULT_COUNT, seed: int = 0):
        if width < 1 or count < 1:
            raise BadInput(f"latents of {width} numbers and {count} rows; both must be at least 1")
        self.width, self.classes, self.count, self.seed = width, list(classes), count, seed

    @property
    def key(self) -> str:
        """Content key of the rows."""
        return content_key(latents=self.width, classes=self.classes, seed=self.seed)

    def label(self, row: int) -> int:
        """Return the class number of a row; 0 where there are no classes."""
        return row % max(1, len(self.classes))

    def rows(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "b numbers"]:
        """Return rows by index, on the CPU."""
        rows = [
            np.random.default_rng((self.seed, row)).standard_normal(self.width, dtype=np.float32)
            for row in ids.tolist()
        ]
        normal = torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, self.width)
        if not self.classes:
            return normal
        labels = torch.tensor([self.label(row) for row in ids.tolist()], dtype=torch.int64)
        return torch.cat([normal, one_hot(labels, len(self.classes)).float()], dim=1)

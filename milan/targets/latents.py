"""What a generator of pictures is fed."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from milan.errors import BadInput
from milan.storage.files import content_key

DEFAULT_COUNT = 3_000  # pictures of a generator's probe


class Latents:
    """What a generator is fed, row by row: normal numbers, then, where it has classes, one number for each, 1 for the
    row's own.

    A row depends on its number and the seed alone. Rows take the classes in turn.

    Args:
        width: how many normal numbers.
        classes: their names; none for a generator that has no classes.
        count: how many rows there are.
        seed: of the normal numbers.

    >>> latents = Latents(2, ["cat", "dog"])
    >>> latents.rows(torch.tensor([4, 7])).shape, [latents.label(row) for row in (4, 7)]
    (torch.Size([2, 4]), [0, 1])
    """

    def __init__(self, width: int, classes: Sequence[str] = (), *, count: int = DEFAULT_COUNT, seed: int = 0):
        if width < 1 or count < 1:
            raise BadInput(f"latents of {width} numbers, {count} rows; give at least 1 of each")
        self.width, self.classes, self.count, self.seed = width, list(classes), count, seed

    @property
    def key(self) -> str:
        """Changes when a row does."""
        return content_key(latents=self.width, classes=self.classes, seed=self.seed)

    def label(self, row: int) -> int:
        """The class of a row; 0 where there are no classes."""
        return row % max(1, len(self.classes))

    def rows(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "b numbers"]:
        """The rows of those numbers, on the CPU."""
        drawn = [
            np.random.default_rng((self.seed, row)).standard_normal(self.width, dtype=np.float32)
            for row in ids.tolist()
        ]
        normal = torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, self.width)
        if not self.classes:
            return normal
        labels = torch.tensor([self.label(row) for row in ids.tolist()], dtype=torch.int64)
        return torch.cat([normal, one_hot(labels, len(self.classes)).float()], dim=1)

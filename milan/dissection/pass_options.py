"""Options of a dissection, and checks of their values. This module does not import torch."""

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from milan.errors import BadInput, require_at_least

RankBy = Literal["max", "mean", "cls"]
_BYTE_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


@dataclass(frozen=True)
class PassOptions:
    """How a dissection's pass over the probe is run.

    Attributes:
        batch_size: images decoded at a time.
        memory: memory for the statistics, in bytes or as ``"4GiB"``. Thresholds that do not fit exactly are computed on
            a sample, with a warning that states the possible error of their rank.
        workers: number of additional threads that decode images.
        allow_nondeterministic: continue, with a warning, if an image's activations change from one pass to the next or
            with the other images of a batch. A target has the same option.

    Raises:
        BadInput: a value is out of range.
    """

    batch_size: int = 16
    memory: str | int = "4GiB"
    workers: int = 0
    allow_nondeterministic: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(0, workers=self.workers)
        _ = self.memory_bytes

    @property
    def memory_bytes(self) -> int:
        """``memory`` as a number of bytes."""
        return _parse_bytes(self.memory)


def check_settings(k: int, quantile: float, rank_by: str) -> None:
    """Raise BadInput for a setting of the result that is out of range."""
    if k < 1:
        raise BadInput(f"k is {k}; a unit needs at least 1 exemplar")
    check_quantile(quantile)
    if rank_by not in get_args(RankBy):
        raise BadInput(f"rank_by is {rank_by!r}; choose one of {', '.join(get_args(RankBy))}")


def check_quantile(quantile: float) -> None:
    """Raise BadInput for a quantile that is not between 0 and 1."""
    if not 0 <= quantile <= 1:
        raise BadInput(f"quantile is {quantile}; it lies between 0 and 1, as 0.99")


def _parse_bytes(memory: str | int) -> int:
    """Return the number of bytes of a size such as ``4GiB``.

    >>> _parse_bytes("4GiB") == 4 * 2**30, _parse_bytes("1.5 MB"), _parse_bytes(7)
    (True, 1500000, 7)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?\s*", str(memory).lower())
    if not found or not math.isfinite(float(found[1])):
        raise BadInput(f"not a size: memory={memory!r}; write it as 4GiB or 500MB")
    return int(float(found[1]) * _BYTE_UNITS[found[2]])

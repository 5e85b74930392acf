"""A run in several processes, on one machine or several, each of which processes a part of the probe."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as distributed

from milan.errors import MilanError

# Time that a process waits for the others, such as for the slowest share of a describer that asks a server.
TIMEOUT = timedelta(days=7)


def _no_barrier() -> None: ...


def _gather_one(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True)
class Shard:
    """The part of a process in a run.

    Attributes:
        rank: number of the process, from 0.
        count: number of processes.
        barrier: waits for all processes.
        gather: returns the values of all processes, in the order of their ranks, in each process.
    """

    rank: int = 0
    count: int = 1
    barrier: Callable[[], None] = _no_barrier
    gather: Callable[[Any], list[Any]] = _gather_one

    def image_range(self, images: int, block: int) -> tuple[int, int]:
        """Return the range of images of this process, in whole blocks.

        >>> [Shard(rank, 3).image_range(22, 4) for rank in range(3)]
        [(0, 8), (8, 16), (16, 22)]
        """
        blocks = -(-images // block)
        first, last = (blocks * rank // self.count for rank in (self.rank, self.rank + 1))
        return min(first * block, images), min(last * block, images)


def get_shard() -> Shard:
    """Return the part of this process in a run under ``torchrun``, else the whole run.

    Raises:
        MilanError: the processes cannot be connected. ``barrier`` and ``gather`` raise it, too, if one has ended.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "LOCAL_RANK" not in os.environ:
        return Shard()
    return _join_processes()


@cache
def _join_processes() -> Shard:
    # Results are exchanged through files; what is sent fits gloo, which needs no GPU.
    if not distributed.is_initialized():
        _or_ended(distributed.init_process_group, "gloo", timeout=TIMEOUT)
        atexit.register(_destroy_process_group)
    return Shard(distributed.get_rank(), distributed.get_world_size(), _barrier, _gather)


def _barrier() -> None:
    _or_ended(distributed.barrier)


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * distributed.get_world_size()
    _or_ended(distributed.all_gather_object, values, value)
    return values


def _or_ended(function: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Call a function of ``torch.distributed``; its errors are many and mean that a process cannot be reached."""
    try:
        function(*arguments, **options)
    except RuntimeError:
        rank = os.environ.get("RANK", "?")
        raise MilanError(
            f"process {rank} lost the connection to another process of this run, which has probably ended; see its"
            " message, then run the same command again to continue"
        ) from None


def _destroy_process_group() -> None:
    """Destroy the process group, without which a process may hang at exit."""
    if distributed.is_initialized():
        distributed.destroy_process_group()

"""A run in several processes, on one machine or several, each of which processes a part of the probe."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as distributed

Barrier = Callable[[], None]


def _no_barrier() -> None: ...


@dataclass(frozen=True)
class Shard:
    """The part of a process in a run.

    Attributes:
        rank: number of the process, from 0.
        count: number of processes.
        barrier: waits for all processes.
        broadcast: returns the first process's value in all processes.
    """

    rank: int = 0
    count: int = 1
    barrier: Barrier = _no_barrier
    broadcast: Callable[[str], str] = str

    def image_range(self, images: int, block: int) -> tuple[int, int]:
        """Return the range of images of this process, in whole blocks.

        >>> [Shard(rank, 3).image_range(22, 4) for rank in range(3)]
        [(0, 8), (8, 16), (16, 22)]
        """
        blocks = -(-images // block)
        first, last = (blocks * rank // self.count for rank in (self.rank, self.rank + 1))
        return min(first * block, images), min(last * block, images)


def get_shard(device: torch.device) -> Shard:
    """Return the part of this process in a run under ``torchrun``, else the whole run.

    The processes are connected by Lightning Fabric.
    """
    count, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if count == 1 or "LOCAL_RANK" not in os.environ:
        return Shard()
    return _join_processes("cuda" if device.type == "cuda" else "cpu", local, count // local)


@cache
def _join_processes(accelerator: str, devices: int, machines: int) -> Shard:
    # It is slow to import and rarely needed.
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=machines)
    fabric.launch()
    atexit.register(_destroy_process_group)
    return Shard(fabric.global_rank, fabric.world_size, fabric.barrier, fabric.broadcast)


def _destroy_process_group() -> None:
    """Destroy the process group, without which a process may hang at exit."""
    if distributed.is_initialized():
        distributed.destroy_process_group()

"""One run in several processes, on one machine or several: each looks at a part of the probe."""

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
    """This process among those of the run."""

    rank: int = 0
    count: int = 1
    barrier: Barrier = _no_barrier  # returns when all processes have come here
    broadcast: Callable[[str], str] = str  # what the first process gives, to all

    def image_range(self, images: int, block: int) -> tuple[int, int]:
        """From where to where this process looks: whole blocks, as many as any other or one fewer.

        >>> [Shard(rank, 3).image_range(22, 4) for rank in range(3)]
        [(0, 8), (8, 16), (16, 22)]
        """
        blocks = -(-images // block)
        first, last = (blocks * rank // self.count for rank in (self.rank, self.rank + 1))
        return min(first * block, images), min(last * block, images)


def get_shard(device: torch.device) -> Shard:
    """The part of this process in a run under ``torchrun``, all of it elsewhere; joins the others through Lightning
    Fabric.
    """
    count, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if count == 1 or "LOCAL_RANK" not in os.environ:
        return Shard()
    return _join_processes("cuda" if device.type == "cuda" else "cpu", local, count // local)


@cache
def _join_processes(accelerator: str, devices: int, machines: int) -> Shard:
    from lightning_fabric import Fabric  # slow to import, and rarely needed

    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=machines)
    fabric.launch()
    atexit.register(_destroy_process_group)
    return Shard(fabric.global_rank, fabric.world_size, fabric.barrier, fabric.broadcast)


def _destroy_process_group() -> None:
    """Without it a process may wait for ever when Python ends."""
    if distributed.is_initialized():
        distributed.destroy_process_group()

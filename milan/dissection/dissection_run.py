"""A run of a dissection: the pass over the probe, its checkpoints, and merging the parts of several processes."""

import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.distributed import Shard
from milan.dissection.forward_blocks import BlockOutputs, block_length, map_blocks
from milan.dissection.layer_statistics import BlockStatistics, LayerPlan, LayerStatistics, strip_prefix
from milan.dissection.sparse_statistics import SparseBlock, SparseLayerStatistics
from milan.dissection.store import layer_folder
from milan.errors import BadInput, MilanWarning, recorded_warnings, warn_again
from milan.probes import Probe
from milan.probes.probe import MAX_UNREADABLE_SHARE
from milan.storage.files import atomic_write, content_key
from milan.targets.target import Target

MIN_CHECKPOINT_SECONDS = 5.0  # shortest time between two checkpoints
CHECKPOINT_COST_RATIO = 40  # smallest ratio of that time to the time for writing a checkpoint
_STATE, _PIXELS = "state.safetensors", "images.safetensors"
Statistics = LayerStatistics | SparseLayerStatistics


class DissectionRun:
    """Processes this process's part of the probe.

    Attributes:
        records: the statistics by layer.
        images: pixels of images that are or were exemplars, up to ``pixels`` bytes.
        readable: which images of the part were read.
        next_image: the first image that has not been processed.
        warnings: the warnings of the pass, each once, with those from before an interruption.
    """

    next_image: int
    readable: Bool[Tensor, " images"]
    records: dict[str, Statistics]

    def __init__(self, target: Target, probe: Probe, plans: Sequence[LayerPlan], work: Path, shard: Shard, pixels: int):
        self.target, self.probe, self.plans = target, probe, plans
        self.work, self.shard, self.pixels = work, shard, pixels
        self.block = block_length(probe.size, target.device)
        self.key = content_key(layers=[plan.key for plan in plans], processes=shard.count)
        self.images: dict[int, Tensor] = {}
        # A dictionary keeps the order.
        self.warnings: dict[str, None] = {}
        self.start, self.stop = shard.image_range(len(probe), self.block)
        self._reset()

    def run(self, batch_size: int, workers: int) -> None:
        """Run the pass from the last checkpoint."""
        self._resume()
        size = -(-batch_size // self.block) * self.block
        batches = self.probe.inputs(size, self.next_image, self.stop, workers)
        shown = (
            track_progress(batches, total=-(-(self.stop - self.next_image) // size), description="dissecting")
            if self.shard.rank == 0
            else batches
        )
        names = [plan.layer.name for plan in self.plans]
        due = time.monotonic() + MIN_CHECKPOINT_SECONDS
        warn_again(self.warnings)
        with recorded_warnings(lambda text: self.warnings.setdefault(text)):
            for seen in map_blocks(self.target, names, shown, lambda seen: seen, sparse=True, reduce=self._reduce):
                self._add_block(seen)
                if time.monotonic() > due:
                    due = self._checkpoint()
        self.next_image = self.stop
        if self.shard.count > 1:
            self._checkpoint()
            ids = sorted(self.images.keys() & self._exemplar_ids())
            with atomic_write(self._own_folder / _PIXELS) as partial:
                save_file({str(id): self.images[id] for id in ids}, partial)

    def gather(self) -> None:
        """Merge the parts of all processes.

        Raises:
            BadInput: too many images are unreadable, or a part is not complete.
        """
        for rank in range(1, self.shard.count):
            other = DissectionRun(self.target, self.probe, self.plans, self.work, Shard(rank, self.shard.count), 0)
            if not other._restore() or other.next_image != other.stop:
                raise BadInput(
                    f"the part of process {rank} in {other._own_folder} is not complete; run again to finish it"
                )
            for name, record in self.records.items():
                record.merge(other.records[name])  # type: ignore[arg-type]
            self.readable = torch.cat([self.readable, other.readable])
            self.warnings |= other.warnings
            with safe_open(other._own_folder / _PIXELS, "pt") as file:
                self.images |= {int(id): file.get_tensor(id) for id in file.keys()}  # noqa: SIM118 (a file handle, no dict)
        # The probe checks only the images that this process read since its start.
        if len(self.skipped) > MAX_UNREADABLE_SHARE * len(self.readable):
            text = (
                f"{len(self.skipped)} of {len(self.readable)} images of {self.probe.spec or self.probe.name} cannot be"
                " read (more than 5%)"
            )
            raise BadInput(f"{text}, such as those numbered {', '.join(map(str, self.skipped[:3]))}")

    @property
    def readable_count(self) -> int:
        """Number of images that were read."""
        return int(self.readable.sum())

    @property
    def skipped(self) -> list[int]:
        """Indices of unreadable images."""
        return [self.start + place for place in (~self.readable).nonzero().flatten().tolist()]

    def part_folders(self, record: Statistics) -> list[Path]:
        """Return the folders with a layer's files of all processes."""
        return [self._part_folder(rank, record.plan) for rank in range(self.shard.count)]

    @property
    def _own_folder(self) -> Path:
        return self.work / str(self.shard.rank)

    def _part_folder(self, rank: int, plan: LayerPlan) -> Path:
        return layer_folder(self.work / str(rank), plan.layer.name)

    def _reset(self) -> None:
        """Reset to the state before the first image."""
        self.next_image = self.start
        self.readable = torch.zeros(self.stop - self.start, dtype=torch.bool)
        self.records = {
            plan.layer.name: (SparseLayerStatistics if plan.layer.is_sparse else LayerStatistics)(
                plan, self.start, self.stop
            )
            for plan in self.plans
        }

    def _reduce(self, layer: str, seen: BlockOutputs) -> BlockStatistics | SparseBlock:
        return self.records[layer].reduce(seen)

    def _add_block(self, seen: BlockOutputs) -> None:
        entered = torch.zeros(len(seen.ids), dtype=torch.bool)
        for name, record in self.records.items():
            entered |= torch.cat([record.add(part) for part in seen.reduced[name]])
        self.readable[seen.ids - self.start] = True
        self.next_image = min((int(seen.ids[-1]) // self.block + 1) * self.block, self.stop)
        shown = self.probe.shown(seen.images[entered])
        self.images |= {int(id): image for id, image in zip(seen.ids[entered], shown, strict=True)}
        pixels = 3 * math.prod(seen.images.shape[2:])
        if len(self.images) * pixels > self.pixels:
            self._drop_images(self.pixels // pixels)

    def _drop_images(self, most: int) -> None:
        """Drop pixels that are not needed any more, then others, which are decoded again at the end."""
        needed = sorted(self.images.keys() & self._exemplar_ids())
        self.images = {id: self.images[id] for id in needed[: most // 2]}

    def _exemplar_ids(self) -> set[int]:
        return set().union(*(record.image_ids() for record in self.records.values()))

    def _resume(self) -> None:
        if self._restore():
            return
        self._reset()
        # It would not match the new files.
        (self._own_folder / _STATE).unlink(missing_ok=True)
        for name, record in self.records.items():
            folder = self._part_folder(self.shard.rank, record.plan)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                record.create_files(folder)
            except OSError as error:
                raise BadInput(
                    f"cannot store the activations of {name} in {folder}: {error.strerror}; free some or choose another"
                ) from None

    def _restore(self) -> bool:
        """Restore the last checkpoint, if there is one of the same run; return whether there is."""
        try:
            with safe_open(self._own_folder / _STATE, "pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return False
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file handle, no dict)
                kept = {name: json.loads(file.metadata()[name]) for name in ("next", "warnings", "bad")}
            for number, record in enumerate(self.records.values()):
                record.open_files(self._part_folder(self.shard.rank, record.plan))
                record.restore(strip_prefix(f"{number}:", state))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            if not isinstance(error, FileNotFoundError):
                warnings.warn(
                    f"the checkpoint in {self._own_folder} cannot be used ({error}); the run starts again",
                    MilanWarning,
                    stacklevel=2,
                )
            return False
        self.readable, self.next_image, self.warnings = state["seen"], kept["next"], dict.fromkeys(kept["warnings"])
        self.probe.was_read(range(self.start, self.next_image), {int(id): reason for id, reason in kept["bad"].items()})
        return True

    def _checkpoint(self) -> float:
        """Write a checkpoint; return the time of the next one."""
        began = time.monotonic()
        state = {"seen": self.readable}
        for number, record in enumerate(self.records.values()):
            record.flush()
            state |= {f"{number}:{name}": tensor for name, tensor in record.state().items()}
        with atomic_write(self._own_folder / _STATE) as partial:
            facts = {"next": self.next_image, "warnings": list(self.warnings), "bad": self.probe.unreadable}
            save_file(state, partial, {"key": self.key} | {name: json.dumps(value) for name, value in facts.items()})
        ended = time.monotonic()
        return ended + max(MIN_CHECKPOINT_SECONDS, CHECKPOINT_COST_RATIO * (ended - began))

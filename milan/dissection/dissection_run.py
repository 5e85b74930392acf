"""A run of a dissection: the pass over the probe, its checkpoints, and merging the parts of several processes."""

import json
import time
import warnings
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.distributed import Shard
from milan.dissection.exemplar_pixels import ExemplarPixels
from milan.dissection.forward_blocks import BlockOutputs, block_length, map_blocks
from milan.dissection.layer_statistics import BlockStatistics, LayerPlan, LayerStatistics
from milan.dissection.sparse_statistics import SparseBlock, SparseLayerStatistics
from milan.dissection.store import layer_folder
from milan.errors import BadInput, MilanWarning, recorded_warnings, warn_again
from milan.probes import Probe
from milan.probes.probe import MAX_UNREADABLE_SHARE
from milan.storage.files import atomic_write, content_key
from milan.targets.target import Target

MIN_CHECKPOINT_SECONDS = 5.0  # shortest time between two checkpoints
CHECKPOINT_COST_RATIO = 40  # smallest ratio of that time to the time for writing a checkpoint
CHECKPOINT_RATE = 2**29  # bytes per second at which the first checkpoint is assumed to be written
_STATE = "state.npz"
Statistics = LayerStatistics | SparseLayerStatistics


class DissectionRun:
    """Processes this process's part of the probe.

    Attributes:
        records: the statistics by layer.
        images: pixels of this process's images that are or were exemplars.
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
        self.images = ExemplarPixels(self._own_folder, pixels)
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
        expected = sum(plan.map_bytes + plan.buffer_bytes for plan in self.plans)
        due = time.monotonic() + _seconds_between_checkpoints(expected / CHECKPOINT_RATE)
        warn_again(self.warnings)
        with recorded_warnings(lambda text: self.warnings.setdefault(text)):
            for seen in map_blocks(self.target, names, shown, lambda seen: seen, sparse=True, reduce=self._reduce):
                self._add_block(seen)
                if time.monotonic() > due:
                    due = self._checkpoint()
        self.next_image = self.stop
        if self.shard.count > 1:
            self._checkpoint()

    def gather(self, layers: Collection[str]) -> "DissectionRun":
        """Return the run with the parts of all processes, merged for some layers.

        Raises:
            BadInput: too many images are unreadable, or a part is not complete.
        """
        whole = self if self.shard.rank == 0 else self._restore_part(0, layers)
        for rank in range(1, self.shard.count):
            other = self._restore_part(rank, layers)
            for name in layers:
                whole.records[name].merge(other.records[name])  # type: ignore[arg-type]
            whole.readable = torch.cat([whole.readable, other.readable])
            whole.warnings |= other.warnings
        whole._check_readable()
        return whole

    def collect_images(self) -> list[ExemplarPixels]:
        """Return the pixels that the processes kept."""
        # Without layers to dissect, the other processes' folders may be left from a run on other images.
        ranks = range(1, self.shard.count if self.plans else 1)
        return [self.images, *(ExemplarPixels(self.work / str(rank), 0) for rank in ranks)]

    def _restore_part(self, rank: int, layers: Collection[str]) -> "DissectionRun":
        """Return the finished part of a process, with the statistics of some layers."""
        other = DissectionRun(self.target, self.probe, self.plans, self.work, Shard(rank, self.shard.count), 0)
        if not other._restore(layers) or other.next_image != other.stop:
            raise BadInput(f"the part of process {rank} in {other._own_folder} is not complete; run again to finish it")
        return other

    def _check_readable(self) -> None:
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
        self.records = {}
        for plan in self.plans:
            kind = SparseLayerStatistics if plan.layer.is_sparse else LayerStatistics
            self.records[plan.layer.name] = kind(plan, self.start, self.stop, self.work)

    def _reduce(self, layer: str, seen: BlockOutputs) -> BlockStatistics | SparseBlock:
        return self.records[layer].reduce(seen)

    def _add_block(self, seen: BlockOutputs) -> None:
        entered = torch.zeros(len(seen.ids), dtype=torch.bool)
        for name, record in self.records.items():
            entered |= torch.cat([record.add(part) for part in seen.reduced[name]])
        self.readable[seen.ids - self.start] = True
        self.next_image = min((int(seen.ids[-1]) // self.block + 1) * self.block, self.stop)
        self.images.add(seen.ids[entered], self.probe.shown(seen.images[entered]), self._exemplar_ids)

    def _exemplar_ids(self) -> set[int]:
        return set().union(*(record.image_ids() for record in self.records.values()))

    def _resume(self) -> None:
        if self._restore():
            return
        # They would not match the new files.
        (self._own_folder / _STATE).unlink(missing_ok=True)
        self.images.clear()
        for name, record in self.records.items():
            folder = self._part_folder(self.shard.rank, record.plan)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                record.create_files(folder)
            except OSError as error:
                raise BadInput(
                    f"cannot store the activations of {name} in {folder}: {error.strerror}; free some or choose another"
                ) from None

    def _restore(self, layers: Collection[str] | None = None) -> bool:
        """Restore the last checkpoint of the same run, for some layers or all; return whether there is one."""
        numbers = {str(at): name for at, name in enumerate(self.records) if layers is None or name in layers}
        if not (self._own_folder / _STATE).exists():
            return False
        try:
            with np.load(self._own_folder / _STATE) as file:
                facts = json.loads(str(file["facts"]))
                if facts["key"] != self.key:
                    return False
                readable = torch.from_numpy(file["seen"])
                for number, name in numbers.items():
                    record = self.records[name]
                    record.open_files(self._part_folder(self.shard.rank, record.plan))
                    parts = [part for part in file.files if part.startswith(f"{number}:")]
                    record.restore({part.partition(":")[2]: torch.from_numpy(file[part]) for part in parts})
        except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
            # Files of pooled activations are missing after a run that was killed while it wrote its results.
            if not isinstance(error, FileNotFoundError):
                text = f"the checkpoint in {self._own_folder} cannot be used ({error}); the run starts again"
                warnings.warn(text, MilanWarning, stacklevel=2)
            # Some layers may have been restored.
            self._reset()
            return False
        self.readable, self.next_image, self.warnings = readable, facts["next"], dict.fromkeys(facts["warnings"])
        self.probe.mark_read(self.start, self.next_image, {int(id): reason for id, reason in facts["bad"].items()})
        return True

    def _checkpoint(self) -> float:
        """Write a checkpoint; return the time of the next one."""
        began = time.monotonic()
        self.images.store(self._exemplar_ids())
        state = {"seen": self.readable}
        for number, record in enumerate(self.records.values()):
            record.flush()
            state |= {f"{number}:{name}": tensor for name, tensor in record.state().items()}
        facts = {"key": self.key, "next": self.next_image, "warnings": list(self.warnings)}
        written = json.dumps(facts | {"bad": self.probe.unreadable})
        with atomic_write(self._own_folder / _STATE) as partial:
            # Unlike safetensors, numpy writes views of arrays without a copy.
            np.savez(partial, facts=written, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
        ended = time.monotonic()
        return ended + _seconds_between_checkpoints(ended - began)


def _seconds_between_checkpoints(writing: float) -> float:
    """Return the time from one checkpoint to the next, given the seconds that writing one takes."""
    return max(CHECKPOINT_COST_RATIO * writing, MIN_CHECKPOINT_SECONDS)

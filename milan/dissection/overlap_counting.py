"""Counting of label signatures inside masks, for several layers in one pass over a probe."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.dissection import Dissection
from milan.dissection.forward_blocks import Batches, BlockOutputs, map_blocks
from milan.dissection.mask_pixels import find_mask_pixels
from milan.errors import BadInput, MilanWarning
from milan.probes import Probe
from milan.probes.pixel_labels import NO_LABEL, PixelLabels
from milan.targets.preprocessing import Size, height_width, pixel_count, size_text
from milan.targets.target import Target

DECODING_BATCH = 16  # images read at a time
MERGED_COUNTS = 2**22  # counts collected before they are added up
CACHED_BYTES = 2**28  # largest size of images that are cached for the next pass
# A larger fraction of unreadable label maps is an error, since the labels are probably not the intended ones.
MAX_UNREADABLE_SHARE = 0.05
Counts = dict[str, np.ndarray]


class _SignatureTable:
    """Numbers the signatures in order of appearance; counts their pixels, and the images of each concept."""

    def __init__(self, concepts: int, size: Size):
        self.size = size
        self.rows: list[bytes] = []
        self.area: list[int] = []
        self.images = np.zeros(concepts, dtype=np.int64)
        self._numbers: dict[bytes, int] = {}

    def add_image(
        self, labels: Int[np.ndarray, "levels height width"]
    ) -> tuple[Int[np.ndarray, " some"], Int[np.ndarray, " pixels"]]:
        """Return the signatures of an image, and the index among them for each pixel."""
        if labels.shape[1:] != height_width(self.size):
            sizes = f"{labels.shape[1]} x {labels.shape[2]} pixels for images of {size_text(self.size)}"
            raise BadInput(f"the labels have {sizes}; apply the images' preprocessing to them")
        found, local, counts = _find_unique_columns(labels.reshape(len(labels), -1).astype(np.int32))
        shown = np.unique(found)
        self.images[shown[shown != NO_LABEL]] += 1
        present = (found != NO_LABEL).any(axis=1).astype(np.int32)
        rows = [np.concatenate([column, present]) for column in found.T]
        return np.array([self._number(row, count) for row, count in zip(rows, counts.tolist(), strict=True)]), local

    def _number(self, row: Int[np.ndarray, " twice_levels"], count: int) -> int:
        number = self._numbers.setdefault(row.tobytes(), len(self.rows))
        if number == len(self.rows):
            self.rows.append(row.tobytes())
            self.area.append(0)
        self.area[number] += count
        return number

    def table(self) -> Int[np.ndarray, "signatures twice_levels"]:
        return np.frombuffer(b"".join(self.rows), dtype=np.int32).reshape(len(self.rows), -1)


class _LayerMasks(NamedTuple):
    """The dissected units of a layer, and the thresholds of their masks."""

    name: str
    units: Int[Tensor, " units"]
    thresholds: Float[Tensor, " units"]


class OverlapCounter:
    """Counts the signatures inside the masks of the dissected units of several layers in one pass."""

    def __init__(
        self,
        dissections: Sequence[Dissection],
        target: Target,
        labels: PixelLabels,
        thresholds: Sequence[Float[Tensor, " _"]],
    ):
        self.target, self.probe = target, dissections[0].open_probe()
        self.layers = [
            _LayerMasks(target.layer(one.layer).name, torch.tensor([unit.index for unit in one.units]), levels.float())
            for one, levels in zip(dissections, thresholds, strict=True)
        ]
        self.labels, self.signatures = labels, _SignatureTable(len(labels.concepts), self.probe.size)
        self.unreadable: list[str] = []
        self._pending: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def run(self) -> list[Counts]:
        """Run the pass; return the parts of each layer's ``ConceptOverlap`` as they are stored."""
        totals = [sparse.csr_matrix((len(layer.units), 1), dtype=np.int64) for layer in self.layers]
        parts: list[list[np.ndarray]] = [[] for _ in self.layers]
        names = list(dict.fromkeys(layer.name for layer in self.layers))
        description = f"counting overlaps of {', '.join(names)}"
        for found in track_progress(self._passes(names), description=description):
            for place, part in enumerate(found):
                parts[place].append(part)
                if sum(piece.shape[1] for piece in parts[place]) > MERGED_COUNTS:
                    totals[place], parts[place] = self._merge_counts(totals[place], parts[place]), []
        totals = [self._merge_counts(total, rest) for total, rest in zip(totals, parts, strict=True)]
        self._check_unreadable()
        return [self._describe_counts(total.tocoo()) for total in totals]

    def _passes(self, names: Sequence[str]) -> Iterator[list[Int[np.ndarray, "3 _"]]]:
        return map_blocks(self.target, names, self._batches(), self._count_inside)

    def _describe_counts(self, total: sparse.coo_matrix) -> Counts:
        """Return a layer's counts and the signatures, which are the same for all layers."""
        table = self.signatures.table()
        levels = table.shape[1] // 2
        described = {
            "table": table[:, :levels],
            "present": table[:, levels:].astype(bool),
            "area": np.array(self.signatures.area, np.int64),
        }
        counted = {"rows": total.row.astype(np.int32), "columns": total.col.astype(np.int32), "counts": total.data}
        return described | counted | {"images": self.signatures.images}

    def _merge_counts(self, total: sparse.csr_matrix, parts: list[np.ndarray]) -> sparse.csr_matrix:
        shape = (total.shape[0], max(1, len(self.signatures.rows)))
        total = sparse.csr_matrix((total.data, total.indices, total.indptr), shape=shape)
        rows, columns, counts = np.concatenate([np.empty((3, 0), np.int64), *parts], axis=1)
        return total + sparse.coo_matrix((counts, (rows, columns)), shape=shape).tocsr()

    def _batches(self) -> Batches:
        """Yield the probe's images whose labels can be read, and store their signatures until they are counted."""
        for ids, images in _iter_batches(self.probe, DECODING_BATCH):
            for index, labels in self._labels(ids.tolist()):
                self._pending[index] = self.signatures.add_image(labels.numpy())
            kept = [place for place, index in enumerate(ids.tolist()) if index in self._pending]
            if kept:
                yield ids[kept], images[kept]

    def _labels(self, ids: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield the labels of images, without those that cannot be read."""
        try:
            yield from zip(ids, self.labels.load(ids), strict=True)
        except BadInput as error:
            if len(ids) > 1:
                for index in ids:
                    yield from self._labels([index])
                return
            self.unreadable.append(str(error))
            if len(self.unreadable) > MAX_UNREADABLE_SHARE * len(self.probe):
                raise

    def _count_inside(self, seen: BlockOutputs) -> list[Int[np.ndarray, "3 _"]]:
        """Return unit, signature and number of pixels for each pair that occurs in a block, for each layer."""
        signatures = [self._pending.pop(index) for index in seen.ids.tolist()]
        return [self._count_layer(layer, seen.maps[layer.name].cpu(), signatures) for layer in self.layers]

    def _count_layer(
        self,
        layer: _LayerMasks,
        maps: Float[Tensor, "images units h w"],
        signatures: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> Int[np.ndarray, "3 _"]:
        maps = maps[:, layer.units]
        # Upsampling takes means, so that pixels exceed the threshold only if a place does.
        hot = (maps.amax((2, 3)) > layer.thresholds).numpy()
        found = [np.empty((3, 0), np.int64)]
        for image, active, (names, pixels) in zip(maps.numpy(), hot, signatures, strict=True):
            units = np.flatnonzero(active)
            row, pixel = find_mask_pixels(image[units], layer.thresholds.numpy()[units], self.probe.size)
            counts = np.bincount(row * len(names) + pixels[pixel], minlength=1)
            occurring = np.flatnonzero(counts)
            unit, signature = occurring // len(names), occurring % len(names)
            if len(units):
                found.append(np.stack([units[unit], names[signature], counts[occurring]]))
        return np.concatenate(found, axis=1)

    def _check_unreadable(self) -> None:
        if self.unreadable:
            text = (
                f"{len(self.unreadable)} of {len(self.probe)} images are left out, since their labels are unreadable:"
                f" {'; '.join(self.unreadable[:3])}"
            )
            warnings.warn(text, MilanWarning, stacklevel=2)


# The images of at most one probe.
_cached_images: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}


def _iter_batches(probe: Probe, batch_size: int) -> Batches:
    """Yield the probe's batches; those of a small probe are loaded once for all layers."""
    name = (probe.fingerprint, batch_size)
    if name in _cached_images:
        yield from _cached_images[name]
        return
    batches: list[tuple[Tensor, Tensor]] = []
    for batch in probe.inputs(batch_size):
        if probe.channels * pixel_count(probe.size) * len(probe) <= CACHED_BYTES:
            batches.append(batch)
        yield batch
    if batches:
        _cached_images.clear()
        _cached_images[name] = batches


def _find_unique_columns(
    flat: Int[np.ndarray, "levels pixels"],
) -> tuple[Int[np.ndarray, "levels some"], Int[np.ndarray, " pixels"], Int[np.ndarray, " some"]]:
    """Return the different columns, the index among them for each column, and the number of each.

    Label maps have long runs of equal pixels, so only the first pixels of runs are compared.
    """
    begins = np.flatnonzero(np.concatenate([[True], (flat[:, 1:] != flat[:, :-1]).any(axis=0)]))
    lengths = np.diff(np.append(begins, flat.shape[1]))
    codes = np.zeros(len(begins), dtype=np.int64)
    # The codes stay small for any number of levels and concepts.
    for level in flat[:, begins]:
        _, codes = np.unique(codes * (int(level.max(initial=NO_LABEL)) + 2) + level + 1, return_inverse=True)
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    counts = np.bincount(which, weights=lengths).astype(np.int64)
    return flat[:, begins[first]], np.repeat(which, lengths), counts

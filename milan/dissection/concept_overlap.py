"""The overlap of units' masks with concepts, pixel by pixel over a probe, counted in one pass for all units of a layer.

The *signature* of a pixel is its labels on all levels, and which levels are labelled anywhere in its image. There are
few different signatures, so the number of pixels of each signature inside a unit's masks determines the overlap with
any concept, and with any combination of concepts by and, or and not, exactly. There is no loop over units times
concepts, and no mask is stored.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.forward_blocks import Batches, BlockOutputs, map_blocks
from milan.dissection.masks import masks_from_maps
from milan.errors import BadInput, MilanWarning, UnknownName, recorded_warnings, warn_again
from milan.probes import Probe
from milan.probes.pixel_labels import NO_LABEL, PixelLabels
from milan.storage.files import cache_folder, content_key
from milan.storage.integrity import made_once
from milan.targets.preprocessing import Size, height_width, pixel_count, size_text
from milan.targets.target import Target
from milan.units import Unit, as_unit

FORMAT = 1  # version of the stored counts
DECODING_BATCH = 16  # images read at a time
CHUNK_PIXELS = 2**24  # pixels of masks processed at a time
MERGED_COUNTS = 2**22  # counts collected before they are added up
CACHED_BYTES = 2**28  # largest size of images that are cached for the next layer
# A larger fraction of unreadable label maps is an error, since the labels are probably not the intended ones.
MAX_UNREADABLE_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class ConceptOverlap:
    """Pixel counts of a layer's masks by signature.

    Attributes:
        units: units of the rows of ``counts``.
        concepts: names of the labels.
        level_names: names of the columns of ``table``.
        table: labels of each signature, as indices into ``concepts``; -1 for none.
        present: for each signature, which levels are labelled anywhere in its images.
        area: number of pixels of the probe with each signature.
        images: number of images that show each concept.
        counts: number of pixels of each signature inside each unit's masks, int64 (units, signatures).
    """

    units: list[Unit]
    concepts: list[str]
    level_names: list[str]
    table: Int[np.ndarray, "signatures levels"]
    present: Bool[np.ndarray, "signatures levels"]
    area: Int[np.ndarray, " signatures"]
    images: Int[np.ndarray, " concepts"]
    counts: sparse.csr_matrix

    @cached_property
    def has_concept(self) -> sparse.csr_matrix:
        """Whether a signature shows a concept, 0 or 1, (signatures, concepts)."""
        rows, levels = np.nonzero(self.table != NO_LABEL)
        columns = self.table[rows, levels]
        seen = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(self.table), len(self.concepts)))
        # A concept on two levels of a pixel counts once.
        seen.data[:] = 1
        return seen

    @cached_property
    def levels_of(self) -> Bool[np.ndarray, "concepts levels"]:
        """Whether a concept occurs on a level."""
        found = np.zeros((len(self.concepts), len(self.level_names)), dtype=bool)
        rows, levels = np.nonzero(self.table != NO_LABEL)
        found[self.table[rows, levels], levels] = True
        return found

    @cached_property
    def _rows(self) -> dict[Unit, int]:
        return {unit: row for row, unit in enumerate(self.units)}

    def row_of(self, unit: Unit | str) -> int:
        """Return the index of a unit in ``units``."""
        return self._rows[as_unit(unit)]

    def pixels_inside(self, unit: Unit | str) -> Float[np.ndarray, " signatures"]:
        """Return the number of pixels of each signature inside a unit's masks."""
        return self.counts[self.row_of(unit)].toarray().ravel().astype(np.float64)

    def select_concepts(
        self, only: str = "", without: str = "", least_images: int = 1
    ) -> Bool[np.ndarray, " concepts"]:
        """Return which concepts may be named.

        Args:
            only: names of concepts or levels, separated by commas; by default all.
            without: names of concepts or levels to exclude.
            least_images: smallest number of images that show a concept.

        Raises:
            UnknownName: there is no such concept or level.
            BadInput: no concept is left.
        """
        kept = (self.images >= max(1, least_images)) & ~self._select_named(without)
        if only.strip():
            kept &= self._select_named(only)
        if not kept.any():
            options = f"only={only!r}, without={without!r}, least_images={least_images}"
            raise BadInput(f"no concept is left of {len(self.concepts)} ({options}); allow more")
        return kept

    def _select_named(self, names: str) -> Bool[np.ndarray, " concepts"]:
        found = np.zeros(len(self.concepts), dtype=bool)
        for name in filter(None, (name.strip() for name in names.split(","))):
            if name in self.level_names:
                found |= self.levels_of[:, self.level_names.index(name)]
            elif name in self.concepts:
                found[self.concepts.index(name)] = True
            else:
                known = [*self.level_names, *self.concepts]
                raise UnknownName("concept or level", name, known, f"the levels are: {', '.join(self.level_names)}")
        return found

    def iou(self, over: str = "probe") -> Float[np.ndarray, "units concepts"]:
        """Return the intersection over union of each unit's masks with each concept; 0 if both are empty.

        Args:
            over: ``probe``, or ``category`` to count only images with some label of the concept's levels (Bau et al.
                2017, section 2.3, for datasets of which not each image has each kind of label).
        """
        both = np.asarray((self.counts.astype(np.float64) @ self.has_concept).todense())
        area = self.has_concept.T @ self.area.astype(np.float64)
        return _ratio(both, self._count_within(over) + area - both)

    def _count_within(self, over: str) -> Float[np.ndarray, "units concepts"]:
        """Return the number of pixels of each unit's masks that count for each concept."""
        if over == "probe":
            return np.asarray(self.counts.sum(axis=1), dtype=np.float64).reshape(-1, 1)
        kinds, which = np.unique(self.levels_of, axis=0, return_inverse=True)
        # (signatures, kinds)
        counted = np.stack([(self.present & kind).any(axis=1) for kind in kinds], axis=1).astype(np.float64)
        return np.asarray(self.counts @ counted)[:, which.ravel()]


def count_overlap(
    dissection: Dissection,
    labels: PixelLabels,
    quantile: float | None = None,
    *,
    target: Target | None = None,
    folder: Path | None = None,
) -> ConceptOverlap:
    """Count the overlap in one pass of the target over the probe, or read earlier counts for the same input.

    Args:
        dissection: the dissected layer.
        labels: labels of the dissection's probe.
        quantile: activation quantile used as the mask threshold; by default the dissection's.
        target: the network that was dissected; by default it is loaded by its spec.
        folder: folder of the counts; by default in the cache.

    Raises:
        MissingEvidence: the probe, the target or the thresholds are not available.
        BadInput: the labels cannot be read, or have another size than the probe's images.
    """
    quantile = dissection.quantile if quantile is None else quantile
    key = content_key(format=FORMAT, dissection=dissection.key, labels=labels.key, quantile=quantile)
    file = (folder or cache_folder() / "overlap") / f"{key}.npz"
    known = file.is_file()

    def count(path: Path) -> None:
        levels = (
            dissection.thresholds() if quantile == dissection.quantile else compute_thresholds(dissection, quantile)
        )
        texts: list[str] = []
        with recorded_warnings(texts.append):
            found = _OverlapCounter(dissection, target or dissection.open_target(), labels, levels).run()
        found["warnings"] = np.array(list(dict.fromkeys(texts)), np.str_)
        np.savez_compressed(path, allow_pickle=False, **found)

    return made_once(file, count, lambda path: _read_counts(path, dissection, labels, again=known))


def compute_thresholds(dissection: Dissection, quantile: float) -> Float[Tensor, " units"]:
    """Return the thresholds at another quantile, computed by another pass and stored in the cache."""
    target, probe = dissection.open_target(), dissection.open_probe()
    folder = cache_folder() / "thresholds" / content_key(dissection=dissection.key, quantile=quantile)
    units = {dissection.layer: [unit.index for unit in dissection.units]}
    return dissect(target, probe, [dissection.layer], folder, k=1, quantile=quantile, units=units)[
        dissection.layer
    ].thresholds()


def _read_counts(file: Path, dissection: Dissection, labels: PixelLabels, again: bool) -> ConceptOverlap:
    with np.load(file, allow_pickle=False) as kept:
        parts = {name: kept[name] for name in kept.files}
    if again:
        warn_again(map(str, parts.get("warnings", [])))
    shape = (len(dissection.units), len(parts["table"]))
    counts = sparse.csr_matrix((parts["counts"], (parts["rows"], parts["columns"])), shape=shape)
    named = {name: parts[name] for name in ("table", "present", "area", "images")}
    return ConceptOverlap(
        list(dissection.units), list(labels.concepts), list(labels.level_names), counts=counts, **named
    )


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


class _OverlapCounter:
    """Counts the signatures inside the masks of a layer's dissected units in one pass."""

    def __init__(
        self, dissection: Dissection, target: Target, labels: PixelLabels, thresholds: Float[Tensor, " units"]
    ):
        self.target, self.probe = target, dissection.open_probe()
        self.layer = target.layer(dissection.layer).name
        self.columns = torch.tensor([unit.index for unit in dissection.units])
        self.thresholds = thresholds.float()
        self.labels, self.signatures = labels, _SignatureTable(len(labels.concepts), self.probe.size)
        self.unreadable: list[str] = []
        self._pending: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._shape = (len(dissection.units), 0)

    def run(self) -> dict[str, np.ndarray]:
        """Run the pass; return the parts of a ``ConceptOverlap`` as they are stored."""
        total = sparse.csr_matrix((len(self.columns), 1), dtype=np.int64)
        parts: list[np.ndarray] = []
        counts = map_blocks(self.target, [self.layer], self._batches(), self._count_inside)
        for part in track_progress(counts, description=f"counting overlaps of {self.layer}"):
            parts.append(part)
            if sum(piece.shape[1] for piece in parts) > MERGED_COUNTS:
                total, parts = self._merge_counts(total, parts), []
        total = self._merge_counts(total, parts).tocoo()
        self._check_unreadable()
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
        shape = (len(self.columns), max(1, len(self.signatures.rows)))
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

    def _count_inside(self, seen: BlockOutputs) -> Int[np.ndarray, "3 some"]:
        """Return unit, signature and number of pixels for each pair that occurs in a block."""
        maps = seen.maps[self.layer].cpu()[:, self.columns]
        # Upsampling takes means, so that pixels exceed the threshold only if a place does.
        hot = (maps.amax((2, 3)) > self.thresholds).numpy()
        found = [np.empty((3, 0), np.int64)]
        for place, index in enumerate(seen.ids.tolist()):
            names, pixels = self._pending.pop(index)
            units = np.flatnonzero(hot[place])
            for rows in np.array_split(units, max(1, -(-len(units) * len(pixels) // CHUNK_PIXELS))):
                masks = masks_from_maps(maps[place, rows], self.thresholds[rows], self.probe.size)
                unit, signature, counts = _count_per_row(masks.flatten(1).numpy(), pixels, len(names))
                found.append(np.stack([rows[unit], names[signature], counts]))
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


def _count_per_row(
    masks: Bool[np.ndarray, "rows pixels"], pixels: Int[np.ndarray, " pixels"], kinds: int
) -> tuple[Int[np.ndarray, " some"], Int[np.ndarray, " some"], Int[np.ndarray, " some"]]:
    """Return row, kind of pixel and number of such pixels in the row's mask, where there are any."""
    # Few places are in masks, so that this is faster than a product with all kinds.
    places = np.flatnonzero(masks.ravel())
    rows = places // len(pixels)
    counts = np.bincount(rows * kinds + pixels[places - rows * len(pixels)], minlength=1)
    found = np.flatnonzero(counts)
    return found // kinds, found % kinds, counts[found]


def _ratio(both: np.ndarray, either: np.ndarray) -> np.ndarray:
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)

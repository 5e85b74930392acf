"""The overlap of units' masks with concepts, pixel by pixel over a probe, counted in one pass for all units and layers.

The *signature* of a pixel is its labels on all levels, and which levels are labelled anywhere in its image. There are
few different signatures, so the number of pixels of each signature inside a unit's masks determines the overlap with
any concept, and with any combination of concepts by and, or and not, exactly. There is no loop over units times
concepts, and no mask is stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.overlap_counting import Counts, OverlapCounter
from milan.errors import BadInput, UnknownName, recorded_warnings, warn_again
from milan.probes.pixel_labels import NO_LABEL, PixelLabels
from milan.storage.files import cache_folder, content_key
from milan.storage.integrity import made_once
from milan.targets.target import Target
from milan.units import Unit, as_unit

FORMAT = 1  # version of the stored counts


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
    """Count the overlap of one layer's masks; see ``count_overlaps``."""
    return count_overlaps([dissection], labels, quantile, target=target, folder=folder)[0]


def count_overlaps(
    dissections: Sequence[Dissection],
    labels: PixelLabels,
    quantile: float | None = None,
    *,
    target: Target | None = None,
    folder: Path | None = None,
) -> list[ConceptOverlap]:
    """Count the overlaps of several layers in one pass of the target over the probe, or read earlier counts.

    Args:
        dissections: dissected layers of one target on one probe.
        labels: labels of the probe.
        quantile: activation quantile used as the mask threshold; by default each dissection's. For another one than
            the dissections', one more pass finds the thresholds of all layers, unless the dissections hold them.
        target: the network that was dissected; by default it is loaded by its spec.
        folder: folder of the counts; by default in the cache.

    Raises:
        MissingEvidence: the probe, the target or the thresholds are not available.
        BadInput: the labels cannot be read, or have another size than the probe's images.
    """
    home = folder or cache_folder() / "overlap"
    files = [_locate_counts(home, one, labels, one.quantile if quantile is None else quantile) for one in dissections]
    is_known = [file.is_file() for file in files]
    new = [one for one, known in zip(dissections, is_known, strict=True) if not known]
    counted = _count_layers(new, labels, quantile, target) if new else {}
    return [
        made_once(
            file,
            # A file that turns out to be damaged is counted again by itself.
            partial(_write_counts, counted.get(one.key) or partial(_count_layers, [one], labels, quantile, target)),
            partial(_read_counts, dissection=one, labels=labels, again=known),
        )
        for one, file, known in zip(dissections, files, is_known, strict=True)
    ]


def _locate_counts(folder: Path, dissection: Dissection, labels: PixelLabels, quantile: float) -> Path:
    key = content_key(format=FORMAT, dissection=dissection.key, labels=labels.key, quantile=quantile)
    return folder / f"{key}.npz"


def _count_layers(
    dissections: Sequence[Dissection], labels: PixelLabels, quantile: float | None, target: Target | None
) -> dict[str, Counts]:
    """Return the counts of each layer as they are stored, by the key of its dissection, with the pass's warnings."""
    others = [one for one in dissections if quantile not in (None, one.quantile)]
    computed = dict(zip([one.key for one in others], compute_thresholds(others, quantile or 0.0), strict=True))
    thresholds = [computed[one.key] if one.key in computed else one.thresholds() for one in dissections]
    texts: list[str] = []
    with recorded_warnings(texts.append):
        network = target or dissections[0].open_target()
        found = OverlapCounter(dissections, network, labels, thresholds).run()
    repeated = np.array(list(dict.fromkeys(texts)), np.str_)
    return {one.key: {**part, "warnings": repeated} for one, part in zip(dissections, found, strict=True)}


def _write_counts(counts: Counts | Callable[[], dict[str, Counts]], file: Path) -> None:
    parts = counts if isinstance(counts, dict) else next(iter(counts().values()))
    np.savez_compressed(file, allow_pickle=False, **parts)


def compute_thresholds(dissections: Sequence[Dissection], quantile: float) -> list[Float[Tensor, " _"]]:
    """Return the thresholds of several layers at another quantile.

    Those that the dissections do not hold are computed by another pass and stored in the cache.
    """
    known = {one.key: levels for one in dissections if (levels := one.thresholds_at(quantile)) is not None}
    missing = [one for one in dissections if one.key not in known]
    if missing:
        known |= dict(zip([one.key for one in missing], _find_thresholds(missing, quantile), strict=True))
    return [known[one.key] for one in dissections]


def _find_thresholds(dissections: Sequence[Dissection], quantile: float) -> list[Float[Tensor, " _"]]:
    """Return the thresholds of several layers from a pass over the probe."""
    target, probe = dissections[0].open_target(), dissections[0].open_probe()
    keys = sorted(one.key for one in dissections)
    folder = cache_folder() / "thresholds" / content_key(dissections=keys, quantile=quantile)
    units = {one.layer: [unit.index for unit in one.units] for one in dissections}
    found = dissect(target, probe, list(units), folder, k=1, quantile=quantile, units=units)
    return [found[one.layer].thresholds() for one in dissections]


def _read_counts(file: Path, dissection: Dissection, labels: PixelLabels, again: bool) -> ConceptOverlap:
    """Read stored counts, and repeat the warnings of the pass if they are of an earlier run (``again``)."""
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


def _ratio(both: np.ndarray, either: np.ndarray) -> np.ndarray:
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)

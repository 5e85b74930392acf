"""Neighbours: for each unit of a dissected network the units that behave alike, and those that behave oppositely.

Units are compared by the Pearson correlation of their activations, and by how many exemplars they have in common.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.dissection import Dissection
from milan.errors import MissingEvidence
from milan.results.correlations import find_readable, iter_blocks, measure_units
from milan.units import Unit

COUNT = 5  # neighbours in each list of a unit
# Images times units that are compared, 200 MB in float32. More images are subsampled evenly, so that the time grows
# with the number of units and not with its square.
MAX_VALUES = 50_000_000
BLOCK_UNITS = 512  # units that are compared with all others at a time


class Neighbour(NamedTuple):
    """A unit, and how it compares with another.

    Attributes:
        unit: the neighbour.
        correlation: Pearson correlation of the activations over the images of the probe, -1 to 1; NaN if not known.
        exemplars: the share of common images among the exemplars of both (Jaccard index), 0 to 1.
    """

    unit: Unit
    correlation: float
    exemplars: float


@dataclass(frozen=True)
class UnitNeighbours:
    """The neighbours of a unit, at most ``COUNT`` in each list, the closest (or most opposite) first.

    Attributes:
        same_layer: the units of its layer that correlate most with it.
        other_layers: the units of other layers that correlate most with it.
        exemplars: the units that share most exemplars with it, of any layer.
        antagonists: the units whose correlation with it is most negative, of any layer.
    """

    same_layer: tuple[Neighbour, ...]
    other_layers: tuple[Neighbour, ...]
    exemplars: tuple[Neighbour, ...]
    antagonists: tuple[Neighbour, ...]


@dataclass(frozen=True)
class StandardizedActivations:
    """Activations with mean 0 and standard deviation 1 over the images, of the units of all layers that vary.

    Attributes:
        units: the units, layer by layer.
        values: their mean activations in each image.
    """

    units: list[Unit]
    values: Float[Tensor, "images units"]


def standardize_activations(
    dissections: Mapping[str, Dissection], units: Sequence[Unit]
) -> StandardizedActivations | None:
    """Return the standardized mean activations of units over the probe; units that do not vary are left out.

    Args:
        dissections: the dissected layers, on the same probe.
        units: units of these layers. If they have more than ``MAX_VALUES`` activations, images are left out, evenly.

    Returns:
        None if a dissection lacks activations, as released annotations do, or no unit varies.
    """
    columns = {
        layer: [unit for unit in units if unit.layer == layer and dissection.status[unit] in ("ok", "sparse")]
        for layer, dissection in dissections.items()
    }
    known = [unit for layer in columns.values() for unit in layer]
    try:
        files = {layer: dissections[layer].activations("mean").numpy() for layer, own in columns.items() if own}
    except MissingEvidence:
        return None
    if not files:
        return None
    images = len(next(iter(files.values())))
    step = max(1, -(-images * len(known) // MAX_VALUES))
    parts = [
        _select(file[::step], [dissections[layer].row_of(unit) for unit in columns[layer]])
        for layer, file in files.items()
    ]
    readable = np.all([find_readable(part) for part in parts], axis=0)
    measured = [measure_units(part, readable) for part in parts]
    varies = [np.isfinite(spread) for _, spread in measured]
    known = [unit for layer in files for unit in columns[layer]]
    varying = [unit for unit, kept in zip(known, np.concatenate(varies), strict=True) if kept]
    if not varying:
        return None
    standardized = np.empty((int(readable.sum()), len(varying)), np.float32)
    ends = np.cumsum([kept.sum() for kept in varies])
    for part, (mean, spread), kept, end in zip(parts, measured, varies, ends, strict=True):
        row, some = 0, slice(end - kept.sum(), end)
        for block in iter_blocks(part, readable):
            standardized[row : row + len(block), some] = (block[:, kept] - mean[kept]) / spread[kept]
            row += len(block)
    return StandardizedActivations(varying, torch.from_numpy(standardized))


def find_neighbours(
    activations: StandardizedActivations | None, exemplars: Mapping[Unit, Sequence[int]]
) -> dict[Unit, UnitNeighbours]:
    """Return the neighbours of each unit.

    Blocks of ``BLOCK_UNITS`` units are compared with all others, so that memory is that of the activations and of a
    few arrays of BLOCK_UNITS x units.

    Args:
        activations: of ``standardize_activations``; without them units are compared by exemplars alone.
        exemplars: the number of each exemplar in the probe, of the units that have exemplars.
    """
    units = list(dict.fromkeys([*(activations.units if activations is not None else []), *exemplars]))
    units.sort(key=_make_layer_order(units))
    values = _align(activations, units)
    shared = _mark_images(units, exemplars)
    starts, ends = _find_layer_bounds(units)
    found: dict[Unit, UnitNeighbours] = {}
    blocks = list(_iter_blocks(starts, ends))
    for start, end, low, high in track_progress(blocks, description="neighbours"):
        correlations = values[:, start:end].T @ values / max(1, len(values))
        common = torch.from_numpy(_compute_jaccard(shared, start, end))
        rows = torch.arange(start, end)
        for each in (correlations, common):
            each[rows - start, rows] = torch.nan
        outside = correlations.clone()
        outside[:, low:high] = torch.nan
        lists = [
            _take_largest(correlations[:, low:high], low),
            _take_largest(outside, 0),
            _take_largest(common, 0),
            _take_largest(-correlations, 0),
        ]
        for row in range(end - start):
            own = [
                tuple(Neighbour(units[at], float(correlations[row, at]), float(common[row, at])) for at in places[row])
                for places in lists
            ]
            found[units[start + row]] = UnitNeighbours(*own)
    return found


def make_neighbours_data(neighbours: UnitNeighbours | None, layers: Mapping[str, int]) -> list[list[Any]] | None:
    """Return neighbours in the form that the page's script reads; None if there are none.

    The four lists are in the order of the fields of ``UnitNeighbours``. A neighbour is four numbers in a row: the place
    of its layer, its index in the layer, the correlation and the share of common exemplars, both in percent; -101 for a
    correlation that is not known.

    Args:
        neighbours: those of one unit.
        layers: the place of each layer on the page, by name; neighbours in other layers are left out.
    """
    if neighbours is None:
        return None
    lists = (neighbours.same_layer, neighbours.other_layers, neighbours.exemplars, neighbours.antagonists)
    return [
        [
            number
            for unit, correlation, exemplars in each
            if unit.layer in layers
            for number in (
                layers[unit.layer],
                unit.index,
                -101 if np.isnan(correlation) else round(100 * correlation),
                0 if np.isnan(exemplars) else round(100 * exemplars),
            )
        ]
        for each in lists
    ]


def _select(values: np.ndarray, columns: list[int]) -> np.ndarray:
    """Return the columns; all of them without a copy, so that they stay in their file."""
    return values if columns == list(range(values.shape[1])) else values[:, columns]


def _make_layer_order(units: Sequence[Unit]) -> Any:
    """Return a sort key that puts the units of a layer together, layers in the order of their first unit."""
    places = {layer: place for place, layer in enumerate(dict.fromkeys(unit.layer for unit in units))}
    return lambda unit: (places[unit.layer], unit.index)


def _align(activations: StandardizedActivations | None, units: Sequence[Unit]) -> Float[Tensor, "images units"]:
    """Return the columns of units, NaN for those that have none."""
    if activations is None:
        return torch.full((1, len(units)), torch.nan)
    if activations.units == list(units):
        return activations.values
    places = {unit: place for place, unit in enumerate(activations.units)}
    missing = torch.full((len(activations.values), 1), torch.nan)
    return torch.cat([activations.values, missing], dim=1)[:, [places.get(unit, len(places)) for unit in units]]


def _mark_images(units: Sequence[Unit], exemplars: Mapping[Unit, Sequence[int]]) -> sparse.csr_array:
    """Return which images (columns) are exemplars of each unit (rows)."""
    ids = [sorted(set(exemplars.get(unit, ()))) for unit in units]
    columns = np.array([image for own in ids for image in own], np.int64)
    ends = np.cumsum([0, *map(len, ids)])
    images = int(columns.max()) + 1 if len(columns) else 1
    return sparse.csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(units), images))


def _compute_jaccard(marks: sparse.csr_array, start: int, end: int) -> Float[np.ndarray, "block units"]:
    common = (marks[start:end] @ marks.T).toarray()
    sizes = marks.sum(1)
    return (common / (sizes[start:end, None] + sizes[None] - common).clip(1)).astype(np.float32)


def _find_layer_bounds(units: Sequence[Unit]) -> tuple[list[int], list[int]]:
    """Return where each layer begins and ends."""
    starts = [place for place, unit in enumerate(units) if not place or units[place - 1].layer != unit.layer]
    return starts, [*starts[1:], len(units)] if starts else []


def _iter_blocks(starts: Sequence[int], ends: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the bounds of each block of units of one layer, and those of the layer."""
    for low, high in zip(starts, ends, strict=True):
        for start in range(low, high, BLOCK_UNITS):
            yield start, min(start + BLOCK_UNITS, high), low, high


def _take_largest(values: Float[Tensor, "block others"], offset: int) -> list[list[int]]:
    """Return for each row the columns of the largest positive values, the largest first, plus ``offset``."""
    best = values.nan_to_num(nan=-1.0).topk(min(COUNT, values.shape[1]), dim=1)
    return [
        [place + offset for place, value in zip(places, row, strict=True) if value > 0]
        for places, row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]

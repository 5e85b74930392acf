"""Shares of classes by range of activation, for the area chart of Linear Explanations, Figure 3."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from milan.dissection.dissection import Dissection
from milan.errors import MilanError
from milan.probes.class_labels import UNKNOWN
from milan.probes.superclasses import format_class_names
from milan.units import Unit

RANGE_COUNT = 16  # of equal width, before ranges with few images are joined
MIN_IMAGES, MIN_IMAGES_DIVISOR = 5, 500  # a range has at least 5 images and at least a 500th of all
# Values, images times units, that are counted at a time.
BLOCK_VALUES = 2**22
SHOWN_CLASSES = 6  # with a colour of their own; the others are drawn together


def compute_class_ranges(
    dissection: Dissection, units: Sequence[Unit]
) -> tuple[list[str], list[dict[str, Any] | None]]:
    """Return the names of classes, and for each unit the shares of some of them in ranges of its mean activation.

    The entry of a unit has ``edges`` (one more than ranges), ``classes`` (indices into the names, the most frequent in
    the highest range first), ``shares`` (in percent, a row per class) and ``fewest`` (images in a range). It is None
    for a unit with a single value, and for all units if labels or activations of all images are not available.
    """
    labelled = _load_labels(dissection)
    if labelled is None:
        return [], [None] * len(units)
    known, labels, names = labelled
    count = max(1, BLOCK_VALUES // max(len(known), RANGE_COUNT * (int(labels.max()) + 1)))
    blocks = dissection.iter_activations("mean", units, count)
    found = [each for _, values in blocks for each in _compute_block_ranges(values.numpy()[known], labels)]
    used = sorted({label for each in found if each for label in each["classes"]})
    places = {label: place for place, label in enumerate(used)}
    ranges = [each and {**each, "classes": [places[label] for label in each["classes"]]} for each in found]
    return [names[label] for label in used], ranges


def _load_labels(
    dissection: Dissection,
) -> tuple[Bool[np.ndarray, " images"], Int[np.ndarray, " labelled"], list[str]] | None:
    """Return which images have labels, these, and the class names; None with fewer than two or without activations."""
    try:
        count = len(dissection.activations("mean", dissection.units[:1]))
        probe = dissection.open_probe()
        labels = probe.labels
    # Released annotations have exemplars only, and a probe may have moved: the page omits the chart.
    except MilanError:
        return None
    if labels is None or len(labels) != count:
        return None
    known = np.asarray(labels) != UNKNOWN
    classes, numbers = np.unique(np.asarray(labels)[known], return_inverse=True)
    if len(classes) < 2:
        return None
    names = format_class_names(probe)
    return known, numbers, [names[label] for label in classes]


def _compute_block_ranges(
    values: Float[np.ndarray, "images units"], labels: Int[np.ndarray, " images"]
) -> list[dict[str, Any] | None]:
    """Return the ranges of each unit; None for a unit with a single value."""
    counts, edges = count_bins(values, RANGE_COUNT, labels)
    return [
        _compute_unit_ranges(each, ends) if ends[0] < ends[-1] else None
        for each, ends in zip(counts, edges, strict=True)
    ]


def _compute_unit_ranges(
    counts: Int[np.ndarray, "labels bins"], edges: Float[np.ndarray, " edges"]
) -> dict[str, Any] | None:
    images = int(counts.sum())
    fewest = max(MIN_IMAGES, images // MIN_IMAGES_DIVISOR)
    joined = join_ranges((counts.sum(0), edges), fewest)
    counts = np.add.reduceat(counts, np.searchsorted(edges, joined[:-1]), axis=1)
    shares = counts / counts.sum(0)
    # A class that is equally frequent in all ranges is not informative.
    above = (shares - (counts.sum(1) / images)[:, None]).clip(min=0).sum(1)
    order = np.argsort(-above, kind="stable")[:SHOWN_CLASSES].tolist()
    chosen = [label for label in order if above[label] > 0]
    chosen.sort(key=lambda label: -shares[label, -1])
    return {
        "edges": [float(f"{edge:.3g}") for edge in joined.tolist()],
        "classes": chosen,
        "shares": np.rint(100 * shares[chosen]).astype(int).tolist(),
        "fewest": fewest,
    }


def count_bins(
    values: Float[np.ndarray, "images units"], bins: int, labels: Int[np.ndarray, " images"] | None = None
) -> tuple[Int[np.ndarray, "units labels bins"], Float[np.ndarray, "units edges"]]:
    """Return how many images of each label have values in each of some bins of equal width, and the edges of the bins.

    Bins reach from a unit's smallest finite value to its largest; other values are left out. Of a unit with a single
    value, all edges are equal; of a unit without finite values, all counts are 0.

    Args:
        values: a value of each unit in each image.
        bins: number of bins.
        labels: label of each image, from 0; by default all have the same.
    """
    # Float64 has room for 40 bins between neighbouring float32 values, and no range overflows.
    values = np.ascontiguousarray(values.T, dtype=np.float64)
    finite = np.isfinite(values)
    whole = bool(finite.all())
    low, high = (
        (values.min(1), values.max(1))
        if whole
        else (np.where(finite, values, np.inf).min(1), np.where(finite, values, -np.inf).max(1))
    )
    known = low <= high
    low, high = np.where(known, low, 0.0), np.where(known, high, 0.0)
    width = np.where(high > low, high - low, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        places = ((values - low[:, None]) * (bins / width)[:, None]).clip(0, bins - 1)
    places = (places if whole else np.where(finite, places, 0)).astype(np.int64)
    count = 1 if labels is None else int(labels.max()) + 1
    places += bins * ((0 if labels is None else labels) + count * np.arange(len(values))[:, None])
    counts = np.bincount((places if whole else places[finite]).ravel(), minlength=len(values) * count * bins)
    edges = np.linspace(low, high, bins + 1, axis=1)
    return counts.reshape(len(values), count, bins), edges


def join_ranges(histogram: tuple[np.ndarray, np.ndarray], min_images: int) -> Float[np.ndarray, " edges"]:
    """Return the edges of ranges with at least ``min_images`` values each; from the top, small ranges are joined.

    >>> join_ranges((np.array([9, 0, 2, 4, 1]), np.arange(6.0)), min_images=3).tolist()
    [0.0, 3.0, 5.0]
    """
    counts, edges = histogram[0].tolist(), histogram[1]
    joined, images, below = [edges[-1]], 0, sum(counts)
    for place in range(len(counts) - 1, 0, -1):
        images += counts[place]
        below -= counts[place]
        if images >= min_images and below >= min_images:
            joined.append(edges[place])
            images = 0
    return np.array([edges[0], *reversed(joined)])

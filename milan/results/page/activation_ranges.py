"""Shares of classes by range of activation, for the area chart of Linear Explanations, Figure 3."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from milan.dissection.store import Dissection
from milan.errors import MilanError
from milan.probes.class_labels import UNKNOWN
from milan.probes.superclasses import format_class_names
from milan.units import Unit

RANGE_COUNT = 16  # of equal width, before ranges with few images are joined
MIN_IMAGES, MIN_IMAGES_DIVISOR = 5, 500  # a range has at least 5 images and at least a 500th of all
SHOWN_CLASSES = 6  # with a colour of their own; the others are drawn together


def compute_class_ranges(
    dissection: Dissection, units: Sequence[Unit]
) -> tuple[list[str], list[dict[str, Any] | None]]:
    """Return the names of classes, and for each unit the shares of some of them in ranges of its mean activation.

    The entry of a unit has ``edges`` (one more than ranges), ``classes`` (indices into the names, the most frequent in
    the highest range first), ``shares`` (in percent, a row per class) and ``fewest`` (images in a range). It is None
    for a unit with a single value, and for all units if labels or activations of all images are not available.
    """
    labelled = _load_labelled_activations(dissection)
    if labelled is None:
        return [], [None] * len(units)
    values, labels, names = labelled
    found = [_compute_unit_ranges(values[:, dissection.row_of(unit)], labels) for unit in units]
    used = sorted({label for each in found if each for label in each["classes"]})
    places = {label: place for place, label in enumerate(used)}
    ranges = [each and {**each, "classes": [places[label] for label in each["classes"]]} for each in found]
    return [names[label] for label in used], ranges


def _load_labelled_activations(
    dissection: Dissection,
) -> tuple[Float[np.ndarray, "images units"], Int[np.ndarray, " images"], list[str]] | None:
    """Return mean activations and labels of all images and the class names; None with fewer than two classes."""
    try:
        values = dissection.activations("mean")
        probe = dissection.open_probe()
        labels = probe.labels
    # Released annotations have exemplars only, and a probe may have moved: the page omits the chart.
    except MilanError:
        return None
    if labels is None or len(labels) != len(values):
        return None
    known = np.asarray(labels) != UNKNOWN
    classes, numbers = np.unique(np.asarray(labels)[known], return_inverse=True)
    if len(classes) < 2:
        return None
    names = format_class_names(probe)
    return values.numpy()[known], numbers, [names[label] for label in classes]


def _compute_unit_ranges(
    values: Float[np.ndarray, " images"], labels: Int[np.ndarray, " images"]
) -> dict[str, Any] | None:
    finite = np.isfinite(values)
    # float64: see the histogram of milan.results.page.page_data
    values, labels = values[finite].astype(np.float64), labels[finite]
    if not len(values) or values.min() == values.max():
        return None
    fewest = max(MIN_IMAGES, len(values) // MIN_IMAGES_DIVISOR)
    edges = join_ranges(np.histogram(values, RANGE_COUNT), fewest)
    counts = np.zeros((labels.max() + 1, len(edges) - 1))
    np.add.at(counts, (labels, np.searchsorted(edges[1:-1], values, side="right")), 1)
    shares = counts / counts.sum(0)
    # A class that is equally frequent in all ranges is not informative.
    above = (shares - (counts.sum(1) / len(values))[:, None]).clip(min=0).sum(1)
    chosen = [int(label) for label in np.argsort(-above, kind="stable")[:SHOWN_CLASSES] if above[label] > 0]
    chosen.sort(key=lambda label: -shares[label, -1])
    return {
        "edges": [float(f"{edge:.3g}") for edge in edges],
        "classes": chosen,
        "shares": [np.rint(100 * shares[label]).astype(int).tolist() for label in chosen],
        "fewest": fewest,
    }


def join_ranges(histogram: tuple[np.ndarray, np.ndarray], min_images: int) -> Float[np.ndarray, " edges"]:
    """Return the edges of ranges with at least ``min_images`` values each; from the top, small ranges are joined.

    >>> join_ranges((np.array([9, 0, 2, 4, 1]), np.arange(6.0)), min_images=3).tolist()
    [0.0, 3.0, 5.0]
    """
    counts, edges = histogram
    joined, images = [edges[-1]], 0
    for place in range(len(counts) - 1, 0, -1):
        images += counts[place]
        if images >= min_images and counts[:place].sum() >= min_images:
            joined.append(edges[place])
            images = 0
    return np.array([edges[0], *reversed(joined)])

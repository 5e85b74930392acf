"""The data of a catalogue's page, as plain values.

A page of 100,000 units must open at once, so its data is in three parts; a value that is named is loaded by its name
(see ``data_files``).

1. The page's own block, within ``index.html``:
   ``describer``, ``block`` (units per block of details), ``low`` and ``high`` (bounds of the scores, or null), and
   ``layers``, in order. A layer has ``name``, ``shape`` (grid of its maps as text), ``units`` and ``described``
   (numbers of units, and of those with a card), ``longest`` (characters of its longest description), ``strip`` (rows
   and columns of pictures on a card, and their size in pixels; null without pictures), ``list`` (name of its list) and
   ``blocks`` (names of its blocks of details).
2. A layer's list, which is loaded when the page opens: the columns ``index``, ``status``, ``text`` and ``score`` with
   an entry for each unit, and ``reasons`` (why units are not described, by their position in the columns).
3. A block of details, which is loaded when one of its units is near the window or opened: a list with an object for
   each unit, in the order of the list; block b starts at position ``b * block``. Fields of a unit: ``exemplars`` (see
   ``ExemplarView.to_plain``; null without pictures), ``threshold``, ``histogram``, ``ranges``, ``concepts``, ``bias``,
   ``candidates``, ``more`` (number of candidates that are left out), ``reasoning`` and ``neighbours`` (see
   ``make_neighbours_data``; null where they are not known). A new field of a unit goes here:
   add it in ``_make_details``, and read it in ``plate.js``.

The link of a unit is ``index.html#LAYER:INDEX``, and that of a layer ``index.html#LAYER``, percent-encoded.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from milan.dissection.dissection import Dissection
from milan.errors import MissingEvidence
from milan.results.catalogue import Catalogue, Entry, natural_sort_key
from milan.results.description_rows import description_to_row
from milan.results.neighbours import UnitNeighbours, make_neighbours_data
from milan.results.page.activation_ranges import BLOCK_VALUES, compute_class_ranges, count_bins
from milan.results.page.exemplar_views import PICTURES_PER_ROW, ExemplarView
from milan.results.page.reasoning import ReasoningView, make_reasoning_data
from milan.units import Unit

HISTOGRAM_BINS = 40
MAX_CANDIDATES = 10  # of a unit on the page; the table has all
BLOCK_UNITS = 32

Details = dict[str, Any]


def build_page_data(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    views: Mapping[Unit, ExemplarView],
    reasons: Mapping[Unit, ReasoningView],
    add: Callable[[Any], str],
    neighbours: Mapping[Unit, UnitNeighbours] | None = None,
) -> dict[str, Any]:
    """Return the page's own block of data.

    Args:
        catalogue: the descriptions.
        dissections: the dissection of each layer, by its name.
        views: pictures of the units that have some.
        reasons: the reasoning of the units that have one.
        add: stores a list or block and returns its name, as ``DataFiles.add``.
        neighbours: those of the units, where they are known.
    """
    by_layer: dict[str, list[Entry]] = {}
    for entry in catalogue.entries:
        by_layer.setdefault(entry.unit.layer, []).append(entry)
    scores = [score for entry in catalogue.entries if (score := _get_score(entry)) is not None]
    order = sorted(by_layer, key=_make_layer_order(catalogue))
    places = {layer: place for place, layer in enumerate(order)}
    known = {unit: make_neighbours_data(each, places) for unit, each in (neighbours or {}).items()}
    return {
        "describer": str(catalogue.facts.get("describer", "")),
        "block": BLOCK_UNITS,
        "low": min(scores, default=None),
        "high": max(scores, default=None),
        "layers": [_build_layer(by_layer[each], dissections.get(each), views, reasons, known, add) for each in order],
    }


def compute_histograms(dissection: Dissection, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Return for each unit its threshold and a histogram of its peak activations over the probe.

    Both are None where the dissection does not have them.
    """
    thresholds = _load_or_none(dissection.thresholds)
    first = _load_or_none(lambda: dissection.activations("max", units[:1]))
    rows = [dissection.row_of(unit) for unit in units]
    histograms: list[dict[str, Any] | None] = [None] * len(units)
    if first is not None:
        blocks = dissection.iter_activations("max", units, max(1, BLOCK_VALUES // max(1, len(first))))
        histograms = [each for _, peaks in blocks for each in _make_histograms(peaks.numpy())]
    levels = [None] * len(units) if thresholds is None else [_round_number(thresholds[row].item()) for row in rows]
    return [{"threshold": level, "histogram": histogram} for level, histogram in zip(levels, histograms, strict=True)]


def _load_or_none(load: Callable[[], Tensor]) -> Tensor | None:
    # Released annotations have exemplars only.
    with suppress(MissingEvidence):
        return load()
    return None


def _make_layer_order(catalogue: Catalogue) -> Any:
    """Return the sort key of layers: the order of the target where the facts state it, else the name."""
    order = [str(layer) for layer in catalogue.facts.get("layers", [])]
    return lambda layer: (order.index(layer), ()) if layer in order else (len(order), natural_sort_key(layer))


def _build_layer(
    entries: Sequence[Entry],
    dissection: Dissection | None,
    views: Mapping[Unit, ExemplarView],
    reasons: Mapping[Unit, ReasoningView],
    neighbours: Mapping[Unit, Any],
    add: Callable[[Any], str],
) -> dict[str, Any]:
    units = [entry.unit for entry in entries]
    details = [
        _make_details(entry, views.get(entry.unit), reasons.get(entry.unit))
        | statistics
        | {"neighbours": neighbours.get(entry.unit)}
        for entry, statistics in zip(entries, _make_statistics(dissection, units), strict=True)
    ]
    texts = [entry.description.text if entry.description else "" for entry in entries]
    return {
        "name": units[0].layer,
        "shape": _format_shape(dissection),
        "units": len(units),
        "described": sum(entry.status in ("ok", "failed") for entry in entries),
        "longest": max(len(text or entry.reason) for text, entry in zip(texts, entries, strict=True)),
        "strip": _make_strip([views[unit] for unit in units if unit in views]),
        "list": add(
            {
                "index": [unit.index for unit in units],
                "status": [entry.status for entry in entries],
                "text": texts,
                "score": [_get_score(entry) for entry in entries],
                "reasons": {place: entry.reason for place, entry in enumerate(entries) if entry.reason},
            }
        ),
        "blocks": [add(details[start : start + BLOCK_UNITS]) for start in range(0, len(details), BLOCK_UNITS)],
    }


def _make_strip(views: Sequence[ExemplarView]) -> dict[str, int] | None:
    if not views:
        return None
    rows = 2 if max(len(view.names) for view in views) >= 2 * PICTURES_PER_ROW else 1
    return {"across": PICTURES_PER_ROW, "rows": rows, "width": views[0].width, "height": views[0].height}


def _make_statistics(dissection: Dissection | None, units: Sequence[Unit]) -> list[Details]:
    """Return histogram, threshold and class ranges of each unit."""
    if dissection is None:
        return [{"threshold": None, "histogram": None, "ranges": None}] * len(units)
    names, ranges = compute_class_ranges(dissection, units)
    named = [each and {**each, "classes": [names[place] for place in each["classes"]]} for each in ranges]
    histograms = compute_histograms(dissection, units)
    return [histogram | {"ranges": shares} for histogram, shares in zip(histograms, named, strict=True)]


def _format_shape(dissection: Dissection | None) -> str:
    grid = getattr(dissection, "facts", {}).get("grid")
    return "" if not grid else "one value" if tuple(grid) == (1, 1) else f"{grid[0]} × {grid[1]}"


def _make_details(entry: Entry, view: ExemplarView | None, reason: ReasoningView | None) -> Details:
    row = description_to_row(entry.description) if entry.description else {}
    candidates = row.get("candidates", [])
    return {
        "exemplars": view.to_plain() if view else None,
        "concepts": [[each["name"], each["weight"]] for each in row.get("concepts", [])],
        "bias": row.get("bias", 0.0),
        "candidates": candidates[:MAX_CANDIDATES],
        "more": max(0, len(candidates) - MAX_CANDIDATES),
        "reasoning": make_reasoning_data(reason),
    }


def _get_score(entry: Entry) -> float | None:
    score = entry.description.score if entry.description else math.nan
    return score if math.isfinite(score) else None


def _round_number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _make_histograms(peaks: Float[np.ndarray, "images units"]) -> list[dict[str, Any] | None]:
    """Return the histogram of each unit between its smallest and largest finite value; None without such values."""
    counts, edges = count_bins(peaks, HISTOGRAM_BINS)
    ends = zip(counts[:, 0].tolist(), edges[:, 0].tolist(), edges[:, -1].tolist(), strict=True)
    return [
        {"counts": each, "low": _round_number(low), "high": _round_number(high)} if any(each) else None
        for each, low, high in ends
    ]

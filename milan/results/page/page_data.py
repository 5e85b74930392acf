"""The data block of a catalogue's page, as plain values."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor

from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.results.catalogue import Catalogue, Entry, natural_sort_key
from milan.results.description_rows import description_to_row
from milan.results.neighbours import UnitNeighbours, make_neighbours_data
from milan.results.page.activation_ranges import compute_class_ranges
from milan.results.page.contact_sheets import MAX_PICTURES, PICTURES_PER_ROW, ContactSheet
from milan.results.page.reasoning import ReasoningView, make_reasoning_data
from milan.units import Unit

HISTOGRAM_BINS = 40
MAX_CANDIDATES = 10  # of a unit on the page; the table has all


def build_page_data(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    sheets: Mapping[Unit, ContactSheet],
    reasons: Mapping[Unit, ReasoningView] | None = None,
    neighbours: Mapping[Unit, UnitNeighbours] | None = None,
) -> dict[str, Any]:
    """Return the layers in order, each with its units: texts, scores, pictures, histograms and reasoning."""
    reasons = reasons or {}
    by_layer: dict[str, list[Entry]] = {}
    for entry in catalogue.entries:
        by_layer.setdefault(entry.unit.layer, []).append(entry)
    order = sorted(by_layer, key=_make_layer_order(catalogue))
    layers = [_build_layer(layer, by_layer[layer], dissections.get(layer), sheets, reasons) for layer in order]
    _add_neighbours(layers, neighbours or {})
    return {"describer": str(catalogue.facts.get("describer", "")), "layers": layers}


def _add_neighbours(layers: Sequence[dict[str, Any]], neighbours: Mapping[Unit, UnitNeighbours]) -> None:
    """Give each unit on the page its neighbours, None where they are not known."""
    places = {layer["name"]: place for place, layer in enumerate(layers)}
    for layer in layers:
        for unit in layer["units"]:
            unit["neighbours"] = make_neighbours_data(neighbours.get(Unit(layer["name"], unit["index"])), places)


def compute_histograms(dissection: Dissection, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Return for each unit its threshold and a histogram of its peak activations over the probe.

    Both are None where the dissection does not have them.
    """
    thresholds, peaks = _load_or_none(dissection.thresholds), _load_or_none(lambda: dissection.activations("max"))
    return [
        {
            "threshold": None if thresholds is None else _round_number(float(thresholds[dissection.row_of(unit)])),
            "histogram": None if peaks is None else _compute_histogram(np.asarray(peaks[:, dissection.row_of(unit)])),
        }
        for unit in units
    ]


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
    name: str,
    entries: Sequence[Entry],
    dissection: Dissection | None,
    sheets: Mapping[Unit, ContactSheet],
    reasons: Mapping[Unit, ReasoningView],
) -> dict[str, Any]:
    units = [entry.unit for entry in entries]
    histograms = (
        compute_histograms(dissection, units) if dissection else [{"threshold": None, "histogram": None}] * len(units)
    )
    classes, ranges = compute_class_ranges(dissection, units) if dissection else ([], [None] * len(units))
    first = next((sheets[unit] for unit in units if unit in sheets), None)
    size = {"width": first.width, "height": first.height} if first else {"width": 1, "height": 1}
    return {
        "name": name,
        "shape": _format_shape(dissection),
        "sheet": {"across": PICTURES_PER_ROW, "most": MAX_PICTURES} | size,
        "classes": classes,
        "units": [
            _build_unit(entry, sheets.get(entry.unit))
            | histogram
            | {
                "ranges": shares,
                "reasoning": make_reasoning_data(reasons.get(entry.unit)),
            }
            for entry, histogram, shares in zip(entries, histograms, ranges, strict=True)
        ],
    }


def _format_shape(dissection: Dissection | None) -> str:
    grid = getattr(dissection, "facts", {}).get("grid")
    return "" if not grid else "one value" if tuple(grid) == (1, 1) else f"{grid[0]} × {grid[1]}"


def _build_unit(entry: Entry, sheet: ContactSheet | None) -> dict[str, Any]:
    row = description_to_row(entry.description) if entry.description else {}
    candidates = row.get("candidates", [])
    return {
        "index": entry.unit.index,
        "status": entry.status,
        "text": row.get("description", ""),
        "reason": entry.reason,
        "score": row.get("score"),
        "picture": sheet.file if sheet else "",
        "activations": sheet.activations if sheet else [],
        "images": sheet.images if sheet else [],
        "concepts": [[each["name"], each["weight"]] for each in row.get("concepts", [])],
        "bias": row.get("bias", 0.0),
        "candidates": candidates[:MAX_CANDIDATES],
        "more": max(0, len(candidates) - MAX_CANDIDATES),
    }


def _round_number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _compute_histogram(peaks: np.ndarray) -> dict[str, Any] | None:
    finite = peaks[np.isfinite(peaks)]
    if not len(finite):
        return None
    # Float64 has room for 40 bins between neighbouring float32 values, and no range overflows.
    counts, edges = np.histogram(finite.astype(np.float64), HISTOGRAM_BINS)
    return {"counts": counts.tolist(), "low": _round_number(float(edges[0])), "high": _round_number(float(edges[-1]))}

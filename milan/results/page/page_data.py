"""What the page shows, as plain values."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.results.catalogue import Catalogue, Entry, description_to_row, natural_sort_key
from milan.results.page.activation_ranges import compute_class_ranges
from milan.results.page.contact_sheets import MOST, PICTURES_PER_ROW, ContactSheet
from milan.results.page.reasoning import ReasoningView, make_reasoning_data
from milan.units import Unit

HISTOGRAM_BINS = 40
MAX_CANDIDATES = 10  # of a unit on the page; all of them are in the table


def build_page_data(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    sheets: Mapping[Unit, ContactSheet],
    reasons: Mapping[Unit, ReasoningView] | None = None,
) -> dict[str, Any]:
    """The page's data block: layers in order, in each its units with texts, scores, pictures, histograms and
    reasons.
    """
    reasons = reasons or {}
    by_layer: dict[str, list[Entry]] = {}
    for entry in catalogue.entries:
        by_layer.setdefault(entry.unit.layer, []).append(entry)
    order = sorted(by_layer, key=_make_layer_order(catalogue))
    layers = [_build_layer(layer, by_layer[layer], dissections.get(layer), sheets, reasons) for layer in order]
    return {"describer": str(catalogue.facts.get("describer", "")), "layers": layers}


def compute_histograms(dissection: Dissection, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """For each unit its threshold and the counts of its peak activations over the probe, in equal bins; None where
    there are none.
    """
    thresholds, peaks = _load_or_none(dissection.thresholds), _load_or_none(lambda: dissection.activations("max"))
    return [
        {
            "threshold": None if thresholds is None else _round_number(float(thresholds[dissection.row_of(unit)])),
            "histogram": None if peaks is None else _compute_histogram(np.asarray(peaks[:, dissection.row_of(unit)])),
        }
        for unit in units
    ]


def _load_or_none(ask: Callable[[], Tensor]) -> Tensor | None:
    try:
        return ask()
    except MissingEvidence:  # released annotations keep exemplars only
        return None


def _make_layer_order(catalogue: Catalogue) -> Any:
    """Layers stand in the target's order where the facts tell it, else by name."""
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
    known = (
        compute_histograms(dissection, units) if dissection else [{"threshold": None, "histogram": None}] * len(units)
    )
    classes, ranges = compute_class_ranges(dissection, units) if dissection else ([], [None] * len(units))
    first = next((sheets[unit] for unit in units if unit in sheets), None)
    size = {"width": first.width, "height": first.height} if first else {"width": 1, "height": 1}
    return {
        "name": name,
        "shape": _format_shape(dissection),
        "sheet": {"across": PICTURES_PER_ROW, "most": MOST} | size,
        "classes": classes,
        "units": [
            _build_unit(entry, sheets.get(entry.unit))
            | more
            | {
                "ranges": shares,
                "reasoning": make_reasoning_data(reasons.get(entry.unit)),
            }
            for entry, more, shares in zip(entries, known, ranges, strict=True)
        ],
    }


def _format_shape(dissection: Dissection | None) -> str:
    grid = getattr(dissection, "facts", {}).get("grid")  # released annotations do not tell
    return "" if not grid else "one value" if tuple(grid) == (1, 1) else f"{grid[0]} × {grid[1]}"


def _build_unit(entry: Entry, sheet: ContactSheet | None) -> dict[str, Any]:
    said = description_to_row(entry.description) if entry.description else {}
    candidates = said.get("candidates", [])
    return {
        "index": entry.unit.index,
        "status": entry.status,
        "text": said.get("description", ""),
        "reason": entry.reason,
        "score": said.get("score"),
        "picture": sheet.file if sheet else "",
        "activations": sheet.activations if sheet else [],
        "images": sheet.images if sheet else [],
        "concepts": [[each["name"], each["weight"]] for each in said.get("concepts", [])],
        "bias": said.get("bias", 0.0),
        "candidates": candidates[:MAX_CANDIDATES],
        "more": max(0, len(candidates) - MAX_CANDIDATES),
    }


def _round_number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _compute_histogram(peaks: np.ndarray) -> dict[str, Any] | None:
    finite = peaks[np.isfinite(peaks)]
    if not len(finite):
        return None
    # in float64, neighbouring float32 values are far enough apart for 40 bins between them, and no range overflows
    counts, edges = np.histogram(finite.astype(np.float64), HISTOGRAM_BINS)
    return {"counts": counts.tolist(), "low": _round_number(float(edges[0])), "high": _round_number(float(edges[-1]))}

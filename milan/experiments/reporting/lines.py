"""A figure of curves: accuracies as something is taken away, with their bands, drawn to be read on white and on black."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

INK, PALE = "#7a7f87", "#b9bec6"
COLOURS = ("#3d6fd9", "#d9822b", "#5f8f5a", "#9a5bb0", "#b8505c", "#7f8c99", "#4aa3a2")


@dataclass(frozen=True)
class Curve:
    """One line: a value at each place, and a band around it if there is one."""

    name: str
    places: Sequence[float] | Sequence[int]
    values: Float[np.ndarray, " places"]
    low: Float[np.ndarray, " places"] | None = None
    high: Float[np.ndarray, " places"] | None = None


def lines(
    curves: Sequence[Curve], across: str, up: str, levels: Mapping[str, float] | None = None, marks: Mapping[str, int] | None = None
) -> str:
    """The figure as SVG.

    Args:
        across: what the places are.
        up: what the values are.
        levels: values drawn as dotted lines across, by their names.
        marks: places drawn as dotted lines upwards, by their names.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.subplots()
        for curve, colour in zip(curves, COLOURS, strict=False):
            _draw(axis, curve, colour)
        for name, value in (levels or {}).items():
            axis.axhline(value, color=INK, linewidth=0.9, linestyle=":")
            axis.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=INK,
                fontsize=8,
            )
        for row, (name, place) in enumerate((marks or {}).items()):
            axis.axvline(place, color=INK, linewidth=0.9, linestyle=":")
            down = (3, -9 - 10 * row)  # one below the other: marks may be close
            axis.annotate(
                name, (place, 1), xycoords=("data", "axes fraction"), xytext=down, textcoords="offset points", color=INK, fontsize=8
            )
        axis.set_xlabel(across, color=INK)
        axis.set_ylabel(up, color=INK)
        finished(axis)
        if len(curves) > 1:
            axis.legend(frameon=False, labelcolor=INK, loc="best", fontsize=9)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _draw(axis: Any, curve: Curve, colour: str) -> None:
    few = len(curve.places) < 40
    axis.plot(curve.places, curve.values, color=colour, linewidth=1.6, marker="o" if few else None, markersize=3, label=curve.name)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(curve.places, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def finished(axis: Any) -> None:
    """Axes that are read on white and on black."""
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK, length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(PALE)
    axis.grid(axis="y", color=PALE, alpha=0.4, linewidth=0.6)

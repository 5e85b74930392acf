"""A figure of curves: accuracies as something is taken away, with their bands, drawn to be read on white and on
black.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

INK_COLOUR, PALE_COLOUR = "#7a7f87", "#b9bec6"
LINE_COLOURS = ("#3d6fd9", "#d9822b", "#5f8f5a", "#9a5bb0", "#b8505c", "#7f8c99", "#4aa3a2")


@dataclass(frozen=True)
class Curve:
    """One line: a value at each place, and a band around it if there is one."""

    name: str
    positions: Sequence[float] | Sequence[int]
    values: Float[np.ndarray, " places"]
    low: Float[np.ndarray, " places"] | None = None
    high: Float[np.ndarray, " places"] | None = None


def plot_lines(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    horizontal_marks: Mapping[str, float] | None = None,
    vertical_marks: Mapping[str, int] | None = None,
) -> str:
    """The figure as SVG.

    Args:
        x_label: what the places are.
        y_label: what the values are.
        horizontal_marks: values drawn as dotted lines across, by their names.
        vertical_marks: places drawn as dotted lines upwards, by their names.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 10, "text.color": INK_COLOUR}):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.subplots()
        for curve, colour in zip(curves, LINE_COLOURS, strict=False):
            _draw_curve(axis, curve, colour)
        for name, value in (horizontal_marks or {}).items():
            axis.axhline(value, color=INK_COLOUR, linewidth=0.9, linestyle=":")
            axis.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=INK_COLOUR,
                fontsize=8,
            )
        for row, (name, place) in enumerate((vertical_marks or {}).items()):
            axis.axvline(place, color=INK_COLOUR, linewidth=0.9, linestyle=":")
            down = (3, -9 - 10 * row)  # one below the other: marks may be close
            axis.annotate(
                name,
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=down,
                textcoords="offset points",
                color=INK_COLOUR,
                fontsize=8,
            )
        axis.set_xlabel(x_label, color=INK_COLOUR)
        axis.set_ylabel(y_label, color=INK_COLOUR)
        style_axis(axis)
        if len(curves) > 1:
            axis.legend(frameon=False, labelcolor=INK_COLOUR, loc="best", fontsize=9)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _draw_curve(axis: Any, curve: Curve, colour: str) -> None:
    few = len(curve.positions) < 40
    axis.plot(
        curve.positions,
        curve.values,
        color=colour,
        linewidth=1.6,
        marker="o" if few else None,
        markersize=3,
        label=curve.name,
    )
    if curve.low is not None and curve.high is not None:
        axis.fill_between(curve.positions, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def style_axis(axis: Any) -> None:
    """Axes that are read on white and on black."""
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK_COLOUR, length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(PALE_COLOUR)
    axis.grid(axis="y", color=PALE_COLOUR, alpha=0.4, linewidth=0.6)

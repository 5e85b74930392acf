"""Figures of curves, such as the accuracy as units are ablated, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from milan.experiments.core.figure_style import INK_COLOUR, LINE_COLOURS, PALE_COLOUR, draw_svg, style_axis

PANELS_PER_ROW = 4
# Curves with fewer places have a dot at each place.
MIN_PLACES_WITHOUT_DOTS = 40


@dataclass(frozen=True)
class Curve:
    """A value at each place, with an interval if there is one."""

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
    """Return curves on the same axes as SVG.

    Args:
        x_label: what the places are.
        y_label: what the values are.
        horizontal_marks: values that are drawn as dotted lines, by name.
        vertical_marks: places that are drawn as dotted lines, by name.
    """

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for curve, colour in zip(curves, LINE_COLOURS, strict=False):
            _draw_curve(axis, curve, colour)
        for name, value in (horizontal_marks or {}).items():
            axis.axhline(value, color=INK_COLOUR, linewidth=0.9, linestyle=":")
            _annotate(axis, name, (1.0, float(value)), ("axes fraction", "data"), (0, 3), "right")
        for row, (name, place) in enumerate((vertical_marks or {}).items()):
            axis.axvline(place, color=INK_COLOUR, linewidth=0.9, linestyle=":")
            # Names are below each other, since marks may be close.
            _annotate(axis, name, (float(place), 1.0), ("data", "axes fraction"), (3, -9 - 10 * row), "left")
        axis.set(xlabel=x_label, ylabel=y_label)
        style_axis(axis)
        if len(curves) > 1:
            axis.legend(frameon=False, labelcolor=INK_COLOUR, loc="best", fontsize=9)

    return draw_svg(7.2, 3.9, draw)


def plot_lines_against(reference: Curve, curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Return a panel for each curve, with the same reference curve in all panels, as SVG.

    Intervals of more than two curves on the same axes would hide each other.
    """
    across = min(PANELS_PER_ROW, len(curves))
    down = -(-len(curves) // across)

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axis, curve in zip(axes.flat, curves, strict=False):
            _draw_curve(axis, reference, PALE_COLOUR)
            _draw_curve(axis, curve, LINE_COLOURS[0])
            axis.locator_params(axis="x", nbins=4)
            style_axis(axis, curve.name)
        for axis in list(axes.flat)[len(curves) :]:
            axis.set_visible(False)
        figure.supxlabel(x_label, color=INK_COLOUR, fontsize=9)
        figure.supylabel(y_label, color=INK_COLOUR, fontsize=9)

    return draw_svg(0.8 + 1.9 * across, 0.5 + 1.7 * down, draw)


def _draw_curve(axis: Any, curve: Curve, colour: str) -> None:
    marker = "o" if len(curve.positions) < MIN_PLACES_WITHOUT_DOTS else None
    line = {"color": colour, "linewidth": 1.6, "marker": marker, "markersize": 3, "label": curve.name}
    axis.plot(curve.positions, curve.values, **line)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(curve.positions, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _annotate(
    axis: Any, text: str, place: tuple[float, float], system: tuple[str, str], offset: tuple[int, int], side: str
) -> None:
    where = {"xycoords": system, "xytext": offset, "textcoords": "offset points", "ha": side}
    axis.annotate(text, place, color=INK_COLOUR, fontsize=8, **where)

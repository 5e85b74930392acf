"""Figures of dots: splits with a column of dots with intervals for each score, and scatter plots."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from milan.experiments.core.figure_style import (
    INK_COLOUR,
    LINE_COLOURS,
    MARK_COLOUR,
    PALE_COLOUR,
    draw_svg,
    style_axis,
)
from milan.experiments.core.report import Value
from milan.scores.confidence_intervals import Measure

# Kind and name of a split, the value of each describer by score, and the paper's BERTScore.
DotRow = tuple[str, str, Mapping[str, Mapping[str, Value]], float | None]
MARKS = (("shuffled", "|", 8), ("constant", "|", 8), ("an annotator*", "D", 4))


def plot_dots(rows: Sequence[DotRow], scores: Sequence[str]) -> str:
    """Return the figure as SVG: rows are splits in their groups; the last column has the paper's BERTScores."""
    places = _compute_positions(rows)

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(scores) + 1, sharey=True, squeeze=False)[0]
        for axis, score in zip(axes, scores, strict=False):
            for row, place in zip(rows, places, strict=True):
                _draw_row(axis, row[2][score], place)
            _style_column(axis, score)
        for row, place in zip(rows, places, strict=True):
            if row[3] is not None:
                axes[-1].plot(row[3], place, "o", color=INK_COLOUR, markersize=4)
        _style_column(axes[-1], "BERTScore in the paper")
        axes[0].set_yticks(places, [row[1] for row in rows])
        axes[0].set_ylim(max(places) + 1, min(places) - 1.2)
        _label_groups(axes[0], rows, places)

    return draw_svg(2.6 + 2.2 * (len(scores) + 1), 1.2 + 0.26 * (max(places) + 2), draw)


def plot_scatter(
    groups: Mapping[str, Float[np.ndarray, "2 dots"]],
    curve: Callable[[Float[np.ndarray, " places"]], Float[np.ndarray, " places"]],
    x_label: str,
    y_label: str,
) -> str:
    """Return the dots of several groups, and a curve through them, as SVG.

    Args:
        groups: horizontal and vertical positions of each group's dots.
        curve: the height of the curve at horizontal positions.
    """

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for (name, (across, up)), colour in zip(groups.items(), LINE_COLOURS, strict=False):
            axis.plot(across, up, "o", color=colour, markersize=4, alpha=0.75, label=name)
        places = np.concatenate([across for across, _ in groups.values()])
        line = np.linspace(places.min(), places.max(), 100)
        axis.plot(line, curve(line), color=INK_COLOUR, linewidth=0.9, linestyle=":")
        axis.set(xlabel=x_label, ylabel=y_label)
        style_axis(axis)
        axis.legend(frameon=False, labelcolor=INK_COLOUR, loc="best", fontsize=8)

    return draw_svg(6.4, 3.9, draw)


def _compute_positions(rows: Sequence[DotRow]) -> list[float]:
    """Return the height of each row, with a gap before each new kind."""
    positions, place, before = [], 0.0, rows[0][0]
    for kind, *_ in rows:
        place += 1.4 if kind != before else 0
        before = kind
        positions.append(place)
        place += 1
    return positions


def _draw_row(axis: Any, values: Mapping[str, Value], place: float) -> None:
    for name, sign, size in MARKS:
        if isinstance(value := values.get(name), Measure):
            axis.plot(value.value, place, sign, color=PALE_COLOUR, markersize=size, markerfacecolor="none")
    if isinstance(milan := values["milan"], Measure):
        axis.plot([milan.low, milan.high], [place, place], color=MARK_COLOUR, linewidth=1.5)
        axis.plot(milan.value, place, "o", color=MARK_COLOUR, markersize=5)


def _style_column(axis: Any, title: str) -> None:
    left, right = min(0.0, axis.get_xlim()[0]), axis.get_xlim()[1]
    # The default margin is a share of the range of values, too small for a mark if the axis begins at 0.
    axis.set_xlim(left, right + 0.03 * (right - left))
    style_axis(axis, title, grid="x")


def _label_groups(axis: Any, rows: Sequence[DotRow], places: Sequence[float]) -> None:
    """Write each kind above its first row."""
    before = ""
    where = {"xycoords": ("axes fraction", "data"), "xytext": (-4, 0), "textcoords": "offset points"}
    style = {"ha": "right", "va": "center", "fontsize": 8, "fontweight": "bold", "annotation_clip": False}
    for (kind, *_), place in zip(rows, places, strict=True):
        if kind != before:
            axis.annotate(kind, (0, place - 0.75), color=INK_COLOUR, **where, **style)
            before = kind

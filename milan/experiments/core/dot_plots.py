"""A figure of splits: for each score a column of dots with their intervals, floors and ceilings as marks beside
them.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from milan.experiments.core.report import Value
from milan.scores.confidence_intervals import Measure

INK_COLOUR, PALE_COLOUR, MARK_COLOUR = "#7a7f87", "#b9bec6", "#3d6fd9"  # to be read on white and on black
DotRow = tuple[
    str, str, Mapping[str, Mapping[str, Value]], float | None
]  # kind, name, by score who has what, the paper's


def plot_dots(rows: Sequence[DotRow], scores: Sequence[str]) -> str:
    """The figure as SVG: rows are splits in their groups; the last column has the paper's BERTScores."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 9, "text.color": INK_COLOUR}):
        figure = Figure(
            figsize=(2.6 + 2.2 * (len(scores) + 1), 1.2 + 0.26 * _compute_height(rows)), layout="constrained"
        )
        figure.patch.set_alpha(0)
        axes = figure.subplots(1, len(scores) + 1, sharey=True, squeeze=False)[0]
        places = _compute_positions(rows)
        for axis, score in zip(axes, scores, strict=False):
            for line, place in zip(rows, places, strict=True):
                _draw_row(axis, line[2][score], place)
            _style_axis(axis, score)
        for line, place in zip(rows, places, strict=True):
            if line[3] is not None:
                axes[-1].plot(line[3], place, "o", color=INK_COLOUR, markersize=4)
        _style_axis(axes[-1], "BERTScore in the paper")
        axes[0].set_yticks(places, [line[1] for line in rows])
        axes[0].set_ylim(max(places) + 1, min(places) - 1.2)
        _label_rows(axes[0], rows, places)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _compute_height(rows: Sequence[DotRow]) -> float:
    return max(_compute_positions(rows)) + 2


def _compute_positions(rows: Sequence[DotRow]) -> list[float]:
    """One below the other, with a gap before each new kind."""
    found, place, before = [], 0.0, rows[0][0]
    for kind, *_ in rows:
        place += 1.4 if kind != before else 0
        before = kind
        found.append(place)
        place += 1
    return found


def _draw_row(axis: Any, who: Mapping[str, Value], place: float) -> None:
    for name, sign in (("shuffled", "|"), ("constant", "|"), ("an annotator*", "D")):
        value = who.get(name)
        if isinstance(value, Measure):
            axis.plot(
                value.value, place, sign, color=PALE_COLOUR, markersize=4 if sign == "D" else 8, markerfacecolor="none"
            )
    milan = who["milan"]
    if isinstance(milan, Measure):
        axis.plot([milan.low, milan.high], [place, place], color=MARK_COLOUR, linewidth=1.5)
        axis.plot(milan.value, place, "o", color=MARK_COLOUR, markersize=5)


def _style_axis(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=9, color=INK_COLOUR)
    left, right = min(0.0, axis.get_xlim()[0]), axis.get_xlim()[1]
    axis.set_xlim(
        left, right + 0.03 * (right - left)
    )  # the margin was a share of what the values span, too little for a mark from 0 on
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK_COLOUR, length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(PALE_COLOUR)
    axis.grid(axis="x", color=PALE_COLOUR, alpha=0.4, linewidth=0.6)


def _label_rows(axis: Any, rows: Sequence[DotRow], places: Sequence[float]) -> None:
    """The kind above its first row."""
    before = ""
    for (kind, *_), place in zip(rows, places, strict=True):
        if kind != before:
            axis.annotate(kind, (0, place - 0.75), xycoords=("axes fraction", "data"), xytext=(-4, 0),
                textcoords="offset points",
                          ha="right", va="center", fontsize=8, color=INK_COLOUR, fontweight="bold",
                          annotation_clip=False)  # fmt: skip
            before = kind

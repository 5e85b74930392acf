"""A figure of splits: for each score a column of dots with their intervals, floors and ceilings as marks beside them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from milan.experiments.reporting.report import Value
from milan.scores.intervals import Measure

INK, PALE, MARK = "#7a7f87", "#b9bec6", "#3d6fd9"  # to be read on white and on black
Line = tuple[str, str, Mapping[str, Mapping[str, Value]], float | None]  # kind, name, by score who has what, the paper's


def dots(lines: Sequence[Line], scores: Sequence[str]) -> str:
    """The figure as SVG: rows are splits in their groups; the last column has the paper's BERTScores."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 9, "text.color": INK}):
        figure = Figure(figsize=(2.6 + 2.2 * (len(scores) + 1), 1.2 + 0.26 * _height(lines)), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(1, len(scores) + 1, sharey=True, squeeze=False)[0]
        places = _places(lines)
        for axis, score in zip(axes, scores, strict=False):
            for line, place in zip(lines, places, strict=True):
                _draw(axis, line[2][score], place)
            _finished(axis, score)
        for line, place in zip(lines, places, strict=True):
            if line[3] is not None:
                axes[-1].plot(line[3], place, "o", color=INK, markersize=4)
        _finished(axes[-1], "BERTScore in the paper")
        axes[0].set_yticks(places, [line[1] for line in lines])
        axes[0].set_ylim(max(places) + 1, min(places) - 1.2)
        _named(axes[0], lines, places)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _height(lines: Sequence[Line]) -> float:
    return max(_places(lines)) + 2


def _places(lines: Sequence[Line]) -> list[float]:
    """One below the other, with a gap before each new kind."""
    found, place, before = [], 0.0, lines[0][0]
    for kind, *_ in lines:
        place += 1.4 if kind != before else 0
        before = kind
        found.append(place)
        place += 1
    return found


def _draw(axis: Any, who: Mapping[str, Value], place: float) -> None:
    for name, sign in (("shuffled", "|"), ("constant", "|"), ("an annotator*", "D")):
        value = who.get(name)
        if isinstance(value, Measure):
            axis.plot(value.value, place, sign, color=PALE, markersize=4 if sign == "D" else 8, markerfacecolor="none")
    milan = who["milan"]
    if isinstance(milan, Measure):
        axis.plot([milan.low, milan.high], [place, place], color=MARK, linewidth=1.5)
        axis.plot(milan.value, place, "o", color=MARK, markersize=5)


def _finished(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=9, color=INK)
    left, right = min(0.0, axis.get_xlim()[0]), axis.get_xlim()[1]
    axis.set_xlim(left, right + 0.03 * (right - left))  # the margin was a share of what the values span, too little for a mark from 0 on
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(PALE)
    axis.grid(axis="x", color=PALE, alpha=0.4, linewidth=0.6)


def _named(axis: Any, lines: Sequence[Line], places: Sequence[float]) -> None:
    """The kind above its first row."""
    before = ""
    for (kind, *_), place in zip(lines, places, strict=True):
        if kind != before:
            axis.annotate(kind, (0, place - 0.75), xycoords=("axes fraction", "data"), xytext=(-4, 0), textcoords="offset points",
                          ha="right", va="center", fontsize=8, color=INK, fontweight="bold", annotation_clip=False)  # fmt: skip
            before = kind

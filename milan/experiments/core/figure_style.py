"""The style of all figures, which are SVG files that are legible on a light and on a dark page."""

import io
from collections.abc import Callable
from typing import Any

INK_COLOUR, PALE_COLOUR, MARK_COLOUR = "#7a7f87", "#b9bec6", "#3d6fd9"
LINE_COLOURS = (MARK_COLOUR, "#d9822b", "#5f8f5a", "#9a5bb0", "#b8505c", "#7f8c99", "#4aa3a2")


def draw_svg(width: float, height: float, draw: Callable[[Any], None]) -> str:
    """Return a figure as SVG, with a transparent background and text that stays text.

    Args:
        width: in inches, as ``height``.
        draw: draws on a ``matplotlib.figure.Figure``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 9, "text.color": INK_COLOUR}):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def style_axis(axis: Any, title: str = "", grid: str = "y") -> None:
    """Give axes the style of all figures.

    Args:
        grid: the axis with grid lines: "y" for heights, "x" for positions.
    """
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK_COLOUR, length=0, labelsize=8)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(PALE_COLOUR)
    axis.grid(axis=grid, color=PALE_COLOUR, alpha=0.4, linewidth=0.6)
    axis.set_axisbelow(True)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_color(INK_COLOUR)
    if title:
        axis.set_title(title, loc="left", fontsize=9, color=INK_COLOUR)

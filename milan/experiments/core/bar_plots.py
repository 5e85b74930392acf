"""A figure of small panels of bars, one panel for each of several things, drawn to be read on white and on black."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from milan.experiments.core.line_plots import INK_COLOUR, PALE_COLOUR

BAR_COLOUR = "#3d6fd9"
PANELS_PER_ROW = 4  # panels in a row


def plot_bars(
    panels: Mapping[str, Sequence[float]],
    names: Sequence[str],
    y_label: str,
    reference: float | None = None,
    wide: bool = False,
) -> str:
    """The figure as SVG.

    Args:
        panels: by title, the height of each bar.
        names: of the bars, the same in all panels.
        y_label: what the heights are.
        reference: a height that is drawn as a dotted line in each panel, such as what chance gives.
        wide: whether panels lie below each other, for many bars with long names.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = 1 if wide else min(PANELS_PER_ROW, len(panels))
    down = -(-len(panels) // across)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 9, "text.color": INK_COLOUR}):
        width = 0.8 + 0.45 * len(names) if wide else 0.8 + 1.9 * across
        figure = Figure(figsize=(width, 0.5 + 1.7 * down), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(down, across, sharex=wide, sharey=True, squeeze=False)
        for axis, (title, heights) in zip(axes.flat, panels.items(), strict=False):
            axis.bar(range(len(names)), heights, color=BAR_COLOUR, width=0.7)
            axis.set_title(title, loc="left", fontsize=9, color=INK_COLOUR)
            _style_axis(axis, names, reference)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        for row in axes:
            row[0].set_ylabel(y_label, color=INK_COLOUR)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _style_axis(axis: Any, names: Sequence[str], level: float | None) -> None:
    if level is not None:
        axis.axhline(level, color=INK_COLOUR, linewidth=1.4, linestyle=":")
    tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}
    axis.set_xticks(range(len(names)), names, **tilted)
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK_COLOUR, length=0, labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(PALE_COLOUR)
    axis.grid(axis="y", color=PALE_COLOUR, alpha=0.4, linewidth=0.6)
    axis.set_axisbelow(True)

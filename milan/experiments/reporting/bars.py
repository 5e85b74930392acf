"""A figure of small panels of bars, one panel for each of several things, drawn to be read on white and on black."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from milan.experiments.reporting.lines import INK, PALE

BAR = "#3d6fd9"
ACROSS = 4  # panels in a row


def bars(panels: Mapping[str, Sequence[float]], names: Sequence[str], up: str, level: float | None = None, wide: bool = False) -> str:
    """The figure as SVG.

    Args:
        panels: by title, the height of each bar.
        names: of the bars, the same in all panels.
        up: what the heights are.
        level: a height that is drawn as a dotted line in each panel, such as what chance gives.
        wide: whether panels lie below each other, for many bars with long names.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = 1 if wide else min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 9, "text.color": INK}):
        width = 0.8 + 0.45 * len(names) if wide else 0.8 + 1.9 * across
        figure = Figure(figsize=(width, 0.5 + 1.7 * down), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(down, across, sharex=wide, sharey=True, squeeze=False)
        for axis, (title, heights) in zip(axes.flat, panels.items(), strict=False):
            axis.bar(range(len(names)), heights, color=BAR, width=0.7)
            axis.set_title(title, loc="left", fontsize=9, color=INK)
            _finished(axis, names, level)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        for row in axes:
            row[0].set_ylabel(up, color=INK)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _finished(axis: Any, names: Sequence[str], level: float | None) -> None:
    if level is not None:
        axis.axhline(level, color=INK, linewidth=1.4, linestyle=":")
    tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}
    axis.set_xticks(range(len(names)), names, **tilted)
    axis.patch.set_alpha(0)
    axis.tick_params(colors=INK, length=0, labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(PALE)
    axis.grid(axis="y", color=PALE, alpha=0.4, linewidth=0.6)
    axis.set_axisbelow(True)

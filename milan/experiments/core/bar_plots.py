"""A figure of small panels of bars, one panel for each of several things."""

from collections.abc import Mapping, Sequence
from typing import Any

from milan.experiments.core.figure_style import INK_COLOUR, MARK_COLOUR, draw_svg, style_axis

PANELS_PER_ROW = 4


def plot_bars(
    panels: Mapping[str, Sequence[float]],
    names: Sequence[str],
    y_label: str,
    reference: float | None = None,
    wide: bool = False,
) -> str:
    """Return the figure as SVG.

    Args:
        panels: the height of each bar, by title.
        names: of the bars, the same in all panels.
        y_label: what the heights are.
        reference: a height that is drawn as a dotted line in each panel, such as that of chance.
        wide: whether panels are below each other, for many bars with long names.
    """
    across = 1 if wide else min(PANELS_PER_ROW, len(panels))
    down = -(-len(panels) // across)
    tilted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 4 else {}

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, sharex=wide, sharey=True, squeeze=False)
        for axis, (title, heights) in zip(axes.flat, panels.items(), strict=False):
            axis.bar(range(len(names)), heights, color=MARK_COLOUR, width=0.7)
            if reference is not None:
                axis.axhline(reference, color=INK_COLOUR, linewidth=1.4, linestyle=":")
            axis.set_xticks(range(len(names)), names, **tilted)
            style_axis(axis, title)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        for row in axes:
            row[0].set_ylabel(y_label, color=INK_COLOUR)

    return draw_svg(0.8 + 0.45 * len(names) if wide else 0.8 + 1.9 * across, 0.5 + 1.7 * down, draw)

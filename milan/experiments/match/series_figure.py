"""The figure of a series of networks, such as the checkpoints of one training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from milan.experiments.core.figure_style import INK_COLOUR, LINE_COLOURS, draw_svg, style_axis

SERIES_CAPTION = "Mean correlation of each unit with its counterpart in the networks of the series, by layer."


def plot_series(
    names: Sequence[str], layers: Sequence[str], correlations: Float[np.ndarray, "layers networks"]
) -> tuple[str, str]:
    """Return the caption and the SVG of a line for each layer over the networks of a series.

    Args:
        names: of the networks, in order.
        layers: names of the target's layers.
        correlations: mean correlation of the units of each layer with their counterparts in each network.
    """

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for number, (layer, values) in enumerate(zip(layers, correlations, strict=True)):
            axis.plot(values, "o-", color=LINE_COLOURS[number % len(LINE_COLOURS)], label=layer, markersize=4)
        axis.set_xticks(range(len(names)), names, rotation=20, ha="right")
        axis.set(ylabel="correlation", ylim=(0, 1.02))
        style_axis(axis)
        axis.legend(frameon=False, labelcolor=INK_COLOUR, fontsize=8, loc="best")

    return SERIES_CAPTION, draw_svg(5.6, 3.6, draw)

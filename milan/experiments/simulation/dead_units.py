"""Units that hardly activate, and the correlation without them (Linear Explanations, Tables 14 and 15)."""

from collections.abc import Sequence

import numpy as np
import torch

from milan.dissection.dissection import Dissection
from milan.experiments.core.report import Column, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.simulation.tables import DescriberSimulation
from milan.scores.confidence_intervals import estimate_mean
from milan.units import Unit

# Appendix C.2 calls a unit dead whose largest activation over the probe is smaller. The activation is the mean over
# the image, as everywhere in the paper.
DEAD_BELOW = 0.01
COLUMNS = (
    Column("units", "Number of units of the layer that are studied."),
    Column("dead", f"Share of them whose mean activation is below {DEAD_BELOW} in every image of the probe.", "%", 1),
)


def make_dead_units_table(study: Study, scores: Sequence[DescriberSimulation], seed: int) -> Table:
    """Return the share of dead units of each layer, and each describer's correlation on the other units."""
    columns = [Column(one.name, "Mean correlation over the units that are not dead.", "", 3) for one in scores]
    rows = []
    for layer, dissection in study.dissections.items():
        dead = find_dead_units(dissection, study.units[layer])
        values: dict[str, Value] = {"units": len(study.units[layer]), "dead": len(dead) / len(study.units[layer])}
        for one in scores:
            pairs = zip(one.descriptions, one.scores.get("correlation", []), strict=False)
            alive = [value for each, value in pairs if each.unit.layer == layer and each.unit not in dead]
            values[one.name] = estimate_mean(np.nan_to_num(alive).tolist(), seed) if alive else None
        rows.append(Row(layer, values))
    return Table("dead units", (*COLUMNS, *columns), tuple(rows), "layer")


def find_dead_units(dissection: Dissection, units: Sequence[Unit], below: float = DEAD_BELOW) -> set[Unit]:
    """Return the units whose mean activation over the image is below ``below`` in every image of the probe."""
    dead: set[Unit] = set()
    for some, values in dissection.iter_activations("mean", units):
        highest = values.nan_to_num(nan=-torch.inf).amax(0).tolist()
        dead |= {unit for unit, value in zip(some, highest, strict=True) if value < below}
    return dead

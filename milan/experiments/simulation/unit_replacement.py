"""Units that are replaced by what their descriptions predict: ablation scores (Linear Explanations, Tables 3 and 9,
Figure 5).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from milan.describers._shared.elastic_net import RowSplit
from milan.errors import MissingEvidence
from milan.experiments.core.dot_plots import plot_scatter
from milan.experiments.core.report import Column, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.simulation.config import SimulationConfig
from milan.experiments.simulation.tables import DescriberSimulation
from milan.probes import Probe
from milan.scores.ablation_score import SCALINGS, compute_ablation_scores
from milan.scores.activation_simulation import Simulator, predict_activations
from milan.scores.confidence_intervals import estimate_mean
from milan.units import Description, Unit

COLUMNS = (
    Column(
        "closed",
        "Mean ablation score: 1 if the prediction changes the losses as the unit does, 0 if it is no better than the"
        " unit's mean; c and d in closed form (Norm in the paper).",
        "",
        4,
        "more",
    ),
    Column(
        "optimised",
        "The same with c and d that maximize this score on the images they are fitted on (Optim in the paper).",
        "",
        4,
        "more",
    ),
    Column("agreement", "Correlation over units of the two.", "", 2),
    Column("units", "Number of sampled units that change any loss."),
)
NOTE = (
    "Ablation score: the activations of a random unit are replaced everywhere by c times the prediction plus d, where c"
    " and d are fitted on images that no table is evaluated on. A unit that changes no loss has no score. Few images"
    " change the loss of a network that is hardly ever wrong: optimised c and d then fit these images, and may be worse"
    " on others than those in closed form."
)


FIGURE_CAPTION = (
    "Correlation and ablation score (optimised) of each description, as in Figure 5 of the paper. Dotted: the parabola"
    " a r² with the least squared error."
)


class ReplacementResult(NamedTuple):
    """The parts of a report on replaced units; empty where there are no ablation scores."""

    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    figures: Sequence[tuple[str, str]] = ()


def measure_replacement(
    study: Study,
    config: SimulationConfig,
    scores: Sequence[DescriberSimulation],
    fitting: Simulator,
    evaluation: Simulator,
) -> ReplacementResult:
    """Return the table and the figure, if they can be computed, and notes on them or on why there are none."""
    layer = config.replaced_layer or list(study.units)[-1]
    if not config.replaced_units or not any(each.unit.layer == layer for each in scores[0].descriptions):
        return ReplacementResult()
    units = _sample_units(scores[0].descriptions, layer, config)
    owners = [(one, place) for one in scores for place, each in enumerate(one.descriptions) if each.unit in units]
    descriptions = [one.descriptions[place] for one, place in owners]
    try:
        found = _compute_scores(study, config, descriptions, (fitting, evaluation))
    except MissingEvidence as reason:
        return ReplacementResult(notes=[f"No ablation scores: {reason}."])
    correlations = np.nan_to_num([one.scores["correlation"][place] for one, place in owners])
    rows, groups = [], {}
    for one in scores:
        own = [number for number, (owner, _) in enumerate(owners) if owner is one]
        values = _make_values({name: each[own] for name, each in found.items()}, config.seed) if own else {}
        rows.append(Row(one.name, values, one.role))
        dots = np.stack([correlations[own], found["optimised"][own]])
        groups[one.name] = dots[:, np.isfinite(dots[1])]
    table = Table(f"ablation score of {layer}", COLUMNS, tuple(rows))
    factor, explained = fit_parabola(*np.concatenate(list(groups.values()), axis=1))
    note = f"The parabola {factor:.3f} r² explains {100 * explained:.0f} % of the variance of the ablation scores."
    axes = "correlation r", "ablation score"
    figure = plot_scatter({name: dots for name, dots in groups.items() if dots.size}, lambda r: factor * r**2, *axes)
    return ReplacementResult([table], [NOTE, note], [(FIGURE_CAPTION, figure)])


def fit_parabola(correlations: Float[np.ndarray, " dots"], scores: Float[np.ndarray, " dots"]) -> tuple[float, float]:
    """Return the factor a of the parabola a r² with the least squared error, and the share of variance it explains.

    >>> fit_parabola(np.array([0.0, 0.5, -1.0]), np.array([0.0, 0.5, 2.0]))
    (2.0, 1.0)
    """
    squares = correlations**2
    factor = float(scores @ squares / max(float(squares @ squares), 1e-12))
    variance = float(((scores - scores.mean()) ** 2).sum()) if len(scores) else 0.0
    return factor, 1 - float(((scores - factor * squares) ** 2).sum()) / variance if variance else float("nan")


def _compute_scores(
    study: Study, config: SimulationConfig, descriptions: Sequence[Description], simulators: tuple[Simulator, Simulator]
) -> dict[str, np.ndarray]:
    """Return the ablation scores of descriptions of one layer by scaling, fitted with the first simulator's images."""
    pairs = []
    for simulator, only_validation in zip(simulators, (True, False), strict=True):
        rows = _select_images(simulator.probe, only_validation, config)
        pairs.append((simulator.probe.subset(rows), predict_activations(descriptions, simulator)[0][:, rows]))
    units, layer = [each.unit.index for each in descriptions], descriptions[0].unit.layer
    found = compute_ablation_scores(study.target, layer, units, pairs[0], pairs[1], SCALINGS, config.synsets)
    return {str(name): each for name, each in found.items()}


def _make_values(scores: Mapping[str, np.ndarray], seed: int) -> dict[str, Value]:
    both = np.stack([scores[name] for name in SCALINGS])
    both = both[:, np.isfinite(both).all(0)]
    varied = both.shape[1] > 2 and bool((both.std(1) > 0).all())
    agreement = float(np.corrcoef(both)[0, 1]) if varied else float("nan")
    values: dict[str, Value] = {
        name: estimate_mean(each.tolist(), seed) for name, each in zip(SCALINGS, both, strict=True)
    }
    return values | {"agreement": agreement, "units": both.shape[1]}


def _sample_units(descriptions: Sequence[Description], layer: str, config: SimulationConfig) -> set[Unit]:
    here = sorted({each.unit for each in descriptions if each.unit.layer == layer})
    order = np.random.default_rng(config.seed).permutation(len(here))[: config.replaced_units]
    return {here[place] for place in order}


def _select_images(probe: Probe, only_validation: bool, config: SimulationConfig) -> list[int]:
    """Return random images; only of the split on which Linear Explanations select their length, for fitting, since that
    is the paper's validation split.
    """
    seed = config.seed
    rows = RowSplit.random(len(probe), seed).validation.numpy() if only_validation else np.arange(len(probe))
    return sorted(np.random.default_rng(seed).permutation(rows)[: config.replaced_images].tolist())

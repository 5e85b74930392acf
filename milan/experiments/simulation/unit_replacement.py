"""Units that are replaced by what their descriptions predict: ablation scores (Linear Explanations, Tables 3 and 9)."""

from collections.abc import Mapping, Sequence

import numpy as np

from milan.describers._shared.elastic_net import RowSplit
from milan.errors import MissingEvidence
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


def make_replacement_tables(
    study: Study,
    config: SimulationConfig,
    scores: Sequence[DescriberSimulation],
    fitting: Simulator,
    evaluation: Simulator,
) -> tuple[list[Table], list[str]]:
    """Return the table, if it can be computed, and notes on it or on why there is none."""
    layer = config.replaced_layer or list(study.units)[-1]
    if not config.replaced_units or not any(each.unit.layer == layer for each in scores[0].descriptions):
        return [], []
    try:
        return [_make_table(study, config, layer, scores, (fitting, evaluation))], [NOTE]
    except MissingEvidence as reason:
        return [], [f"No ablation scores: {reason}."]


def _make_table(
    study: Study,
    config: SimulationConfig,
    layer: str,
    scores: Sequence[DescriberSimulation],
    simulators: tuple[Simulator, Simulator],
) -> Table:
    """Return the scores of all descriptions of sampled units; c and d are fitted with the first simulator."""
    units = _sample_units(scores[0].descriptions, layer, config)
    owners = [(one, each) for one in scores for each in one.descriptions if each.unit in units]
    descriptions = [each for _, each in owners]
    pairs = []
    for simulator, only_validation in zip(simulators, (True, False), strict=True):
        rows = _select_images(simulator.probe, only_validation, config)
        pairs.append((simulator.probe.subset(rows), predict_activations(descriptions, simulator)[0][:, rows]))
    indices = [each.unit.index for each in descriptions]
    found = compute_ablation_scores(study.target, layer, indices, pairs[0], pairs[1], SCALINGS, config.synsets)
    rows_of_table = []
    for one in scores:
        own = [place for place, (owner, _) in enumerate(owners) if owner is one]
        values = _make_values({name: each[own] for name, each in found.items()}, config.seed) if own else {}
        rows_of_table.append(Row(one.name, values, one.role))
    return Table(f"ablation score of {layer}", COLUMNS, tuple(rows_of_table))


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

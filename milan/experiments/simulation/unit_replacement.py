"""What descriptions predict, put in the place of what units do: Linear Explanations' tables of ablation scores (3 and
9).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milan.describers._shared.elastic_net import RowSplit
from milan.errors import MissingEvidence
from milan.experiments.core.report import Column, Row, Table
from milan.experiments.simulation.tables import SimulatedDescriber
from milan.probes import Probe
from milan.scores.ablation_score import SCALINGS, compute_ablation_scores
from milan.scores.activation_simulation import Simulator, predict_activations
from milan.scores.confidence_intervals import estimate_mean
from milan.targets.target import Target
from milan.units import Description, Unit

COLUMNS = (
    Column(
        "closed",
        "The mean ablation score: 1 if the prediction does to the losses all that the unit does, 0 if no more than the"
        " unit's mean; c and d in closed form (the paper's Norm).",
        "",
        4,
        "more",
    ),
    Column(
        "optimised",
        "The same with c and d that make this score greatest on the images they are fitted on (Optim).",
        "",
        4,
        "more",
    ),
    Column("agreement", "The correlation over units of the two.", "", 2),
    Column("units", "Units that change any loss, of those drawn."),
)
NOTE = (
    "Ablation score: a unit is replaced at all its places by c times the prediction plus d, of units drawn by lot; c"
    " and d are fitted on images that no table is judged on. A unit that changes no loss has none. On a network that is"
    " hardly ever wrong few images change the loss: the optimised c and d then fit these, and may do worse on others"
    " than those in closed form."
)


@dataclass(frozen=True)
class UnitReplacement:
    """What is replaced, and on which images.

    Attributes:
        target: the network, a classifier of the probes' classes.
        layer: of the units.
        units: how many, drawn by lot.
        images: to fit on, and as many others to judge on, at most.
        synsets: which output is which class, see ``milan.probes.superclasses.match_outputs``.
        seed: of lots and intervals.
    """

    target: Target
    layer: str
    units: int
    images: int
    synsets: str = ""
    seed: int = 0

    def make_tables(
        self, scored: Sequence[SimulatedDescriber], fitting: Simulator, evaluation: Simulator
    ) -> tuple[list[Table], list[str]]:
        """The table, if it can be had, and what a reader must know of it, or why there is none."""
        if not self.units or not any(each.unit.layer == self.layer for each in scored[0].descriptions):
            return [], []
        try:
            table = self.make_table(scored, fitting, evaluation)
        except MissingEvidence as reason:
            return [], [f"No ablation scores: {reason}."]
        return [table], [NOTE]

    def make_table(self, scored: Sequence[SimulatedDescriber], fitting: Simulator, evaluation: Simulator) -> Table:
        """The scores of what each said of the units drawn. c and d are fitted on validation images alone, which no
        table is judged on.
        """
        chosen = self._sample_units(scored[0].descriptions)
        said = [(one, each) for one in scored for each in one.descriptions if each.unit in chosen]
        texts = [each for _, each in said]
        fit, judge = self._select_images(fitting.probe, True), self._select_images(evaluation.probe, False)
        pairs = [
            (fitting.probe.subset(fit), predict_activations(texts, fitting)[0][:, fit]),
            (evaluation.probe.subset(judge), predict_activations(texts, evaluation)[0][:, judge]),
        ]
        units = [each.unit.index for each in texts]
        scores = compute_ablation_scores(self.target, self.layer, units, pairs[0], pairs[1], SCALINGS, self.synsets)
        rows = []
        for one in scored:
            mine = [place for place, (other, _) in enumerate(said) if other is one]
            rows.append(
                Row(
                    one.name,
                    self._make_values({name: each[mine] for name, each in scores.items()}) if mine else {},
                    one.role,  # type: ignore[arg-type]
                )
            )
        return Table(f"ablation score of {self.layer}", COLUMNS, tuple(rows))

    def _make_values(self, scores: dict[str, np.ndarray]) -> dict:
        both = np.stack([scores[name] for name in SCALINGS])
        both = both[:, np.isfinite(both).all(0)]
        varied = both.shape[1] > 2 and bool((both.std(1) > 0).all())
        agreement = float(np.corrcoef(both)[0, 1]) if varied else float("nan")
        return {name: estimate_mean(each.tolist(), self.seed) for name, each in zip(SCALINGS, both, strict=True)} | {
            "agreement": agreement,
            "units": both.shape[1],
        }

    def _sample_units(self, said: Sequence[Description]) -> set[Unit]:
        here = sorted({each.unit for each in said if each.unit.layer == self.layer})
        order = np.random.default_rng(self.seed).permutation(len(here))[: self.units]
        return {here[place] for place in order}

    def _select_images(self, probe: Probe, validation: bool) -> list[int]:
        """Images to fit on are those that Linear Explanations choose their length on: it is the paper's validation
        part.
        """
        rows = RowSplit.random(len(probe), self.seed).validation.numpy() if validation else np.arange(len(probe))
        return sorted(np.random.default_rng(self.seed).permutation(rows)[: self.images].tolist())

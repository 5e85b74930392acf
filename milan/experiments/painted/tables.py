"""Pictures of what describers said, as the network sees them, and the scores of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from milan.experiments.core.report import Column, Table
from milan.experiments.core.scored_descriptions import DescriptionSet, DescriptionSets
from milan.pretrained.painter import Painter
from milan.scores.confidence_intervals import Measure, estimate_mean
from milan.scores.generated_image_scores import (
    SHARES,
    activation_fraction,
    choose_text_to_paint,
    measure_layer_activations,
    painted_auc,
    painted_mad,
)
from milan.units import Unit

COLUMNS = (
    Column(
        "AUC",
        "How often a painted picture moves the unit more than an image of the probe (CoSy); by lot 0.5.",
        "",
        3,
        "more",
    ),
    Column(
        "MAD",
        "By how many standard deviations of the probe's activations painted pictures move it more (CoSy).",
        "",
        2,
        "more",
    ),
    Column(
        "fraction 1%",
        "The share of painted pictures that move it as its strongest 1% of images do (SAND).",
        "%",
        1,
        "more",
    ),
    Column("fraction 0.1%", "The same of its strongest 0.1%.", "%", 1, "more"),
    Column(
        "own before others",
        "How often a picture of its own text moves it more than one of another unit's; by lot 0.5.",
        "",
        3,
        "more",
    ),
    Column(
        "own less others",
        "Mean activation on the former less that on the latter, in standard deviations as for MAD.",
        "",
        2,
        "more",
    ),
)


@dataclass(frozen=True)
class PaintedScores:
    """What is painted: each distinct text once, ``count`` pictures of it in ``prompt``; each unit's own against
    ``negatives`` others.
    """

    description_sets: DescriptionSets
    painter: Painter
    count: int
    prompt: str
    negatives: int

    @cached_property
    def _activations(self) -> Mapping[str, Mapping[str, Float[np.ndarray, "count units"]]]:
        """What all units of a layer do on the pictures of each text that is said of any."""
        wanted: dict[str, list[str]] = {}
        for dissection, said in self.description_sets.iter_layers():
            for text in self._list_other_texts(said):
                wanted.setdefault(text, []).append(dissection.layer)
        return measure_layer_activations(
            self.description_sets.target,
            wanted,
            self.painter,
            count=self.count,
            prompt=self.prompt,
            seed=self.description_sets.seed,
        )

    @staticmethod
    def _list_other_texts(said: Mapping[str, list]) -> list[str]:
        return sorted({choose_text_to_paint(each) for every in said.values() for each in every})

    @cached_property
    def _scores(self) -> dict[str, dict[Unit, tuple[float, ...]]]:
        found: dict[str, dict[Unit, tuple[float, ...]]] = {
            description_set.name: {} for description_set in self.description_sets.sets
        }
        for dissection, said in self.description_sets.iter_layers():
            pool, rng = self._list_other_texts(said), np.random.default_rng(self.description_sets.seed)
            others = {
                unit: rng.permutation(len(pool))
                for unit in sorted({each.unit for every in said.values() for each in every})
            }
            activations = dissection.activations("mean").numpy()
            for name, every in said.items():
                for each in every:
                    own = choose_text_to_paint(each)
                    against = [pool[place] for place in others[each.unit] if pool[place] != own][: self.negatives]
                    control = activations[:, dissection.row_of(each.unit)].astype(np.float64)
                    found[name][each.unit] = self._score_unit(each.unit, own, against, control)
        return found

    def _score_unit(
        self, unit: Unit, own: str, others: list[str], control: Float[np.ndarray, " images"]
    ) -> tuple[float, ...]:
        mine, *rest = (self._activations[text][unit.layer][:, unit.index] for text in (own, *others))
        values = [
            painted_auc(mine, control),
            painted_mad(mine, control),
            *(activation_fraction(mine, control, share) for share in SHARES),
        ]
        if not rest:
            return (*values, np.nan, np.nan)
        theirs = np.concatenate(rest)
        return (*values, painted_auc(mine, theirs), painted_mad(mine, control) - painted_mad(theirs, control))

    def make_table(self) -> Table:
        """Means over units, describer by describer."""
        return self.description_sets.make_table("all units", COLUMNS, self._average)

    def _average(self, description_set: DescriptionSet) -> dict[str, Measure]:
        each = list(self._scores[description_set.name].values())
        return {
            column.name: estimate_mean([values[place] for values in each], self.description_sets.seed)
            for place, column in enumerate(COLUMNS)
            if each
        }

    def make_headlines(self) -> tuple[tuple[str, str], ...]:
        """The describer whose pictures stand out most from those of other texts: of these scores the one no common text
        does well in.
        """
        known = [
            (self._average(description_set)["own before others"].value, description_set.name)
            for description_set in self.description_sets.sets
            if description_set.descriptions and not description_set.role
        ]
        best = max(known, default=None)
        return ((f"{best[0]:.2f}", f"own before others: {best[1]}"),) if best else ()

    def make_notes(self, painter: str) -> tuple[str, ...]:
        """What a reader must know."""
        who = (
            "draws exactly what a text says, as far as its language goes"
            if painter == "diorama"
            else "is a network and may draw amiss"
        )
        return (
            (
                f"The painter, {painter}, {who}; what it cannot draw counts against a description. Of a weighted sum"
                " the three concepts that raise the unit most are painted together."
            ),
            (
                "AUC and MAD failed NeuronEval's exam: they lose nothing when a description is too narrow, and own"
                " against others does not either. All of them ask what a text shows, none what else moves the unit."
            ),
        )

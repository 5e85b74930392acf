"""The activations of units on images that are generated from descriptions, and their scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from milan.experiments.core.report import Column, Table, Value
from milan.experiments.core.scored_descriptions import DescriptionSet, DescriptionSets
from milan.experiments.painted.config import PaintedConfig
from milan.pretrained.painter import Painter
from milan.scores.confidence_intervals import estimate_mean
from milan.scores.generated_image_scores import (
    SHARES,
    activation_fraction,
    choose_text_to_paint,
    measure_layer_activations,
    painted_auc,
    painted_mad,
)
from milan.units import Description, Unit

COLUMNS = (
    Column(
        "AUC",
        "Probability that a generated image activates the unit more than an image of the probe (CoSy); 0.5 at random.",
        "",
        3,
        "more",
    ),
    Column(
        "MAD",
        "Difference of the mean activations on generated images and on the probe, in standard deviations on the probe"
        " (CoSy).",
        "",
        2,
        "more",
    ),
    Column(
        "fraction 1%",
        "Share of generated images with an activation as high as on the 1% of images that activate it most (SAND).",
        "%",
        1,
        "more",
    ),
    Column("fraction 0.1%", "The same for the 0.1% of images that activate it most.", "%", 1, "more"),
    Column(
        "own before others",
        "Probability that an image of its own text activates it more than one of another unit's; 0.5 at random.",
        "",
        3,
        "more",
    ),
    Column(
        "own less others",
        "Mean activation on the former minus that on the latter, in standard deviations as for MAD.",
        "",
        2,
        "more",
    ),
)


@dataclass(frozen=True)
class PaintedScores:
    """The scores of descriptions by generated images; images of each distinct text are generated once."""

    description_sets: DescriptionSets
    painter: Painter
    config: PaintedConfig

    @cached_property
    def _activations(self) -> Mapping[str, Mapping[str, Float[np.ndarray, "images units"]]]:
        """The activations of all units of a layer, by text and layer."""
        layers: dict[str, list[str]] = {}
        for dissection, descriptions in self.description_sets.iter_layers():
            for text in _list_texts(descriptions):
                layers.setdefault(text, []).append(dissection.layer)
        return measure_layer_activations(
            self.description_sets.study.target,
            layers,
            self.painter,
            count=self.config.images_per_text,
            prompt=self.config.prompt,
            seed=self.config.seed,
        )

    @cached_property
    def _scores(self) -> dict[str, list[tuple[float, ...]]]:
        """The scores of each described unit, by describer."""
        scores: dict[str, list[tuple[float, ...]]] = {one.name: [] for one in self.description_sets.sets}
        for dissection, descriptions in self.description_sets.iter_layers():
            texts, rng = _list_texts(descriptions), np.random.default_rng(self.config.seed)
            units = sorted({each.unit for several in descriptions.values() for each in several})
            orders = {unit: rng.permutation(len(texts)) for unit in units}
            for name, several in descriptions.items():
                for each in several:
                    own = choose_text_to_paint(each)
                    others = [texts[place] for place in orders[each.unit] if texts[place] != own]
                    control = dissection.activations("mean", [each.unit])[:, 0].double().numpy()
                    scores[name].append(self._score_unit(each.unit, own, others[: self.config.negatives], control))
        return scores

    def _score_unit(
        self, unit: Unit, own_text: str, other_texts: list[str], control: Float[np.ndarray, " images"]
    ) -> tuple[float, ...]:
        """Return the values of all columns.

        Args:
            control: the unit's activations on the probe.
        """
        own, *others = (self._activations[text][unit.layer][:, unit.index] for text in (own_text, *other_texts))
        values = [
            painted_auc(own, control),
            painted_mad(own, control),
            *(activation_fraction(own, control, share) for share in SHARES),
        ]
        if not others:
            return (*values, np.nan, np.nan)
        other = np.concatenate(others)
        return (*values, painted_auc(own, other), painted_mad(own, control) - painted_mad(other, control))

    def make_table(self) -> Table:
        """Return the means over units by describer."""
        return self.description_sets.make_table("all units", COLUMNS, self._average)

    def _average(self, one: DescriptionSet) -> dict[str, Value]:
        units = self._scores[one.name]
        return {
            column.name: estimate_mean([values[place] for values in units], self.config.seed)
            for place, column in enumerate(COLUMNS)
            if units
        }

    def make_headlines(self) -> tuple[tuple[str, str], ...]:
        """Return the describer whose images stand out most from those of other texts: the only one of these scores in
        which no common text does well.
        """
        means = {
            one.name: estimate_mean([values[4] for values in self._scores[one.name]], self.config.seed).value
            for one in self.description_sets.sets
            if one.descriptions and not one.role
        }
        best = max(means, key=lambda name: means[name], default="")
        return ((f"{means[best]:.2f}", f"{COLUMNS[4].name}: {best}"),) if best else ()

    def make_notes(self) -> tuple[str, ...]:
        """Return what a reader must know."""
        fidelity = (
            "draws exactly what a text says, as far as it knows its words"
            if self.config.painter == "diorama"
            else "is a network and may not draw what a text says"
        )
        return (
            f"The painter, {self.config.painter}, {fidelity}; what it cannot draw counts against a description. Of a"
            " weighted sum the three concepts with the largest weights are drawn together.",
            "AUC and MAD fail NeuronEval's sanity checks: they do not decrease for descriptions that are too narrow,"
            " and neither does own against others. All of them test what a text shows, not what else activates the"
            " unit.",
            self.description_sets.note,
        )


def _list_texts(descriptions: Mapping[str, list[Description]]) -> list[str]:
    return sorted({choose_text_to_paint(each) for several in descriptions.values() for each in several})

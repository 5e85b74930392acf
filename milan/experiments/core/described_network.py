"""A network dissected and described: what experiments begin with that ask what a network's units are said to do."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.describers import sources_of
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.experiments.core.evaluated_describers import EvaluatedDescriber, load_evaluated_describer, run_describer
from milan.probes import Probe
from milan.results.catalogue import OK
from milan.targets.target import Target
from milan.targets.unit_selection import select_units
from milan.units import Unit


@dataclass(frozen=True)
class DescriptionConfig:
    """How networks are looked at.

    Attributes:
        describer: a name, NAME:KEY=VALUE,..., or a file of options.
        layers: dotted paths; empty for those that Diorama's networks have of their own.
        units: which of each layer, as ``choose_units`` reads them; empty for all.
        k: exemplars of a unit.
        quantile: of a unit's activations, above which a place belongs to its mask.
        device: where the describer runs.
    """

    describer: str = "milan"
    layers: Sequence[str] = ()
    units: str = ""
    k: int = 15
    quantile: float = 0.99
    device: str = "cpu"


@dataclass(frozen=True)
class DescribedNetwork:
    """A network, its dissected layers, and what was said of its units."""

    target: Target
    dissections: Mapping[str, Dissection]
    evaluated: EvaluatedDescriber

    @classmethod
    def dissect_and_describe(
        cls, target: Target, probe: Probe, config: DescriptionConfig, out: Path
    ) -> "DescribedNetwork":
        """Dissects and describes; what an earlier run into ``out`` has finished is not done again."""
        chosen = select_units(target, config.layers, config.units)
        dissections = dissect(target, probe, list(chosen), out / "dissection", k=config.k, quantile=config.quantile)
        evaluated = load_evaluated_describer(config.describer, target, probe, config.device)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        run_describer(evaluated, dissections, wanted, out / "described")
        return cls(target, dissections, evaluated)

    @property
    def name(self) -> str:
        return self.target.name

    @cached_property
    def texts(self) -> dict[Unit, str]:
        """What was said of each unit that was described, in the order of layers and units."""
        return self.evaluated.texts

    @cached_property
    def active_units(self) -> list[Unit]:
        """The units asked for that live, described or not."""
        return [
            entry.unit
            for entry in self.evaluated.entries
            if self.dissections[entry.unit.layer].status[entry.unit] == OK
        ]

    def find_units_mentioning(self, words: Iterable[str]) -> list[Unit]:
        """The units of which one of the words was said."""
        return [unit for unit, text in self.texts.items() if mentions(text, words)]

    @property
    def sources(self) -> dict[str, str]:
        """What the descriptions were made from, by role."""
        return sources_of(self.dissections.values(), {self.evaluated.name: self.evaluated.describer})

    @property
    def facts(self) -> dict[str, Any]:
        """What another run needs for the same descriptions."""
        first = next(iter(self.dissections.values()))
        return {
            "target": self.name,
            "weights": self.target.weights,
            "probe": first.probe,
            "images": len(first.activations()),
            "layers": list(self.dissections),
            "units": len(self.evaluated.entries),
            "k": first.k,
            "quantile": first.quantile,
            "describer": self.evaluated.name,
            "settings": {name: str(value) for name, value in self.evaluated.describer.settings.items()},
            "device": str(self.target.device),
            "hashes": {layer: one.key for layer, one in self.dissections.items()}
            | {"describer": self.evaluated.describer.key},
        }


def mentions(text: str, words: Iterable[str]) -> bool:
    """Whether one of the words is in a text, as a whole word, in capitals or not; the code of 2022 took "textured" for
    text.

    >>> mentions("Textured signs", ["text"]), mentions("the TEXT on signs", ["word", "text"])
    (False, True)
    """
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)

"""Options of the match experiment."""

from dataclasses import dataclass
from typing import Literal

from milan.errors import BadInput
from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class MatchConfig(DissectedTargetConfig):
    """Match the units of one network with those of others: the same, changed, new, or lost.

    Attributes:
        against: The networks that the target is compared with, such as earlier checkpoints or another architecture. By
            default the target's own, with other weights.
        against_weights: The weights of each of these networks, if they are not those of their library.
        against_layers: The layers of these networks, if they are not those of the target. Layers of the same names are
            matched with each other, of different names all with all.
        describer: A describer whose texts are compared too: a name, NAME:KEY=VALUE,..., or a file of options. By
            default none.
        pooling: What stands for a unit's activation in an image: its mean or its maximum over the image.
        same: The correlation from which on matched units are the same.
        changed: The correlation from which on matched units are the same but changed; below it one is new and the other
            is lost. In a layer of SqueezeNet filters of noise reach 0.84 with some unit.
        page_units: The largest number of pairs on the page, those of the highest correlation of each network.
    """

    against: list[str] | None = None
    against_weights: list[str] | None = None
    against_layers: list[str] | None = None
    describer: str = ""
    pooling: Literal["mean", "max"] = "mean"
    same: float = 0.9
    changed: float = 0.8
    page_units: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.changed <= self.same <= 1:
            raise BadInput(f"changed is {self.changed} and same is {self.same}; give 0 < changed <= same <= 1")
        if not self.against and not self.against_weights:
            raise BadInput(
                "there is nothing to compare the target with; give --against NETWORK or --against_weights FILE"
            )

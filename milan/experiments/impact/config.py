"""Options of the impact experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import TargetConfig


@dataclass(frozen=True, kw_only=True)
class ImpactConfig(TargetConfig):
    """Measure Top Impact: the share of a unit's impact on a classifier at its highest activations.

    Attributes:
        synsets: A file that says which class each output is, for a probe that does not show all classes.
        layers: The dotted paths of the layers. By default those that are annotated for Diorama's networks.
        units_per_layer: The number of randomly sampled units of each layer.
        max_images: The largest number of images; of a larger probe so many are sampled randomly.
        top_shares: The shares of the images with the highest activations, from 0 to 1. By default 0.0003, 0.002, 0.02,
            0.1 and 0.5, as in the paper.
    """

    synsets: str = ""
    layers: list[str] | None = None
    units_per_layer: int = 20
    max_images: int = 1000
    top_shares: list[float] | None = None

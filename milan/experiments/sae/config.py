"""Options of the sae experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import TargetConfig


@dataclass(frozen=True, kw_only=True)
class SaeConfig(TargetConfig):
    """Train a top-k sparse autoencoder on a layer of a target, and save it in the format of SAELens.

    Attributes:
        layer: The dotted path of the layer.
        expansion: The number of latents divided by the number of units of the layer.
        top_k: The largest number of latents that are active at a place.
        vectors: The largest number of activation vectors that are stored for training; of a larger number each image
            gives equally many random places.
        updates: The number of optimizer steps.
        batch_size: The number of activation vectors per step.
        learning_rate: The highest learning rate of AdamW, which falls linearly to zero.
    """

    layer: str
    expansion: int = 8
    top_k: int = 32
    vectors: int = 200_000
    updates: int = 3000
    batch_size: int = 2048
    learning_rate: float = 1e-3

"""Options of the painted experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class PaintedConfig(DissectedTargetConfig):
    """Score descriptions by the activations of their units on images that are generated from them.

    Attributes:
        describers: The describers: names, NAME:KEY=VALUE,..., files of
            options as in configs/describe, or tables of descriptions.
        painter: The image generator: diorama, which draws exactly what a text says, diffusers:ID_OR_FOLDER, or
            PATH/FILE.py:NAME.
        images_per_text: The number of images of each text; CoSy generates 50.
        prompt: The prompt, in which {} stands for the text, as in "realistic photo of a close up of {}".
        negatives: The number of texts of other units that each unit's own text is compared with.
    """

    describers: list[str]
    painter: str = "diorama"
    images_per_text: int = 10
    prompt: str = "{}"
    negatives: int = 5

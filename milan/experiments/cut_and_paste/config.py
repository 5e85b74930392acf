"""Options of the cut_and_paste experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import TargetConfig


@dataclass(frozen=True, kw_only=True)
class CutAndPasteConfig(TargetConfig):
    """Paste what one half of an either-or unit detects into other images, to fool the target.

    Attributes:
        describer: The describer: a name, NAME:KEY=VALUE,..., a file of
            options, or a table of descriptions.
        layer: The dotted path of the layer, which should be close to the last one.
        units: The units to attack, as layer4:17. By default those whose descriptions join the least similar things.
        max_units: The largest number of units to attack, if no units are given.
        vectors: The image-text model whose text encoder measures how similar two things are.
        originals: The number of images of each unit to paste into.
        distractors: The number of images of each unit to cut from.
        promoted_classes: The number of classes that the unit promotes, by its effect on the logits of its exemplars.
        synsets: A file that says which class each output is, for a probe that does not show all classes.
        k: The number of exemplars (top-activating images) per unit.
        quantile: The activation quantile that is used as the mask threshold.
    """

    probe: str = "diorama:objects"
    describer: str = "compositional"
    layer: str = "layer4"
    units: list[str] | None = None
    max_units: int = 12
    vectors: str = "diorama"
    originals: int = 30
    distractors: int = 8
    promoted_classes: int = 3
    synsets: str = ""
    k: int = 15
    quantile: float = 0.99

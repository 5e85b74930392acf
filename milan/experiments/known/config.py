"""Options of the known experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class KnownConfig(DissectedTargetConfig):
    """Score descriptions of units whose answer is known: final layer, Diorama's truth, unseen classes.

    The probe must show the classes of the target, a classifier, in their order. By default the layers are the last of
    those that are annotated for Diorama's networks.

    Attributes:
        describers: The describers: names, NAME:KEY=VALUE,..., files of
            options as in configs/describe, or tables of descriptions.
        final_layer: The layer in which unit i is class i; empty to leave its table out.
        unseen_probe: Labelled images of classes that the target was not trained on, for each of which the best detector
            among the units is searched; empty to leave their table out.
        embedder: The model that compares descriptions with the names of these classes: an image-text model, or
            sentences:hf:ID_OR_FOLDER.
    """

    describers: list[str]
    final_layer: str = "fc"
    unseen_probe: str = "diorama:scenes"
    embedder: str = "diorama"

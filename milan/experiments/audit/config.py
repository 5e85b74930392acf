"""Options of the audit experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import DissectionOptions, RunConfig
from milan.targets.preprocessing import TargetOptions


@dataclass(frozen=True, kw_only=True)
class AuditConfig(DissectionOptions, RunConfig):
    """Count units that detect faces by their descriptions, in networks trained with and without blurring.

    Attributes:
        plain: The networks that are trained on unchanged images. By default diorama:resnet-objects.
        blurred: The networks that are trained on images with blurred faces, each in the place of its pair above. By
            default diorama:resnet-blurred.
        plain_weights: The weights of each of the plain networks, if they are not those of their library.
        blurred_weights: The weights of each of the blurred networks, if they are not those of their library.
        target_options: How the input of every network is made and its output is read.
        probe: Unblurred images to dissect the networks on.
        limit: Use only the first LIMIT images of the probe.
        describer: The describer: a name, NAME:KEY=VALUE,..., a file of
            options, or a table of descriptions.
        words: A unit is counted if its description has one of these words, as a whole word. By default face, head,
            nose, eyes, mouth, and their plurals.
        query: What the same units are also searched for by meaning, in descriptions and exemplars.
        found_units: The number of units that this search finds in each network.
        embedder: The image-text model that compares the query with exemplars, as open_clip:ViT-B-16/openai. By default
            Diorama's for its images; without a model only words are searched.
        answers: Files that the page check.html saved, in which people marked the units that detect faces.
        min_iou: The intersection over union of a unit's masks and people's faces from which on it detects faces, where
            that is known.
    """

    plain: list[str] | None = None
    blurred: list[str] | None = None
    plain_weights: list[str] | None = None
    blurred_weights: list[str] | None = None
    target_options: TargetOptions = TargetOptions()  # noqa: RUF009 (frozen)
    probe: str = "diorama:objects"
    limit: int | None = None
    describer: str = "milan"
    words: list[str] | None = None
    query: str = "faces"
    found_units: int = 20
    embedder: str = ""
    answers: list[str] | None = None
    min_iou: float = 0.04

"""Options of the detection experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(DissectedTargetConfig):
    """Score descriptions by whether a judge can tell with them what activates a unit: detection, fuzzing and intruder.

    Descriptions are of units on PROBE@learn, four fifths of the probe, and examples are drawn from PROBE@judge.

    Attributes:
        describers: The describers: names, NAME:KEY=VALUE,..., files of
            options as in configs/describe, or tables of descriptions.
        judge: The judge: labels (Diorama's), an image-text model, or openai:MODEL with a model that reads images. By
            default diorama:siglip-large on Diorama.
        examples: The number of active images of each unit, and of inactive ones.
        negatives: The image-text model by which half of the inactive images are those most like the active ones. By
            default the judge if it is such a model, else all inactive images are drawn at random.
        base_url: The address of the judge's endpoint. By default $OPENAI_BASE_URL, else OpenAI's.
        max_calls: The maximal number of requests to the endpoint.
    """

    describers: list[str]
    judge: str = ""
    examples: int = 10
    negatives: str = ""
    base_url: str = ""
    max_calls: int | None = 5000

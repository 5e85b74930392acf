"""Options of the ablation experiment."""

from dataclasses import dataclass
from pathlib import Path

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class AblationConfig(DissectedTargetConfig):
    """Measure accuracy as units are ablated in the order of criteria of their descriptions.

    Attributes:
        describer: The describer: a name, NAME:KEY=VALUE,..., a file of
            options, or a table of descriptions.
        evaluation_probe: The labelled images on which accuracy is measured. By default PROBE@judge.
        criteria: The criteria: nouns, verbs, adpositions, adjectives, length, depth and "word difference", which are
            the paper's and the default; score, the describer's own; concepts, the number of weighted concepts.
        synsets: A file that says which class each output is, for evaluation images that do not show all classes.
        language: The spaCy pipeline that parses descriptions. By default the first installed en_core_web_*, else the
            one of this package.
        vectors: The word vectors: "pipeline" for those of the spaCy pipeline, or an image-text model. By default those
            of the pipeline if it has some, else diorama.
        max_share: The share of the units that is ablated in the last step.
        step: The share of the units that is ablated in each step.
        orders_per_criterion: The number of orders of each criterion, which differ in how ties are broken.
        random_orders: The number of random orders.
        annotations: A CSV file with the columns layer, unit and summary whose words are counted too, as in Table 5 of
            the paper.
    """

    describer: str = "milan"
    evaluation_probe: str | None = None
    criteria: list[str] | None = None
    synsets: str = ""
    language: str = ""
    vectors: str = ""
    max_share: float = 0.2
    step: float = 0.02
    orders_per_criterion: int = 2
    random_orders: int = 5
    annotations: Path | None = None

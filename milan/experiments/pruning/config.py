"""Options of the pruning experiment."""

from dataclasses import dataclass
from typing import Literal

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class PruningConfig(DissectedTargetConfig):
    """Prune the units whose description is like no other's, and those of common terms, against random units.

    The probe must have labels: the target is dissected on it, and a new classifier is trained on it.

    Attributes:
        describer: The describer: a name, NAME:KEY=VALUE,..., a file of
            options, or a table of descriptions.
        evaluation_probe: The labelled images on which accuracy is measured. By default PROBE@judge.
        synsets: A file that says which class each output is, for evaluation images that do not show all classes.
        language: The spaCy pipeline that parses descriptions. By default the first installed en_core_web_*, else the
            one of this package.
        embedder: The image-text model whose text encoder measures how similar descriptions are.
        min_similarity: The smallest cosine similarity of two units that are grouped.
        texts_per_unit: The number of texts of each unit that are compared: its description and its best candidates.
        random_sets: The number of random sets of units that each pruned set is compared with.
        classifier: The classifier that is trained on the pruned network's features: logistic regression ("linear") or a
            random forest of scikit-learn ("forest").
        feature_layer: The layer whose means over the image are the features. By default the last of the layers.
        terms: Words whose units are pruned, such as red or pink/purple. By default the most common ones.
        common_terms: The number of most common terms, if no terms are given.
    """

    describer: str = "clip_dissect"
    evaluation_probe: str | None = None
    synsets: str = ""
    language: str = ""
    embedder: str = "diorama"
    min_similarity: float = 0.8
    texts_per_unit: int = 1
    random_sets: int = 5
    classifier: Literal["linear", "forest"] = "linear"
    feature_layer: str = ""
    terms: list[str] | None = None
    common_terms: int = 4

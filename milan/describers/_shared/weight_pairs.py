"""What the describers that read weights share: their options, class names, and pairs of texts and weights."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from milan.describers._shared.llm_explainer import LlmExplainer
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, MilanError, MissingEvidence
from milan.probes.superclasses import format_class_names
from milan.scores.prediction_pairs import PredictionPairs, Signs, scale_to_integers
from milan.storage.text_files import read_names
from milan.targets.target import Target

IMAGENET = "imagenet"


class WeightExplainer(LlmExplainer):
    """A describer that asks what a unit detects, from the classes or later units that it has the largest weights to.

    Args:
        classes: names of the network's outputs: ``imagenet``, a text file with one name in each line, or, if empty, the
            probe's classes, which must be as many.
        signs: ``positive`` weights (the paper's), ``negative`` ones (appendix C.3.1), or ``both`` at once (C.3.2).
    """

    def __init__(self, classes: str = "imagenet", signs: Signs = "positive", **shared: Any):
        super().__init__(**shared)
        self.classes, self.signs = classes, signs

    @cached_property
    def class_names(self) -> list[str]:
        """The class names that ``classes`` states; empty if the probe's are used."""
        return read_class_names(self.classes)


def read_class_names(classes: str) -> list[str]:
    """Return class names for ``imagenet`` or from a text file with one in each line; none for an empty text.

    Raises:
        BadInput: the file cannot be read.
    """
    if not classes:
        return []
    if classes == IMAGENET:
        from torchvision.models._meta import _IMAGENET_CATEGORIES

        return list(_IMAGENET_CATEGORIES)
    try:
        return read_names(Path(classes).expanduser())
    except BadInput as error:
        raise BadInput(f"no class names: {error}; give imagenet, or a text file with one in each line") from None


def count_outputs(target: Target) -> int:
    """Return the number of a classifier's outputs; 0 for a network that puts out no vector for each image."""
    try:
        found = target.outputs(target.noise(1, target.image_size))
    except (MilanError, RuntimeError):
        return 0
    return found.shape[1] if found.ndim == 2 else 0


def match_class_names(given: Sequence[str], dissection: Dissection, count: int) -> list[str]:
    """Return a name for each of the network's outputs: those given, or those of the probe's classes.

    Raises:
        MissingEvidence: their number is not that of the outputs.
    """
    found = list(given)
    if not found:
        probe = dissection.open_probe()
        found = format_class_names(probe) if probe.classes else []
    if len(found) != count:
        mismatch = f"{dissection.target} gives {count} answers, and there are names for {len(found)}"
        raise MissingEvidence(f"{mismatch}; give --settings.classes FILE with one in each line, if it is a classifier")
    return found


def make_weight_pairs(weights: np.ndarray, texts: Sequence[str], signs: Signs, kind: str) -> PredictionPairs:
    """Return pairs of texts and weights as integers."""
    return PredictionPairs(scale_to_integers(weights, signs), lambda places: [texts[place] for place in places], kind)

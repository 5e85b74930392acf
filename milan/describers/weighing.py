"""Names of classes, and weights to them as pairs: what the describers that read weights share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milan.dissection.store import Dissection
from milan.errors import BadInput, MissingEvidence
from milan.pairs import Pairs, Signs, scaled
from milan.probes.superclasses import readable_classes
from milan.text_files import read_names

IMAGENET = "imagenet"


def given_classes(classes: str) -> list[str]:
    """Names of classes by ``imagenet`` or from a text file with one in each line; none for an empty text.

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


def class_names(given: Sequence[str], dissection: Dissection, count: int) -> list[str]:
    """A name for each of the network's answers, those given or those of the probe's classes.

    Raises:
        MissingEvidence: there are not as many.
    """
    found = list(given)
    if not found:
        probe = dissection.open_probe()
        found = readable_classes(probe) if probe.classes else []
    if len(found) != count:
        told = f"{dissection.target} gives {count} answers, and there are names for {len(found)}"
        raise MissingEvidence(f"{told}; give --settings.classes FILE with one in each line, if it is a classifier")
    return found


def weight_pairs(weights: np.ndarray, texts: Sequence[str], signs: Signs, kind: str) -> Pairs:
    """Texts with weights as integers."""
    return Pairs(scaled(weights, signs), lambda places: [texts[place] for place in places], kind)

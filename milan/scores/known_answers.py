"""Units whose right description is known: those of the final layer, and classifiers of classes not trained on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from milan.errors import BadInput
from milan.scores.confidence_intervals import Measure, estimate_mean, estimate_share
from milan.scores.generated_image_scores import painted_auc
from milan.scores.text_similarity import TextEmbedder
from milan.units import Description


def is_same_name(text: str, name: str) -> bool:
    """Return whether a description is a class's name, ignoring case and separators; one of several names between commas
    suffices.

    The published comparison of CLIP-Dissect's Table 2 kept "/" and "-" apart and so missed a sixth of NetDissect's
    right answers.

    >>> is_same_name("apartment building/outdoor", "apartment_building-outdoor")
    True
    >>> is_same_name("Goldfish", "goldfish, Carassius auratus")
    True
    >>> is_same_name("fish", "goldfish")
    False
    """
    return _normalize_name(text) in {_normalize_name(part) for part in (*name.split(","), name)}


def score_final_layer(descriptions: Sequence[Description], classes: Sequence[str]) -> Measure:
    """Return the share of a final layer's units that are described by the name of their class; unit i is class i.

    Describers that choose among the class names have an advantage over those that write (Describe-and-Dissect, section
    4.2.1).

    Raises:
        BadInput: a unit beyond the classes.
    """
    beyond = [description.unit for description in descriptions if description.unit.index >= len(classes)]
    if beyond:
        raise BadInput(f"{beyond[0]} has no class among {len(classes)}; give the final layer, one unit for each class")
    return estimate_share(
        [is_same_name(description.text, classes[description.unit.index]) for description in descriptions]
    )


@dataclass(frozen=True)
class NearestClassifiers:
    """For each class the units whose description is nearest to its name, with the AUROC of the class's images, 0..1."""

    classes: tuple[str, ...]
    texts: tuple[str, ...]  # the nearest description of each
    class_aurocs: tuple[float, ...]
    seed: int = 0

    @cached_property
    def auroc(self) -> Measure:
        """The mean over classes; 0.5 is chance."""
        return estimate_mean(self.class_aurocs, self.seed)


def evaluate_nearest_classifiers(
    descriptions: Sequence[Description],
    activation: Float[np.ndarray, "images descriptions"],
    labels: Sequence[int],
    classes: Sequence[str],
    encoder: TextEmbedder,
    seed: int = 0,
) -> NearestClassifiers:
    """Evaluate, for each class, the unit whose description is nearest to the class's name (Describe-and-Dissect,
    appendix A.6).

    Meant for classes that the network was not trained on. Units that share the nearest description count with their
    mean; a class without images, or with nothing else, is NaN and left out of the mean.

    Args:
        activation: mean activation of each description's unit on the labelled images; rows that are not finite are left
            out.
        encoder: an image-text model or a sentence encoder.

    Raises:
        BadInput: nothing is described.
    """
    if not descriptions:
        raise BadInput("no descriptions to choose a classifier by; give at least one")
    texts = list(dict.fromkeys(description.text for description in descriptions))
    closeness = (
        encoder.encode_texts([name.replace("_", " ") for name in classes]) @ encoder.encode_texts(texts).T
    ).numpy()
    nearest = [texts[place] for place in closeness.argmax(1)]
    good = np.isfinite(activation).all(1)
    values, known = activation[good], np.asarray(labels)[good]
    each = []
    for number, text in enumerate(nearest):
        inside = known == number
        columns = [column for column, description in enumerate(descriptions) if description.text == text]
        if inside.all() or not inside.any():
            each.append(float("nan"))
        else:
            each.append(
                float(np.mean([painted_auc(values[inside, column], values[~inside, column]) for column in columns]))
            )
    return NearestClassifiers(tuple(classes), tuple(nearest), tuple(each), seed)


def _normalize_name(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))

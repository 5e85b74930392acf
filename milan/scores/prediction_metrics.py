"""How well what a description predicts of a unit agrees with what the unit does, over images that neither was fitted
on.

Every metric takes many units at once. Those that need a yes or no say when a unit fires and when a concept shows by
``PredictionComparison``. What each metric cannot see is in ``METRICS`` and is measured by
``milan.scores.sanity_checks``; only correlation, cosine, AUPRC, F1 and IoU pass it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

ACTIVE_SHARE = 0.05  # share of the images, those with the highest activation, at which a unit counts as firing


@dataclass(frozen=True)
class PredictionComparison:
    """Units' activations beside what was predicted of them, over the same images."""

    activation: Float[np.ndarray, "units images"]
    predicted: Float[np.ndarray, "units images"]
    is_active: Bool[np.ndarray, "units images"]
    is_present: Bool[np.ndarray, "units images"]

    @classmethod
    def from_activations(
        cls,
        activation: Float[np.ndarray, "units images"],
        predicted: Float[np.ndarray, "units images"],
        threshold: float | Float[np.ndarray, " units"] = 0.5,
        share: float = ACTIVE_SHARE,
    ) -> "PredictionComparison":
        """A unit fires on the ``share`` of images with its highest activation, and never at its lowest one.

        Args:
            threshold: a prediction above it says that the concept shows; one for each unit, or for all.
        """
        shows = predicted > np.broadcast_to(np.asarray(threshold), (len(predicted),))[:, None]
        return cls(
            activation.astype(np.float64), predicted.astype(np.float64), find_active_images(activation, share), shows
        )


def find_active_images(
    activation: Float[np.ndarray, "units images"], share: float = ACTIVE_SHARE
) -> Bool[np.ndarray, "units images"]:
    """The images on which each unit fires: the ``share`` with its highest values, with all that tie with them, but none
    at its lowest.

    >>> find_active_images(np.array([[0.0, 0.0, 3.0, 1.0], [0.0, 2.0, 2.0, 2.0]]), 0.25).astype(int)
    array([[0, 0, 1, 0],
           [0, 1, 1, 1]])
    """
    count = max(1, round(share * activation.shape[1]))
    least = np.partition(activation, -count, axis=1)[:, -count, None]
    return (activation >= least) & (activation > activation.min(1, keepdims=True))


def correlation(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Pearson's, -1..1; NaN where one of the two does not vary."""
    return _cosine(_center(comparison.activation), _center(comparison.predicted))


def spearman(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Pearson's correlation of the ranks, -1..1, equal values sharing a rank."""
    return _cosine(_center(rankdata(comparison.activation, axis=1)), _center(rankdata(comparison.predicted, axis=1)))


def cosine(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Of the two as they are, -1..1; NaN where one is zero throughout."""
    return _cosine(comparison.activation, comparison.predicted)


def auprc(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Average precision of the prediction for the images on which the unit fires, 0..1; by lot it is their share."""
    return np.array(
        [_average_precision(row, fires) for row, fires in zip(comparison.predicted, comparison.is_active, strict=True)]
    )


def auc(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """How often an image on which the unit fires is predicted higher than another, 0..1; by lot 0.5."""
    return _auc(comparison.predicted, comparison.is_active)


def inverse_auc(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """How often an image that shows the concept moves the unit more than another, 0..1: the AUC of CoSy and INVERT."""
    return _auc(comparison.activation, comparison.is_present)


def recall(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """The share of the images on which the unit fires that show the concept."""
    return _ratio((comparison.is_active & comparison.is_present).sum(1), comparison.is_active.sum(1))


def precision(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """The share of the images that show the concept on which the unit fires."""
    return _ratio((comparison.is_active & comparison.is_present).sum(1), comparison.is_present.sum(1))


def f1(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """The harmonic mean of recall and precision, 0..1."""
    return _ratio(
        2 * (comparison.is_active & comparison.is_present).sum(1),
        comparison.is_active.sum(1) + comparison.is_present.sum(1),
    )


def iou(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Images where the unit fires and the concept shows, of those where either is so, 0..1."""
    return _ratio(
        (comparison.is_active & comparison.is_present).sum(1), (comparison.is_active | comparison.is_present).sum(1)
    )


def accuracy(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """The share of images on which firing and showing agree."""
    return (comparison.is_active == comparison.is_present).mean(1)


def balanced_accuracy(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """The mean of how often the concept shows where the unit fires, and does not where it does not."""
    return (
        recall(comparison)
        + _ratio((~comparison.is_active & ~comparison.is_present).sum(1), (~comparison.is_active).sum(1))
    ) / 2


def inverse_balanced_accuracy(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """The mean of how often the unit fires where the concept shows, and does not where it does not."""
    return (
        precision(comparison)
        + _ratio((~comparison.is_active & ~comparison.is_present).sum(1), (~comparison.is_present).sum(1))
    ) / 2


def mad(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Mean activation where the concept shows less that where it does not, in standard deviations over all images.

    NeuronEval takes the difference as it is. CoSy divides it by the deviation where the concept does not show, which is
    0 for a perfect unit; ``milan.scores.generated_image_scores.painted_mad`` is CoSy's own.
    """
    shown = _ratio((comparison.activation * comparison.is_present).sum(1), comparison.is_present.sum(1))
    rest = _ratio((comparison.activation * ~comparison.is_present).sum(1), (~comparison.is_present).sum(1))
    return _ratio(shown - rest, comparison.activation.std(1))


@dataclass(frozen=True)
class Metric:
    """One way to compare: how it is computed, and what it does not notice ("" if it passes its exam)."""

    compute: Callable[[PredictionComparison], Float[np.ndarray, " units"]]
    blind_spot: str = ""


NARROW = "descriptions that are too narrow"
BROAD = "descriptions that are too broad"
METRICS: dict[str, Metric] = {
    "correlation": Metric(correlation),
    "cosine": Metric(cosine),
    "auprc": Metric(auprc),
    "f1": Metric(f1),
    "iou": Metric(iou),
    "spearman": Metric(
        spearman, "what is rare, where low activations are noise (so NeuronEval's experiments; a perfect unit has none)"
    ),
    "recall": Metric(recall, BROAD),
    "precision": Metric(precision, NARROW),
    "accuracy": Metric(accuracy, f"{NARROW} or too broad, of what is rare"),
    "balanced_accuracy": Metric(balanced_accuracy, f"{BROAD}, of what is rare"),
    "inverse_balanced_accuracy": Metric(inverse_balanced_accuracy, f"{NARROW}, of what is rare"),
    "auc": Metric(auc, f"{BROAD}, of what is rare"),
    "inverse_auc": Metric(inverse_auc, f"{NARROW}, of what is rare"),
    "mad": Metric(mad, f"{NARROW}, of what is rare"),
}


def _center(values: Float[np.ndarray, "units images"]) -> Float[np.ndarray, "units images"]:
    return values - values.mean(1, keepdims=True)


def _cosine(
    one: Float[np.ndarray, "units images"], other: Float[np.ndarray, "units images"]
) -> Float[np.ndarray, " units"]:
    size = np.sqrt(_dot(one, one) * _dot(other, other))
    return _ratio(_dot(one, other), np.where(size > 1e-12, size, 0))


def _dot(
    one: Float[np.ndarray, "units images"], other: Float[np.ndarray, "units images"]
) -> Float[np.ndarray, " units"]:
    return np.matmul(one[:, None], other[:, :, None])[:, 0, 0]


def _ratio(top: Any, bottom: Any) -> Float[np.ndarray, " units"]:
    """NaN where there is nothing to divide by."""
    bottom = np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)


def _average_precision(predicted: Float[np.ndarray, " images"], is_active: Bool[np.ndarray, " images"]) -> float:
    """The mean over firing images of the precision among all that are predicted no lower; of equal predictions none
    comes first.
    """
    hits = np.sort(predicted[is_active])
    if not len(hits):
        return float("nan")
    matters = np.sort(predicted[predicted >= hits[0]])
    above = len(matters) - np.searchsorted(matters, hits)
    return float(((len(hits) - np.searchsorted(hits, hits)) / above).mean())


def _auc(
    scores: Float[np.ndarray, "units images"], labels: Bool[np.ndarray, "units images"]
) -> Float[np.ndarray, " units"]:
    """By the ranks of the positives (Mann & Whitney), equal scores sharing a rank."""
    positives = labels.sum(1)
    above = (rankdata(scores, axis=1) * labels).sum(1) - positives * (positives + 1) / 2
    return _ratio(above, positives * (labels.shape[1] - positives))

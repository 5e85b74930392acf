"""Agreement of a description's prediction with a unit's activation, over held-out images.

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
    """Activations of units and their predictions, over the same images."""

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
        """Compare activations with predictions; a unit fires on the ``share`` of images with its highest activation,
        never at its minimum.

        Args:
            threshold: the prediction above which the concept counts as present; one for each unit, or for all.
        """
        shows = predicted > np.broadcast_to(np.asarray(threshold), (len(predicted),))[:, None]
        return cls(
            activation.astype(np.float64), predicted.astype(np.float64), find_active_images(activation, share), shows
        )


def find_active_images(
    activation: Float[np.ndarray, "units images"], share: float = ACTIVE_SHARE
) -> Bool[np.ndarray, "units images"]:
    """Return on which images each unit fires: its ``share`` of highest values, with ties, but none at its minimum.

    >>> find_active_images(np.array([[0.0, 0.0, 3.0, 1.0], [0.0, 2.0, 2.0, 2.0]]), 0.25).astype(int)
    array([[0, 0, 1, 0],
           [0, 1, 1, 1]])
    """
    count = max(1, round(share * activation.shape[1]))
    least = np.partition(activation, -count, axis=1)[:, -count, None]
    return (activation >= least) & (activation > activation.min(1, keepdims=True))


def correlation(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return Pearson's correlation, -1..1; NaN where activation or prediction is constant."""
    return _cosine(_center(comparison.activation), _center(comparison.predicted))


def spearman(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return Spearman's rank correlation, -1..1; equal values share a rank."""
    return _cosine(_center(rankdata(comparison.activation, axis=1)), _center(rankdata(comparison.predicted, axis=1)))


def cosine(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the cosine of activation and prediction, -1..1; NaN where one is zero throughout."""
    return _cosine(comparison.activation, comparison.predicted)


def auprc(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the average precision of the prediction for images on which the unit fires; chance is their share."""
    return np.array(
        [_average_precision(row, fires) for row, fires in zip(comparison.predicted, comparison.is_active, strict=True)]
    )


def auc(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return how often an image on which the unit fires is predicted higher than another one, 0..1; chance is 0.5."""
    return _auc(comparison.predicted, comparison.is_active)


def inverse_auc(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return how often an image with the concept activates the unit more than one without, 0..1: the AUC of CoSy and
    INVERT.
    """
    return _auc(comparison.activation, comparison.is_present)


def recall(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the share of the images on which the unit fires that show the concept."""
    return _ratio((comparison.is_active & comparison.is_present).sum(1), comparison.is_active.sum(1))


def precision(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the share of the images with the concept on which the unit fires."""
    return _ratio((comparison.is_active & comparison.is_present).sum(1), comparison.is_present.sum(1))


def f1(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the harmonic mean of recall and precision, 0..1."""
    return _ratio(
        2 * (comparison.is_active & comparison.is_present).sum(1),
        comparison.is_active.sum(1) + comparison.is_present.sum(1),
    )


def iou(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the IoU of images on which the unit fires and images with the concept, 0..1."""
    return _ratio(
        (comparison.is_active & comparison.is_present).sum(1), (comparison.is_active | comparison.is_present).sum(1)
    )


def accuracy(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the share of images on which firing and concept agree."""
    return (comparison.is_active == comparison.is_present).mean(1)


def balanced_accuracy(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the mean of recall on firing images and of the share of other images without the concept."""
    return (
        recall(comparison)
        + _ratio((~comparison.is_active & ~comparison.is_present).sum(1), (~comparison.is_active).sum(1))
    ) / 2


def inverse_balanced_accuracy(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return the mean of precision and of the share of images without the concept on which the unit does not fire."""
    return (
        precision(comparison)
        + _ratio((~comparison.is_active & ~comparison.is_present).sum(1), (~comparison.is_present).sum(1))
    ) / 2


def mad(comparison: PredictionComparison) -> Float[np.ndarray, " units"]:
    """Return mean activation with the concept minus that without it, in standard deviations over all images.

    NeuronEval takes the difference as it is. CoSy divides it by the deviation where the concept does not show, which is
    0 for a perfect unit; ``milan.scores.generated_image_scores.painted_mad`` is CoSy's own.
    """
    shown = _ratio((comparison.activation * comparison.is_present).sum(1), comparison.is_present.sum(1))
    rest = _ratio((comparison.activation * ~comparison.is_present).sum(1), (~comparison.is_present).sum(1))
    return _ratio(shown - rest, comparison.activation.std(1))


@dataclass(frozen=True)
class Metric:
    """A metric: its function, and what it does not notice ("" if it passes the sanity checks)."""

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
    """Return the quotient; NaN where the divisor is 0."""
    bottom = np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)


def _average_precision(predicted: Float[np.ndarray, " images"], is_active: Bool[np.ndarray, " images"]) -> float:
    """Return average precision; images with equal predictions share a rank."""
    hits = np.sort(predicted[is_active])
    if not len(hits):
        return float("nan")
    matters = np.sort(predicted[predicted >= hits[0]])
    above = len(matters) - np.searchsorted(matters, hits)
    return float(((len(hits) - np.searchsorted(hits, hits)) / above).mean())


def _auc(
    scores: Float[np.ndarray, "units images"], labels: Bool[np.ndarray, "units images"]
) -> Float[np.ndarray, " units"]:
    """AUC from the ranks of the positives (Mann & Whitney); equal scores share a rank."""
    positives = labels.sum(1)
    above = (rankdata(scores, axis=1) * labels).sum(1) - positives * (positives + 1) / 2
    return _ratio(above, positives * (labels.shape[1] - positives))

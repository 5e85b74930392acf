"""Sanity checks of metrics: whether a metric falls when a description is too narrow or too broad.

NeuronEval (Oikarinen, Yan & Weng 2025) asks this of a perfect unit, one that fires exactly where its concept shows.
Missing labels: half of the images that show the concept are no longer said to. Extra labels: as many again are said to
show it that do not. A metric that scores the description no lower has not noticed. It is asked at five base rates of
the concept, since many metrics notice only what is common.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from milan.scores.generated_image_scores import activation_fraction, painted_auc, painted_mad
from milan.scores.prediction_metrics import METRICS, Metric, PredictionComparison

BASE_RATES = (1e-4, 1e-3, 1e-2, 1e-1, 0.5)  # share of the images that show the concept
MIN_DROP = 1e-3  # share of the perfect score by which it has to fall
IMAGES = 100_000
RUNS = 20  # at each base rate
LOGIT_SHIFT = 8.0  # by how much a unit moves its network's logit from one class to the other


@dataclass(frozen=True)
class SanityCheckResult:
    """How often a metric fell, as shares of all runs."""

    missing: float
    extra: float

    @property
    def passed(self) -> bool:
        """Whether both were noticed in every run."""
        return self.missing == self.extra == 1.0


def run_sanity_checks(
    metrics: Mapping[str, Metric] = METRICS, images: int = IMAGES, runs: int = RUNS, seed: int = 0
) -> dict[str, SanityCheckResult]:
    """Apply both tests to every metric, ``runs`` times at each base rate.

    >>> found = run_sanity_checks({"recall": METRICS["recall"]}, images=20_000, runs=2)
    >>> found["recall"]
    SanityCheckResult(missing=1.0, extra=0.0)
    """
    rng = np.random.default_rng(seed)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in metrics}
    for rate in BASE_RATES:
        for _ in range(runs):
            unit = _make_perfect_unit(rng, images, rate)
            fewer = unit & (rng.random(images) < 0.5)
            more = unit | (rng.random(images) < unit.mean() / max(1 - unit.mean(), 1e-12))
            for name, metric in metrics.items():
                perfect, narrow, broad = (
                    float(metric.compute(_compare_labels(unit, labels))[0]) for labels in (unit, fewer, more)
                )
                seen[name].append((_is_noticed(perfect, narrow), _is_noticed(perfect, broad)))
    return {
        name: SanityCheckResult(*(float(np.mean(part)) for part in zip(*found, strict=True)))
        for name, found in seen.items()
    }


PAINTED_METRICS: dict[str, Callable[[Float[np.ndarray, " count"], Float[np.ndarray, " images"]], float]] = {
    "activation_fraction": activation_fraction,
    "painted_auc": painted_auc,
    "painted_mad": painted_mad,
}


def run_painted_checks(
    images: int = IMAGES, runs: int = RUNS, pictures: int = 50, seed: int = 0
) -> dict[str, SanityCheckResult]:
    """Apply the tests to scores of generated images: of a text for half of what activates the unit, and for twice as
    much.

    All pictures of the right text and of the narrow one move the perfect unit, of the broad one each does with even
    chance. They are compared with the images of a probe, whatever the text is.

    >>> run_painted_checks(images=1000, runs=1)["painted_auc"]
    SanityCheckResult(missing=0.0, extra=1.0)
    """
    rng = np.random.default_rng(seed)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in PAINTED_METRICS}
    for rate in BASE_RATES:
        for _ in range(runs):
            control = _make_perfect_unit(rng, images, rate).astype(np.float64)
            right, broad = np.ones(pictures), (rng.random(pictures) < 0.5).astype(np.float64)
            for name, score in PAINTED_METRICS.items():
                perfect = score(right, control)
                seen[name].append(
                    (_is_noticed(perfect, score(right, control)), _is_noticed(perfect, score(broad, control)))
                )
    return {
        name: SanityCheckResult(*(float(np.mean(part)) for part in zip(*found, strict=True)))
        for name, found in seen.items()
    }


def run_replacement_check(images: int = IMAGES, runs: int = RUNS, seed: int = 0) -> SanityCheckResult:
    """Apply the tests to the ablation score, for a unit on which alone both classes of a network depend.

    >>> run_replacement_check(images=20_000, runs=1)
    SanityCheckResult(missing=1.0, extra=1.0)
    """
    rng = np.random.default_rng(seed)
    seen = []
    for rate in BASE_RATES:
        for _ in range(runs):
            unit = _make_perfect_unit(rng, images, rate)
            fewer = unit & (rng.random(images) < 0.5)
            more = unit | (rng.random(images) < unit.mean() / max(1 - unit.mean(), 1e-12))
            perfect, narrow, broad = (_score_replacement(unit, said.astype(np.float64)) for said in (unit, fewer, more))
            seen.append((_is_noticed(perfect, narrow), _is_noticed(perfect, broad)))
    return SanityCheckResult(*(float(np.mean(part)) for part in zip(*seen, strict=True)))


def _score_replacement(unit: Bool[np.ndarray, " images"], said: Float[np.ndarray, " images"]) -> float:
    """Return the ablation score, by logistic loss, of a description of a unit that decides the class."""
    true = unit.astype(np.float64)
    c = np.cov(said, true, bias=True)[0, 1] / max(said.var(), 1e-12)

    def change(values: Float[np.ndarray, " images"]) -> float:
        right, now = (
            np.logaddexp(0, np.where(unit, -LOGIT_SHIFT, LOGIT_SHIFT) * (each - 0.5)) for each in (true, values)
        )
        return float(np.abs(now - right).sum())

    return 1 - change(c * (said - said.mean()) + true.mean()) / change(np.full_like(true, true.mean()))


def _make_perfect_unit(rng: np.random.Generator, images: int, rate: float) -> Bool[np.ndarray, " images"]:
    """Return a unit that is active on this share of images, and on at least two."""
    fires = np.zeros(images, dtype=bool)
    fires[rng.choice(images, max(2, round(rate * images)), replace=False)] = True
    return fires


def _compare_labels(unit: Bool[np.ndarray, " images"], labels: Bool[np.ndarray, " images"]) -> PredictionComparison:
    both: list[Float[np.ndarray, "1 images"]] = [each[None].astype(np.float64) for each in (unit, labels)]
    return PredictionComparison(both[0], both[1], unit[None], labels[None])


def _is_noticed(perfect: float, changed: float) -> bool:
    """Whether the score fell or became undefined."""
    return bool(np.isnan(changed)) or perfect - changed > MIN_DROP * abs(perfect)

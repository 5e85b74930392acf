"""A number over units with its uncertainty: bootstrap for means, Wilson's interval for shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A value with its 95% interval, its standard error (NaN if unknown), and the number of units."""

    value: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    units: int = 0


def estimate_mean(values: Sequence[float], seed: int = 0) -> Measure:
    """Return the mean without NaN values, its standard error and its 95% bootstrap interval.

    >>> found = estimate_mean([0.0, 1.0, 1.0, float("nan")])
    >>> round(found.value, 3), round(found.error, 3), found.units
    (0.667, 0.333, 3)
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return Measure(math.nan)
    draws = np.random.default_rng(seed).integers(0, len(kept), (RESAMPLES, len(kept)))
    low, high = np.quantile(kept[draws].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    error = float(kept.std(ddof=1) / math.sqrt(len(kept))) if len(kept) > 1 else math.nan
    return Measure(float(kept.mean()), low, high, error, len(kept))


def estimate_share(hits: Sequence[bool]) -> Measure:
    """Return the share of true values, 0..1, with Wilson's interval, which is also valid near 0 and 1.

    >>> found = estimate_share([True, False, False, False])
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.25, 0.046, 0.699)
    """
    from scipy.stats import binomtest

    if not hits:
        return Measure(math.nan)
    interval = binomtest(sum(hits), len(hits)).proportion_ci(LEVEL, method="wilson")
    value = sum(hits) / len(hits)
    return Measure(
        value, float(interval.low), float(interval.high), math.sqrt(value * (1 - value) / len(hits)), len(hits)
    )


def estimate_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Measure:
    """Return the mean of ``first`` minus that of ``second``, without NaN values, with its 95% bootstrap interval.

    The values belong to different units, and are resampled independently.

    >>> found = estimate_difference([1.0, 1.0, 1.0], [0.0, 1.0])
    >>> found.value, found.low, found.high, found.units
    (0.5, 0.0, 1.0, 5)
    """
    kept = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    kept = [values[~np.isnan(values)] for values in kept]
    if not all(map(len, kept)):
        return Measure(math.nan)
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1) for values in kept]
    differences = means[0] - means[1]
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    value = float(kept[0].mean() - kept[1].mean())
    return Measure(value, low, high, float(differences.std(ddof=1)), sum(map(len, kept)))

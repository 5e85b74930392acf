"""A number over units with its uncertainty: means by resampling units, shares by Wilson's interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A value, its 95% interval and standard error (NaN where it has none), and of how many units it is."""

    value: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    units: int = 0


def estimate_mean(values: Sequence[float], seed: int = 0) -> Measure:
    """The mean of what is no NaN, its standard error, and the interval of means of as many values drawn from them with
    repetition.

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
    """How many of them are true, 0..1, with Wilson's interval, which stays honest where few or none are.

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

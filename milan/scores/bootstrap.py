"""Resampling: the bootstrap of a score over several rounds, such as training seeds, and random reassignment."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure

UnitParts = Mapping[str, Sequence[float]]  # the summands of each unit of a round, by the unit's name


def bootstrap_pooled(
    rounds: Sequence[UnitParts],
    value: Callable[[Float[np.ndarray, "draws parts"]], Float[np.ndarray, " draws"]],
    seed: int = 0,
) -> Measure:
    """Return the value of the rounds' pooled sums, with a 95% interval from 1,000 resamples of rounds and units.

    A resample has a unit in all rounds or in none, so that differences between units are not mistaken for chance.

    Args:
        rounds: for each round, the parts of each unit that are summed.
        value: maps many such sums to values at once.
        seed: random seed of the resamples.
    """
    names = list(dict.fromkeys(name for one in rounds for name in one))
    if not names:
        return Measure(math.nan)
    places = {name: place for place, name in enumerate(names)}
    table = np.zeros((len(rounds), len(names), len(next(iter(next(filter(None, rounds)).values())))))
    for row, one in enumerate(rounds):
        for name, parts in one.items():
            table[row, places[name]] = parts
    sums = np.einsum("dr,du,rup->dp", *_draw_weights(seed, len(rounds), len(names)), table, optimize=True)
    found = value(sums)
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(value(table.sum((0, 1))[None])[0]), low, high, float(np.nanstd(found, ddof=1)), len(names))


def bootstrap_mean(rounds: Sequence[Mapping[str, float]], seed: int = 0) -> Measure:
    """Return the mean over units and rounds, without NaN values.

    >>> found = bootstrap_mean([{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": float("nan")}])
    >>> round(found.value, 3), found.units
    (0.667, 2)
    """
    kept = [{name: (value, 1.0) for name, value in one.items() if not math.isnan(value)} for one in rounds]
    return bootstrap_pooled(kept, _compute_means, seed)


def _compute_means(sums: Float[np.ndarray, "draws parts"]) -> Float[np.ndarray, " draws"]:
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), math.nan), where=sums[:, 1] > 0)


# All scores of one describer use the same resamples.
@lru_cache(maxsize=4)
def _draw_weights(
    seed: int, rounds: int, units: int
) -> tuple[Float[np.ndarray, "draws rounds"], Float[np.ndarray, "draws units"]]:
    rng = np.random.default_rng(seed)
    return _draw_counts(rng, rounds), _draw_counts(rng, units)


def _draw_counts(rng: np.random.Generator, count: int) -> Float[np.ndarray, "draws count"]:
    """Return how often each item is drawn in each resample."""
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def make_random_cycle(count: int, rng: np.random.Generator) -> Int[np.ndarray, " items"]:
    """Return another item for each item, along one random cycle of all; a single item is its own.

    >>> make_random_cycle(4, np.random.default_rng(0)).tolist()
    [2, 0, 3, 1]
    """
    order = rng.permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[order] = np.roll(order, 1)
    return others

"""What raters said of descriptions: which responses are valid, how raters are put together, and how far they agree."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from milan.experiments.core.form_answers import RaterAnswers
from milan.experiments.study.forms import StudyKey
from milan.scores.confidence_intervals import Measure, estimate_mean, estimate_share
from milan.storage.text_files import CsvTable
from milan.units import Unit

LEVEL_ITERATIONS = 200  # of alternating means, for raters' levels; a few suffice


@dataclass(frozen=True)
class Response:
    """What one rater said of one unit's descriptions.

    Attributes:
        ratings: 1 (strongly disagree) to 5 (strongly agree), by describer.
        best: who gave the description that was called best, or those that were; None where that was not asked.
    """

    rater: str
    unit: Unit
    ratings: Mapping[str, int]
    best: frozenset[str] | None = None

    @property
    def is_valid(self) -> bool:
        """Whether what was called best is among the highest rated (Describe-and-Dissect, A.1.6); so is all where it was
        not asked.
        """
        top = max(self.ratings.values())
        return self.best is None or all(self.ratings[name] == top for name in self.best)


def select_qualified(answers: Sequence[RaterAnswers], key: StudyKey) -> tuple[list[RaterAnswers], list[str]]:
    """Those who passed the test, every question of it, and the names of the others; all pass where there is none."""
    failed = [
        each.rater
        for each in answers
        if any(each.answers.get(id, {}).get("choice") != right for id, right in key.right.items())
    ]
    return [each for each in answers if each.rater not in failed], failed


def collect_responses(answers: Iterable[RaterAnswers], key: StudyKey) -> list[Response]:
    """Answers to a rating form as responses: a text that several describers gave counts for each of them."""
    found = []
    for each in answers:
        for id, given in each.answers.items():
            if id in key.options and "ratings" in given:
                names = key.options[id]
                ratings = {
                    name: level for level, several in zip(given["ratings"], names, strict=True) for name in several
                }
                best = frozenset(name for number in given["best"] for name in names[number])
                found.append(Response(each.rater, key.units[id], ratings, best if given["best"] else None))
    return found


def read_published_ratings(file: Path) -> list[Response] | None:
    """The responses in a table as Describe-and-Dissect published its ratings; None if the columns are of no such table.

    Columns: Layer, Unit, and of each describer ``NAME Label`` and, of each rater R, ``NAME R Rating``;
    ``Uninterpretable R`` and ``None R`` are TRUE where that rater could say nothing, and such responses are left out.

    Raises:
        BadInput: a row is not as the columns say.
    """
    table = CsvTable(file)
    raters = _list_raters(table.columns)
    if not {"Layer", "Unit"} <= set(table.columns) or not raters:
        return None
    by_row = table.parse(lambda row: [one for rater in raters if (one := _read_published_row(row, rater)) is not None])
    return [one for several in by_row for one in several]


def _list_raters(columns: Sequence[str]) -> list[str]:
    return sorted({name.split()[-2] for name in columns if name.endswith(" Rating")})


def _read_published_row(row: Mapping[str, str], rater: str) -> Response | None:
    if any(row.get(f"{flag} {rater}", "").upper() == "TRUE" for flag in ("Uninterpretable", "None")):
        return None
    end = f" {rater} Rating"
    ratings = {name.removesuffix(end): int(row[name]) for name in row if name.endswith(end) and row[name]}
    return Response(rater, Unit(f"layer{row['Layer']}", int(row["Unit"])), ratings) if ratings else None


def compute_mean_rating(responses: Sequence[Response], name: str, seed: int = 0) -> Measure:
    """The mean rating of a describer: of each unit the mean of its raters, then the mean of the units, which are drawn
    again.
    """
    return estimate_mean(
        _average_by_unit([(one.unit, float(one.ratings[name])) for one in responses if name in one.ratings]), seed
    )


def compute_adjusted_rating(responses: Sequence[Response], name: str, seed: int = 0) -> Measure:
    """The mean rating with each rater's own level taken off: what is left of a rating when how mild the rater is, is
    taken from it.

    A rating is taken as that of the unit's description plus the rater's level, by least squares; levels are nought on
    the mean.
    """
    level = compute_rater_levels(responses)
    return estimate_mean(
        _average_by_unit(
            [(one.unit, one.ratings[name] - level[one.rater]) for one in responses if name in one.ratings]
        ),
        seed,
    )


def compute_rater_levels(responses: Sequence[Response]) -> dict[str, float]:
    """How much higher than others each rater rates the same descriptions.

    >>> one, two = ({"a": 5, "b": 3}, {"a": 3, "b": 1})
    >>> found = compute_rater_levels([Response("mild", Unit("l", 0), one), Response("strict", Unit("l", 0), two)])
    >>> round(found["mild"], 6), round(found["strict"], 6)
    (1.0, -1.0)
    """
    cells = [(one.rater, (one.unit, name), float(rating)) for one in responses for name, rating in one.ratings.items()]
    raters = list(dict.fromkeys(who for who, _, _ in cells))
    numbers = {item: number for number, item in enumerate(dict.fromkeys(item for _, item, _ in cells))}
    who, what = (
        np.array(each) for each in zip(*((raters.index(rater), numbers[item]) for rater, item, _ in cells), strict=True)
    )
    value = np.array([rating for _, _, rating in cells])
    level = np.zeros(len(raters))
    for _ in range(LEVEL_ITERATIONS):
        quality = np.bincount(what, value - level[who]) / np.bincount(what)
        level = np.bincount(who, value - quality[what]) / np.bincount(who)
        level -= level.mean()
    return dict(zip(raters, level.tolist(), strict=True))


def compute_best_share(responses: Sequence[Response], name: str, seed: int = 0) -> Measure:
    """The share of responses in which the describer's text was called best; a tie counts in part for each in it."""
    pairs = [(one.unit, float(name in one.best) / len(one.best)) for one in responses if one.best]
    return estimate_mean(_average_by_unit(pairs), seed)


def compute_valid_share(responses: Sequence[Response]) -> Measure:
    return estimate_share([one.is_valid for one in responses])


def compute_krippendorff_alpha(responses: Sequence[Response]) -> float:
    """Krippendorff's α of the ratings, by the square of their difference: 1 where raters agree, 0 where they might as
    well have drawn lots.

    NaN where no description has two raters, or all ratings are the same.

    >>> def rates(rater, *compute_rater_levels):
    ...     return [Response(rater, Unit("l", place), {"a": level}) for place, level in enumerate(compute_rater_levels)]
    >>> compute_krippendorff_alpha(rates("one", 1, 2, 5) + rates("two", 1, 2, 5)), round(compute_krippendorff_alpha(rates("one", 1, 5) + rates("two", 5, 1)), 3)
    (1.0, -0.5)
    """
    items: dict[tuple[Unit, str], list[float]] = {}
    for one in responses:
        for name, rating in one.ratings.items():
            items.setdefault((one.unit, name), []).append(float(rating))
    several = [np.array(values) for values in items.values() if len(values) > 1]
    if not several:
        return math.nan
    everything = np.concatenate(several)
    within = sum(2 * len(values) * _sum_of_squares(values) / (len(values) - 1) for values in several) / len(everything)
    between = 2 * len(everything) * _sum_of_squares(everything) / (len(everything) - 1) / len(everything)
    return 1 - float(within) / float(between) if between > 0 else math.nan


def _sum_of_squares(values: Float[np.ndarray, " n"]) -> float:
    """The sum of squares about the mean."""
    return float(((values - values.mean()) ** 2).sum())


def _average_by_unit(pairs: Iterable[tuple[Unit, float]]) -> list[float]:
    """The mean of each unit's values."""
    found: dict[Unit, list[float]] = {}
    for unit, value in pairs:
        found.setdefault(unit, []).append(value)
    return [float(np.mean(values)) for values in found.values()]

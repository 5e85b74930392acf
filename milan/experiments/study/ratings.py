"""Ratings of descriptions: which responses are valid, how raters are averaged, and how far they agree."""

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

# Of alternating means for raters' levels; a few suffice.
LEVEL_ITERATIONS = 200


@dataclass(frozen=True)
class Response:
    """One rater's ratings of one unit's descriptions.

    Attributes:
        ratings: 1 (strongly disagree) to 5 (strongly agree), by describer.
        best: the describers of the best descriptions; None if the form did not ask for the best.
    """

    rater: str
    unit: Unit
    ratings: Mapping[str, int]
    best: frozenset[str] | None = None

    @property
    def is_valid(self) -> bool:
        """Whether all best descriptions are among the highest rated (Describe-and-Dissect, A.1.6); true if there are
        none.
        """
        top = max(self.ratings.values())
        return self.best is None or all(self.ratings[name] == top for name in self.best)


def select_qualified(answers: Sequence[RaterAnswers], key: StudyKey) -> tuple[list[RaterAnswers], list[str]]:
    """Return the raters who passed every question of the test, and the names of the others."""
    failed = [
        each.rater
        for each in answers
        if any(each.answers.get(id, {}).get("choice") != right for id, right in key.right.items())
    ]
    return [each for each in answers if each.rater not in failed], failed


def collect_responses(answers: Iterable[RaterAnswers], key: StudyKey) -> list[Response]:
    """Return answers to a rating form as responses; a text of several describers counts for each of them."""
    responses = []
    for each in answers:
        for id, given in each.answers.items():
            if id in key.options and "ratings" in given:
                names = key.options[id]
                ratings = {
                    name: level for level, several in zip(given["ratings"], names, strict=True) for name in several
                }
                best = frozenset(name for number in given["best"] for name in names[number])
                responses.append(Response(each.rater, key.units[id], ratings, best if given["best"] else None))
    return responses


def read_published_ratings(file: Path) -> list[Response] | None:
    """Return the responses in a table in the format of Describe-and-Dissect; None for another table.

    Its columns are Layer, Unit, ``NAME Label`` for each describer, and ``NAME R Rating`` for each rater R. Responses
    are left out where ``Uninterpretable R`` or ``None R`` is TRUE.

    Raises:
        BadInput: a row has values of another type.
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
    """Return the mean rating of a describer: a mean over the raters of each unit, then over units."""
    ratings = [(one.unit, float(one.ratings[name])) for one in responses if name in one.ratings]
    return estimate_mean(_average_by_unit(ratings), seed)


def compute_adjusted_rating(responses: Sequence[Response], name: str, seed: int = 0) -> Measure:
    """Return the mean rating of a describer, without the level of each rater (``compute_rater_levels``)."""
    level = compute_rater_levels(responses)
    ratings = [(one.unit, one.ratings[name] - level[one.rater]) for one in responses if name in one.ratings]
    return estimate_mean(_average_by_unit(ratings), seed)


def compute_rater_levels(responses: Sequence[Response]) -> dict[str, float]:
    """Return how much higher than others each rater rates the same descriptions.

    A rating is modelled as a value of the description plus the rater's level, by least squares; the mean level is 0.

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
    """Return the share of responses in which a describer's text is the best; ties count in part."""
    pairs = [(one.unit, float(name in one.best) / len(one.best)) for one in responses if one.best]
    return estimate_mean(_average_by_unit(pairs), seed)


def compute_valid_share(responses: Sequence[Response]) -> Measure:
    """Return the share of responses that are valid."""
    return estimate_share([one.is_valid for one in responses])


def compute_krippendorff_alpha(responses: Sequence[Response]) -> float:
    """Return Krippendorff's α of the ratings with squared differences: 1 for perfect agreement, 0 for chance.

    It is NaN if no description has two raters, or if all ratings are the same.

    >>> def rate(rater, *levels):
    ...     return [Response(rater, Unit("l", place), {"a": level}) for place, level in enumerate(levels)]
    >>> agreed, opposed = rate("one", 1, 2, 5) + rate("two", 1, 2, 5), rate("one", 1, 5) + rate("two", 5, 1)
    >>> compute_krippendorff_alpha(agreed), round(compute_krippendorff_alpha(opposed), 3)
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
    """Return the sum of squared deviations from the mean."""
    return float(((values - values.mean()) ** 2).sum())


def _average_by_unit(pairs: Iterable[tuple[Unit, float]]) -> list[float]:
    """Return the mean of each unit's values."""
    values_by_unit: dict[Unit, list[float]] = {}
    for unit, value in pairs:
        values_by_unit.setdefault(unit, []).append(value)
    return [float(np.mean(values)) for values in values_by_unit.values()]

"""Groups of units with similar descriptions (Describe-and-Dissect, section 5.1), and how often words occur (5.3)."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from milan.language.text_parsing import POS_GROUPS, parse_texts
from milan.units import Description, Unit

MIN_SIMILARITY = 0.8  # similarity from which on two units are alike (section 5.1)
_TERM_TAGS = POS_GROUPS["noun"] | POS_GROUPS["verb"] | POS_GROUPS["adjective"]


def compute_similarities(
    text_rows: Sequence[Sequence[int]], vectors: Float[np.ndarray, "texts features"]
) -> Float[np.ndarray, "units units"]:
    """Return the similarity of every two units: the mean cosine between their texts.

    Args:
        text_rows: the rows of each unit's texts.
        vectors: of the texts, of unit length.

    >>> compute_similarities([[0], [0, 1]], np.eye(2)).tolist()
    [[1.0, 0.5], [0.5, 0.5]]
    """
    means = np.stack(
        [vectors[list(rows)].mean(0) for rows in text_rows]
    )  # the mean of products is the product of means
    return means @ means.T


def group_units(
    similarity: Float[np.ndarray, "units units"], min_similarity: float = MIN_SIMILARITY
) -> list[list[int]]:
    """Return groups of units in which every two are at least this similar, largest first; each unit is in one group.

    Complete linkage: the paper says neither in which order units are put into groups nor which of several takes a unit.

    >>> group_units(np.array([[1, 0.9, 0.1], [0.9, 1, 0.85], [0.1, 0.85, 1]]))
    [[0, 1], [2]]
    """
    count = len(similarity)
    if count < 2:
        return [[unit] for unit in range(count)]
    apart = np.clip(1 - (similarity + similarity.T) / 2, 0, None)
    np.fill_diagonal(apart, 0)
    numbers = fcluster(linkage(squareform(apart, checks=False), "complete"), 1 - min_similarity + 1e-9, "distance")
    groups: dict[int, list[int]] = {}
    for unit, number in enumerate(numbers):
        groups.setdefault(int(number), []).append(unit)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def collect_texts(description: Description, max_texts: int) -> list[str]:
    """Return the description and its best candidates, up to ``max_texts`` different texts."""
    return list(dict.fromkeys([description.text, *(each.text for each in description.candidates if each.text)]))[
        :max_texts
    ]


def index_terms(texts: Mapping[Unit, str], language: str = "") -> dict[str, list[Unit]]:
    """Return the units in whose description each noun, verb and adjective occurs, by frequency, then alphabet."""
    readings = parse_texts(texts.values(), language)
    found: dict[str, list[Unit]] = {}
    for unit, text in texts.items():
        words = zip(readings[text].words, readings[text].pos_tags, strict=True)
        for word in dict.fromkeys(word for word, part in words if part in _TERM_TAGS):
            found.setdefault(word, []).append(unit)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def find_units_with(texts: Mapping[Unit, str], words: Sequence[str], language: str = "") -> list[Unit]:
    """Return the units whose description contains one of the words, as a whole word, ignoring case."""
    readings, wanted = parse_texts(texts.values(), language), {word.lower() for word in words}
    return [unit for unit, text in texts.items() if wanted & set(readings[text].words)]


def find_most_common(texts: Sequence[str]) -> str:
    """Return the most frequent text; the first one of equals.

    >>> find_most_common(["cars", "red cars", "red cars"])
    'red cars'
    """
    return Counter(texts).most_common(1)[0][0]

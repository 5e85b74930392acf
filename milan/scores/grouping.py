"""Units that are said to do the same, grouped (Describe-and-Dissect, section 5.1), and how often terms occur in what is said (5.3)."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from milan.language.reading import PARTS, read
from milan.units import Description, Unit

LIKE = 0.8  # similarity from which on two units are alike (section 5.1)
_COUNTED = PARTS["noun"] | PARTS["verb"] | PARTS["adjective"]


def similarities(said: Sequence[Sequence[int]], vectors: Float[np.ndarray, "texts features"]) -> Float[np.ndarray, "units units"]:
    """S of every two units: the mean cosine between a text of the one and a text of the other.

    Args:
        said: the rows of each unit's texts.
        vectors: of the texts, of unit length.

    >>> similarities([[0], [0, 1]], np.eye(2)).tolist()
    [[1.0, 0.5], [0.5, 0.5]]
    """
    means = np.stack([vectors[list(rows)].mean(0) for rows in said])  # the mean of products is the product of means
    return means @ means.T


def grouped(similarity: Float[np.ndarray, "units units"], least: float = LIKE) -> list[list[int]]:
    """Groups of units in which every two are at least that similar, each unit in one of them; largest first.

    Complete linkage: the paper says neither in which order units are put into groups nor which of several takes a unit.

    >>> grouped(np.array([[1, 0.9, 0.1], [0.9, 1, 0.85], [0.1, 0.85, 1]]))
    [[0, 1], [2]]
    """
    count = len(similarity)
    if count < 2:
        return [[unit] for unit in range(count)]
    apart = np.clip(1 - (similarity + similarity.T) / 2, 0, None)
    np.fill_diagonal(apart, 0)
    numbers = fcluster(linkage(squareform(apart, checks=False), "complete"), 1 - least + 1e-9, "distance")
    groups: dict[int, list[int]] = {}
    for unit, number in enumerate(numbers):
        groups.setdefault(int(number), []).append(unit)
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def texts_of(description: Description, most: int) -> list[str]:
    """The description, and its best candidates until there are ``most`` different texts."""
    return list(dict.fromkeys([description.text, *(each.text for each in description.candidates if each.text)]))[:most]


def term_units(texts: Mapping[Unit, str], language: str = "") -> dict[str, list[Unit]]:
    """The units in whose description each noun, verb and adjective occurs, the commonest first, then by alphabet."""
    readings = read(texts.values(), language)
    found: dict[str, list[Unit]] = {}
    for unit, text in texts.items():
        words = zip(readings[text].words, readings[text].parts, strict=True)
        for word in dict.fromkeys(word for word, part in words if part in _COUNTED):
            found.setdefault(word, []).append(unit)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def having(texts: Mapping[Unit, str], words: Sequence[str], language: str = "") -> list[Unit]:
    """The units whose description has one of the words, whole and in capitals or not."""
    readings, wanted = read(texts.values(), language), {word.lower() for word in words}
    return [unit for unit, text in texts.items() if wanted & set(readings[text].words)]


def commonest(texts: Sequence[str]) -> str:
    """The text that most of them are; of equals the first.

    >>> commonest(["cars", "red cars", "red cars"])
    'red cars'
    """
    return Counter(texts).most_common(1)[0][0]

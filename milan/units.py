"""The central types of the package: a unit, its exemplars and its description."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from milan.errors import BadInput

NUMBER_PATTERN = r"\d+(?:\.\d+)?(?:e-?\d+)? "  # a weight before its concept
WEIGHT_PATTERN = re.compile(rf"(-?){NUMBER_PATTERN}\S")


@dataclass(frozen=True, order=True)
class Unit:
    """One unit of a network: a channel, feature or direction of a layer.

    >>> str(Unit("layer4", 17)), Unit.parse("layer4:17")
    ('layer4:17', Unit(layer='layer4', index=17))
    """

    layer: str  # dotted path of the module, e.g. "layer4.1.conv2"
    index: int  # channel, from 0

    def __str__(self) -> str:
        return f"{self.layer}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Unit":
        """Return the unit of a text ``LAYER:INDEX``.

        Raises:
            BadInput: the text has another form.
        """
        layer, colon, index = text.rpartition(":")
        if not colon or not layer or not index.isdecimal():
            raise BadInput(f"not a unit: {text!r}; write LAYER:INDEX, as in layer4:17")
        return cls(layer, int(index))


def as_unit(unit: Unit | str) -> Unit:
    """Return a unit that may be given as text.

    >>> as_unit("layer4:17") == as_unit(Unit("layer4", 17))
    True

    Raises:
        BadInput: the text has not the form ``LAYER:INDEX``.
    """
    return Unit.parse(unit) if isinstance(unit, str) else unit


def group_by_layer(units: Iterable[Unit | str]) -> dict[str, list[int]]:
    """Return the indices of units by their layer, in order.

    >>> group_by_layer(["conv1:3", Unit("fc", 0), "conv1:1"])
    {'conv1': [3, 1], 'fc': [0]}
    """
    indices: dict[str, list[int]] = {}
    for unit in map(as_unit, units):
        indices.setdefault(unit.layer, []).append(unit.index)
    return indices


@dataclass(frozen=True, eq=False)
class Exemplars:
    """The k probe images that activate a unit most, strongest first."""

    unit: Unit
    images: UInt8[Tensor, "k 3 height width"]  # pixels 0..255, before any normalisation
    masks: Bool[Tensor, "k 1 height width"]  # True where the upsampled activation exceeds the unit's threshold
    activations: Float[Tensor, " k"]  # peak activation in each image, in the target's own scale
    ids: Int[Tensor, " k"]  # row of each image in the probe

    def _repr_html_(self) -> str:
        from milan.console.notebook import render_exemplars

        return render_exemplars(str(self.unit), self.images, self.masks, self.activations)


@dataclass(frozen=True)
class Description:
    """A describer's description of a unit."""

    unit: Unit
    text: str
    score: float  # larger is better; scales differ between describers
    concepts: tuple[tuple[str, float], ...] = ()  # weighted parts that add up (Linear Explanations)
    bias: float = 0.0
    # The texts that were scored, best first, with the chosen one.
    candidates: tuple["Candidate", ...] = field(default=(), repr=False)
    # The describer's intermediate results as plain values, which the page shows.
    reasoning: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def _repr_html_(self) -> str:
        from milan.console.notebook import render_description

        candidates = [(each.text, each.score) for each in self.candidates]
        return render_description(str(self.unit), self.text, self.score, self.concepts, candidates)


@dataclass(frozen=True)
class Candidate:
    """A text that was considered as a description, with its scores."""

    text: str
    score: float
    parts: tuple[tuple[str, float], ...] = ()  # terms of the score by name: likelihood, prior, pmi


def weighted_sum(parts: Sequence[tuple[str, float]]) -> str:
    """Return weighted concepts as text.

    >>> weighted_sum([("dog", 0.62), ("grass", 0.3148), ("cat", -0.0123)])
    '0.62 dog + 0.31 grass - 0.012 cat'
    """
    terms = [f"{'-' if weight < 0 else '+'} {_two_digits(abs(weight))} {name}" for name, weight in parts]
    text = " ".join(terms)
    return text[2:] if text.startswith("+ ") else text.replace("- ", "-", 1)


def split_weighted_sum(text: str) -> list[tuple[str, float]]:
    """Return the parts of a weighted sum, the inverse of ``weighted_sum``; any other text itself with weight 1.

    The scale of a single term does not matter, so that "3 dogs" has weight 1.

    >>> split_weighted_sum("0.62 dog - 0.31 tall grass"), split_weighted_sum("dog or cat")
    ([('dog', 0.62), ('tall grass', -0.31)], [('dog or cat', 1.0)])
    """
    if not WEIGHT_PATTERN.match(text):
        return [(text, 1.0)]
    parts = re.split(rf"(?:^| )([+-]? ?)(?={NUMBER_PATTERN})", text)[1:]
    terms = []
    for sign, part in zip(parts[::2], parts[1::2], strict=True):
        number, _, words = part.partition(" ")
        terms.append((words, float(number) * (-1 if "-" in sign else 1)))
    return terms if len(terms) > 1 else [(words, math.copysign(1.0, weight)) for words, weight in terms]


def _two_digits(weight: float) -> str:
    return f"{weight:.2f}" if weight >= 0.095 or weight == 0 else f"{weight:.2g}"

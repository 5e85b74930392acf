"""Ranges of units in text, as 0-99 or layer4:17. This module does not import torch."""

import re
from collections.abc import Iterable, Iterator

from milan.errors import BadInput


def parse_unit_ranges(text: str, layers: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Yield each ``LAYER:FIRST-LAST`` of a list, in which the layer and the last may be omitted.

    Layer names may contain commas and colons; the longest name that matches is used.
    """
    names = "|".join(re.escape(layer) for layer in sorted(layers, key=len, reverse=True))
    part = re.compile(rf"\s*(?:({names}|[^,]+):)?(\d+)(?:-(\d+))?\s*(?:,|$)")
    place = 0
    while place < len(text):
        match = part.match(text, place)
        if not match or int(match[3] or match[2]) < int(match[2]):
            raise BadInput(f"not units: {text[place:].partition(',')[0].strip()!r}; write 0-99 or 3,17 or LAYER:0-9")
        yield match[1] or "", int(match[2]), int(match[3] or match[2])
        place = match.end()

"""Class labels from tables and callers: numbers, names or booleans, one for each image."""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, MilanWarning

UNKNOWN = -1  # the label of an image of unknown class, as in the test splits of public datasets
# PyTorch's losses ignore the label -100.
UNKNOWN_LABELS = (UNKNOWN, -100)
# More class names would fill the memory; ImageNet-21k has 21,841 classes, Google Landmarks 203,094.
MAX_CLASSES = 2**20
# WordNet ids, which are ImageNet's names of its classes.
WNID_PATTERN = re.compile(r"n\d{8}")
DIGITS = re.compile(r"0|-?[1-9]\d{0,18}")


class ClassLabels(NamedTuple):
    """The class of each image.

    Attributes:
        labels: class numbers from 0, -1 where unknown; None if no image has a label.
        classes: names by number, or None.
    """

    labels: list[int] | None = None
    classes: list[str] | None = None


def class_labels(values: Iterable[Any], declared: Sequence[str] | None = None) -> ClassLabels:
    """Return labels as class numbers.

    Whole numbers, also as floats or digits, are class numbers. Other texts, and booleans, are class names, numbered by
    ``declared`` or else in alphabetical order. Missing values, empty texts, -1 and -100 mean that the class is unknown.

    Args:
        values: one label for each image.
        declared: class names by number, if they are known.

    Raises:
        BadInput: a label is neither number nor name, or not the number of a class; the message names it and its row.
    """
    given = [_plain(value) for value in values]
    distinct = {value for value in given if value is not None}
    classes = list(declared) if declared else None
    if not distinct:
        return ClassLabels(None, classes)
    numbers: dict[int | str | None, int] = {None: UNKNOWN}
    names = {value for value in distinct if isinstance(value, str)}
    if names == distinct and not all(map(DIGITS.fullmatch, names)):
        classes = classes if classes and names <= set(classes) else sorted(names)
        numbers |= {name: number for number, name in enumerate(classes)}
    else:
        numbers |= {value: _number(value, given, len(classes) if classes else MAX_CLASSES) for value in distinct}
    labels = [numbers[value] for value in given]
    return ClassLabels(labels if any(label != UNKNOWN for label in labels) else None, classes)


def usable_labels(values: Iterable[Any], declared: Sequence[str] | None, where: str) -> ClassLabels:
    """Return ``class_labels``, or none with a warning if a table's column does not hold labels."""
    try:
        return class_labels(values, declared)
    except BadInput as error:
        warnings.warn(f"the labels of {where} are not used: {error}", MilanWarning, stacklevel=3)
        return ClassLabels(None, list(declared) if declared else None)


def names_by_label(labels: Sequence[int], names: Sequence[Any]) -> list[str] | None:
    """Return class names by label from a table with both; None if they disagree or a label has no name."""
    pairs = {(label, name) for label, name in zip(labels, names, strict=True) if label != UNKNOWN}
    name_of = dict(pairs)
    if len(name_of) < len(pairs) or any(not isinstance(name, str) for name in name_of.values()):
        return None
    return [name_of.get(label, str(label)) for label in range(max(name_of, default=-1) + 1)] or None


def wordnet_ids(classes: Sequence[str] | None) -> list[str] | None:
    """Return the classes' names if all are WordNet ids, as in ImageNet's folders."""
    return list(classes) if classes and all(WNID_PATTERN.fullmatch(name) for name in classes) else None


def _plain(value: Any) -> int | str | None:
    """Return a label as a class number or a name; None for an unknown class."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and (math.isnan(value) or value.is_integer()):
        value = None if math.isnan(value) else int(value)
    if value is None or value == "" or value in UNKNOWN_LABELS:
        return None
    if isinstance(value, int | str):
        return value
    raise BadInput(
        f"{clean_text(str(value))[:60]} is of the type {type(value).__name__}, neither a class number nor a name"
    )


def _number(value: int | str, given: Sequence[int | str | None], end: int) -> int:
    """Return a label as a class number below ``end``."""
    number = int(value) if isinstance(value, int) or DIGITS.fullmatch(value) else None
    if number in UNKNOWN_LABELS:
        return UNKNOWN
    if number is not None and 0 <= number < end:
        return number
    what = f"label {str(value)[:60]!r} in row {given.index(value)}"
    raise BadInput(f"{what} is not a class number from 0 to {end - 1}, nor -1 for unknown")

"""Tables of descriptions that others published, read as descriptions: MILAN, CLIP-Dissect, Network Dissection, Describe-and-Dissect.

Each is recognised by its columns, whatever the file's name:

| table | columns | unit | score | candidates |
| --- | --- | --- | --- | --- |
| MILAN | layer, unit, description | from 0 | none | none |
| CLIP-Dissect | layer, unit, description, similarity | from 0 | similarity | none |
| Network Dissection | unit, category, label, score, KIND-label, KIND-iou ... | **from 1** | IoU | the best of each kind, by IoU |
| Describe-and-Dissect | Neuron ID, label; or Neuron ID, Label 1, Label 2, ... | from 0 | none | the labels, best first |

Units come out as from 0 everywhere; a score that was not published is NaN. The last two do not say which layer they are of: it is what
follows the last ``_`` in the file's name (``dnd_layer4.csv``), or the whole name (``layer4.csv``), unless it is given.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from milan.errors import BadInput
from milan.tables import read_known
from milan.units import Candidate, Description, Unit

Row = dict[str, str]
NEURON = "Neuron ID"
LABEL = re.compile(r"label(?: \d+)?", re.IGNORECASE)
KIND = re.compile(r"-[cs]$")  # how Broden marks colours and scenes: purple-c, dining_room-s


def published_descriptions(file: Path, layer: str = "") -> list[Description] | None:
    """The descriptions in a published table, in its order; None if the columns are of none that is known.

    Args:
        file: a CSV file.
        layer: of the units, where the table does not say and the file's name does not tell.

    Raises:
        BadInput: the columns are those of a known table, but a row is not.
    """
    if file.suffix != ".csv":
        return None
    table = read_known(file, _reader)
    if table is None:
        return None
    columns, rows = table
    read = _reader(columns)
    assert read is not None
    found = []
    for number, row in enumerate(rows, start=2):
        try:
            described = read(row, layer or file.stem.rpartition("_")[2])
        except (TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{file}, line {number}, is not a row of such a table: {error}") from None
        found += [described] if described.text else []  # a unit without a label has no description
    return found


def _reader(columns: Sequence[str]) -> Callable[[Row, str], Description] | None:
    known = set(columns)
    if known in ({"layer", "unit", "description"}, {"layer", "unit", "description", "similarity"}):
        return _named_layer
    if {"unit", "category", "label", "score"} <= known:
        return _network_dissection
    if NEURON in known and known - {NEURON} and all(LABEL.fullmatch(name) for name in known - {NEURON}):
        return _describe_and_dissect
    return None


def _named_layer(row: Row, layer: str) -> Description:
    return Description(Unit(row["layer"], int(row["unit"])), row["description"].strip(), float(row.get("similarity") or math.nan))


def _network_dissection(row: Row, layer: str) -> Description:
    index = int(row["unit"]) - 1
    if index < 0:
        raise ValueError("unit 0, where Network Dissection counts from 1")
    categories = [name.removesuffix("-label") for name in row if name.endswith("-label")]
    found = [(_plain(row[f"{name}-label"]), float(row[f"{name}-iou"])) for name in categories if row[f"{name}-label"]]
    best = sorted(found, key=lambda one: -one[1])
    text, score = _plain(row["label"]), float(row["score"])
    return Description(Unit(layer, index), text, score, candidates=tuple(Candidate(*one) for one in best or [(text, score)]))


def _describe_and_dissect(row: Row, layer: str) -> Description:
    names = sorted(name for name in row if name != NEURON)
    labels = [label for name in names if (label := row[name].strip())]
    candidates = tuple(Candidate(label, math.nan) for label in labels) if len(names) > 1 else ()
    return Description(Unit(layer, int(row[NEURON])), labels[0] if labels else "", math.nan, candidates=candidates)


def _plain(label: str) -> str:
    """A label of Broden as words.

    >>> _plain("purple-c"), _plain("dining_room-s"), _plain("bow_window-outdoor-s")
    ('purple', 'dining room', 'bow window outdoor')
    """
    return KIND.sub("", label).replace("_", " ").replace("-", " ").strip()

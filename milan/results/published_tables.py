"""Tables of descriptions that others published, read as descriptions.

Each is recognised by its columns, whatever the file's name:

| table | columns | score | candidates |
| --- | --- | --- | --- |
| MILAN | layer, unit, description | none | none |
| CLIP-Dissect | layer, unit, description, similarity | similarity | none |
| Network Dissection | unit (**from 1**), category, label, score, KIND-label, KIND-iou, ... | IoU | best of each kind |
| Describe-and-Dissect | Neuron ID, label; or Neuron ID, Label 1, Label 2, ... | none | the labels, best first |
| Linear Explanations | layer, unit, val correlation, weight0, concept0, ..., bias | val correlation | with all scores |
| its baselines | unit, description, sim correlation, ... | sim correlation | with all scores |
| INVERT (in CoSy) | neuron, concept, concept_id, metric | metric (AUC) | none |
| FALCON (in CoSy) | group, Unnamed: 0, concept_set_words, concept_set_noun_phrases | the phrase's | the noun phrases |

Units are numbered from 0 in what is returned; a score that was not published is NaN. A table without a layer column
belongs to the layer in the file's name, unless one is given: what follows the name of the data set
(``vit_b_16_imagenet_encoder.csv``), else what follows the last ``_`` or ``-`` (``dnd_layer4.csv``,
``resnet18-layer2.csv``), else the whole name (``layer4.csv``).
"""

import ast
import math
import re
from collections.abc import Callable, Sequence
from itertools import count, takewhile
from pathlib import Path

from milan.errors import BadInput
from milan.storage.text_files import CsvTable, whole_number
from milan.units import Candidate, Description, Unit, weighted_sum

CsvRow = dict[str, str]
NEURON_COLUMN = "Neuron ID"
LABEL_COLUMN_PATTERN = re.compile(r"label(?: \d+)?", re.IGNORECASE)
BRODEN_SUFFIX_PATTERN = re.compile(r"-[cs]$")  # how Broden marks colours and scenes: purple-c, dining_room-s
DATA_SET = re.compile(r"_(?:imagenet|places365|cifar100)_(.+)")  # Linear Explanations' files: NETWORK_DATASET_LAYER
EMPTY_SLOT = "0"  # the name of a concept where an explanation has fewer than the table has columns for


def read_published_descriptions(file: Path, layer: str = "") -> list[Description] | None:
    """Return the descriptions in a published table, in its order; None if the columns are of no known table.

    Args:
        file: a CSV file.
        layer: of the units, where the table has no layer column and the file's name does not tell it.

    Raises:
        BadInput: the columns are those of a known table, but a row does not fit them, or two rows are of one unit.
    """
    if file.suffix != ".csv":
        return None
    table = CsvTable(file)
    read = _find_reader(table.columns)
    if read is None:
        return None
    found = table.parse(lambda row: read(row, layer or layer_of(file)))
    seen: set[Unit] = set()
    for (line, _), described in zip(table.rows, found, strict=True):
        if described.unit in seen:
            raise BadInput(f"{file}, line {line}: unit {described.unit} is in the table twice")
        seen.add(described.unit)
    return [described for described in found if described.text]  # a unit without a label has no description


def layer_of(file: Path) -> str:
    """Return the layer that a published table's file is named for.

    >>> names = ("dnd_layer4.csv", "resnet18-layer2_original.csv", "vgg16_bn_cifar100_features[43].csv")
    >>> [layer_of(Path(name)) for name in names]
    ['layer4', 'layer2', 'features.43']
    """
    stem = file.stem.removesuffix("_original")
    return _dotted(found[1] if (found := DATA_SET.search(stem)) else re.split("[-_]", stem)[-1])


def _find_reader(columns: Sequence[str]) -> Callable[[CsvRow, str], Description] | None:
    known = set(columns)
    if known in ({"layer", "unit", "description"}, {"layer", "unit", "description", "similarity"}):
        return _read_named_layer
    if {"unit", "category", "label", "score"} <= known:
        return _read_network_dissection
    if (
        NEURON_COLUMN in known
        and known - {NEURON_COLUMN}
        and all(LABEL_COLUMN_PATTERN.fullmatch(name) for name in known - {NEURON_COLUMN})
    ):
        return _read_describe_and_dissect
    if {"layer", "unit", "val correlation", "weight0", "concept0", "bias"} <= known:
        return _linear_explanations
    if {"unit", "description", "sim correlation"} <= known and "layer" not in known:
        return _baseline
    if {"neuron", "concept", "metric"} <= known:
        return _invert
    if {"group", "concept_set_words", "concept_set_noun_phrases"} <= known:
        return _falcon
    return None


def _read_named_layer(row: CsvRow, layer: str) -> Description:
    # CoSy's tables of GPT-4's descriptions, resnet18_layerN.csv, write N for layerN.
    name = layer if layer == f"layer{row['layer']}" else row["layer"]
    if not name.strip():
        raise ValueError("no layer")
    unit, score = Unit(name, whole_number(row["unit"])), _number(row.get("similarity", ""))
    return Description(unit, row["description"].strip(), score)


def _read_network_dissection(row: CsvRow, layer: str) -> Description:
    index = whole_number(row["unit"]) - 1
    if index < 0:
        raise ValueError("unit 0, where Network Dissection counts from 1")
    categories = [name.removesuffix("-label") for name in row if name.endswith("-label")]
    found = [
        (_clean_broden_label(row[f"{name}-label"]), float(row[f"{name}-iou"]))
        for name in categories
        if row[f"{name}-label"]
    ]
    best = sorted(found, key=lambda one: -one[1])
    text, score = _clean_broden_label(row["label"]), float(row["score"])
    return Description(
        Unit(layer, index), text, score, candidates=tuple(Candidate(*one) for one in best or [(text, score)])
    )


def _read_describe_and_dissect(row: CsvRow, layer: str) -> Description:
    names = sorted(name for name in row if name != NEURON_COLUMN)
    labels = [label for name in names if (label := row[name].strip())]
    candidates = tuple(Candidate(label, math.nan) for label in labels) if len(names) > 1 else ()
    text = labels[0] if labels else ""
    return Description(Unit(layer, whole_number(row[NEURON_COLUMN])), text, math.nan, candidates=candidates)


def _linear_explanations(row: CsvRow, layer: str) -> Description:
    slots = takewhile(lambda place: row.get(f"concept{place}", EMPTY_SLOT) not in (EMPTY_SLOT, ""), count())
    parts = tuple((row[f"concept{place}"].strip(), float(row[f"weight{place}"])) for place in slots)
    text, score = weighted_sum(parts), _number(row["val correlation"])
    unit = Unit(_dotted(row["layer"]), whole_number(row["unit"]))
    return Description(unit, text, score, parts, float(row["bias"]), _with_other_scores(text, score, row))


def _baseline(row: CsvRow, layer: str) -> Description:
    text, score = row["description"].strip(), _number(row["sim correlation"])
    candidates = _with_other_scores(text, score, row)
    return Description(Unit(layer, whole_number(row["unit"])), text, score, candidates=candidates)


def _with_other_scores(text: str, score: float, row: CsvRow) -> tuple[Candidate, ...]:
    """The text as its only candidate, with the simulation and ablation scores of the row by their columns."""
    parts = tuple((name, _number(cell)) for name, cell in row.items() if name.startswith("sim "))
    return (Candidate(text, score, parts),) if parts else ()


def _invert(row: CsvRow, layer: str) -> Description:
    return Description(Unit(layer, whole_number(row["neuron"])), row["concept"].strip(), float(row["metric"]))


def _falcon(row: CsvRow, layer: str) -> Description:
    """The first noun phrase, as CoSy takes it; the first word where there is no phrase."""
    best = _scored(row["concept_set_noun_phrases"]) or _scored(row["concept_set_words"]) or [("", math.nan)]
    candidates = tuple(Candidate(text, score) for text, score in best)
    return Description(Unit(layer, whole_number(row["group"])), *best[0], candidates=candidates)


def _scored(cell: str) -> list[tuple[str, float]]:
    """The texts and scores of a Python list of pairs."""
    try:
        return [(str(text), float(score)) for text, score in ast.literal_eval(cell or "[]")]
    # Deep nesting raises one of the last three, depending on Python's version.
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{cell[:60]!r} is not a list of texts with scores") from None


def _number(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


def _dotted(layer: str) -> str:
    """A layer by its path among modules: Linear Explanations writes ``mlp[1]`` for ``mlp.1``."""
    return re.sub(r"\[(\d+)\]", r".\1", layer)


def _clean_broden_label(label: str) -> str:
    """A label of Broden as words.

    >>> _clean_broden_label("purple-c"), _clean_broden_label("dining_room-s"), _clean_broden_label(
    ...     "bow_window-outdoor-s")
    ('purple', 'dining room', 'bow window outdoor')
    """
    return BRODEN_SUFFIX_PATTERN.sub("", label).replace("_", " ").replace("-", " ").strip()

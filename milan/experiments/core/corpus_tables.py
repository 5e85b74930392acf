"""Statistics of the words of descriptions and annotations by layer, beside Table 5 of MILAN."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from milan.experiments.core.report import Column, Row, Table, Value
from milan.language import find_default_pipeline
from milan.scores.corpus_statistics import CorpusStatistics, compute_corpus_statistics
from milan.units import Unit

CORPUS_COLUMNS = (
    Column("units", "Number of units with a text."),
    Column("words", "Number of different words, in lower case."),
    Column("length", "Mean number of words of a text, without punctuation.", "", 1),
    Column("nouns", "Share of all words that are nouns or names.", "%", 1),
    Column("adjectives", "Share of all words that are adjectives.", "%", 1),
    Column("prepositions", "Share of all words that are adpositions.", "%", 1),
)
# Table 5, ResNet152-ImageNet: units, words, length, and the percentages of nouns, adjectives and prepositions.
PAPER_TABLE_5: dict[str, tuple[int, int, float, float, float, float]] = {
    "conv1": (64, 285, 4.7, 43.8, 11.8, 10.3),
    "layer1": (256, 653, 5.5, 43.1, 10.5, 12.5),
    "layer2": (512, 936, 5.1, 44.0, 12.7, 12.6),
    "layer3": (1024, 1222, 4.2, 49.6, 10.9, 11.3),
    "layer4": (2048, 1728, 4.6, 47.8, 8.6, 7.8),
}
PAPER_NOTE = (
    "In grey, MILAN's Table 5 of the same annotations of ResNet152-ImageNet. The paper does not say with which pipeline"
    " of spaCy, nor how. Its numbers of words result if singular and plural count once (here each form counts), its"
    " nouns without names (here names count); of words in -ing and -ed another pipeline takes more for adjectives and"
    " fewer for verbs."
)


def make_words_table(texts: Mapping[Unit, str], language: str) -> Table:
    """Return the statistics of one describer's texts, as Table 6 of the paper.

    Args:
        language: the spaCy pipeline; empty for the default one.
    """
    statistics = _compute({unit: [text] for unit, text in texts.items()}, language)
    rows = tuple(Row(layer, _make_cells(each)) for layer, each in statistics.items())
    return Table("words of the descriptions", CORPUS_COLUMNS, rows, "layer")


def make_split_words_table(texts: Mapping[str, Sequence[str]], language: str = "") -> Table:
    """Return the statistics of the texts of each split of networks and of all together, as Table 6 of the paper."""
    numbered = {Unit(split, index): [text] for split, own in texts.items() for index, text in enumerate(own)}
    rows = tuple(Row(split, _make_cells(each)) for split, each in _compute(numbered, language).items())
    return Table("words of the descriptions", CORPUS_COLUMNS, rows, "split")


def make_annotation_tables(file: Path | None, language: str) -> tuple[list[Table], list[str]]:
    """Return the statistics of annotations, as Table 5 of the paper, and notes; nothing without a file."""
    if file is None:
        return [], []
    from milan.dissection.milannotations import read_unit_annotations

    statistics = _compute(read_unit_annotations(file), language)
    published = _find_published(statistics)
    rows = []
    for layer in (*sorted(layer for layer in statistics if layer != "total"), "total"):
        rows.append(Row(layer, _make_cells(statistics[layer])))
        if layer in published:
            rows.append(Row(f"{layer}, in the paper", published[layer], "floor"))
    return [Table("words of the annotations", CORPUS_COLUMNS, tuple(rows), "layer")], [PAPER_NOTE] if published else []


def _compute(texts: Mapping[Unit, Sequence[str]], language: str) -> dict[str, CorpusStatistics]:
    return compute_corpus_statistics(texts, language or find_default_pipeline())


def _make_cells(each: CorpusStatistics) -> dict[str, Value]:
    return _make_row((each.units, each.words, each.length, each.nouns, each.adjectives, each.prepositions))


def _find_published(statistics: Mapping[str, CorpusStatistics]) -> dict[str, dict[str, Value]]:
    """Return the paper's values of these layers, if they are ResNet152's with the same numbers of units."""
    if any(layer not in statistics or statistics[layer].units != row[0] for layer, row in PAPER_TABLE_5.items()):
        return {}
    return {layer: _make_row(row) for layer, row in PAPER_TABLE_5.items()}


def _make_row(row: Sequence[int | float]) -> dict[str, Value]:
    """Return the values of ``CORPUS_COLUMNS``, of which the shares are given in percent."""
    units, words, length, *shares = row
    named = dict(zip(("nouns", "adjectives", "prepositions"), (share / 100 for share in shares), strict=True))
    return {"units": int(units), "words": int(words), "length": length, **named}

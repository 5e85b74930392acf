"""What the words of descriptions and of annotations are like, layer by layer, with what MILAN's Table 5 has of the same
annotations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from milan.experiments.core.report import Column, Row, Table, Value
from milan.language import find_default_pipeline
from milan.scores.corpus_statistics import CorpusStatistics, compute_corpus_statistics
from milan.units import Unit

CORPUS_COLUMNS = (
    Column("units", "Units that somebody said something of."),
    Column("words", "Different words, in small letters."),
    Column("length", "Words of a description on average, without punctuation.", "", 1),
    Column("nouns", "The share of all words that are nouns (names too).", "%", 1),
    Column("adjectives", "The share that are adjectives.", "%", 1),
    Column("prepositions", "The share that are adpositions.", "%", 1),
)
# Table 5, ResNet152-ImageNet: units, words, length, and the percentages of nouns, adjectives and prepositions
PAPER_TABLE_5: dict[str, tuple[int, int, float, float, float, float]] = {
    "conv1": (64, 285, 4.7, 43.8, 11.8, 10.3),
    "layer1": (256, 653, 5.5, 43.1, 10.5, 12.5),
    "layer2": (512, 936, 5.1, 44.0, 12.7, 12.6),
    "layer3": (1024, 1222, 4.2, 49.6, 10.9, 11.3),
    "layer4": (2048, 1728, 4.6, 47.8, 8.6, 7.8),
}
PAPER_NOTE = (
    "In grey, MILAN's Table 5 of the same annotations of ResNet152-ImageNet. The paper does not say which of spaCy's"
    " pipelines it counted with, nor how. Its numbers of words come out when singular and plural count once (here each"
    " form counts), its nouns when names (here nouns too) are left out; of words in -ing and -ed another pipeline takes"
    " more for adjectives and fewer for verbs."
)


def make_words_table(texts: Mapping[Unit, str], language: str) -> Table:
    """Of what one describer said, as the paper's Table 6."""
    found = compute_corpus_statistics(
        {unit: [text] for unit, text in texts.items()}, language or find_default_pipeline()
    )
    return Table(
        "words of the descriptions",
        CORPUS_COLUMNS,
        tuple(Row(layer, _make_cells(each)) for layer, each in found.items()),
        "layer",
    )


def make_annotation_tables(file: Path | None, language: str) -> tuple[list[Table], list[str]]:
    """Of what annotators said, as the paper's Table 5, and notes; nothing without annotations."""
    if file is None:
        return [], []
    from milan.dissection.milannotations import read_unit_annotations

    found = compute_corpus_statistics(read_unit_annotations(file), language or find_default_pipeline())
    layers = [*sorted(layer for layer in found if layer != "total"), "total"]
    published = _find_published(found)
    rows = []
    for layer in layers:
        rows.append(Row(layer, _make_cells(found[layer])))
        if layer in published:
            rows.append(Row(f"{layer}, in the paper", published[layer], "floor"))
    return [Table("words of the annotations", CORPUS_COLUMNS, tuple(rows), "layer")], [PAPER_NOTE] if published else []


def _make_cells(each: CorpusStatistics) -> dict[str, Value]:
    shares = {"nouns": each.nouns / 100, "adjectives": each.adjectives / 100, "prepositions": each.prepositions / 100}
    return {"units": each.units, "words": each.words, "length": each.length, **shares}


def _find_published(corpora: Mapping[str, CorpusStatistics]) -> dict[str, dict[str, Value]]:
    """What the paper has of these layers, if they are ResNet152's with its numbers of units."""
    if any(layer not in corpora or corpora[layer].units != row[0] for layer, row in PAPER_TABLE_5.items()):
        return {}
    return {layer: _make_row(row) for layer, row in PAPER_TABLE_5.items()}


def _make_row(row: Sequence[int | float]) -> dict[str, Value]:
    units, words, length, nouns, adjectives, prepositions = row
    shares = {"nouns": nouns / 100, "adjectives": adjectives / 100, "prepositions": prepositions / 100}
    return {"units": int(units), "words": int(words), "length": length, **shares}

"""Corpus statistics, counted by hand, and on what Diorama's annotators said."""

import pytest

from milan.dissection.milannotations import read_unit_annotations
from milan.scores.corpus_statistics import compute_corpus_statistics, format_corpus_table
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit

SAID = {
    Unit("early", 0): ["red stripes", "Red things."],
    Unit("early", 3): ["a car at the bottom"],
    Unit("late", 1): ["a red car"],
}


def test_words_are_counted_by_layer_and_in_all() -> None:
    found = compute_corpus_statistics(SAID)
    assert list(found) == ["early", "late", "total"]
    early, late, total = found.values()
    assert (early.units, early.descriptions, early.words, early.length) == (
        2,
        3,
        8,
        3.0,
    )  # red stripes things a car at the bottom
    assert (early.nouns, early.adjectives, early.prepositions) == (44.4, 22.2, 11.1)  # 4, 2 and 1 of 9 words
    assert (late.units, late.words, late.length, late.nouns) == (1, 3, 3.0, 33.3)
    assert (total.units, total.descriptions, total.words, total.unknown) == (3, 4, 8, 0.0)


def test_words_that_nobody_knows_are_told() -> None:
    assert compute_corpus_statistics({Unit("layer", 0): ["a glorp"]})["layer"].unknown == 50.0


def test_nothing_said() -> None:
    assert compute_corpus_statistics({})["total"].length == 0


@pytest.mark.parametrize(
    "network",
    sorted(path.name for path in (locate_packaged_data("data") / "diorama" / "annotations").iterdir() if path.is_dir()),
)
def test_the_parts_of_speech_of_all_that_annotators_say_are_known(network: str) -> None:
    total = compute_corpus_statistics(
        read_unit_annotations(locate_packaged_data("data") / "diorama" / "annotations" / network)
    )["total"]
    assert total.unknown == 0
    assert total.nouns > total.adjectives > 5


def test_the_table_has_a_row_for_each_layer() -> None:
    lines = format_corpus_table({"net": compute_corpus_statistics(SAID)}).splitlines()
    assert lines[2] == "| net | early | 2 | 8 | 3.0 | 44.4 | 22.2 | 11.1 |"
    assert len(lines) == 5


def test_a_pipeline_counts_the_same_words_as_the_lexicon() -> None:
    assert compute_corpus_statistics(SAID, "ours")["early"] == compute_corpus_statistics(SAID)["early"]

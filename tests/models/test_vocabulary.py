"""Words to ids and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput
from milan.models.vocabulary import Vocabulary, detokenize, tokenize


@pytest.mark.parametrize(
    "text", ["", "   ", "\t\n", "…", "日本語 text", "a" * 10_000, "x " * 300, "don't", "dog's", "'s", "A-b/c (d)"]
)
def test_any_text_has_ids_and_an_end(text: str) -> None:
    vocabulary = Vocabulary.build([text], minimum=1)
    ids = vocabulary.encode(text)
    assert ids[-1] == vocabulary.stop
    assert tokenize(vocabulary.decode(ids)) == tokenize(text)


@given(st.lists(st.sampled_from(["red", "dots", ",", "-", "dog", ".", "(", ")"]), max_size=12))
def test_words_survive_being_written_as_text(words: list[str]) -> None:
    text = detokenize(words)
    assert tokenize(text) == words


def test_rare_words_are_unknown_and_the_order_is_by_frequency() -> None:
    vocabulary = Vocabulary.build(["b a", "b c c b", "a d"])
    assert vocabulary.words == ["b", "a", "c"]
    assert vocabulary.encode("d a") == [vocabulary.unk, 1, vocabulary.stop]
    assert vocabulary.decode([vocabulary.start, vocabulary.unk, 1, vocabulary.pad]) == "a"


def test_words_twice_or_special_are_refused() -> None:
    for words in (["a", "a"], ["<stop>"]):
        with pytest.raises(BadInput, match="differ"):
            Vocabulary(words)


def test_real_annotations_are_split_as_spacy_splits_them(shared_data: object) -> None:
    spacy = pytest.importorskip("spacy")
    english = spacy.blank("en").tokenizer
    texts = [
        text
        for said in read_unit_annotations(shared_data / "milannotations" / "resnet152_imagenet.csv").values()
        for text in said
    ]
    assert len(texts) == 11_712
    assert all(tokenize(text) == [word.text for word in english(text.lower()) if not word.is_space] for text in texts)

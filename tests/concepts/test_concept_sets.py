"""Concept sets and their harvest: what is in them, what is dropped, and what is reported of a name that nothing
answers to.
"""

import gzip
import json
import shutil
import warnings

import pytest
import torch

from milan.concepts.concept_sets import drop_long_texts, drop_near_duplicates, load_concept_set
from milan.concepts.harvest import (
    generate_diorama_sentences,
    harvest_phrases,
    iter_phrases,
    load_tagger,
    read_texts,
    train_tagger,
)
from milan.diorama.text_reader import parse_description
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.storage.files import cache_folder


def test_dioramas_set_has_single_concepts_pairs_and_settings():
    found = load_concept_set("diorama")
    assert {
        "red",
        "dots",
        "wheel",
        "night sky",
        "letter a",
        "animals",
        "red car",
        "striped car",
        "dotted house",
        "blue checks",
    } - set(found) == {"striped car"}  # it has the three directions of stripes
    assert {"horizontally striped car", "stripes"} <= set(found)
    assert len(found) == len(set(found)) > 1000


def test_each_of_dioramas_concepts_is_read_as_such():
    unread = [text for text in load_concept_set("diorama") if not parse_description(text).concept_count]
    assert unread == []


def test_a_file_has_one_concept_in_each_line_and_what_is_dropped_is_counted(tmp_path):
    file = tmp_path / "words, some.txt"  # a comma in its name
    file.write_bytes(b"\xef\xbb\xbfred car\r\n\r\n  blue   sky \nred car\n\t\nblue sky\n")
    with pytest.warns(MilanWarning, match="dropped 2 empty lines and 2 repeated ones"):
        assert load_concept_set(str(file)) == ["red car", "blue sky"]


def test_several_sets_are_joined_by_commas_or_in_a_list(tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("a\nb\n")
    other.write_text("c\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was dropped
        assert load_concept_set(f"{one},{other}") == load_concept_set([str(one), str(other)]) == ["a", "b", "c"]
    with pytest.warns(MilanWarning, match="2 repeated"):
        assert load_concept_set([f"{one}, {other}", str(one)]) == ["a", "b", "c"]


def test_a_name_that_nothing_answers_to_is_told_with_the_nearest(tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    with pytest.raises(UnknownName, match="unknown concept set 'dioramma'; nearest: diorama"):
        load_concept_set("dioramma")
    with pytest.raises(UnknownName, match=rf"nearest: {tmp_path / 'words.txt'}"):
        load_concept_set(str(tmp_path / "word.txt"))


def test_nothing_at_all_and_what_is_no_text_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.warns(MilanWarning), pytest.raises(BadInput, match="holds no concept"):
        load_concept_set(str(tmp_path / "empty.txt"))
    with pytest.raises(BadInput, match="holds no concept"):
        load_concept_set("")
    with pytest.raises(BadInput, match=r"picture\.txt, line 1: b'\\x89' is not UTF-8"):
        load_concept_set(str(tmp_path / "picture.txt"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", "red\nblue\t7\n", 2),
        ("a.csv", "red\nbig, blue car\n", 2),
        ("a.csv", "id;concept\n", 1),
        ("a.json", '["red"]', 1),
    ],
)
def test_a_table_is_not_read_as_a_list_of_concepts(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=rf"{name}, line {line}: .* is not one concept"):
        load_concept_set(str(tmp_path / name))


def test_only_line_breaks_part_concepts(tmp_path):
    (tmp_path / "a.txt").write_bytes("tench, Tinca tinca\rred\u2028car\r\nblue\x0ccar\nskies".encode())
    assert load_concept_set(str(tmp_path / "a.txt")) == ["tench, Tinca tinca", "red car", "blue car", "skies"]


def test_filters_by_length_and_likeness():
    assert drop_long_texts(["one", "one two three four five", "one two three four"]) == ["one", "one two three four"]
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), dim=1)
    assert drop_near_duplicates(["a", "b", "c", "d"], vectors, max_similarity=0.99) == ["a", "c"]
    assert drop_near_duplicates(["a", "b", "c", "d"], vectors, max_similarity=0.999) == ["a", "b", "c", "d"]
    with pytest.raises(BadInput, match="4 vectors for 1 texts"):
        drop_near_duplicates(["a"], vectors)


def said(text, parser=None):
    return sorted(iter_phrases((parser or load_tagger())(text)))


def test_the_lexicon_finds_nouns_adjectives_and_noun_phrases():
    assert said("A red dotted car, and the trees!") == ["car", "dotted", "red", "red dotted car", "trees"]
    assert said("a horizontally striped house that says stop") == [
        "horizontally striped house",
        "house",
        "says",
        "striped",
    ]
    assert said("an xylophone") == []  # a word that it does not know


def test_phrases_are_counted_and_rare_and_long_ones_left_out():
    texts = ["a red car"] * 3 + ["a blue car"] + ["a red dotted checkered orange car"] * 2
    assert harvest_phrases(texts, minimum=2) == {
        "car": 6,
        "red": 5,
        "red car": 3,
        "checkered": 2,
        "dotted": 2,
        "orange": 2,
    }
    assert "red dotted checkered orange car" in harvest_phrases(texts, minimum=2, max_words=5)


def test_dioramas_sentences_give_hundreds_of_concepts():
    found = harvest_phrases(generate_diorama_sentences(150), minimum=2)
    assert {"red", "tree", "meadow"} <= set(found)
    assert any(len(phrase.split()) == 3 for phrase in found)
    assert all(len(phrase.split()) <= 4 and phrase == phrase.lower() and "," not in phrase for phrase in found)


def test_captions_and_products_are_read(tmp_path):
    (tmp_path / "captions.json").write_text(
        json.dumps({"images": [], "annotations": [{"caption": "A dog."}, {"caption": "Two cats."}]})
    )
    assert list(read_texts(tmp_path / "captions.json")) == ["A dog.", "Two cats."]
    product = {
        "item_name": [{"language_tag": "en_IN", "value": "Red lamp"}, {"language_tag": "de_DE", "value": "Rote Lampe"}],
        "color": [{"language_tag": "en_US", "value": "crimson", "standardized_values": ["red"]}],
        "item_weight": [{"unit": "pounds", "value": 3}],
    }
    with gzip.open(tmp_path / "listings_0.json.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(product) + "\n\n" + json.dumps({"item_id": "x"}) + "\n")
    assert list(read_texts(tmp_path / "listings_0.json.gz")) == ["Red lamp", "crimson"]
    (tmp_path / "texts.jsonl").write_text('{"caption": "a"}\n{"text": "b"}\n')
    (tmp_path / "texts.txt").write_text("one\n\n two \n")
    assert list(read_texts(tmp_path / "texts.jsonl")) == ["a", "b"]
    assert list(read_texts(tmp_path / "texts.txt")) == ["one", "two"]
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(BadInput, match=r"no captions or product texts in .*other\.json"):
        list(read_texts(tmp_path / "other.json"))


def test_a_harvest_is_kept_until_the_file_changes(tmp_path, cache):
    file = tmp_path / "captions.txt"
    file.write_text("a red car\n" * 3)
    first = load_concept_set(f"harvest:{file}")
    (kept,) = (cache_folder() / "concepts").iterdir()
    kept.write_text(json.dumps([*first, "as kept"]))
    assert load_concept_set(f"harvest:{file}") == [*first, "as kept"]
    file.write_text("a blue car\n" * 3)
    assert load_concept_set(f"harvest:{file}") == ["blue", "blue car", "car"]


def test_a_harvest_of_a_file_is_a_concept_set(tmp_path, cache):
    (tmp_path / "captions.txt").write_text("a red car\n" * 3)
    assert load_concept_set(f"harvest:{tmp_path / 'captions.txt'}") == ["car", "red", "red car"]
    with pytest.raises(BadInput, match="holds no concept"):
        load_concept_set(f"harvest:{tmp_path / 'captions.txt'}", minimum=4)


def test_a_pipeline_that_is_not_there_or_finds_no_parts_of_speech_is_told(tmp_path):
    import spacy

    with pytest.raises(UnknownName, match=r"unknown spaCy pipeline 'en_core_web_xx'.*spacy download en_core_web_xx"):
        load_tagger("en_core_web_xx")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(BadInput, match="finds no parts of speech"):
        load_tagger(str(tmp_path / "blank"))
    with pytest.raises(BadInput, match="no treebank in"):
        load_tagger(f"treebank:{tmp_path}")


TREEBANK = [
    ("the dog sleeps", "DET NOUN VERB"),
    ("a cat eats", "DET NOUN VERB"),
    ("the red house stands", "DET ADJ NOUN VERB"),
    ("a big dog runs", "DET ADJ NOUN VERB"),
]


def test_spacy_learns_a_tagger_from_a_treebank(tmp_path, cache):
    lines = []
    for text, parts in TREEBANK * 8:
        words = zip(text.split(), parts.split(), strict=True)
        lines += [
            f"{place}\t{word}\t{word}\t{part}\t_\t_\t0\tdep\t_\t_" for place, (word, part) in enumerate(words, 1)
        ] + [""]
    (tmp_path / "small-train.conllu").write_text("\n".join(lines) + "\n")
    rng = torch.get_rng_state()
    tagger = train_tagger(tmp_path, epochs=12)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [token.pos_ for token in tagger("the big cat runs")] == ["DET", "ADJ", "NOUN", "VERB"]
    assert said("the big cat runs", tagger) == ["big", "big cat", "cat", "runs"]
    loaded = load_tagger(f"treebank:{tmp_path}")  # trained once, kept in the cache
    assert [token.pos_ for token in loaded("a dog")] == ["DET", "NOUN"]
    assert len(list((cache_folder() / "taggers").iterdir())) == 1
    load_tagger(f"treebank:{tmp_path}")
    assert len(list((cache_folder() / "taggers").iterdir())) == 1


def test_a_tagger_of_the_real_treebank_tells_nouns_from_verbs(shared_data, tmp_path):
    """Of the smallest of its files, in one pass: right for more than 8 in 10 words of sentences that it has not
    seen.
    """
    from spacy.training.converters import conllu_to_docs

    text = (shared_data / "ud_english_ewt" / "dev.conllu").read_text()
    (tmp_path / "dev.conllu").write_text(text[: text.index("\n\n", len(text) // 2) + 2])
    tagger = train_tagger(tmp_path, epochs=2)
    unseen = list(conllu_to_docs(text[text.index("\n\n", len(text) * 3 // 4) + 2 :], n_sents=1, no_print=True))[:200]
    pairs = [
        (found.pos_, token.pos_)
        for doc in unseen
        for found, token in zip(tagger(tagger_doc(tagger, doc)), doc, strict=True)
    ]
    right = sum(found == true for found, true in pairs) / len(pairs)
    assert right > 0.8
    shutil.rmtree(tmp_path)


def tagger_doc(tagger, doc):
    from spacy.tokens import Doc

    return Doc(tagger.vocab, words=[token.text for token in doc])

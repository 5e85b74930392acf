"""The English pipeline that comes with the package, and its making from a small treebank."""

import json
from pathlib import Path

import pytest

from milan.diorama_build.language_pipeline import evaluate_pipeline, main, read_treebank
from milan.errors import BadInput, UnknownName
from milan.language import PACKAGED_PIPELINE, find_default_pipeline, format_pipeline_name, load_pipeline
from milan.language.text_parsing import parse_texts
from milan.storage.packaged_data import locate_packaged_data

SENTENCES = (  # word, part of speech, head, relation
    (("the", "DET", 2, "det"), ("cat", "NOUN", 3, "nsubj"), ("sleeps", "VERB", 0, "root"), (".", "PUNCT", 3, "punct")),
    (
        ("a", "DET", 3, "det"),
        ("red", "ADJ", 3, "amod"),
        ("car", "NOUN", 0, "root"),
        ("of", "ADP", 5, "case"),
        ("Ann", "PROPN", 3, "nmod"),
    ),
)


def conllu(times: int) -> str:
    lines = []
    for sentence in SENTENCES * times:
        lines += ["\t".join((str(number), word, word, part, "_", "_", str(head), relation, "_", "_"))
                  for number, (word, part, head, relation) in enumerate(sentence, 1)]  # fmt: skip
        lines.append("")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "parts", "depth"),
    [
        ("red things", "ADJ NOUN", 2),
        ("A dog's face.", "DET NOUN PART NOUN", 3),
        ("a red car on the road", "DET ADJ NOUN ADP DET NOUN", 3),
        ("the top edges of objects", "DET ADJ NOUN ADP NOUN", 3),
        ("people wearing hats", "NOUN VERB NOUN", 2),
        ("", "", 0),
    ],
)
def test_short_texts_are_read(text: str, parts: str, depth: int) -> None:
    reading = parse_texts([text], PACKAGED_PIPELINE)[text]
    assert " ".join(reading.pos_tags) == parts
    assert reading.tree_depth == depth
    assert reading.count("noun") == parts.split().count("NOUN")


def test_noun_phrases_by_universal_dependencies() -> None:
    found = [
        chunk.text for chunk in load_pipeline(PACKAGED_PIPELINE)("a small dog beside the wooden house").noun_chunks
    ]
    assert found == ["a small dog", "the wooden house"]


def test_a_harvest_can_use_it() -> None:
    from milan.concepts.harvest import harvest_phrases

    found = harvest_phrases(["a small dog runs", "a small dog", "the small dog"], spacy_model="ours", minimum=3)
    assert found == {"dog": 3, "small": 3, "small dog": 3}


def test_what_is_not_there_is_told() -> None:
    assert find_default_pipeline() == PACKAGED_PIPELINE or find_default_pipeline().startswith("en_core_web")
    with pytest.raises(UnknownName, match=r"unknown spaCy pipeline 'en_core_web_xs'.*install it with"):
        load_pipeline("en_core_web_xs")


def test_scores_of_the_card_hold(shared_data: Path) -> None:
    """On every tenth sentence of the test set; the card says what it is on all."""
    card = json.loads((locate_packaged_data("data/language") / "scores.json").read_text())["scores in percent"][
        "as written"
    ]
    assert card["tagging"] >= 92
    assert card["unlabelled attachment"] >= 80
    found = evaluate_pipeline(
        load_pipeline(PACKAGED_PIPELINE), read_treebank(shared_data / "ud_english_ewt", "test")[::10]
    )
    assert found["tagging"] == pytest.approx(card["tagging"], abs=2)
    assert found["unlabelled attachment"] == pytest.approx(card["unlabelled attachment"], abs=3)


def test_it_is_small_and_says_its_licence() -> None:
    folder = locate_packaged_data("data/language")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 10e6
    assert "CC BY-SA 4.0" in (folder / "README.md").read_text()
    assert load_pipeline(PACKAGED_PIPELINE).meta["license"] == "CC BY-SA 4.0"


def test_build_learns_a_treebank_by_heart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import spacy

    for part in ("train", "dev", "test"):
        (tmp_path / f"en-{part}.conllu").write_text(conllu(100 if part == "train" else 3))
    words = [
        "build",
        "--treebank",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--work",
        str(tmp_path / "work"),
        "--epochs",
        "5",
    ]
    assert main(words) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["scores in percent"]
    assert scores["as written"]["tagging"] == 100
    assert scores["as written"]["unlabelled attachment"] == 100
    built = spacy.load(tmp_path / "out")
    assert [token.pos_ for token in built("a red car of Ann")] == ["DET", "ADJ", "NOUN", "ADP", "PROPN"]
    assert format_pipeline_name(built) == "en_milan_ewt 1"
    (tmp_path / "en-dev.conllu").unlink()
    assert main(words) == 2
    assert "no *dev*.conllu" in capsys.readouterr().err
    (tmp_path / "en-dev.conllu").write_text("")
    with pytest.raises(BadInput, match=r"en-dev.conllu cannot be read"):
        read_treebank(tmp_path, "dev")

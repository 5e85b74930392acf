"""Sentences are true, phrases can be read back, and texts are read as people mean them."""

import pytest

from milan.diorama.concepts import by_name, concepts, read
from milan.diorama.dice import Dice
from milan.diorama.names import COLOURS, KINDS, SETTINGS, THINGS, article, plural
from milan.diorama.phrases import FINE, phrase
from milan.diorama.scenes import draw
from milan.diorama.sentences import sentences

PAIRS = [(one, other) for one in concepts() for other in concepts() if (one.kind, other.kind) in FINE]


def named(text: str) -> list[list[list[str]]]:
    return [[[concept.name for concept in group] for group in found] for found in read(text).phrases]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("red stripes", [[["red"], ["stripes"]]]),
        ("Red and white stripes", [[["red", "white"], ["stripes"]]]),
        ("the roof of a house", [[["roof"], ["house"]]]),
        ("wheels of cars", [[["wheel"], ["car"]]]),
        ("blue sky at the top", [[["blue"], ["sky"]]]),
        ("written words", [[["text"]]]),
        ("dogs and cats", [[["dog"]], [["cat"]]]),
        ("bikes, trains or a locomotive", [[["bicycle"]], [["train"]], [["train"]]]),
        ("polka dots on violet balls", [[["dots", "purple"][:1], ["ball"], ["purple"]]]),
        ("the night sky", [[["night sky"]]]),
        ("a blue sky", [[["blue"], ["sky"]]]),
        ("the letter b", [[["letter b"]]]),
        ("table tops", [[["top"]]]),
        ("things on the left side of the picture", []),
        ("", []),
    ],
)
def test_reading(text: str, meaning: list[list[list[str]]]) -> None:
    assert sorted(map(sorted, named(text))) == sorted(map(sorted, meaning))


def test_length_counts_each_concept_once() -> None:
    assert read("red stripes, red dots and stripes").length == 3
    assert read("nothing at all").length == 0


@pytest.mark.parametrize("concept", concepts(), ids=lambda concept: concept.name)
def test_every_concept_is_read_back(concept) -> None:
    for chance in range(8):
        text = phrase((concept,), Dice(chance), synonyms=50)
        assert {one for found in read(text).phrases for group in found for one in group} == {concept}, text
        assert text == text.lower()


def test_pairs_are_read_back_as_one_phrase() -> None:
    dice = Dice(5)
    for number in range(800):
        pair = dice.pick(PAIRS)
        text = phrase(pair, Dice(number), synonyms=50)
        reading = read(text)
        assert len(reading.phrases) == 1, text
        assert {one for group in reading.phrases[0] for one in group} == set(pair), text


def test_names_are_unambiguous() -> None:
    assert len({concept.name for concept in concepts()}) == len(concepts())
    assert by_name()["wall"].members == (("object", "wall"), ("part", "wall"))  # a room's and a house's
    for names in KINDS.values():
        assert len(set(names)) == len(names)
    assert len(COLOURS) == 11
    assert len(SETTINGS) == 10
    assert len(THINGS) >= 30


def test_sentences_are_true_and_vary() -> None:
    said = [(scene, sentence) for index in range(60) for scene in [draw(index)] for sentence in sentences(scene, 3)]
    for scene, sentence in said:
        members = [member for found in read(sentence).phrases for group in found for concept in group for member in concept.members]
        things = {name for kind, name in members if kind == "object" and name in THINGS}
        assert things <= {placed.name for placed in scene.objects}, sentence
        settings = {name for kind, name in members if kind == "setting"}
        assert settings <= {scene.setting}, sentence
    assert len({sentence for _, sentence in said}) > 150
    assert sentences(draw(3), 4) == sentences(draw(3), 4)
    assert sentences(draw(3), 4, seed=1) != sentences(draw(3), 4)


@pytest.mark.parametrize(("one", "many"), [("leaf", "leaves"), ("bus", "buses"), ("sky", "sky"), ("grass", "grass"), ("wheel", "wheels")])
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_articles() -> None:
    assert [article(word) for word in ("ear", "roof")] == ["an ear", "a roof"]

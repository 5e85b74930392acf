"""Sentences are true, phrases can be read back, and texts are read as people mean them."""

import pytest

from milan.diorama.concept_phrases import PHRASE_KINDS, make_phrase
from milan.diorama.rng import PortableRng
from milan.diorama.scene_concepts import get_concepts_by_name, list_concepts, parse_concepts
from milan.diorama.scene_vocabulary import COLOURS, KINDS, SETTINGS, THINGS, add_article, pluralize
from milan.diorama.scenes import draw_scene
from milan.diorama.sentences import generate_sentences

PAIRS = [(one, other) for one in list_concepts() for other in list_concepts() if (one.kind, other.kind) in PHRASE_KINDS]


def named(text: str) -> list[list[list[str]]]:
    return [[[concept.name for concept in group] for group in found] for found in parse_concepts(text).phrases]


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
    assert parse_concepts("red stripes, red dots and stripes").concept_count == 3
    assert parse_concepts("nothing at all").concept_count == 0


@pytest.mark.parametrize("concept", list_concepts(), ids=lambda concept: concept.name)
def test_every_concept_is_read_back(concept) -> None:
    for chance in range(8):
        text = make_phrase((concept,), PortableRng(chance), synonym_percent=50)
        assert {one for found in parse_concepts(text).phrases for group in found for one in group} == {concept}, text
        assert text == text.lower()


def test_pairs_are_read_back_as_one_phrase() -> None:
    rng = PortableRng(5)
    for number in range(800):
        pair = rng.choice(PAIRS)
        text = make_phrase(pair, PortableRng(number), synonym_percent=50)
        reading = parse_concepts(text)
        assert len(reading.phrases) == 1, text
        assert {one for group in reading.phrases[0] for one in group} == set(pair), text


def test_names_are_unambiguous() -> None:
    assert len({concept.name for concept in list_concepts()}) == len(list_concepts())
    assert get_concepts_by_name()["wall"].members == (("object", "wall"), ("part", "wall"))  # a room's and a house's
    for names in KINDS.values():
        assert len(set(names)) == len(names)
    assert len(COLOURS) == 11
    assert len(SETTINGS) == 10
    assert len(THINGS) >= 30


def test_sentences_are_true_and_vary() -> None:
    said = [
        (scene, sentence)
        for index in range(60)
        for scene in [draw_scene(index)]
        for sentence in generate_sentences(scene, 3)
    ]
    for scene, sentence in said:
        members = [
            member
            for found in parse_concepts(sentence).phrases
            for group in found
            for concept in group
            for member in concept.members
        ]
        things = {name for kind, name in members if kind == "object" and name in THINGS}
        assert things <= {placed.name for placed in scene.objects}, sentence
        settings = {name for kind, name in members if kind == "setting"}
        assert settings <= {scene.setting}, sentence
    assert len({sentence for _, sentence in said}) > 150
    assert generate_sentences(draw_scene(3), 4) == generate_sentences(draw_scene(3), 4)
    assert generate_sentences(draw_scene(3), 4, seed=1) != generate_sentences(draw_scene(3), 4)


@pytest.mark.parametrize(
    ("one", "many"), [("leaf", "leaves"), ("bus", "buses"), ("sky", "sky"), ("grass", "grass"), ("wheel", "wheels")]
)
def test_plurals(one: str, many: str) -> None:
    assert pluralize(one) == many


def test_articles() -> None:
    assert [add_article(word) for word in ("ear", "roof")] == ["an ear", "a roof"]

"""Generated sentences are true, generated phrases read back as their concepts, and names are unambiguous."""

import pytest

from milan.diorama.concept_phrases import PHRASE_KINDS, make_phrase
from milan.diorama.formulas import AllOf
from milan.diorama.rng import PortableRng
from milan.diorama.scene_concepts import get_concepts_by_name, list_concepts
from milan.diorama.scene_vocabulary import COLOURS, KINDS, SETTINGS, THINGS, add_article, pluralize
from milan.diorama.scenes import draw_scene
from milan.diorama.sentences import generate_sentences
from milan.diorama.text_reader import parse_description

PAIRS = [(one, other) for one in list_concepts() for other in list_concepts() if (one.kind, other.kind) in PHRASE_KINDS]


@pytest.mark.parametrize("concept", list_concepts(), ids=lambda concept: concept.name)
def test_every_concept_is_read_back(concept) -> None:
    for chance in range(8):
        text = make_phrase((concept,), PortableRng(chance), synonym_percent=50)
        assert parse_description(text).concepts == (concept,), text
        assert text == text.lower()


def test_pairs_are_read_back_as_one_phrase() -> None:
    rng = PortableRng(5)
    for number in range(800):
        pair = rng.choice(PAIRS)
        text = make_phrase(pair, PortableRng(number), synonym_percent=50)
        parsed = parse_description(text).terms[0][1]
        assert isinstance(parsed, AllOf), text
        assert set(parsed.parts) == set(pair), text


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
        members = [member for concept in parse_description(sentence).concepts for member in concept.members]
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

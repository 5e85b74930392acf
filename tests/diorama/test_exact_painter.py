"""Sentences are read as what they say, facts are judged against scenes, and the painter draws what it is reported."""

import numpy as np
import pytest
import torch

from milan.diorama.exact_painter import draw_scene_of, paint_text
from milan.diorama.networks import load_network
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.scene_vocabulary import COLOURS, SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT_START, draw_scene
from milan.diorama.sentence_parser import ParsedSentence, ParsedThing, parse_sentence
from milan.diorama.sentence_truth import check_statements, compute_true_share
from milan.diorama.sentences import generate_sentences

STRIPES = ("horizontal stripes", "vertical stripes", "diagonal stripes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A picture of a red house.", ParsedSentence((ParsedThing(("house",), ("red",)),))),
        ("an empty beach", ParsedSentence((), (), ("beach",))),
        (
            "there is a horizontally striped cat indoors",
            ParsedSentence((ParsedThing(("cat",), (), STRIPES[:1]),), (), ("room",)),
        ),
        ("roofs of houses", ParsedSentence((ParsedThing(("house",), part="roof"),))),
        (
            "the red roof of a white house",
            ParsedSentence((ParsedThing(("house",), ("white",), part="roof", part_colours=("red",)),)),
        ),
        ("house roofs", ParsedSentence((ParsedThing(("house",), part="roof"),))),
        ("red areas", ParsedSentence((ParsedThing((), ("red",)),))),
        ("houses with dots", ParsedSentence((ParsedThing(("house",), (), ("dots",)),))),
        ("text on signs", ParsedSentence((ParsedThing(("sign",), word="?"),))),
        ("the letter k", ParsedSentence((ParsedThing(("sign",), word="k"),))),
        (
            "a sign with the word go on it on a street",
            ParsedSentence((ParsedThing(("sign",), word="go"),), (), ("street",)),
        ),
        ("striped fur", ParsedSentence((ParsedThing((), (), STRIPES),))),
        ("dogs or cats", ParsedSentence((ParsedThing(("dog",)), ParsedThing(("cat",))))),
        (
            "at the shore, a dog on top of a blue car",
            ParsedSentence((ParsedThing(("dog",)), ParsedThing(("car",), ("blue",))), ((0, "on", 1),), ("beach",)),
        ),
        (
            "a cup next to a lamp and a ball",
            ParsedSentence(
                (ParsedThing(("cup",)), ParsedThing(("lamp",)), ParsedThing(("ball",))), ((0, "beside", 1),)
            ),
        ),
        ("green grass", ParsedSentence((ParsedThing(("grass",), ("green",)),))),
        ("wooden", ParsedSentence()),
        ("", ParsedSentence()),
    ],
)
def test_what_a_text_says(text, said):
    assert parse_sentence(text) == said


@pytest.mark.parametrize("world", ["objects", "scenes"])
def test_what_the_world_says_of_itself_is_true(world):
    scenes = [draw_scene(HELD_OUT_START + index, world=world) for index in range(60)]
    for scene in scenes:
        for text in generate_sentences(scene, 3):
            message = check_statements(text, scene)
            assert message, text
            assert all(fact.true for fact in message), (text, message)
    said = [generate_sentences(scene, 1)[0] for scene in scenes]
    assert compute_true_share(said, scenes) == 1
    assert compute_true_share(said[7:] + said[:7], scenes) < 0.2
    assert np.isnan(compute_true_share(["of nothing"], scenes[:1]))


def test_wrong_words_are_found_out():
    scene = draw_scene(1)  # a red sign that says "go", on a street
    assert [fact.true for fact in check_statements("a red sign that says go on a street", scene)] == [True] * 4
    for text, wrong in (
        ("a blue sign that says go on a street", "blue"),
        ("a red sign that says stop on a street", "stop"),
        ("a dotted sign", "dots"),
        ("a red sign in the forest", "forest"),
        ("a red sign with a purple pole", "purple"),
    ):
        assert [fact.text for fact in check_statements(text, scene) if not fact.true] == [wrong]
    assert [fact.true for fact in check_statements("a red cat", scene)] == [False, False]
    assert not any(fact.true for fact in check_statements("a cat on a dog", scene))


def test_beside_holds_both_ways_and_left_of_one_way():
    scene = draw_scene_of("a dog to the left of a car")
    assert all(
        fact.true for text in ("a dog beside a car", "a car beside a dog") for fact in check_statements(text, scene)
    )
    assert check_statements("a car to the left of a dog", scene)[-1].true is False


@pytest.mark.parametrize("world", ["objects", "scenes"])
def test_the_painter_draws_what_the_world_would_say(world):
    said = [generate_sentences(draw_scene(HELD_OUT_START + index, world=world), 1, seed=5)[0] for index in range(60)]
    scenes = [draw_scene_of(text) for text in said]
    assert compute_true_share(said, scenes) > 0.995
    judged = {task: load_network(f"resnet-{task}") for task in ("objects", "scenes")}
    images = normalize_images(torch.from_numpy(np.stack([scene.image for scene in scenes])))
    with torch.no_grad():
        things, settings = judged["objects"](images).argmax(1).tolist(), judged["scenes"](images).argmax(1).tolist()
    alone = [
        THINGS[thing] == scene.main for thing, scene in zip(things, scenes, strict=True) if len(scene.objects) == 1
    ]
    assert len(alone) > 12
    assert np.mean(alone) > 0.95
    assert np.mean([SETTINGS[setting] == scene.setting for setting, scene in zip(settings, scenes, strict=True)]) > 0.95


@pytest.mark.parametrize("text", ["a blue apple", "a green snowman in the desert", "a dotted dog with a red tail",
    "a cat on a fish",
                                  "red stripes", "wheels", "text", "foliage", "animals",
                                  "a purple moon over a white car"])  # fmt: skip
def test_it_draws_what_the_world_never_shows(text):
    for number in range(5):
        scene = draw_scene_of(text, number=number)
        assert all(fact.true for fact in check_statements(text, scene)), check_statements(text, scene)


def test_pictures_differ_and_come_again():
    pictures = paint_text("a red car", 4, seed=2)
    assert pictures.shape == (4, 3, 64, 64)
    assert len({picture.tobytes() for picture in pictures}) == 4
    np.testing.assert_array_equal(paint_text("a red car", 2, seed=2), pictures[:2])
    assert not (paint_text("a red car", 1, seed=3) == pictures[:1]).all()
    assert paint_text("a red car", 1, size=96).shape == (1, 3, 96, 96)
    assert paint_text("nothing of this world", 2).shape == (2, 3, 64, 64)


def test_every_colour_of_every_thing():
    rng = np.random.default_rng(0)
    for name in THINGS:
        text = f"a {COLOURS[rng.integers(len(COLOURS))]} {name}"
        assert compute_true_share([text], [draw_scene_of(text)]) == 1, text

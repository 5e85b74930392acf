"""How good captioner and painter are is measured right: on those that know all, those that know nothing, and the ones
that are there.
"""

import json

import pytest
import torch

from milan.diorama.networks import load_network
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.scenes import HELD_OUT_START, draw_scene
from milan.diorama.sentences import generate_sentences
from milan.diorama_build.captioner_quality import measure_captioner, measure_painter, write_caption_card
from milan.pretrained.image_captioner import ImageCaptioner
from milan.pretrained.painter import Painter, load_painter

COUNT = 20


class Knowing(ImageCaptioner):
    """Finds the scene by its pixels, and says what the world says of it."""

    key = "knowing"

    def caption_images(self, images):
        scenes = [
            draw_scene(HELD_OUT_START + index, world=world) for world in ("objects", "scenes") for index in range(COUNT)
        ]
        said = {scene.image.tobytes(): generate_sentences(scene, 1, seed=3)[0] for scene in scenes}
        return [said[image.numpy().tobytes()] for image in images]


class Constant(ImageCaptioner):
    key = "constant"

    def caption_images(self, images):
        return ["a red house"] * len(images)


def test_one_that_knows_all_and_one_that_knows_nothing():
    best, worst = measure_captioner(Knowing(), COUNT), measure_captioner(Constant(), COUNT)
    true = best["true of what is said"]
    assert (true["captions"], true["ceiling"]) == (100.0, 100.0)
    assert max(true["of another scene"], true["always the same"]) < 30
    assert best["captions without a fault"] == 100
    assert best["main things named"] > 70  # a sentence may speak of a smaller thing
    assert best["bleu"]["captions"] > best["bleu"]["of another scene"] + 20
    assert abs(best["bleu"]["captions"] - best["bleu"]["ceiling"]) < 20
    assert worst["bleu"]["captions"] == worst["bleu"]["of another scene"] == worst["bleu"]["always the same"]
    assert worst["true of what is said"]["captions"] < 20
    assert worst["main things named"] < 20
    assert (worst["distinct captions"], worst["of"]) == (1, 2 * COUNT)


def test_the_card_says_what_it_is(tmp_path):
    known = {"trained_on_scenes": 40, "views": 16, "steps": 1, "seed": 0, "eye": {"steps": 1, "seed": 0},
        "parameters": 7,
             "held_out": measure_captioner(Constant(), 8)}  # fmt: skip
    write_caption_card(tmp_path, known)
    assert json.loads((tmp_path / "quality.json").read_text()) == known
    card = (tmp_path / "README.md").read_text()
    for message in ("stand-in", "not to be used on photographs", "--only blip", "main things named"):
        assert message in card


class Blind(Painter):
    """Draws grey, whatever is asked for."""

    key, side = "blind", 64

    def draw(self, requests):
        return torch.full((len(requests), 3, 64, 64), 127, dtype=torch.uint8)


@pytest.fixture(scope="module")
def judges():
    networks = {world: load_network(f"resnet-{world}") for world in ("objects", "scenes")}
    return {
        world: lambda images, judge=judge: judge(normalize_images(images)).detach() for world, judge in networks.items()
    }


def test_what_is_painted_is_recognised(judges):
    exact, blind = measure_painter(load_painter(), judges, 30), measure_painter(Blind(), judges, 30)
    for name, share in exact.items():
        assert name == "of" or share > 85, exact
        assert name == "of" or blind[name] < 40, blind

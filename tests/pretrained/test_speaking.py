"""How good captioner and painter are is measured right: on those that know all, those that know nothing, and the ones that are there."""

import json

import pytest
import torch

from milan.diorama.networks import network
from milan.diorama.scenes import HELD_OUT, draw
from milan.diorama.sentences import sentences
from milan.diorama.training import prepared
from milan.pretrained.captioner import ImageCaptioner
from milan.pretrained.painter import Painter, load_painter
from milan.pretrained.speaking import caption_quality, painter_quality, write_caption_card

COUNT = 20


class Knowing(ImageCaptioner):
    """Finds the scene by its pixels, and says what the world says of it."""

    key = "knowing"

    def captions(self, images):
        scenes = [draw(HELD_OUT + index, world=world) for world in ("objects", "scenes") for index in range(COUNT)]
        said = {scene.image.tobytes(): sentences(scene, 1, seed=3)[0] for scene in scenes}
        return [said[image.numpy().tobytes()] for image in images]


class Constant(ImageCaptioner):
    key = "constant"

    def captions(self, images):
        return ["a red house"] * len(images)


def test_one_that_knows_all_and_one_that_knows_nothing():
    best, worst = caption_quality(Knowing(), COUNT), caption_quality(Constant(), COUNT)
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
    known = {"trained_on_scenes": 40, "views": 16, "steps": 1, "seed": 0, "eye": {"steps": 1, "seed": 0}, "parameters": 7,
             "held_out": caption_quality(Constant(), 8)}  # fmt: skip
    write_caption_card(tmp_path, known)
    assert json.loads((tmp_path / "quality.json").read_text()) == known
    card = (tmp_path / "README.md").read_text()
    for told in ("stand-in", "not to be used on photographs", "--only blip", "main things named"):
        assert told in card


class Blind(Painter):
    """Draws grey, whatever is asked for."""

    key, side = "blind", 64

    def draw(self, wanted):
        return torch.full((len(wanted), 3, 64, 64), 127, dtype=torch.uint8)


@pytest.fixture(scope="module")
def judges():
    networks = {world: network(f"resnet-{world}") for world in ("objects", "scenes")}
    return {world: lambda images, judge=judge: judge(prepared(images)).detach() for world, judge in networks.items()}


def test_what_is_painted_is_recognised(judges):
    exact, blind = painter_quality(load_painter(), judges, 30), painter_quality(Blind(), judges, 30)
    for name, share in exact.items():
        assert name == "of" or share > 85, exact
        assert name == "of" or blind[name] < 40, blind

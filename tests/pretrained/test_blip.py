"""Diorama's BLIP as it comes with the package: loaded by the published models' code, as good as its card says."""

import json

import numpy as np
import torch

from milan.diorama.scenes import HELD_OUT_START, draw_scene
from milan.diorama_build.captioner_quality import measure_captioner
from milan.pretrained.image_captioner import load_image_captioner
from milan.storage.packaged_data import locate_packaged_data

COUNT = 30  # scenes of each world that a test has the time to draw


def test_it_is_as_good_as_its_card_says():
    message = json.loads((locate_packaged_data("data/diorama/blip") / "quality.json").read_text())["held_out"]
    found = measure_captioner(load_image_captioner(batch_size=60), COUNT)
    assert abs(found["true of what is said"]["captions"] - message["true of what is said"]["captions"]) < 15
    assert abs(found["main things named"] - message["main things named"]) < 25
    for floor in ("of another scene", "always the same"):
        assert message["true of what is said"]["captions"] > 3 * message["true of what is said"][floor]
        assert found["bleu"]["captions"] > found["bleu"][floor] + 5


def test_the_library_itself_loads_it():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = locate_packaged_data("data/diorama/blip")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        AutoProcessor.from_pretrained(folder),
    )
    assert (type(model).__name__, type(processor).__name__) == ("BlipForConditionalGeneration", "BlipProcessor")
    images = torch.from_numpy(np.stack([draw_scene(HELD_OUT_START + index).image for index in range(4)]))
    words = model.generate(**processor(images=list(images), return_tensors="pt"), max_new_tokens=32)
    assert [" ".join(text.split()) for text in processor.batch_decode(words, skip_special_tokens=True)] == [
        text.replace("grid-patterned", "grid - patterned") for text in load_image_captioner().caption_images(images)
    ]


def test_the_card_says_what_it_is():
    text = (locate_packaged_data("data/diorama/blip") / "README.md").read_text()
    for message in ("stand-in", "not to be used on photographs", "--only blip"):
        assert message in text

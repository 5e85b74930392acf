"""Captioners give the captions of the libraries' own calls; captions are cached; loading errors are one line."""

import base64

import numpy as np
import pytest
import torch
from PIL import Image

from milan.errors import BadInput, UnknownName
from milan.pretrained.chat_images import decode_picture
from milan.pretrained.image_captioner import EndpointOptions, ImageCaptioner, caption_with_cache, load_image_captioner
from milan.pretrained.llm_client import NoAnswer
from tests.pretrained import speaking, tiny
from tests.pretrained.chat_server import KEY, choice, serving

KINDS = list(speaking.MAKERS)
LENGTH = 8


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {name: speaking.make(name, home / name, seed=3) for name in KINDS}


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _by_library(spec, image, beams=1):
    """The caption of one PIL picture, as the library's documentation asks for it."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = spec.removeprefix("hf:")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if getattr(processor, "chat_template", None):
        asked = "USER <image> Describe this image in one short sentence. ASSISTANT"
        given = processor(images=picture, text=asked, return_tensors="pt")
        found = model.generate(**given, max_new_tokens=LENGTH, num_beams=beams, do_sample=False)[
            :, given["input_ids"].shape[1] :
        ]
    else:
        given = {"pixel_values": processor.image_processor(picture, return_tensors="pt")["pixel_values"]}
        found = model.generate(**given, max_new_tokens=LENGTH, num_beams=beams, do_sample=False)
    return " ".join(processor.decode(found[0], skip_special_tokens=True).split())


@pytest.mark.parametrize("kind", KINDS)
def test_captions_equal_the_librarys_own_call(specs, images, kind):
    expected = [_by_library(specs[kind], image) for image in images]
    assert len(set(expected)) > 1  # a picture changes the answer
    for batch_size in (2, 16):
        assert (
            load_image_captioner(specs[kind], max_tokens=LENGTH, batch_size=batch_size).caption_images(images)
            == expected
        )
    assert load_image_captioner(specs[kind]).caption_images(images[:0]) == []


def test_beams_prompts_and_lengths(specs, images):
    assert load_image_captioner(specs["blip"], max_tokens=LENGTH, num_beams=3).caption_images(images[:2]) == [
        _by_library(specs["blip"], image, beams=3) for image in images[:2]
    ]
    for kind in ("blip", "git"):  # go on from what they are given
        for text in load_image_captioner(specs[kind], prompt="a photo of", max_tokens=4).caption_images(images):
            assert text.startswith("a photo of")
            assert len(text.split()) <= 7
    for kind in ("blip2", "llava"):  # answer it
        texts = load_image_captioner(specs[kind], prompt="a photo of", max_tokens=4).caption_images(images)
        assert not any(text.startswith("a photo of") for text in texts)
        assert texts != load_image_captioner(specs[kind], prompt="the red dog", max_tokens=4).caption_images(images)


def test_the_key_changes_with_whatever_changes_captions(specs, tmp_path):
    key = load_image_captioner(specs["blip"]).key
    assert load_image_captioner(specs["blip"], batch_size=3).key == key
    changes = ({"prompt": "a"}, {"max_tokens": 7}, {"num_beams": 2}, {"precision": "bfloat16"})
    others = [load_image_captioner(specs["blip"], **change).key for change in changes]
    others.append(load_image_captioner(speaking.make("blip", tmp_path / "other", seed=4)).key)
    assert len({key, *others}) == 6


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(specs, images, precision):
    captioner = load_image_captioner(specs["blip"], precision=precision, max_tokens=LENGTH)
    assert next(captioner.model.parameters()).dtype == getattr(torch, precision)
    assert len(captioner.caption_images(images)) == 5


class Counting(ImageCaptioner):
    """Says how bright a picture is, and counts what it is asked."""

    key, batch_size = "counting", 2

    def __init__(self, stop=None):
        self.asked, self.stop = [], stop

    def caption_images(self, images):
        if self.stop is not None and len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        self.asked += [len(images)]
        return [f"brightness {image.float().mean():.3f}" for image in images]


def test_captions_are_cached_by_pixels(cache, images):
    first = Counting()
    texts = caption_with_cache(first, images[[0, 1, 1, 2]])
    assert (texts[1], first.asked) == (texts[2], [2, 1])
    again = Counting()
    assert caption_with_cache(again, images) == Counting().caption_images(images)
    assert again.asked == [2]
    other = Counting()
    other.key = "another"
    caption_with_cache(other, images)
    assert other.asked == [2, 2, 1]


def test_images_of_the_same_bytes_but_another_shape_differ(cache):
    wide = torch.arange(3 * 4 * 2, dtype=torch.uint8).view(1, 3, 4, 2)
    captioner = Counting()
    caption_with_cache(captioner, wide)
    caption_with_cache(captioner, wide.view(1, 3, 2, 4))
    assert captioner.asked == [1, 1]


def test_captions_of_an_interrupted_run_are_kept(cache, images):
    with pytest.raises(KeyboardInterrupt):
        caption_with_cache(Counting(stop=2), images)
    rest = Counting()
    assert len(caption_with_cache(rest, images)) == 5
    assert rest.asked == [1]
    assert caption_with_cache(rest, images[:0]) == []


def test_an_endpoint_captions_each_image_and_failures_are_not_cached(cache, images, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    replies = [choice("A red car."), choice("", refusal="I will not"), choice("<think>A dog?</think>a cat")]
    with serving() as server:
        server.turns = [(200, {}, reply) for reply in replies]
        endpoint = EndpointOptions(server.url, {"workers": 1})
        captioner = load_image_captioner("openai:tiny", endpoint=endpoint)
        first, refused, last = caption_with_cache(captioner, images[:3])
        assert (first, last) == ("A red car", "a cat")
        assert isinstance(refused, NoAnswer)
        for request, image in zip(server.asked, images, strict=False):
            picture, prompt = request["messages"][0]["content"]
            pixels = decode_picture(base64.b64decode(picture["image_url"]["url"].partition("base64,")[2]))
            assert np.abs(pixels - image.permute(1, 2, 0).numpy().astype(int)).mean() < 12
            assert prompt["text"] == "Describe this image in one short sentence."
            assert request["temperature"] == 0
        server.usual = choice("a dog")
        assert caption_with_cache(captioner, images[:3]) == ["A red car", "a dog", "a cat"]
        assert len(server.asked) == 4
        other = load_image_captioner("openai:tiny", prompt="What is it?", endpoint=endpoint)
        assert other.key != captioner.key


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "hf:Salesforce/blip-image-captioning-base",
            r"blip-image-captioning-base is not on this machine .* out of reach.*hf:FOLDER",
        ),
        ("hf:./nowhere", r"no folder './nowhere'"),
        ("nowhere.py:Mine", r"no file nowhere\.py"),
    ],
)
def test_captioners_that_cannot_be_found_are_errors(spec, message):
    with pytest.raises(BadInput, match=message):
        load_image_captioner(spec)


def test_unusable_names_and_options_are_errors(specs, tmp_path):
    for spec in ("dioramma", "blip:base", "hf:", "diorama:blip"):
        with pytest.raises(UnknownName, match="write diorama, hf:ID_OR_FOLDER"):
            load_image_captioner(spec)
    for option in ("batch_size", "max_tokens", "num_beams"):
        with pytest.raises(BadInput, match=f"{option} is 0"):
            load_image_captioner(specs["blip"], **{option: 0})
    with pytest.raises(BadInput, match="device 'cuda:99' cannot be used"):
        load_image_captioner(specs["blip"], device="cuda:99")
    with pytest.raises(BadInput, match="cannot be loaded as a captioner"):
        load_image_captioner(tiny.make("siglip", tmp_path / "siglip"))


def test_a_custom_captioner_from_a_file(tmp_path, images):
    file = tmp_path / "mine.py"
    file.write_text("from tests.pretrained.test_image_captioner import Counting\n\nclass No: pass\n")
    assert load_image_captioner(f"{file}:Counting").caption_images(images)[0].startswith("brightness")
    with pytest.raises(BadInput, match=r"mine\.py:No returns a No"):
        load_image_captioner(f"{file}:No")

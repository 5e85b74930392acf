"""Painters draw what the libraries' own calls draw, each picture once; what cannot be loaded is one line of error."""

import numpy as np
import pytest
import torch

from milan.errors import BadInput, MilanWarning, UnknownName
from milan.pretrained.painter import (
    Painter,
    PictureRequest,
    _supported_options,
    load_painter,
    paint_texts,
    resize_images,
)
from tests.pretrained import painting

STEPS = 3


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return painting.make(tmp_path_factory.mktemp("models") / "pipeline")


@pytest.fixture(scope="module")
def painter(spec):
    return load_painter(spec, steps=STEPS)


def test_pictures_equal_the_librarys_own_call(spec, painter):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(spec.removeprefix("diffusers:"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(1)
    made = pipeline(
        "a red cat", num_inference_steps=STEPS, guidance_scale=7.5, generator=rng, output_type="pil"
    ).images[0]
    drawn = painter.paint("a red cat", 2)[1]
    assert drawn.shape == (3, painting.SIDE, painting.SIDE)
    assert painter.side == painting.SIDE
    assert (drawn.permute(1, 2, 0).int() - torch.from_numpy(np.array(made)).int()).abs().max() <= 1


def test_a_picture_follows_from_what_is_wanted_alone(spec, painter):
    wanted = [
        PictureRequest("a cat", 0, 0),
        PictureRequest("a dog", 0, 0),
        PictureRequest("a cat", 0, 1),
        PictureRequest("a cat", 1, 0),
    ]
    together = painter.draw(wanted)
    alone = torch.cat([painter.draw([each]) for each in wanted])
    assert (together.int() - alone.int()).abs().max() <= 2  # rounding
    assert len({picture.numpy().tobytes() for picture in alone}) == 4
    fewer = load_painter(spec, steps=STEPS, batch_size=1).paint("a cat", 2)
    assert (fewer.int() - painter.paint("a cat", 2).int()).abs().max() <= 2
    assert painter.paint("a cat", 0).shape == (0, 3, painting.SIDE, painting.SIDE)


def test_the_key_follows_all_that_changes_a_picture(spec, tmp_path):
    key = load_painter(spec, steps=STEPS).key
    assert load_painter(spec, steps=STEPS, batch_size=2).key == key
    others = [load_painter(spec, **change).key for change in ({"steps": 4}, {"steps": STEPS, "guidance_scale": 2.0})]
    others.append(load_painter(spec, steps=STEPS, precision="bfloat16").key)
    others.append(load_painter(painting.make(tmp_path / "other", seed=1), steps=STEPS).key)
    assert len({key, *others, load_painter().key}) == 6


def test_a_pipeline_is_asked_with_the_options_that_it_has():
    """PixArt's and Sana's draw at the nearest published size unless reported not to."""
    from diffusers import PixArtAlphaPipeline, StableDiffusionPipeline

    assert _supported_options(StableDiffusionPipeline.__call__, 4.0) == {"guidance_scale": 4.0}
    assert _supported_options(PixArtAlphaPipeline.__call__, 4.0) == {
        "guidance_scale": 4.0,
        "use_resolution_binning": False,
    }
    assert _supported_options(lambda prompt, num_inference_steps: None, 4.0) == {}


def test_long_texts_are_told(painter):
    with pytest.warns(MilanWarning, match="reads 20 tokens; the end of 'a cat with"):
        painter.draw([PictureRequest("a cat with a very long tail and a hat", 0, 0)])


def test_diorama_draws_exactly():
    painter = load_painter()
    pictures = painter.paint("a red apple", 3, size=32)
    assert pictures.shape == (3, 3, 32, 32)
    from milan.diorama.exact_painter import paint_text

    np.testing.assert_array_equal(painter.paint("a red apple", 3).numpy(), paint_text("a red apple", 3))
    assert load_painter().key == painter.key


def test_fitting_keeps_what_fits():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert resize_images(images, None) is images
    assert resize_images(images, 8) is images
    flat = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
    assert (resize_images(flat, 20) == 77).all()
    assert (resize_images(flat, 3) == 77).all()


class Counting(Painter):
    """Grey pictures as bright as their number, which count what they are asked for."""

    key, side, batch_size = "counting", 4, 2

    def __init__(self, stop=None):
        self.drawn, self.stop = [], stop

    def draw(self, requests):
        if self.stop is not None and len(self.drawn) >= self.stop:
            raise KeyboardInterrupt
        self.drawn += requests
        return torch.stack(
            [
                torch.full((3, 4, 4), 10 * len(each.text) + each.number + each.seed, dtype=torch.uint8)
                for each in requests
            ]
        )


def test_each_picture_is_drawn_once_ever(cache):
    first = Counting()
    pictures = paint_texts(first, ["a", "bb", "a"], 2, seed=3, size=6)
    assert pictures.shape == (3, 2, 3, 6, 6)
    assert pictures[:, :, 0, 0, 0].tolist() == [[13, 14], [23, 24], [13, 14]]
    assert len(first.drawn) == 4
    again = Counting()
    assert paint_texts(again, ["bb", "a"], 3, seed=3)[:, :, 0, 0, 0].tolist() == [[23, 24, 25], [13, 14, 15]]
    assert again.drawn == [PictureRequest("bb", 3, 2), PictureRequest("a", 3, 2)]
    other = Counting()
    other.key = "another"
    paint_texts(other, ["a"], 1, seed=3)
    assert len(other.drawn) == 1
    assert paint_texts(Counting(), [], 2).shape == (0, 2, 3, 4, 4)


def test_a_stopped_run_keeps_what_it_had(cache):
    with pytest.raises(KeyboardInterrupt):
        paint_texts(Counting(stop=2), ["a", "\udcff odd"], 2)
    rest = Counting()
    paint_texts(rest, ["a", "\udcff odd"], 2)
    assert [each.text for each in rest.drawn] == ["\udcff odd"] * 2


@pytest.mark.parametrize("left", [0, 40, -1])
def test_a_damaged_picture_is_drawn_anew(cache, left):
    whole = paint_texts(Counting(), ["a"], 2)
    file = next(cache.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:left])
    again = Counting()
    assert torch.equal(paint_texts(again, ["a"], 2), whole)
    assert len(again.drawn) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "diffusers:CompVis/stable-diffusion-v1-4",
            r"stable-diffusion-v1-4 is not on this machine .* out of reach.*diffusers:FOLDER",
        ),
        ("diffusers:./nowhere", r"no folder './nowhere'"),
        ("nowhere.py:Mine", r"no file nowhere\.py"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(spec, message):
    with pytest.raises(BadInput, match=message):
        load_painter(spec)


def test_wrong_names_and_options(spec, tmp_path):
    for name in ("dioramma", "sd:1.4", "diffusers:", "diorama:exact"):
        with pytest.raises(UnknownName, match="write diorama, diffusers:ID_OR_FOLDER"):
            load_painter(name)
    for options, message in (({"batch_size": 0}, "batch_size is 0"), ({"steps": 0}, "steps is 0")):
        with pytest.raises(BadInput, match=message):
            load_painter(spec, **options)
    with pytest.raises(BadInput, match="device 'cuda:99' cannot be used"):
        load_painter(spec, device="cuda:99")
    with pytest.raises(BadInput, match=r"holds no model_index\.json"):
        load_painter(f"diffusers:{tmp_path}")
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
    )
    with pytest.raises(BadInput, match="cannot be loaded as a painter"):
        load_painter(f"diffusers:{tmp_path}")


def test_one_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from tests.pretrained.test_painter import Counting\n\nclass No: pass\n")
    assert load_painter(f"{file}:Counting").paint("a", 3).shape == (3, 3, 4, 4)
    with pytest.raises(BadInput, match="makes a No"):
        load_painter(f"{file}:No")

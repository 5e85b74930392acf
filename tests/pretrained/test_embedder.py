"""Embedders give what the libraries' own calls give, as unit vectors; what cannot be loaded is reported in one line."""

import json
from itertools import combinations

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.pretrained.embedder import load_embedder
from milan.pretrained.model_sources import get_dtype
from tests.pretrained import tiny

KINDS = list(tiny.MAKERS)
TEXTS = ["a red dog", "wheel", "a photo of the cat"]
LONG = "red dog " * 40


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {name: tiny.make(name, home / name) for name in KINDS}


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 48, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _by_library(spec, images, texts):
    """The vectors as the library's documentation computes them, from PIL pictures."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    if spec.startswith("open_clip:"):
        import open_clip

        name = spec.removeprefix("open_clip:")
        model, preprocess = open_clip.create_model_from_pretrained(name)
        seen = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
        return seen, model.encode_text(open_clip.get_tokenizer(name)(texts)), model
    from transformers import AutoModel, AutoProcessor

    folder = spec.removeprefix("hf:")
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    seen = model.get_image_features(**processor(images=pictures, return_tensors="pt"))
    words = processor(text=texts, padding="max_length", max_length=tiny.LONGEST, truncation=True, return_tensors="pt")
    return seen.pooler_output, model.get_text_features(**words).pooler_output, model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_vectors_equal_the_librarys_own_call(specs, images, kind):
    embedder = load_embedder(specs[kind], batch_size=2)
    seen, read, model = _by_library(specs[kind], images, [*TEXTS, LONG])
    torch.testing.assert_close(embedder.encode_images(images), normalize(seen, dim=1), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(embedder.encode_texts([*TEXTS, LONG]), normalize(read, dim=1), atol=2e-6, rtol=1e-5)
    assert embedder.features == seen.shape[1]
    assert embedder.scale == pytest.approx(model.logit_scale.exp().item())
    bias = getattr(model, "logit_bias", None)
    assert embedder.bias == (None if bias is None else pytest.approx(bias.item()))
    assert (embedder.bias is not None) == kind.startswith("siglip")


@pytest.mark.parametrize("kind", KINDS)
def test_unit_length_whatever_the_batch(specs, images, kind):
    together, alone = load_embedder(specs[kind], batch_size=64), load_embedder(specs[kind], batch_size=1)
    for vectors, others in (
        (together.encode_images(images), alone.encode_images(images)),
        (together.encode_texts(TEXTS), alone.encode_texts(TEXTS)),
    ):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
        torch.testing.assert_close(vectors, others, atol=2e-6, rtol=1e-5)
    assert together.encode_images(images[:0]).shape == together.encode_texts([]).shape == (0, together.features)
    assert together.encode_images(images).std(0).max() > 1e-4  # a picture changes the answer


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_near_and_another_embedder(specs, images, kind):
    exact = load_embedder(specs[kind])
    for precision, off in (("bfloat16", 0.05), ("float16", 0.01)):
        half = load_embedder(specs[kind], precision=precision)
        assert half.encode_images(images).dtype == half.encode_texts(TEXTS).dtype == torch.float32
        assert next(half.model.parameters()).dtype == getattr(torch, precision)
        assert 0 < (half.encode_images(images) - exact.encode_images(images)).abs().max() < off
        assert 0 < (half.encode_texts(TEXTS) - exact.encode_texts(TEXTS)).abs().max() < off
        torch.testing.assert_close(half.encode_texts(TEXTS).norm(dim=1), torch.ones(len(TEXTS)))
        assert half.key != exact.key


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_cut(specs, kind):
    embedder = load_embedder(specs[kind])
    torch.testing.assert_close(embedder.encode_texts([LONG]), embedder.encode_texts(["red dog " * 60]))
    assert (embedder.encode_texts([LONG]) - embedder.encode_texts(["red dog"])).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_follows_weights_and_preprocessing(specs, tmp_path, kind):
    assert load_embedder(specs[kind]).key == load_embedder(specs[kind], batch_size=3).key
    other = tiny.make(kind, tmp_path / "other", seed=1)
    assert load_embedder(other).key != load_embedder(specs[kind]).key
    same = tiny.make(kind, tmp_path / "same")
    before = load_embedder(same).key
    assert before == load_embedder(specs[kind]).key
    name = "open_clip_config.json" if kind == "open_clip" else "processor_config.json"
    config = json.loads((tmp_path / "same" / name).read_text())
    part, mean = ("preprocess_cfg", "mean") if kind == "open_clip" else ("image_processor", "image_mean")
    config[part][mean] = [0.1, 0.2, 0.3]
    (tmp_path / "same" / name).write_text(json.dumps(config))
    assert load_embedder(same).key != before


def test_the_kinds_have_different_keys(specs):
    keys = [load_embedder(spec).key for spec in specs.values()]
    assert all(one != other for one, other in combinations(keys, 2))


def test_numbers_that_are_not_finite_are_told(specs, images, tmp_path):
    spec = tiny.make("open_clip", tmp_path / "broken")
    file = tmp_path / "broken" / "open_clip_model.safetensors"
    weights = load_file(file)
    weights["visual.proj"].fill_(float("inf"))
    save_file(weights, file)
    with pytest.raises(BadInput, match="not finite; use float32"):
        load_embedder(spec).encode_images(images)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "hf:google/siglip-base-patch16-224",
            r"siglip-base-patch16-224 is not on this machine .* out of reach.*hf:FOLDER",
        ),
        ("open_clip:ViT-B-16/openai", r"is not on this machine .* out of reach.*local-dir:FOLDER"),
        ("open_clip:hf-hub:timm/ViT-B-16-SigLIP", r"is not on this machine .* out of reach.*local-dir:FOLDER"),
        ("open_clip:ViT-B-16", "which weights.*open_clip:ViT-B-16/openai"),
        ("hf:./nowhere", r"no folder './nowhere'"),
        ("open_clip:local-dir:nowhere", "no open_clip_config.json in 'nowhere'"),
        ("nowhere.py:Mine", r"no file nowhere\.py"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(spec, message):
    with pytest.raises(BadInput, match=message):
        load_embedder(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dioramma", "unknown embedder 'dioramma'; nearest: diorama"),
        ("clip:ViT-B-16", "write diorama, open_clip:MODEL/PRETRAINED"),
        ("diorama:siglip-smal", "nearest: siglip-small"),
        ("open_clip:ViT-B-61/openai", "unknown open_clip model 'ViT-B-61'; nearest: ViT-B-16"),
        ("open_clip:ViT-B-16/opneai", "unknown open_clip weights 'opneai'; nearest: openai"),
    ],
)
def test_unknown_names_get_the_nearest(spec, message):
    with pytest.raises(UnknownName, match=message):
        load_embedder(spec)


def test_wrong_options_and_damaged_files(specs, tmp_path):
    with pytest.raises(UnknownName, match="nearest: float16"):
        get_dtype("float17")
    with pytest.raises(BadInput, match="batch_size is 0"):
        load_embedder(specs["clip"], batch_size=0)
    with pytest.raises(BadInput, match="device 'cuda:99' cannot be used"):
        load_embedder(specs["clip"], device="cuda:99")
    spec = tiny.make("open_clip", tmp_path / "cut")
    file = tmp_path / "cut" / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_embedder(spec)
    file.unlink()
    with pytest.raises(BadInput, match="no weights in"):  # open_clip itself would go on with random ones
        load_embedder(spec)


def test_a_model_without_texts_is_refused(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    ViTModel(ViTConfig(**tiny.SEES)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="give a CLIP or SigLIP"):
        load_embedder(f"hf:{tmp_path}")


def test_one_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from tests.describers.colour_embedder import ColourEmbedder\n\nclass No: pass\n\ndef broken(): raise"
        " ValueError('no')\n"
    )
    embedder = load_embedder(f"{file}:ColourEmbedder")
    red = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    cosines = embedder.encode_images(red) @ embedder.encode_texts(["blue", "something red", "nothing known"]).T
    assert cosines.argmax() == 1
    assert cosines[0, 2] == 0
    with pytest.raises(BadInput, match="makes a No"):
        load_embedder(f"{file}:No")
    with pytest.raises(BadInput, match="ValueError: no"):
        load_embedder(f"{file}:broken")
    with pytest.raises(UnknownName, match="nearest: ColourEmbedder"):
        load_embedder(f"{file}:ColorEmbedder")


def test_a_stand_in_that_was_not_built_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr("milan.pretrained.embedder.locate_packaged_data", lambda relative: tmp_path)
    with pytest.raises(MissingEvidence, match="build --only siglip-large"):
        load_embedder("diorama:siglip-large")

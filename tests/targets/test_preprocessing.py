"""Preprocessing: what a network is shown of a picture is what its own library shows it, pixel by pixel, or it is
refused.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import functional

from milan.errors import BadInput
from milan.targets.library_preprocessing import processor_preprocessing, timm_preprocessing, torchvision_preprocessing
from milan.targets.library_transforms import KnownPreprocessing
from milan.targets.preprocessing import Preprocessing, TargetOptions

LIMIT = 0.05  # grey levels


def photograph(width: int, height: int) -> Image.Image:
    """A smooth picture with edges and grain, as photographs have them."""
    grain = np.random.default_rng(3).normal(0, 12, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    shade = np.stack([200 * columns / width, 160 * rows / height, 90 + 60 * np.sin(columns / 9)], axis=2)
    image = Image.fromarray((shade + grain).clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    ImageDraw.Draw(image).ellipse((width // 4, height // 3, width // 2, height // 2), fill=(230, 40, 20))
    return image


PHOTOGRAPHS = [photograph(500, 375), photograph(341, 427), photograph(300, 300)]


def difference(found: KnownPreprocessing, transform: Callable[[Image.Image], Tensor]) -> float:
    """Mean difference to the library's own pixels in grey levels, on the worst photograph; of a larger input the middle
    counts.
    """
    own, worst = found.preprocessing, 0.0
    mean, std = (np.array(values)[:, None, None] for values in (own.mean, own.std))
    for image in PHOTOGRAPHS:
        library = transform(image).numpy()
        pixels = own.pixels(image).astype(np.float64)[:: -1 if own.channel_order == "bgr" else 1]
        middle = library[:, *own.cut(library.shape[1:])]
        worst = max(worst, float(np.abs((middle * std + mean) * 255 - pixels).mean()))
    return worst


PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "image_mean": [0.4, 0.5, 0.6]}),
    ("ViTImageProcessorPil", {}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 251}}),  # an odd cut
    ("DeiTImageProcessor", {}),  # squashed, then cut
    ("LevitImageProcessor", {}),
    ("PoolFormerImageProcessor", {}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ("MobileNetV2ImageProcessor", {}),
    ("BitImageProcessor", {}),
    ("MobileViTImageProcessor", {"size": {"shortest_edge": 288}}),  # blue first
    ("EfficientNetImageProcessor", {"include_top": False, "rescale_offset": True}),
    ("EfficientNetImageProcessor", {}),
    ("ChameleonImageProcessor", {}),  # Lanczos
    ("Sapiens2ImageProcessor", {"size": {"height": 96, "width": 64}}),
    (
        "DetrImageProcessor",
        {"size": {"shortest_edge": 200, "longest_edge": 333}},
    ),  # every picture has a size of its own
    ("ViTImageProcessor", {"do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3}),
    ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
]


@pytest.mark.parametrize(
    ("name", "options"), PROCESSORS, ids=[f"{name}-{place}" for place, (name, _) in enumerate(PROCESSORS)]
)
def test_image_processors_of_transformers(name: str, options: dict[str, Any], tmp_path: Any) -> None:
    getattr(transformers, name)(**options).save_pretrained(tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    found = processor_preprocessing(str(tmp_path), SimpleNamespace(), local=True)
    assert not found.fault
    assert difference(found, lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]) < LIMIT


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "DINOv3ViTImageProcessor",
            "grey levels",
        ),  # scales floating-point numbers, which pixels of eight bits cannot hold
        ("PPLCNetImageProcessor", "grey levels"),  # rounds sides up
        ("MobileViTImageProcessor", "grey levels"),  # cuts more than there is
        ("Swin2SRImageProcessor", "grey levels"),
        ("VideoMAEImageProcessor", "fails on a picture"),
    ],
)
def test_what_cannot_be_reproduced_is_a_fault(name: str, why: str, tmp_path: Any) -> None:
    getattr(transformers, name)().save_pretrained(tmp_path)
    assert why in processor_preprocessing(str(tmp_path), SimpleNamespace(), local=True).fault


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.tv_in1k",
        "vit_small_patch16_224",
        "dm_nfnet_f0",
        "beit_base_patch16_224",
        "vit_base_patch16_sapiens2",
        "csatv2",
    ],
)
def test_data_configurations_of_timm(name: str) -> None:
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    found = timm_preprocessing(data)
    assert not found.fault
    assert difference(found, timm.data.create_transform(**data, is_training=False)) < LIMIT


def test_timm_on_images_that_are_not_square_and_with_borders() -> None:
    data = timm.data.resolve_data_config(pretrained_cfg={"input_size": (3, 96, 160), "crop_pct": 0.9})
    found = timm_preprocessing(data)
    assert (found.preprocessing.image_size, found.preprocessing.resize) == ((96, 160), (106, 177))
    assert difference(found, timm.data.create_transform(**data, is_training=False)) < LIMIT
    assert "grey levels" in timm_preprocessing(data | {"crop_mode": "border"}).fault


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "efficientnet_b0",
        "swin_t",
        "vit_b_16",
        "inception_v3",
        "regnet_y_16gf",
        "deeplabv3_mobilenet_v3_large",
    ],
)
def test_presets_of_torchvision(name: str) -> None:
    published = models.get_model_weights(name).DEFAULT
    found = torchvision_preprocessing(nn.Identity(), published)
    assert found is not None
    assert not found.fault
    assert difference(found, published.transforms()) < LIMIT


def test_detectors_are_given_pixels_as_they_are() -> None:
    published = models.get_model_weights("ssdlite320_mobilenet_v3_large").DEFAULT
    detector = models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    found = torchvision_preprocessing(detector, published)
    assert found is not None
    assert (found.preprocessing.image_size, found.preprocessing.crop) == (320, "squash")
    assert (found.preprocessing.mean, found.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    assert "another size" in found.note


# --- the description itself


@given(st.integers(30, 90), st.integers(30, 90), st.integers(1, 40), st.integers(0, 30))
def test_center_is_torchvisions(width: int, height: int, size: int, more: int) -> None:
    image = Image.effect_noise((width, height), 80).convert("RGB")
    expected = functional.pil_to_tensor(functional.center_crop(functional.resize(image, size + more), [size, size]))
    assert np.array_equal(Preprocessing(size, size + more).pixels(image), expected)


def test_no_resize_means_the_size_itself() -> None:
    image = photograph(32, 32)
    own = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(Preprocessing(32).pixels(image), own)
    assert Preprocessing(32).geometry == Preprocessing(32, 32).geometry != Preprocessing(32, 37).geometry
    assert Preprocessing((24, 32)).pixels(photograph(64, 48)).shape == (3, 24, 32)


def test_a_frame_keeps_its_ratio_when_the_size_changes() -> None:
    library = Preprocessing(224, 256, interpolation="bicubic")
    assert library.changed(image_size=[112]) == Preprocessing(112, 128, interpolation="bicubic")
    assert library.changed(image_size=(112, 224)).resize == (128, 256)
    assert Preprocessing(64).changed(image_size=32).resize is None
    assert library.changed(resize=224).geometry == Preprocessing(224, interpolation="bicubic").geometry


def test_a_label_map_lies_on_its_picture() -> None:
    image = Image.new("RGB", (60, 40))
    image.paste((255, 255, 255), (30, 0, 60, 40))
    for preprocessing in (Preprocessing(32, 40), Preprocessing((16, 24)), Preprocessing(24, crop="squash")):
        labels = preprocessing.label_map(image.convert("L"))
        assert np.array_equal(labels > 0, preprocessing.pixels(image)[0] > 127)


def test_a_thread_of_a_picture_does_not_fill_the_memory() -> None:
    for size in ((1, 60_000), (60_000, 1)):
        assert (Preprocessing(224, 256).pixels(Image.new("RGB", size, "red"))[0] == 255).all()


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"image_size": 0}, "0"),
        ({"image_size": (1, 2, 3)}, r"\(1, 2, 3\)"),
        ({"resize": 100}, "100 x 100 is smaller than the 224 x 224"),
        ({"image_size": (32, 64), "resize": 31}, "31 x 62"),
        ({"mean": (0.5,)}, r"\(0.5,\)"),
        ({"std": (1.0, 0.0, 1.0)}, "0.0"),
    ],
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], value: str) -> None:
    with pytest.raises(BadInput, match=value):
        Preprocessing().changed(**options)


def test_options_that_were_given() -> None:
    options = TargetOptions(name="mine", image_size=[32], prefix_tokens=0)
    assert options.given == {"name": "mine", "image_size": [32], "prefix_tokens": 0}
    assert (options.preprocessing, options.reading) == ({"image_size": [32]}, {"prefix_tokens": 0})

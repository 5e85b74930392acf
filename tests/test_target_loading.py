"""Targets by name: their weights, read without executing anything, their preprocessing, and what is refused."""

import argparse
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models

from milan.errors import BadInput, MilanWarning, UnknownName
from milan.targets.loading import load_target
from milan.targets.preprocessing import Preprocessing
from milan.targets.target import Target
from milan.targets.weight_files import load_weights_into

SMALL = "torchvision:squeezenet1_1"
VIT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def refused(*args: Any, **options: Any) -> str:
    """What load_target says when it refuses; a single line."""
    with pytest.raises(BadInput) as caught:
        load_target(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network (a proxy that refuses) and empty caches; the folder of torch's own."""
    import huggingface_hub.constants

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "torch"


# names


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("torchvision:resnet19", "resnet18"),
        ("timm:vit_tiny_patch16_225", "vit_tiny_patch16_224"),
        ("timm:convnext_base.dinov3_lvd", "dinov3_lvd1689m"),
        ("diorama:resnet-object", "resnet-objects"),
        ("torchvison:resnet18", "torchvision"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(spec: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        load_target(spec)
    assert near in caught.value.nearest
    assert len(caught.value.nearest) <= 3


def test_a_bare_name_is_answered_with_how_to_write_it() -> None:
    assert "torchvision:NAME" in refused("resnet18")
    assert "torchvision:resnet18?" in refused("resnet18")


@pytest.mark.parametrize("name", ["./vit", "/no/where", "~/vit", "models/vit/final", "vit/"])
def test_what_looks_like_a_path_is_never_sent_to_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milan.storage.hub_access.is_reachable", lambda url: pytest.fail("asked a hub"))
    assert f"no folder '{name}'" in refused(f"hf:{name}")


def test_a_path_below_a_folder_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no folder 'models/vit'" in refused("hf:models/vit")
    assert "no config.json" in refused("hf:models")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:resnet18", ["torchvision:resnet18", "resnet18-f37072fd.pth", "checkpoints", "--weights"]),
        ("timm:vit_tiny_patch16_224", ["timm/vit_tiny_patch16_224", "models--timm--vit_tiny", "--weights"]),
        ("hf:google/vit-base-patch16-224", ["google/vit-base-patch16-224", "models--google--vit-base", "local copy"]),
    ],
)
@pytest.mark.usefixtures("offline")
def test_offline_the_error_says_what_where_and_what_instead(spec: str, words: list[str]) -> None:
    said = refused(spec)
    assert [word for word in [*words, "out of reach"] if word not in said] == []


PUBLISHED = {  # how the published weights of each were made
    "squeezenet1_1": {},
    "googlenet": {"aux_logits": True, "init_weights": False},
    "inception_v3": {"aux_logits": True, "init_weights": False},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None, "num_classes": 21},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None, "num_classes": 21, "aux_loss": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_offline_torchvisions_cache_is_used(name: str, offline: Path) -> None:
    cached = offline / "checkpoints" / Path(models.get_model_weights(name).DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    network = models.get_model(name, weights=None, **PUBLISHED[name])
    torch.save(network.state_dict(), cached)
    target = load_target(f"torchvision:{name}")
    assert holds(target, network.state_dict())
    assert getattr(target.model, "transform_input", None) in (
        True,
        None,
    )  # what GoogLeNet's and Inception's published weights expect


def test_a_damaged_file_in_the_cache_is_told(offline: Path) -> None:
    cached = offline / "checkpoints" / Path(models.get_model_weights("resnet18").DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"PK cut")
    assert str(cached) in refused("torchvision:resnet18")


def cache(folder: Path, repository: str) -> Path:
    """A repository's folder in an empty Hugging Face cache."""
    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    return place / "snapshots" / "abc"


def test_offline_timms_cache_is_used(offline: Path) -> None:
    network = timm.create_model("test_resnet.r160_in1k")
    snapshot = cache(offline.parent / "hf", "timm/test_resnet.r160_in1k")
    snapshot.mkdir(parents=True)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    assert holds(load_target("timm:test_resnet.r160_in1k"), network.state_dict())


@pytest.mark.parametrize("place", ["hf_hub:someone/tiny", "hf-hub:someone/tiny@main", "local-dir:"])
def test_timms_networks_on_the_hub_and_in_folders(place: str, offline: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=7)
    snapshot = cache(offline.parent / "hf", "someone/tiny")
    timm.models._hub.save_for_hf(network, snapshot, safe_serialization=True)
    target = load_target(f"timm:{place}{snapshot if place.endswith(':') else ''}")
    assert holds(target, network.state_dict())
    assert "someone/else" in refused("timm:hf_hub:someone/else")
    assert "holds no config.json" in refused(f"timm:local-dir:{offline}")


def test_offline_transformers_cache_is_used(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(offline.parent / "hf"))
    network = saved_vit(cache(offline.parent / "hf", "someone/tiny-vit"))
    target = load_target("hf:someone/tiny-vit")
    assert holds(target, network.state_dict())
    assert target.image_size == 32


# weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return models.squeezenet1_1(weights=None).state_dict()


def holds(target: Target, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in target.core.state_dict().items())


def renamed(weights: dict[str, Tensor], change: Callable[[str], str]) -> dict[str, Tensor]:
    return {change(name): value for name, value in weights.items()}


PREFIXES = {
    "plain": lambda name: name,
    "of DataParallel": lambda name: f"module.{name}",
    "of torch.compile and DataParallel": lambda name: f"module._orig_mod.{name}",
    "of DataParallel on a part": lambda name: name.replace("features.", "features.module."),
    "of Lightning": lambda name: f"model.{name}",
    "of another wrapper": lambda name: f"backbone.body.module.{name}",
}


def more(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in state.items()}


NESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the ImageNet example's": lambda state: {"state_dict": state, "best_acc1": torch.tensor(71.2), "epoch": 3},
    "a CIFAR repository's": lambda state: {"net": state, "acc": np.float64(95.1), "args": argparse.Namespace(lr=0.1)},
    "an exponential mean's beside it": lambda state: {"model": state, "model_ema": more(state)},
    "of no usual name": lambda state: {"student": state, "optimizer": {"state": {0: state}, "param_groups": []}},
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "pickle"])
def test_names_of_any_training_program(weights: dict[str, Tensor], tmp_path: Path, prefix: str, old: bool) -> None:
    torch.save(renamed(weights, PREFIXES[prefix]), tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    target = load_target(SMALL, weights=tmp_path / "w.pth")
    assert holds(target, weights)
    assert (target.spec, target.weights) == (SMALL, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("nest", NESTS)
def test_checkpoints_of_any_training_program(weights: dict[str, Tensor], tmp_path: Path, nest: str) -> None:
    torch.save(NESTS[nest](weights), tmp_path / "model_best.pth.tar")
    assert holds(load_target(SMALL, weights=tmp_path / "model_best.pth.tar"), weights)


def test_what_is_saved_beside_the_network_is_left_out(weights: dict[str, Tensor], tmp_path: Path) -> None:
    state = renamed(weights, PREFIXES["of Lightning"]) | {"loss.weight": torch.ones(9)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.warns(MilanWarning, match=r"1 of 53 tensors.*loss\.weight"):
        assert holds(load_target(SMALL, weights=tmp_path / "last.ckpt"), weights)


@pytest.mark.parametrize("nested", [True, False])
def test_two_networks_in_a_file_are_told(weights: dict[str, Tensor], tmp_path: Path, nested: bool) -> None:
    both = {"one": weights, "two": weights}
    flat = {f"{name}.{key}": value for name, state in both.items() for key, value in state.items()}
    torch.save(both if nested else flat, tmp_path / "w.pth")
    assert re.search(r"one\.? ?(,|and) two", refused(SMALL, weights=tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.safetensors", "W.SAFETENSORS", "pytorch_model.bin", "blob"])
def test_safetensors(name: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({f"module.{key}": value for key, value in weights.items()}, tmp_path / name)
    assert holds(load_target(SMALL, weights=str(tmp_path / name)), weights)


def test_real_weights(shared_data: Path) -> None:
    target = load_target(
        "torchvision:squeezenet1_0", weights=shared_data / "squeezenet/squeezenet1_0_imagenet.safetensors"
    )
    assert target.layer("features.12").shape == (512, 13, 13)


def test_random_weights_need_no_file() -> None:
    assert load_target(SMALL, weights="random").weights == "random"


@pytest.mark.parametrize("spec", [SMALL, "torchvision:resnet18", "timm:test_resnet"])
def test_as_many_classes_as_the_weights_have(spec: str, tmp_path: Path) -> None:
    kind, _, name = spec.partition(":")
    network = (
        models.get_model(name, weights=None, num_classes=7)
        if kind == "torchvision"
        else timm.create_model(name, num_classes=7)
    )
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert load_target(spec, weights=tmp_path / "w.pt").outputs(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_with_and_without_its_auxiliary_heads(auxiliary: bool, tmp_path: Path) -> None:
    network = models.googlenet(weights=None, aux_logits=auxiliary, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    target = load_target("torchvision:googlenet", weights=tmp_path / "w.pth")
    assert holds(target, network.state_dict())
    assert target.model.transform_input  # the published weights expect it


def test_differing_keys_are_listed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    other = dict(weights)
    other["extra.weight"] = other.pop("features.0.weight")
    other["features.3.squeeze.weight"] = torch.zeros(3, 3)
    torch.save(other, tmp_path / "w.pth")
    said = refused(SMALL, weights=tmp_path / "w.pth")
    assert "missing: features.0.weight" in said
    assert "unknown: extra.weight" in said
    assert "features.3.squeeze.weight (3, 3) instead of (16, 64, 1, 1)" in said


class Trap:
    """Runs code when it is unpickled."""

    sprung: list[str] = []  # noqa: RUF012  what the code would leave behind

    def __reduce__(self) -> tuple[Any, ...]:
        return Trap.sprung.append, ("run",)


def test_nothing_in_a_weights_file_is_executed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": weights, "optimizer": Trap()}, tmp_path / "w.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Trap()))
    Trap.sprung.clear()
    assert "could run code" in refused(SMALL, weights=tmp_path / "w.pth")
    refused(SMALL, weights=tmp_path / "w.pkl")
    assert Trap.sprung == []


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "empty"),
        ("w.pth", b"PK\x03\x04 cut", "truncated"),
        ("w.safetensors", b"\x00" * 20, "damaged"),
        ("w.safetensors", POINTER, "Git LFS pointer"),
        ("w.pth", POINTER, "Git LFS pointer"),
        ("w.bin", b"\n <!DOCTYPE html><title>Sign in</title>", "web page"),
        ("w.pth", b'{"weight_map": {}}', "JSON"),
        ("w.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_what_is_no_weights_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert re.search(f"{name}.* {message}", refused(SMALL, weights=tmp_path / name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.to_sparse(), "sparse"),
        (lambda weight: weight.to("meta"), "meta"),
        (lambda weight: weight * 1j, "complex64 instead of float32"),
        (lambda weight: weight.char(), "int8 instead of float32"),
        (lambda weight: torch.zeros(1, 512, 1, 1).expand(2**29, 512, 1, 1), "1024.0 GiB"),
    ],
)
def test_odd_weights_are_refused(change: Any, message: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights | {"classifier.1.weight": change(weights["classifier.1.weight"])}, tmp_path / "w.pth")
    said = refused(SMALL, weights=tmp_path / "w.pth")
    assert "classifier.1.weight" in said
    assert message in said


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("kept", ["a", "b"])
def test_of_tied_weights_one_is_enough(kept: str) -> None:
    model, weights = Tied(), Tied().state_dict()
    load_weights_into(
        model, {name: value for name, value in weights.items() if name.startswith(("conv", kept))}, "file"
    )
    assert torch.equal(model.b.weight, weights["a.weight"])
    with pytest.raises(BadInput, match=r"a\.weight and b\.weight"):
        load_weights_into(model, weights | {"b.weight": weights["a.weight"] + 1}, "file")
    with pytest.raises(BadInput, match=r"missing: a\.weight, b\.weight"):
        load_weights_into(model, {name: weights[name] for name in ("conv.weight", "conv.bias")}, "file")


def test_files_that_hold_no_state_dict_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    assert "holds no state dict" in refused(SMALL, weights=tmp_path / "w.pth")
    assert "no weights file" in refused(SMALL, weights=tmp_path / "none.pth")


# families


@pytest.mark.parametrize(
    ("spec", "own"),
    [
        (
            "timm:vit_tiny_patch16_224",
            Preprocessing(224, 248, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        ("torchvision:efficientnet_b0", Preprocessing(224, 256, interpolation="bicubic")),
        ("torchvision:mobilenet_v2", Preprocessing(224, 232)),
    ],
)
def test_a_library_brings_its_preprocessing(spec: str, own: Preprocessing) -> None:
    assert load_target(spec, weights="random").preprocessing == own


def test_options_win_over_the_library_and_are_kept() -> None:
    target = load_target(SMALL, weights="random", image_size=112, interpolation="bicubic", name="mine", layout="BCHW")
    assert target.preprocessing == Preprocessing(112, 128, interpolation="bicubic")
    assert (target.name, target.slug, target.layout) == ("mine", "mine", "BCHW")
    assert load_target(**target.settings).preprocessing == target.preprocessing


def test_preprocessing_that_cannot_be_reproduced_is_refused_unless_stated(tmp_path: Path) -> None:
    saved_vit(tmp_path)
    transformers.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    said = refused(f"hf:{tmp_path}")
    assert re.search(r"DINOv3ViTImageProcessor .* by 0\.\d\d grey levels", said)
    assert "--image_size 32 --interpolation bilinear" in said
    with pytest.warns(MilanWarning, match="used as stated: squashed to 32 x 32"):
        assert load_target(f"hf:{tmp_path}", interpolation="bilinear").preprocessing.crop == "squash"


def test_without_a_processor_it_is_said_what_is_assumed(tmp_path: Path) -> None:
    saved_vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    (tmp_path / "processor_config.json").unlink(missing_ok=True)
    with pytest.warns(MilanWarning, match=r"no image processor .*assumed scaled to cover 32 x 32 pixels.*mean 0\.485"):
        load_target(f"hf:{tmp_path}")


def test_timm_within_transformers(tmp_path: Path) -> None:
    own = {"input_size": [3, 48, 48], "mean": [0.4] * 3, "std": [0.3] * 3, "crop_pct": 0.9, "interpolation": "bilinear"}
    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=3, pretrained_cfg=own)
    transformers.TimmWrapperForImageClassification(config).save_pretrained(tmp_path)
    assert load_target(f"hf:{tmp_path}").preprocessing == Preprocessing(48, 53, mean=(0.4,) * 3, std=(0.3,) * 3)


def saved_vit(folder: Path, **processor: Any) -> nn.Module:
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=3))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(**({"size": {"height": 32, "width": 32}} | processor)).save_pretrained(folder)
    return model


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    model = saved_vit(tmp_path, image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3])
    target = load_target(f"hf:{tmp_path}")
    assert (target.image_size, target.mean, target.std) == (32, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    images = target.noise(2, 32)
    with torch.no_grad():
        torch.testing.assert_close(target.outputs(images), model.eval()(images).logits)
    assert target.layer("vit").layout == "BNC"  # an output object: its first tensor


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "MobileViTImageProcessor"])  # the second takes blue first
def test_pixels_reach_the_network_as_its_processor_would_bring_them(kind: str, tmp_path: Path) -> None:
    saved_vit(tmp_path)
    getattr(transformers, kind)(do_resize=False, do_center_crop=False).save_pretrained(tmp_path)
    with pytest.warns(MilanWarning, match="another size"):
        target = load_target(f"hf:{tmp_path}")
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    wanted = transformers.AutoImageProcessor.from_pretrained(tmp_path)(images=pixels[0], return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(target.prepare(pixels), wanted.float(), rtol=1e-4, atol=1e-4)


def test_of_an_image_text_network_the_vision_part_is_taken(tmp_path: Path) -> None:
    text = {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text |= {key: VIT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=8)
    ).save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path
    )
    target = load_target(f"hf:{tmp_path}")
    assert (target.image_size, target.resize) == (32, 40)
    assert target.layer("encoder.layers.0").prefix_tokens == 1
    assert target.outputs(target.noise(1, 32)).shape == (1, 5, 16)


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    assert "BertModel" in refused(f"hf:{tmp_path}")


def test_weights_for_a_folder_of_transformers(tmp_path: Path) -> None:
    saved_vit(tmp_path / "a")
    other = saved_vit(tmp_path / "b")
    torch.save(other.state_dict(), tmp_path / "w.pth")
    for file in (tmp_path / "b" / "model.safetensors", tmp_path / "w.pth"):  # names as saved, and as in memory
        assert holds(load_target(f"hf:{tmp_path / 'a'}", weights=file), other.state_dict())
    torch.save(
        {name: value for name, value in other.state_dict().items() if "classifier" not in name}, tmp_path / "w.pth"
    )
    assert "missing: classifier.bias, classifier.weight" in refused(f"hf:{tmp_path / 'a'}", weights=tmp_path / "w.pth")


def test_the_embedded_networks() -> None:
    target = load_target("diorama:resnet-objects", weights="random")
    assert (target.image_size, target.mean) == (64, (0.5, 0.5, 0.5))
    assert {layer.layout for layer in target.layers()} >= {"BCHW", "BC"}


FILE = """
import torch
from torch import nn
from neighbour import WIDTH
from milan import Target

def network():
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def own():
    return Target(network(), name="mine", image_size=48, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

def number():
    return 3

def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 5\n")
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_a_file_of_yours(file: Path, tmp_path: Path) -> None:
    target = load_target(f"{file}:network")
    assert [layer.units for layer in target.layers()] == [5, 5, 5]
    torch.save({f"module.{name}": value + 1 for name, value in target.model.state_dict().items()}, tmp_path / "w.pth")
    changed = load_target(f"{file}:network", weights=tmp_path / "w.pth")
    assert torch.equal(
        changed.model[0].weight, target.model[0].weight * 0 + torch.load(tmp_path / "w.pth")["module.0.weight"]
    )
    assert changed.fingerprint != target.fingerprint
    file.write_text(FILE + "\n")
    edited = load_target(f"{file}:own")
    assert len({edited.fingerprint, load_target(f"{file}:own").fingerprint}) == 1
    file.write_text(FILE)
    assert load_target(f"{file}:own").fingerprint != edited.fingerprint


def test_random_weights_are_the_same_each_time(file: Path) -> None:
    state = torch.get_rng_state()
    for spec in (f"{file}:network", SMALL):
        assert load_target(spec, weights="random").fingerprint == load_target(spec, weights="random").fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_a_folder_of_transformers_lacks_are_told(tmp_path: Path) -> None:
    model = saved_vit(tmp_path)
    save_file(
        {name: value for name, value in load_file(tmp_path / "model.safetensors").items() if "classifier" not in name},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.warns(MilanWarning, match=r"no weights for classifier\.bias, classifier\.weight"):
        first = load_target(f"hf:{tmp_path}")
    with pytest.warns(MilanWarning, match="random"):
        assert load_target(f"hf:{tmp_path}").fingerprint == first.fingerprint
    assert first.core.num_labels == model.num_labels


def test_a_target_of_yours_brings_its_preprocessing(file: Path) -> None:
    target = load_target(f"{file}:own", layout="BCHW", std=[0.5, 0.5, 0.5])
    assert (target.name, target.spec, target.layout) == ("mine", f"{file}:own", "BCHW")
    assert target.preprocessing == Preprocessing(48, mean=(0.0,) * 3, std=(0.5,) * 3)


def test_of_a_bare_module_it_is_said_what_is_assumed(file: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(MilanWarning, match=r":network is unknown.*224 x 224 pixels.*mean 0\.485 .*--image_size"):
        load_target(f"{file}:network")
    with pytest.warns(MilanWarning, match="32 x 32 pixels"):
        load_target(f"{file}:network", image_size=[32])
    with pytest.warns(MilanWarning, match="preprocessing of Conv2d"):
        Target(nn.Conv2d(3, 4, 3))
    recwarn.clear()
    load_target(f"{file}:network", image_size=[32], mean=[0.5] * 3, std=[0.5] * 3)
    Target(nn.Conv2d(3, 4, 3), image_size=32)
    assert not recwarn


def test_networks_have_folders_of_their_own(file: Path) -> None:
    modules = [nn.Conv2d(3, 4, 3) for _ in range(2)]
    slugs = [Target(module, image_size=8).slug for module in modules] + [
        Target(modules[0], image_size=8, name="a b/c").slug
    ]
    slugs += [load_target(SMALL, weights="random").slug]
    assert [re.sub("-[0-9a-f]{8}$", "-KEY", slug) for slug in slugs] == [
        "Conv2d-KEY", "Conv2d-KEY", "a-b-c", "torchvision-squeezenet1_1-random"
    ]  # fmt: skip
    assert len(set(slugs)) == 4


def test_what_a_file_of_yours_may_get_wrong(file: Path) -> None:
    with pytest.raises(UnknownName, match="'networ'; nearest: network"):
        load_target(f"{file}:networ")
    assert "returns a int" in refused(f"{file}:number")
    assert "KeyError" in refused(f"{file}:broken")
    assert "no file" in refused(f"{file.parent / 'other.py'}:network")
    file.write_text("import nothing_of_this_name")
    assert "ModuleNotFoundError" in refused(f"{file}:network")

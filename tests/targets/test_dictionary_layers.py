"""Dictionaries as layers of a target: codes, ablation and steering worked out by hand, names, and loading."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from open_clip.model import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTModel

from milan import Dictionary, Probe, Target, ablate, dissect, load_dictionary, load_target, record, steer
from milan.errors import BadInput, MilanWarning
from milan.targets.dictionary import DictionaryConfig
from milan.targets.dictionary_quality import measure_dictionaries
from milan.targets.preprocessing import Size
from milan.targets.replay import record_replays
from milan.targets.unit_selection import select_units

ENCODER = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
DECODER = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
BIAS = torch.tensor([0.0, 0.0, -0.25])
LAYER_NORM = {"normalization": "layer_norm"}


class TokenBlock(nn.Module):
    """Red and green of each 2 x 2 patch as tokens, after a class token, which is their mean."""

    def forward(self, images: Tensor) -> Tensor:
        patches = avg_pool2d(images[:, :2], 2).flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)


class TokenNetwork(nn.Module):
    """A block of tokens, whose sum is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.block = TokenBlock()

    def forward(self, images: Tensor) -> Tensor:
        return self.block(images).sum(1)


class MapNetwork(nn.Module):
    """A convolution and the same maps with their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.conv(images).movedim(1, -1)).mean((1, 2))


def make_target(model: nn.Module, image_size: Size) -> Target:
    return Target(model.eval(), name="net", image_size=image_size, mean=(0.0,) * 3, std=(1.0,) * 3)


def make_dictionary(**config: Any) -> Dictionary:
    return Dictionary(ENCODER, DECODER, encoder_bias=BIAS, config=DictionaryConfig(**config))


def make_random_dictionary(width: int = 4, latents: int = 9, **config: Any) -> Dictionary:
    rng = torch.Generator().manual_seed(1)
    encoder, decoder = torch.randn(width, latents, generator=rng), torch.randn(latents, width, generator=rng)
    return Dictionary(encoder, decoder, config=DictionaryConfig(**config))


def token_target(**config: Any) -> Target:
    return make_target(TokenNetwork(), 4).with_dictionary(make_dictionary(**config), "block")


@pytest.fixture
def image() -> Tensor:
    """Four quadrants of 2 x 2 pixels, row by row: red, green, both, and black."""
    quadrants = torch.tensor([[[1, 0], [1, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.uint8) * 255
    return quadrants.repeat_interleave(2, 1).repeat_interleave(2, 2)[None]


@pytest.mark.parametrize(
    ("tokens", "maps"),
    [
        ("all", [[[1, 0], [1, 0]], [[0, 1], [1, 0]], [[0, 0.75], [0, 0]]]),
        ("patches", [[[1, 0], [1, 0]], [[0, 1], [1, 0]], [[0, 0.75], [0, 0]]]),
        ("cls", [[[0.5]], [[0.5]], [[0]]]),
    ],
)
def test_activations_of_latents_are_the_codes_on_the_grid(tokens: str, maps: list[Any], image: Tensor) -> None:
    target = token_target(tokens=tokens)
    with record(target, ["block@sae", "block"]) as activations:
        target(image)
    assert activations["block@sae"][0].tolist() == maps
    assert activations["block"].shape == (1, 2, 2, 2)
    assert target.layer("block@sae").has_class_token == (tokens == "all")


@pytest.mark.parametrize(
    ("tokens", "amounts", "mode", "output"),
    [
        # Latent 0 is active in red and both (1) and in the class token (0.5); its decoder row is (2, 0).
        ("all", {0: 0.0}, "clamp", [-2.5, 2.5]),
        ("patches", {0: 0.0}, "clamp", [-1.5, 2.5]),
        ("cls", {0: 0.0}, "clamp", [1.5, 2.5]),
        # Latent 2 is raised by 1 in each of the five tokens, or four, or one.
        ("all", {2: 1.0}, "add", [7.5, 7.5]),
        ("patches", {2: 1.0}, "add", [6.5, 6.5]),
        ("cls", {2: 1.0}, "add", [3.5, 3.5]),
        ("all", {1: 3.0}, "scale", [2.5, 7.5]),
        ("all", {0: 0.0, 2: 0.0}, "clamp", [-3.25, 1.75]),
    ],
)
def test_steering_acts_through_the_decoder(
    tokens: str, amounts: dict[int, float], mode: Any, output: list[float], image: Tensor
) -> None:
    target = token_target(tokens=tokens)
    assert target(image).tolist() == [[2.5, 2.5]]
    with steer(target, {f"block@sae:{unit}": amount for unit, amount in amounts.items()}, mode):
        assert target(image).tolist() == [output]
    assert target(image).tolist() == [[2.5, 2.5]]


@pytest.mark.parametrize("layer", ["conv", "last"])
@pytest.mark.parametrize("config", [{}, LAYER_NORM, {"activation": "topk", "k": 6}], ids=str)
def test_ablation_equals_a_hand_written_hook(layer: str, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, dictionary = MapNetwork(), make_random_dictionary(**config)
    target, images = make_target(model, 16), torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        h = output.movedim(1, -1) if layer == "conv" else output
        old = dictionary.encode(h)
        new = old.clone()
        new[..., [1, 5]] = 0
        changed = h + dictionary.decode(new, h) - dictionary.decode(old, h)
        return changed.movedim(-1, 1) if layer == "conv" else changed

    handle = model.get_submodule(layer).register_forward_hook(hook)
    right = target(images)
    handle.remove()
    attached = target.with_dictionary(dictionary, layer, "topk")
    with ablate(attached, [f"{layer}@topk:1", f"{layer}@topk:5"]):
        torch.testing.assert_close(attached(images), right)
    assert not torch.allclose(right, target(images))
    with record_replays(attached, f"{layer}@topk") as run:
        replay = run(target.prepare(images))
        ablated = replay.values.index_fill(replay.axis, torch.tensor([1, 5]), 0)
        torch.testing.assert_close(replay.run_from(ablated), right)
        torch.testing.assert_close(replay.outputs, target(images))


def test_neurons_and_latents_of_a_layer_are_ablated_together(image: Tensor) -> None:
    target = token_target()
    with ablate(target, ["block:1", "block@sae:0"]):
        # Green is 0 in all tokens; then red loses 2 for each 1.
        assert target(image).tolist() == [[-2.5, 0.0]]


def test_transcoders_are_read_but_not_steered(image: Tensor) -> None:
    target = token_target(transcoder=True)
    with record(target, ["block@sae"]) as activations:
        target(image)
    assert activations["block@sae"].shape == (1, 3, 2, 2)
    with ablate(target, "block@sae:0"), pytest.raises(BadInput, match="transcoder"):
        target(image)


SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"image_size": 32, "patch_size": 16}
TIMM: dict[str, Any] = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
OPEN_CLIP: dict[str, Any] = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "heads": 2, "mlp_ratio": 2}
NETWORKS = {
    "timm": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, **TIMM),
    "vit": lambda: ViTModel(ViTConfig(**SMALL)),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL)),
    "open_clip": lambda: VisionTransformer(output_dim=8, **OPEN_CLIP),
}
MODULES = {
    "timm": ["blocks.1", "blocks.0", "blocks.1.mlp", "blocks.1.attn", "blocks.1.mlp.act"],
    "vit": ["layers.1", "layers.0", "layers.1.mlp", "layers.1.attention", "layers.1.mlp.activation_fn"],
    "clip": [f"encoder.layers.{name}" for name in ("1", "0", "1.mlp", "1.self_attn", "1.mlp.activation_fn")],
    "open_clip": [f"transformer.resblocks.{name}" for name in ("1", "0", "1.mlp", "1.attn", "1.mlp.gelu")],
}
HOOKS = ["hook_resid_post", "hook_resid_pre", "hook_mlp_out", "hook_attn_out", "mlp.hook_post"]


@pytest.mark.parametrize("network", NETWORKS)
def test_names_of_hook_points_are_mapped_to_modules(network: str) -> None:
    target = make_target(NETWORKS[network](), 32)
    widths = [32, 32, 32, 32, 64]
    found = [
        target.with_dictionary(make_random_dictionary(width, hook_point=f"blocks.1.{hook}")).dictionaries[0].layer
        for hook, width in zip(HOOKS, widths, strict=True)
    ]
    assert found == MODULES[network]
    other = [
        target.with_dictionary(make_random_dictionary(32), name) for name in ("resid_post_layer_1", "layers.1.mlp")
    ]
    assert [each.dictionaries[0].layer for each in other] == MODULES[network][:4:2]
    with pytest.raises(BadInput, match=rf"blocks\.7\.hook_mlp_out.*{MODULES[network][0]}"):
        target.with_dictionary(make_random_dictionary(32), "blocks.7.hook_mlp_out")


def test_dictionaries_that_do_not_fit_are_refused() -> None:
    target = make_target(MapNetwork(), 16)
    with pytest.raises(BadInput, match=r"conv.*4 units.*5.*no layer of the network has 5 units"):
        target.with_dictionary(make_random_dictionary(5), "conv")
    with pytest.raises(BadInput, match="does not state its layer"):
        target.with_dictionary(make_random_dictionary())
    with pytest.raises(BadInput, match=r"class tokens.*conv"):
        target.with_dictionary(make_random_dictionary(tokens="cls"), "conv")
    with pytest.raises(BadInput, match="a:b"):
        target.with_dictionary(make_random_dictionary(), "conv", "a:b")
    attached = target.with_dictionary(make_random_dictionary(), "conv")
    with pytest.raises(BadInput, match="conv@sae"):
        attached.with_dictionary(make_random_dictionary(), "conv")
    with pytest.raises(BadInput, match="conv@sae"):
        attached.with_dictionary(make_random_dictionary(9), "conv@sae")


def test_the_target_itself_is_unchanged_and_copies_keep_the_layer() -> None:
    target, dictionary = make_target(MapNetwork(), 16), make_random_dictionary()
    attached = target.with_dictionary(dictionary, "conv")
    assert [layer.name for layer in target.layers()] == ["conv", "last"]
    assert [layer.name for layer in attached.layers()] == ["conv", "conv@sae", "last"]
    assert attached.fitted_to(32).layer("conv@sae").grid == (8, 8)
    assert select_units(attached, units="conv@sae:3-4") == {"conv@sae": [3, 4]}
    keys = [attached, target, target.with_dictionary(make_random_dictionary(k=2, activation="topk"), "conv")]
    assert len({each.fingerprint for each in keys}) == 3
    assert attached.fingerprint == target.with_dictionary(dictionary, "conv").fingerprint
    assert target.with_dictionary(dictionary, "last").slug == "net-sae"


NET_FILE = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU())
"""


def test_a_dictionary_is_an_option_of_load_target(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET_FILE)
    file = tmp_path / "directions.safetensors"
    save_file({"directions": torch.eye(4)[:3]}, file)
    options: dict[str, Any] = {"image_size": 16, "mean": [0.0] * 3, "std": [1.0] * 3, "dictionary": str(file)}
    target = load_target(f"{tmp_path}/net.py:net", dictionary_layer="0", **options)
    assert target.layer("0@sae").units == 3
    assert load_target(**target.settings).fingerprint == target.fingerprint
    # What was attached in Python cannot be loaded again.
    assert target.with_dictionary(load_dictionary(file), "0", "probes").settings == {}
    del options["dictionary"]
    with pytest.raises(BadInput, match="--dictionary"):
        load_target(f"{tmp_path}/net.py:net", dictionary_layer="0", **options)


def test_quality_is_measured_on_the_tokens_that_are_encoded(image: Tensor) -> None:
    batches = [(torch.tensor([0]), image)]
    with pytest.warns(MilanWarning, match="block"):
        found = measure_dictionaries(token_target(hook_point="block"), ["block@sae", "block"], batches)
    assert list(found) == ["block@sae"]
    # Active: two latents in the class token, one in red, two in green, two in both, none in black.
    assert (found["block@sae"].mean_l0, found["block@sae"].dead_share) == (7 / 5, 0)
    identity = Dictionary(torch.eye(2), torch.eye(2))
    good = make_target(TokenNetwork(), 4)
    for tokens, l0, share in (("all", 6 / 5, 0), ("patches", 1, 0), ("cls", 2, 0)):
        identity.config = replace(identity.config, tokens=tokens)
        quality = measure_dictionaries(good.with_dictionary(identity, "block"), ["block@sae"], batches)["block@sae"]
        assert (quality.mean_l0, quality.dead_share) == (l0, share)
        assert quality.explained_variance == (None if tokens == "cls" else 1)


@pytest.mark.filterwarnings("ignore::milan.errors.MilanWarning")
def test_masks_of_latents_lie_where_they_are_active(image: Tensor, tmp_path: Path) -> None:
    images = torch.cat([image, *[torch.zeros_like(image)] * 9])
    found = dissect(token_target(), Probe.from_tensor(images), ["block@sae"], tmp_path, k=1, quantile=0.9)["block@sae"]
    exemplars = found.exemplars("block@sae:2")
    # The quantile of one active place out of 40 is 0, so that the mask is where the upsampled code is above 0.
    assert found.thresholds().tolist()[2] == 0
    assert exemplars.ids.tolist() == [0]
    assert exemplars.activations.tolist() == [0.75]
    assert exemplars.masks[0, 0].tolist() == [[False, True, True, True]] * 3 + [[False] * 4]


def test_some_latents_are_dissected_as_among_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dictionary = make_random_dictionary(32, 40, activation="topk", k=3)
    target = make_target(NETWORKS["timm"](), 32).with_dictionary(dictionary, "blocks.1")
    probe = Probe.from_tensor(torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8))
    name, chosen = "blocks.1@sae", [3, 17, 39]
    every = dissect(target, probe, [name], tmp_path / "all", k=4, quantile=0.9)[name]
    some = dissect(target, probe, [name], tmp_path / "some", k=4, quantile=0.9, units={name: chosen})[name]
    assert some.thresholds().tolist() == every.thresholds()[chosen].tolist()
    for pooling in ("max", "mean", "cls"):
        assert torch.equal(some.activations(pooling), every.activations(pooling)[:, chosen])
    for unit in some.units:
        one, other = some.exemplars(unit), every.exemplars(unit)
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.masks, other.masks)
        assert torch.equal(one.activations, other.activations)


def test_a_latent_that_is_active_on_the_class_token_only_is_not_dead(tmp_path: Path) -> None:
    class LargestBlock(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            patches = avg_pool2d(images[:, :2], 2).flatten(2).transpose(1, 2)
            return torch.cat([patches.amax(1, keepdim=True), patches], 1)

    network = TokenNetwork()
    network.block = LargestBlock()
    # Red and green together exceed 1.5 in the class token of an image whose patches are red or green; never thrice.
    dictionary = Dictionary(torch.ones(2, 2), torch.ones(2, 2), encoder_bias=torch.tensor([-1.5, -3.0]))
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    images[0, 0, :2], images[0, 1, 2:] = 255, 255
    target = make_target(network, 4).with_dictionary(dictionary, "block")
    found = dissect(target, Probe.from_tensor(images), ["block@sae"], tmp_path, k=1)["block@sae"]
    assert found.activations("cls").tolist() == [[0.5, 0], [0, 0], [0, 0]]
    assert [*found.status.values()] == ["sparse", "dead"]
    ranked = dissect(target, Probe.from_tensor(images), ["block@sae"], tmp_path, k=1, rank_by="cls")["block@sae"]
    assert [*ranked.status.values()] == ["ok", "dead"]
    assert ranked.exemplars("block@sae:0").ids.tolist() == [0]

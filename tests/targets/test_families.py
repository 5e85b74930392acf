"""The contract of targets and hooks over families of published architectures, with random weights.

For each family: the layers named below have the units and grid that the architecture prescribes; for every layer that
is listed, what is recorded is the module's own output, taken down independently; the maps lie the right way round;
ablation sets what it should, and nothing is left of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torchvision import models

from milan.errors import UnknownName
from milan.targets.dictionary import Dictionary
from milan.targets.hooks import ablated, recorded, run_to_layers
from milan.targets.layers import Layer
from milan.targets.loading import load_target
from milan.targets.sparse_activations import SparseActivations
from milan.targets.target import Target
from milan.units import Unit

Expected = dict[str, tuple[int, int, int]]  # layer -> units, side of its grid, prefix tokens


@dataclass(frozen=True)
class Family:
    """One architecture, small, and what is known of some of its layers."""

    name: str
    image_size: int
    expected: Expected
    ablate: str  # a layer whose units reach the output
    upright: str  # an early layer, by which the orientation of its maps is reported
    options: tuple[tuple[str, Any], ...] = ()


MAXVIT = (
    *(
        ("input_size", (64, 64)),
        ("stem_channels", 8),
        ("partition_size", 4),
        ("block_channels", [8, 12]),
        ("block_layers", [1, 1]),
    ),
    *(("head_dim", 4), ("stochastic_depth_prob", 0.0)),
)
TORCHVISION = [
    Family(
        "alexnet",
        64,
        {"features.0": (64, 15, 0), "features.12": (256, 1, 0), "classifier.4": (4096, 1, 0)},
        "features.8",
        "features.0",
    ),
    Family(
        "vgg11",
        32,
        {"features.0": (64, 32, 0), "features.13": (512, 4, 0), "classifier.6": (1000, 1, 0)},
        "features.6",
        "features.4",
    ),
    Family(
        "squeezenet1_1",
        64,
        {"features.3": (128, 15, 0), "features.12": (512, 3, 0)},
        "features.7.expand3x3",
        "features.3",
    ),
    Family(
        "resnet18",
        64,
        {"conv1": (64, 32, 0), "layer1.0.relu#1": (64, 16, 0), "layer4": (512, 2, 0), "fc": (1000, 1, 0)},
        "layer3.0.bn1",
        "layer1",
    ),
    Family(
        "densenet121",
        64,
        {"features.denseblock1": (256, 16, 0), "features.norm5": (1024, 2, 0)},
        "features.denseblock2",
        "features.conv0",
    ),
    Family(
        "googlenet", 64, {"inception3a": (256, 8, 0), "inception5b": (1024, 2, 0)}, "inception4a.branch2.1.bn", "conv2"
    ),
    Family(
        "inception_v3",
        107,
        {"Conv2d_1a_3x3": (32, 53, 0), "Mixed_7c": (2048, 2, 0)},
        "Mixed_5b.branch1x1",
        "Conv2d_2b_3x3",
    ),
    Family(
        "mobilenet_v2", 64, {"features.1": (16, 32, 0), "features.18": (1280, 2, 0)}, "features.7.conv.2", "features.2"
    ),
    Family(
        "mobilenet_v3_small",
        64,
        {"features.4.block.2.fc1": (24, 1, 0), "features.12": (576, 2, 0)},
        "features.5",
        "features.0",
    ),
    Family("efficientnet_b0", 64, {"features.3": (40, 8, 0), "features.8": (1280, 2, 0)}, "features.4.0", "features.1"),
    Family(
        "regnet_y_400mf",
        64,
        {"trunk_output.block1": (48, 16, 0), "trunk_output.block4": (440, 2, 0)},
        "trunk_output.block2",
        "stem",
    ),
    Family("shufflenet_v2_x0_5", 64, {"stage2": (48, 8, 0), "conv5": (1024, 2, 0)}, "stage3.0", "conv1"),
    Family("mnasnet0_5", 64, {"layers.8": (16, 16, 0), "layers.15": (1280, 2, 0)}, "layers.9", "layers.3"),
    Family(
        "convnext_tiny",
        64,
        {"features.1": (96, 16, 0), "features.3.0.block.3": (768, 8, 0)},
        "features.3.0.block.3",
        "features.1.0.block.2",
    ),
    Family(
        "swin_t",
        64,
        {"features.1": (96, 16, 0), "features.5.0.mlp.0": (1536, 4, 0)},
        "features.3.0.mlp.0",
        "features.1.0.mlp.3",
    ),
    Family(
        "vit_b_32",
        64,
        {"conv_proj": (768, 2, 0), "encoder.layers.encoder_layer_3.mlp.0": (3072, 2, 1), "encoder.ln": (768, 2, 1)},
        "encoder.layers.encoder_layer_3.mlp.0",
        "encoder.layers.encoder_layer_0.mlp.0",
        (("image_size", 64),),
    ),
    Family(
        "MaxVit",
        64,
        {"stem": (8, 32, 0), "blocks.0": (8, 16, 0), "blocks.1": (12, 8, 0)},
        "blocks.1.layers.0.layers.MBconv.layers.conv_b.0",
        "blocks.0.layers.0.layers.MBconv",
        MAXVIT,
    ),
]

TIMM = [
    Family(
        "vit_tiny_patch16_224",
        64,
        {"patch_embed": (192, 4, 0), "blocks.5.mlp.act": (768, 4, 1)},
        "blocks.5.mlp.act",
        "blocks.0",
    ),
    Family(
        "deit_tiny_distilled_patch16_224", 64, {"blocks.3": (192, 4, 2), "norm": (192, 4, 2)}, "blocks.3", "blocks.0"
    ),
    Family(
        "vit_small_patch14_reg4_dinov2",
        56,
        {"blocks.0.mlp.fc1": (1536, 4, 5), "norm": (384, 4, 5)},
        "blocks.2.mlp.fc1",
        "blocks.0",
    ),
    Family(
        "swin_tiny_patch4_window7_224",
        64,
        {"layers.0": (96, 16, 0), "layers.2.blocks.1.mlp.fc1": (1536, 4, 0)},
        "layers.2.blocks.1",
        "layers.0",
    ),
    Family("test_maxvit", 160, {"stages.0": (32, 40, 0), "stages.3": (128, 5, 0)}, "stages.1", "stages.0"),
    Family("convnext_atto", 64, {"stages.0": (40, 16, 0), "stages.3": (320, 2, 0)}, "stages.1.blocks.0", "stages.0"),
    Family(
        "mixer_s32_224",
        64,
        {"blocks.2": (512, 2, 0), "blocks.2.mlp_channels.fc1": (2048, 2, 0)},
        "blocks.2",
        "blocks.0.norm1",
    ),
]

SIZED_BY_INPUT = ("convnext_atto", "test_maxvit")

TINY = (
    *(("hidden_size", 16), ("intermediate_size", 24), ("num_hidden_layers", 2), ("num_attention_heads", 2)),
    *(("image_size", 32), ("patch_size", 8)),
)
SWIN = (
    ("image_size", 32),
    ("patch_size", 2),
    ("embed_dim", 8),
    ("depths", [1, 1]),
    ("num_heads", [2, 2]),
    ("window_size", 4),
)
CONVNEXT = (("hidden_sizes", [8, 12]), ("depths", [1, 1]), ("num_stages", 2), ("image_size", 32))
RESNET = (("embedding_size", 8), ("hidden_sizes", [8, 16]), ("depths", [1, 1]), ("layer_type", "basic"))
BLOCK, FIRST, HIDDEN = r"layers?\.1", r"layers?\.0", r"layers?\.0\.mlp\.fc1"  # transformers renames what stands before
TRANSFORMERS = [  # layers by what their names end in
    Family(
        "ViTForImageClassification",
        32,
        {BLOCK: (16, 4, 1), HIDDEN: (24, 4, 1), "classifier": (2, 1, 0)},
        HIDDEN,
        FIRST,
        TINY,
    ),
    Family("DeiTForImageClassification", 32, {BLOCK: (16, 4, 2), HIDDEN: (24, 4, 2)}, HIDDEN, FIRST, TINY),
    Family(
        "BeitForImageClassification",
        32,
        {BLOCK: (16, 4, 1), HIDDEN: (24, 4, 1)},
        HIDDEN,
        FIRST,
        (*TINY, ("layer_scale_init_value", 1.0)),
    ),
    Family("Dinov2Model", 32, {BLOCK: (16, 4, 1), "mlp.fc1": (64, 4, 1)}, FIRST, FIRST, TINY),
    Family("Dinov2WithRegistersModel", 32, {BLOCK: (16, 4, 5)}, FIRST, FIRST, (*TINY, ("num_register_tokens", 4))),
    Family("CLIPVisionModel", 32, {BLOCK: (16, 4, 1), HIDDEN: (24, 4, 1)}, HIDDEN, FIRST, TINY),
    Family("SiglipVisionModel", 32, {BLOCK: (16, 4, 0), HIDDEN: (24, 4, 0)}, HIDDEN, FIRST, TINY),
    Family(
        "SwinForImageClassification",
        32,
        {r"layers\.0\.blocks\.0": (8, 16, 0), "swin.layernorm": (16, 8, 0)},
        FIRST,
        r"blocks\.0",
        SWIN,
    ),
    Family(
        "ConvNextForImageClassification",
        32,
        {r"stages\.0": (8, 8, 0), "encoder": (12, 4, 0)},
        "pwconv1",
        r"stages\.0",
        CONVNEXT,
    ),
    Family(
        "ResNetForImageClassification",
        32,
        {"embedder": (8, 8, 0), "encoder": (16, 4, 0)},
        r"layers?\.0",
        "embedder",
        RESNET,
    ),
]


def network(kind: str, family: Family, folder: Path) -> Target:
    """The family's network with random weights that leave no branch at zero, so that every layer matters."""
    torch.manual_seed(0)
    if kind == "transformers":
        cls = getattr(transformers, family.name)
        cls(cls.config_class(**dict(family.options))).save_pretrained(folder)
        target = load_target(f"hf:{folder}", image_size=family.image_size)
    elif kind == "timm":
        options = {} if family.name in SIZED_BY_INPUT else {"img_size": family.image_size}
        target = Target(timm.create_model(family.name, **options), name=family.name, image_size=family.image_size)
    else:
        build = models.MaxVit if family.name == "MaxVit" else partial(models.get_model, family.name, weights=None)
        quick = {"init_weights": False} if family.name in ("googlenet", "inception_v3") else {}
        target = Target(build(**dict(family.options), **quick), name=family.name, image_size=family.image_size)
    with torch.no_grad():
        for parameter in target.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return target


CASES = [
    (kind, family)
    for kind, families in (("torchvision", TORCHVISION), ("timm", TIMM), ("transformers", TRANSFORMERS))
    for family in families
]


@pytest.fixture(scope="module", params=CASES, ids=[f"{kind}-{family.name}" for kind, family in CASES])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Target, Family]:
    kind, family = request.param
    return network(kind, family, tmp_path_factory.mktemp("network")), family


def named(target: Target, pattern: str) -> Layer:
    """The layer of that name, or the first whose name ends in the pattern."""
    ends = [layer for layer in target.layers() if re.search(rf"(^|\.){pattern}$", layer.name)]
    return next((layer for layer in ends if layer.name == pattern), ends[0])


def first_tensor(output: Any) -> Tensor:
    """The first tensor of what a module puts out: the test's own reading of the rule."""
    while not isinstance(output, Tensor):
        values = list(output.values()) if hasattr(output, "values") else list(output)
        output = next(value for value in values if value is not None)
    return output


def as_maps(output: Tensor, layer: Layer) -> Tensor:
    """(batch, units, height, width) by hand: places are filled in one after the other."""
    height, width = layer.grid
    if layer.order:
        return as_maps(output, replace(layer, order=())).flatten(2)[:, :, list(layer.order)].unflatten(2, layer.grid)
    if layer.layout == "BCHW":
        return output
    maps = torch.empty(len(output), layer.units, height, width, dtype=output.dtype)
    for row in range(height):
        for column in range(width):
            if layer.layout == "BHWC":
                maps[:, :, row, column] = output[:, row, column, :]
            elif layer.layout == "BNC":
                maps[:, :, row, column] = output[:, layer.prefix_tokens + row * width + column, :]
            else:
                maps[:, :, row, column] = output
    return maps


def taken_down(target: Target, layers: list[Layer], images: Tensor) -> dict[str, Tensor]:
    """What the modules put out in a plain forward pass, copied before anything can overwrite it."""
    kept: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    modules = dict(target.model.named_modules())
    wanted = {layer.name for layer in layers}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            for key in {name, f"{name}#{call}"} & wanted:
                kept[key] = first_tensor(output).clone()

        return keep

    handles = [modules[name].register_forward_hook(hook(name)) for name in {layer.module for layer in layers}]
    target.model.eval()
    with torch.no_grad():
        target.model(images)
    for handle in handles:
        handle.remove()
    return kept


def test_units_grid_and_prefix_are_the_architectures(case: tuple[Target, Family]) -> None:
    target, family = case
    for name, (units, side, prefix) in family.expected.items():
        layer = named(target, name)
        assert (layer.units, layer.grid, layer.prefix_tokens) == (units, (side, side), prefix), layer


def test_units_are_the_output_channels_of_every_leaf(case: tuple[Target, Family]) -> None:
    target, _ = case
    modules = target.modules()
    widths = {nn.Conv2d: "out_channels", nn.Linear: "out_features", nn.BatchNorm2d: "num_features"}
    checked = 0
    for layer in target.layers():
        module = modules[layer.module]
        for kind, width in widths.items():
            if (
                isinstance(module, kind) and "mlp_tokens" not in layer.name
            ):  # a mixer's token MLP mixes places, not channels
                assert layer.units == getattr(module, width), layer
                checked += 1
    assert checked >= 5


def test_recorded_is_the_modules_own_output(case: tuple[Target, Family]) -> None:
    target, _ = case
    layers, images = target.layers(), target.noise(2, target.image_size)
    plain = taken_down(target, layers, images)
    seen: dict[str, Tensor] = {}

    def compare(name: str, maps: Tensor, cls: Tensor | None) -> None:
        layer = target.layer(name)
        assert maps.shape == (2, layer.units, *layer.grid)
        torch.testing.assert_close(
            maps, as_maps(plain[name], layer), rtol=0, atol=0, msg=lambda text: f"{name}: {text}"
        )
        if layer.has_class_token:
            assert cls is not None
            assert torch.equal(cls, plain[name][:, 0])
        seen[name] = maps.amax()

    with recorded(target, [layer.name for layer in layers], compare) as look:
        look(images)
    assert seen.keys() == plain.keys()


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (1, 0)], ids=["top right", "bottom left"])
def test_maps_lie_the_way_the_image_does(case: tuple[Target, Family], rows: int, columns: int) -> None:
    target, family = case
    layer = named(target, family.upright)
    pixels = torch.full((2, 3, target.image_size, target.image_size), 128, dtype=torch.uint8)
    third = target.image_size // 3
    spot = [slice(2 * third, None) if far else slice(None, third) for far in (rows, columns)]
    pixels[1, :, spot[0], spot[1]] = 255
    maps = []
    with recorded(target, [layer.name], lambda _, values, cls: maps.append(values.clone())) as look:
        look(target.prepare(pixels))
    change = (maps[0][1] - maps[0][0]).abs().sum(0)
    assert torch.isfinite(change).all()
    half = change.shape[0] // 2  # a middle row or column belongs to neither half
    quarters = {
        (0, 0): change[:half, :half],
        (0, 1): change[:half, -half:],
        (1, 0): change[-half:, :half],
        (1, 1): change[-half:, -half:],
    }
    assert max(quarters, key=lambda place: float(quarters[place].sum())) == (rows, columns)


def test_ablation_sets_the_unit_and_nothing_remains(case: tuple[Target, Family]) -> None:
    target, family = case
    layer = named(target, family.ablate)
    target.model.train()
    frozen = next(module for module in target.model.modules() if not list(module.children()))
    frozen.eval()
    modes = [module.training for module in target.model.modules()]
    images = target.noise(2, target.image_size)
    maps: list[Tensor] = []

    def look_once() -> Tensor:
        with recorded(target, [layer.name], lambda _, values, cls: maps.append(values.clone())) as look:
            look(images)
        return maps[-1]

    before, answer = look_once(), target.outputs(images)
    unit = int(before.abs().mean((0, 2, 3)).argmax())
    with ablated(target, [Unit(layer.name, unit)], value=2.5):
        during, changed = look_once(), target.outputs(images)
    others = [index for index in range(layer.units) if index != unit]
    assert (during[:, unit] == 2.5).all()
    assert torch.equal(during[:, others], before[:, others])
    assert not torch.equal(changed, answer)
    assert torch.equal(look_once(), before)
    assert torch.equal(target.outputs(images), answer)
    assert modes == [module.training for module in target.model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in target.model.modules())


def test_latents_of_a_dictionary_are_the_codes_of_every_place(case: tuple[Target, Family]) -> None:
    target, family = case
    layer, images = named(target, family.upright), target.noise(2, target.image_size)
    rng = torch.Generator().manual_seed(0)
    encoder, decoder = torch.randn(layer.units, 9, generator=rng), torch.randn(9, layer.units, generator=rng)
    dictionary = Dictionary(encoder, decoder)
    attached, name = target.with_dictionary(dictionary, layer.name), f"{layer.name}@sae"
    plain = as_maps(taken_down(target, [layer], images)[layer.name], layer)
    codes = dictionary.encode(plain.movedim(1, -1)).movedim(-1, 1)
    seen: dict[str, Tensor] = {}
    sparse: list[SparseActivations] = []
    with run_to_layers(attached, [name], lambda *_: None, lambda _, values: sparse.append(values)) as look:
        look(images)
    keep = sparse[0].places < layer.grid[0] * layer.grid[1]
    found = torch.zeros_like(codes.flatten(2))
    found[sparse[0].images[keep], sparse[0].units[keep], sparse[0].places[keep]] = sparse[0].values[keep]
    torch.testing.assert_close(found.view_as(codes), codes, rtol=1e-4, atol=1e-4)
    unit = int(codes.mean((0, 2, 3)).argmax())
    with (
        ablated(attached, [Unit(name, unit)]),
        recorded(attached, [layer.name, name], lambda of, values, _: seen.update({of: values.clone()})) as look,
    ):
        look(images)
    change = codes[:, unit, None] * dictionary.decoder[unit][:, None, None]
    torch.testing.assert_close(seen[layer.name], plain - change, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_not_there_is_answered_with_the_nearest(case: tuple[Target, Family]) -> None:
    target, _ = case
    name = target.layers()[-1].name
    with pytest.raises(UnknownName, match=re.escape(name)):
        target.layer(f"{name}x")

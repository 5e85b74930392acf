"""Targets: their layers and layouts, fingerprints, and what they refuse."""

import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from milan.errors import BadInput, MilanWarning
from milan.targets.layers import format_layers
from milan.targets.target import Target

# what is refused or brought into shape


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_networks_that_cannot_be_looked_into_are_refused() -> None:
    with pytest.raises(BadInput, match="TorchScript"):
        Target(torch.jit.trace(small(), torch.zeros(1, 3, 8, 8)))
    with pytest.raises(BadInput, match=r"0\.weight is on the meta device"):
        Target(small().to("meta"))


def test_quantized_networks_are_refused() -> None:
    quantized = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    with pytest.raises(BadInput, match="quantized"):
        Target(nn.Sequential(nn.Flatten(), quantized.Linear(192, 2)))


def test_half_precision_is_run_in_single_on_the_cpu() -> None:
    model = small().half()
    with pytest.warns(MilanWarning, match="16-bit"):
        target = Target(model, image_size=16)
    assert target.dtype == torch.float32
    assert next(model.parameters()).dtype == torch.float16
    assert target.outputs(target.noise(1, 16)).dtype == torch.float32


def test_a_network_of_other_input_is_told_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"cannot be run on images \(2, 3, 32, 32\).*wrap it"):
        Target(nn.Sequential(nn.Linear(5, 2)), image_size=32).layers()


def test_options_that_cannot_be_are_refused() -> None:
    for options in (
        {"layout": "NCHW"},
        {"prefix_tokens": -1},
        {"device": "tpu9"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.0,)},
    ):
        with pytest.raises(BadInput):
            Target(small(), **options)


# layers


class Reads(nn.Module):
    """Any function of images as a network whose one layer is its output."""

    def __init__(self, function: Any):
        super().__init__()
        self.conv, self.layer, self.function = nn.Conv2d(3, 6, 4, 4), nn.Identity(), function

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.function(self.conv(images)))


def tokens(maps: Tensor, before: int) -> Tensor:
    return torch.cat([maps.new_zeros(len(maps), before, maps.shape[1]), maps.flatten(2).transpose(1, 2)], 1)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize(
    ("function", "layout", "prefix"),
    [
        (lambda maps: maps, "BCHW", 0),
        (lambda maps: maps.permute(0, 2, 3, 1), "BHWC", 0),
        (lambda maps: tokens(maps, 0), "BNC", 0),
        (lambda maps: tokens(maps, 1), "BNC", 1),
        (lambda maps: tokens(maps, 2), "BNC", 2),
        (lambda maps: tokens(maps, 5), "BNC", 5),
        (lambda maps: maps.mean((2, 3)), "BC", 0),
    ],
)
@pytest.mark.parametrize("sizes", ["any", "one"])
def test_layouts_are_told_apart(function: Any, layout: str, prefix: int, size: int, sizes: str) -> None:
    def strict(maps: Tensor) -> Tensor:
        assert sizes == "any" or maps.shape[2] == size // 4
        return function(maps)

    layer = Target(Reads(strict), image_size=size).layer("layer")
    side = 1 if layout == "BC" else size // 4
    assert (layer.layout, layer.units, layer.grid, layer.prefix_tokens) == (layout, 6, (side, side), prefix)
    assert layer.has_class_token == (prefix > 0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda maps: maps.mean((2, 3))[:1].expand(7, -1), "first axis is not the batch"),
        (lambda maps: maps.flatten(2), "last axis grows with the image"),
        (lambda maps: maps.mean((2, 3))[:, None].expand(-1, 9, -1), "tokens at any image size"),
        (lambda maps: maps[:, None], "neither maps, tokens nor a vector"),
        (lambda maps: maps > 0, "no floating-point tensor"),
    ],
)
def test_what_cannot_be_laid_out_is_left_out_and_told(function: Any, reason: str) -> None:
    target = Target(Reads(function), image_size=32)
    assert [layer.name for layer in target.layers()] == ["conv"]
    with pytest.raises(BadInput, match=f"'layer' of Reads .*{reason}"):
        target.layer("layer")


def test_layout_and_prefix_tokens_override() -> None:
    twelve = Reads(lambda maps: tokens(maps, 12))
    with pytest.raises(BadInput, match="prefix_tokens"):
        Target(twelve, image_size=32).layer("layer")
    assert Target(twelve, image_size=32, prefix_tokens=12).layer("layer").grid == (8, 8)
    square = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Identity())
    assert Target(square, image_size=32, layout="BHWC").layer("1").units == 8


def test_attention_is_not_taken_for_maps() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.soft = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Softmax(-1)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            assert maps.shape[2] == 4
            x = self.norm(tokens(maps, 1))
            return self.soft((x @ x.transpose(1, 2))[:, None].expand(-1, 3, -1, -1)).mean((2, 3))

    target = Target(Attends(), image_size=32)
    assert [layer.name for layer in target.layers()] == ["conv", "norm"]
    assert "('B', 3, 17, 17)" in target.dissectable_layers.reasons["soft"]


class Shares(nn.Module):
    """One convolution under two names, and a part that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.again, self.idle = self.first, nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.again(images).mean((2, 3))


def test_shared_modules_are_listed_once_with_their_other_names() -> None:
    target = Target(Shares(), image_size=16)
    assert [(layer.name, layer.aliases) for layer in target.layers()] == [("first", ("again",))]
    assert target.layer("again").name == "first"
    with pytest.warns(MilanWarning, match="'again' is named twice"):
        assert [layer.name for layer in target.select_layers(["first", "again"])] == ["first"]
    with pytest.raises(BadInput, match="is not run"):
        target.layer("idle")


def test_finding_layers_runs_the_network_on_no_more_than_six_images() -> None:
    model = small()
    runs: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: runs.append(len(inputs[0])))
    target = Target(model, image_size=64)
    target.layers()
    target.layers()
    assert sum(runs) <= 6
    assert max(runs) <= 4


def test_the_table_of_layers() -> None:
    class Two(Shares):
        def forward(self, images: Tensor) -> Tensor:
            return self.idle(images).mean((2, 3)) + self.first(images).mean((2, 3))

    assert format_layers(Target(Two(), image_size=16).layers()).splitlines() == [
        "layer  output   units  layout",
        "first  4x14x14      4  BCHW    also again",
        "idle   4x14x14      4  BCHW",
    ]


# fingerprints


def test_the_fingerprint_is_of_weights_architecture_and_preprocessing() -> None:
    torch.manual_seed(0)
    model, other = small(), small()
    other.load_state_dict(model.state_dict())
    marks = [Target(model).fingerprint, Target(other).fingerprint]
    assert marks[0] == marks[1] == Target(nn.DataParallel(other)).fingerprint
    other[1] = nn.GELU()  # no weights of its own
    marks.append(Target(other).fingerprint)
    marks += [Target(model, image_size=64).fingerprint, Target(model, std=(1.0, 1.0, 1.0)).fingerprint]
    target = Target(model)
    model[0].weight.data[0, 0, 0, 0] += 1e-6
    marks.append(target.fingerprint)
    assert len(set(marks[1:])) == len(marks) - 1


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    model = nn.Conv2d(3, 1, 1)
    nn.init.constant_(model.weight, 0.5)
    nn.init.zeros_(model.bias)
    code = (
        "import torch; from torch import nn; from milan.targets.target import Target; m = nn.Conv2d(3, 1, 1);"
        "nn.init.constant_(m.weight, 0.5); nn.init.zeros_(m.bias); print(Target(m).fingerprint)"
    )
    message = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert message == Target(model).fingerprint


class Answers(nn.Module):
    """A network whose answers depend on more than its state dict, and that keeps something of each forward pass.

    cast: whether it runs in single precision alone.
    """

    def __init__(self, scale: float = 1.0, table: float = 1.0, heads: int = 2, cast: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.attention = nn.Conv2d(3, 4, 4, 4), nn.MultiheadAttention(4, heads, batch_first=True)
        self.scale, self.cast, self.last = scale, cast, torch.zeros(0)
        self.register_buffer("table", torch.tensor(table), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images.float() if self.cast else images) * self.scale * self.table
        self.last = found.flatten(2).transpose(1, 2)
        return self.attention(self.last, self.last, self.last)[0].mean(1)


def flipped() -> nn.Module:
    def forward(self: Answers, images: Tensor) -> Tensor:
        return Answers.forward(self, -images)

    model = Answers()
    vars(model)["forward"] = types.MethodType(forward, model)
    return model


def mark(model: nn.Module) -> str:
    return Target(model, image_size=32).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        lambda **options: Answers(scale=3.0, **options),
        lambda **options: Answers(table=2.0, **options),
        lambda **options: Answers(heads=1, **options),
        lambda **options: flipped() if not options["cast"] else Answers(scale=-1.0, **options),
    ],
    ids=["attribute", "buffer that is not persistent", "heads", "forward"],
)
@pytest.mark.parametrize("cast", [False, True], ids=["double", "single"])
def test_the_fingerprint_is_of_what_the_network_answers(other: Callable[..., nn.Module], cast: bool) -> None:
    assert mark(Answers(cast=cast)) != mark(other(cast=cast))


@pytest.mark.parametrize("cast", [False, True], ids=["double", "single"])
def test_the_fingerprint_changes_with_the_network_only_and_leaves_it_as_it_is(cast: bool) -> None:
    model = Answers(cast=cast)
    target, state = Target(model, image_size=32), torch.get_rng_state()
    before = target.fingerprint
    assert model.last.dtype == torch.float32  # what it keeps fits its weights
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(2)
    target.outputs(target.noise(1, 32))
    model.train()
    assert target.fingerprint == before == mark(Answers(cast=cast))
    torch.set_num_threads(1)
    model.scale = 2.0
    assert target.fingerprint != before


def test_a_network_that_drops_at_random_has_one_fingerprint() -> None:
    class Drops(Answers):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(images), 0.5, training=True)

    assert mark(Drops()) == mark(Drops())
    assert mark(Drops()) != mark(Answers())

"""The order of a layer's places, found by running the network on mixtures of two images, is put right or refused."""

from collections.abc import Callable

import pytest
import torch
from timm.models.hiera import Hiera
from timm.models.mobilevit import MobileVitV2Block
from timm.models.xcit import Xcit
from torch import Tensor, nn

from milan.errors import BadInput
from milan.targets.hooks import ablate, run_to_layers
from milan.targets.spatial_order import digits, raster_order
from milan.targets.target import Target
from milan.units import Unit

SIZE = 32


class Reads(nn.Module):
    """A network whose layer ``layer`` is a function of maps of 6 units on 8 x 8 places."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.layer, self.last, self.function = nn.Conv2d(3, 6, 4, 4), nn.Identity(), nn.Identity(), function

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.layer(self.function(self.conv(images))))


def one_size(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def strict(maps: Tensor) -> Tensor:
        assert maps.shape[2] == 8
        return function(maps)

    return strict


def look_at(target: Target, *layers: str) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    with run_to_layers(target, layers, lambda name, maps, cls: seen.update({name: maps.clone()})) as look:
        look(target.noise(2, target.image_size))
    return seen


def windows(maps: Tensor) -> Tensor:
    """(batch, windows, places, units): 8 windows of 2 x 4 places."""
    return maps.unflatten(2, (4, 2)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


SHUFFLED = torch.randperm(64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "function",
    [
        lambda maps: tokens(maps.transpose(2, 3)),
        lambda maps: tokens(maps.flip(3)),
        lambda maps: windows(maps).flatten(1, 2),
        lambda maps: torch.cat([maps.new_zeros(len(maps), 1, 6), windows(maps).flatten(1, 2)], 1),
        one_size(lambda maps: tokens(maps)[:, SHUFFLED]),
        one_size(windows),
        lambda maps: maps.transpose(2, 3),
    ],
    ids=["columns", "mirrored", "windows", "after a class token", "shuffled", "windows as maps", "transposed maps"],
)
def test_places_in_another_order_are_put_in_the_images(function: Callable[[Tensor], Tensor]) -> None:
    target = Target(Reads(function), image_size=SIZE)
    seen = look_at(target, "conv", "layer")
    assert torch.equal(seen["layer"], seen["conv"])
    assert target.layer("layer").order
    with ablate(target, [Unit("layer", 2)], value=7.0):
        changed = look_at(target, "layer")["layer"]
    assert (changed[:, 2] == 7).all()
    assert torch.equal(changed[:, 3:], seen["layer"][:, 3:])


@pytest.mark.parametrize(
    "function",
    [
        lambda maps: torch.cat([tokens(maps), maps.new_zeros(len(maps), 1, 6)], 1),
        lambda maps: (maps.flatten(2) @ tokens(maps))[:, None].expand(-1, 5, -1, -1).cumsum(1).sin(),
        lambda maps: (tokens(maps) @ maps.flatten(2))[:, None].expand(-1, 5, -1, -1).cumsum(1),
        lambda maps: tokens(maps)[:, SHUFFLED % 60],
    ],
    ids=["class token last", "attention among channels", "attention among places", "some places twice"],
)
@pytest.mark.parametrize("sizes", ["any", "one"])
def test_what_has_no_place_for_each_of_the_images_is_refused(function: Callable[[Tensor], Tensor], sizes: str) -> None:
    target = Target(Reads(one_size(function) if sizes == "one" else function), image_size=SIZE)
    with pytest.raises(BadInput, match=r"'layer' of "):
        target.layer("layer")


def test_an_order_that_a_layer_does_not_show_is_that_of_the_layer_before_it() -> None:
    class Averages(Reads):
        def forward(self, images: Tensor) -> Tensor:
            values = self.layer(tokens(self.conv(images).transpose(2, 3)))
            return self.last(values.mean(1, keepdim=True) + torch.arange(values.shape[1])[None, :, None])

    target = Target(Averages(lambda maps: maps), image_size=SIZE)
    assert target.layer("last").order == target.layer("layer").order != ()
    maps = look_at(target, "last")["last"][0, 0]
    assert float(maps[1, 0] - maps[0, 0]) == pytest.approx(1)


def test_the_order_is_of_the_targets_own_size() -> None:
    target = Target(Reads(lambda maps: tokens(maps.transpose(2, 3))), image_size=SIZE)
    with run_to_layers(target, ["layer"], lambda *seen: None) as look, pytest.raises(BadInput, match=r"\(4, 4\)"):
        look(torch.zeros(1, 3, 16, 16))


def test_digits_number_every_place() -> None:
    masks = digits((6, 5), 12, 20)
    assert masks.shape == (6, 12, 20)
    own = (masks[:, 1::2, 2::4].flatten(1) * 2.0 - 1)[:, torch.arange(29, -1, -1)]
    assert raster_order(own, (6, 5)) == tuple(range(29, -1, -1))
    assert raster_order(own[:, [0, *range(29)]], (6, 5)) is None


@pytest.fixture
def hiera() -> Target:
    torch.manual_seed(0)
    sizes = {"img_size": (64, 64), "embed_dim": 48, "mask_unit_size": (4, 4), "stages": (1, 1, 1), "q_pool": 2}
    model = Hiera(num_heads=1, num_classes=3, **sizes)
    return Target(model, name="hiera", image_size=64)


def test_hieras_tokens_lie_as_its_own_reroll_puts_them(hiera: Target) -> None:
    blocks = ["blocks.0", "blocks.1", "blocks.2"]
    assert [len(hiera.layer(name).order) for name in ["unroll", *blocks]] == [256, 256, 64, 0]
    seen = look_at(hiera, *blocks)
    with hiera.evaluation_mode(), torch.no_grad():
        _, own = hiera.core.forward_intermediates(hiera.noise(2, 64))
    for name, maps in zip(blocks, own, strict=True):
        torch.testing.assert_close(seen[name], maps, rtol=0, atol=0)


def test_attention_among_xcits_channels_is_no_map() -> None:
    torch.manual_seed(0)
    model = Xcit(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=3)
    target = Target(model, name="xcit", image_size=64)
    assert target.layer("blocks.1.norm2").grid == (8, 8)
    assert not target.layer("blocks.1.norm2").order
    for name in ("blocks.0.attn.attn_drop", "blocks.1.attn.attn_drop"):
        with pytest.raises(BadInput, match=name):
            target.layer(name)


def test_unfolded_patches_of_mobilevitv2_are_no_map() -> None:
    torch.manual_seed(0)
    block = MobileVitV2Block(16, transformer_dim=32, transformer_depth=1, patch_size=2)
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), block, nn.Conv2d(16, 8, 1))
    target = Target(model, name="mobilevitv2", image_size=64)
    assert target.layer("2").grid == (16, 16)
    with pytest.raises(BadInput, match=r"1\.transformer\.0\.attn\.qkv_proj"):
        target.layer("1.transformer.0.attn.qkv_proj")

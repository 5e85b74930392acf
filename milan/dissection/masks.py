"""Masks: where a unit's upsampled activation map exceeds its threshold."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from milan.dissection.forward_blocks import BlockOutputs, map_blocks
from milan.errors import BadInput
from milan.probes import Probe
from milan.targets.preprocessing import Size, height_width
from milan.targets.target import Target

_CHUNK = 2**24  # upsampled values at a time, which bounds the memory


def masks_from_maps(
    maps: Float[Tensor, "*lead h w"], thresholds: Float[Tensor, "*some"] | float, size: Size
) -> Bool[Tensor, "*lead height width"]:
    """Return masks that are True where a map, upsampled bilinearly to an image size, exceeds its threshold.

    Pixels have half-pixel centres and edge values are repeated, as in image libraries (in the 2022 code activations
    fade towards the border, so that its masks are smaller there). ``thresholds`` broadcast against the axes before h.

    >>> masks_from_maps(torch.tensor([[0.0, 4.0]]), 1.0, (1, 4))
    tensor([[False, False,  True,  True]])
    """
    height, width = height_width(size)
    lead, grid = maps.shape[:-2], maps.shape[-2:]
    levels = torch.as_tensor(thresholds, dtype=maps.dtype, device=maps.device).broadcast_to(lead).reshape(-1, 1, 1)
    # Interpolation would round.
    if grid == (1, 1):
        return (maps > levels.reshape(*lead, 1, 1)).expand(*lead, height, width).clone()
    masks = torch.empty(len(levels), height, width, dtype=torch.bool, device=maps.device)
    rows = max(1, _CHUNK // (height * width))
    for out, part, level in zip(
        masks.split(rows), maps.reshape(-1, *grid).split(rows), levels.split(rows), strict=True
    ):
        torch.gt(
            interpolate(part[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0], level, out=out
        )
    return masks.reshape(*lead, height, width)


def fill_empty_masks(masks: Bool[Tensor, "*lead height width"]) -> Bool[Tensor, "*lead height width"]:
    """Return masks in which an empty mask is replaced by the whole image."""
    return masks | ~find_filled_masks(masks)[..., None, None]


def find_filled_masks(masks: Bool[Tensor, "*lead height width"]) -> Bool[Tensor, "*lead"]:
    """Return which masks have a pixel."""
    # The largest byte of a mask is found 30 times as fast as any true value.
    return masks.flatten(-2).view(torch.uint8).amax(-1).bool()


def iter_unit_masks(
    target: Target,
    probe: Probe,
    layer: str,
    thresholds: Float[Tensor, " units"],
    *,
    size: Size | None = None,
    batch_size: int = 16,
) -> Iterator[tuple[Int[Tensor, " images"], Bool[Tensor, "images units height width"]]]:
    """Yield the indices of images and the masks of all units of a layer, in order, without unreadable images.

    Args:
        target: the network.
        probe: its images.
        layer: name of the layer.
        thresholds: a threshold for each unit of the layer, as ``Dissection.thresholds()``.
        size: size of the masks; by default that of the probe's images.
        batch_size: number of images decoded at a time.

    Raises:
        BadInput: the number of thresholds is not the number of units.
    """
    found = target.layer(layer)
    if len(thresholds) != found.units:
        raise BadInput(f"{len(thresholds)} thresholds for the {found.units} units of {found.name}; give one for each")

    def masked(seen: BlockOutputs) -> tuple[Tensor, Tensor]:
        return seen.ids, masks_from_maps(
            seen.maps[found.name], thresholds.to(seen.maps[found.name].device), size or probe.size
        )

    yield from map_blocks(target, [found.name], probe.inputs(batch_size), masked)

"""How far a target in 16 bits differs from itself in 32 bits, measured on the first images of a probe."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.dissection.forward_blocks import BlockOutputs, map_blocks
from milan.probes import Probe
from milan.targets.module_access import is_half
from milan.targets.target import Target

IMAGES = 64
# Memory of the activation maps that are compared, of both precisions; of large layers some units are compared.
MAP_BYTES = 2**28


@dataclass(frozen=True)
class Rounding:
    """Differences between 16 and 32 bits, as means over active units.

    Attributes:
        images: number of images.
        units: number of units that are compared.
        k: number of exemplars per unit.
        same_exemplars: share of a unit's exemplars that are the same, 0..1.
        mask_iou: intersection over union of a unit's masks in all images, each at its own threshold, 0..1.
        relative_error: mean absolute difference of the activations, relative to their mean absolute value.
    """

    images: int
    units: int
    k: int
    same_exemplars: float
    mask_iou: float
    relative_error: float

    def __str__(self) -> str:
        where = f"on the first {self.images} images ({self.units} units)"
        top = f"{self.same_exemplars:.1%} of the {self.k} exemplars of a unit are the same"
        rest = f"masks overlap with IoU {self.mask_iou:.3f}, activations differ by {self.relative_error:.2%}"
        return f"{where}, {top}, {rest}"


def measure_rounding(
    target: Target, probe: Probe, layers: Sequence[str], *, k: int = 15, quantile: float = 0.99
) -> Rounding | None:
    """Compare exemplars, masks and activations of a target in 16 bits with those in the precision of its weights.

    Args:
        target: a target with ``precision="bf16"``.
        probe: its images, of which the first are used.
        layers: layers that are compared; of each the same number of units, evenly spaced, that fits the memory.
        k: number of exemplars per unit; at most a quarter of the images are used as such.
        quantile: quantile of the mask thresholds.

    Returns:
        The differences; None if the weights have 16 bits anyway, or no unit is active.
    """
    if is_half(target.unrounded_model):
        return None
    count = min(IMAGES, len(probe))
    k = min(k, -(-count // 4))
    units = _choose_units(target, layers, count)
    exact, rounded = (_read_maps(each, probe, units, count) for each in (target.unrounded(), target))
    parts = [_compare(exact[layer], rounded[layer], k, quantile) for layer in units]
    compared = torch.cat(parts)
    if not len(compared):
        return None
    same, iou, error = compared.mean(0).tolist()
    return Rounding(count, len(compared), k, same, iou, error)


def _choose_units(target: Target, layers: Sequence[str], images: int) -> dict[str, Int[Tensor, " chosen"]]:
    """Return evenly spaced units of each layer, so many that their maps fit the memory."""
    places = {layer: target.layer(layer).grid[0] * target.layer(layer).grid[1] for layer in layers}
    most = max(1, MAP_BYTES // (2 * 4 * images * sum(places.values())))
    return {
        layer: torch.linspace(0, count - 1, min(count, most)).round().long()
        for layer in layers
        if (count := target.layer(layer).units)
    }


def _read_maps(
    target: Target, probe: Probe, units: dict[str, Int[Tensor, " chosen"]], images: int
) -> dict[str, Float[Tensor, "chosen images places"]]:
    def select(seen: BlockOutputs) -> dict[str, Tensor]:
        return {
            name: seen.maps[name][:, chosen.to(seen.maps[name].device)].flatten(2) for name, chosen in units.items()
        }

    blocks = list(map_blocks(target, list(units), probe.inputs(IMAGES, 0, images), select))
    return {name: torch.cat([block[name].cpu() for block in blocks]).transpose(0, 1).contiguous() for name in units}


def _compare(
    exact: Float[Tensor, "units images places"], rounded: Float[Tensor, "units images places"], k: int, quantile: float
) -> Float[Tensor, "active 3"]:
    """Return the share of equal exemplars, the IoU of the masks and the relative error of each active unit."""
    finite = exact.isfinite().flatten(1).all(1) & rounded.isfinite().flatten(1).all(1)
    active = finite & (exact.flatten(1).amax(1) > exact.flatten(1).amin(1))
    exact, rounded = exact[active], rounded[active]
    same = (_top(exact, k) & _top(rounded, k)).sum(1) / k
    masks, others = (_masks(each, quantile) for each in (exact, rounded))
    union = (masks | others).sum(1)
    # Of units that equal their threshold wherever they are largest, both masks may be empty.
    iou = torch.where(union > 0, (masks & others).sum(1) / union.clamp_min(1), 1.0)
    error = (exact - rounded).abs().flatten(1).mean(1) / exact.abs().flatten(1).mean(1).clamp_min(1e-30)
    return torch.stack([same, iou, error], 1)


def _top(maps: Float[Tensor, "units images places"], k: int) -> Bool[Tensor, "units images"]:
    """Return which images are exemplars; of images with equal peaks the first."""
    order = maps.amax(2).sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros(maps.shape[:2], dtype=torch.bool).scatter(1, order, True)


def _masks(maps: Float[Tensor, "units images places"], quantile: float) -> Bool[Tensor, "units values"]:
    """Return which values lie above the unit's own threshold."""
    values = maps.flatten(1)
    rank = min(values.shape[1], max(1, round(quantile * values.shape[1])))
    return values > values.kthvalue(rank, dim=1, keepdim=True).values

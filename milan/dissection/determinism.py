"""Whether a layer's values are a function of the image: run alone, twice and among others, one image gives the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.dissection.forward_blocks import exact
from milan.errors import BadInput, MilanError
from milan.storage.hub_access import format_error_line
from milan.targets.hooks import run_to_layers
from milan.targets.module_outputs import select_tensor
from milan.targets.preprocessing import Size
from milan.targets.target import Target

# Which of three images make up the batch: the first of them is there twice, at ``SAME``, among others.
BATCH, SAME = [1, 0, 2, 0], [1, 3]
REMEDY = (
    "switch off what is random or looks at other images (dropout outside nn.Dropout, random masks, batch statistics), "
    "or go on all the same with --allow_nondeterministic (in Python allow_nondeterministic=True)"
)


@dataclass(frozen=True)
class Examination:
    """What a few passes over noise show of some layers.

    Attributes:
        grids: height and width of each layer's maps.
        faults: why a layer's values are no function of the image, of those of which they are not.
    """

    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Mark:
    """What tells one module's output for one image from another."""

    name: str
    kind: str
    sums: Float[Tensor, " 2"]


def examine(target: Target, layers: Sequence[str], size: Size) -> Examination:
    """Compare what layers put out for one image alone and among others, in two passes up to the last of the layers.

    Values may differ by the square root of their precision, as a share of a layer's largest: sums are rounded otherwise
    in batches of another length.

    Raises:
        BadInput: the network takes no single image, or a layer's values are no function of the image and the target
            does not allow that.
    """
    images = target.make_noise(max(BATCH) + 1, size)
    with exact(target.device):
        try:
            alone = _values(target, layers, images[:1])
        except MilanError:
            raise
        except Exception as error:  # any fault of the network's own code
            text = f"{target.name} cannot be run on one image alone: {format_error_line(error)}"
            raise BadInput(f"{text}{_batch_statistics(target)}") from error
        among = _values(target, layers, images[BATCH])
        differences = {name: _difference(alone[name], among[name][SAME]) for name in alone}
        varying = {name: share for name, share in differences.items() if share > _tolerance(target)}
        faults = _faults(target, varying, images, alone) if varying else {}
    if faults and not target.allow_nondeterministic:
        raise BadInput(f"{next(iter(faults.values()))}; {REMEDY}")
    return Examination({name: (values.shape[2], values.shape[3]) for name, values in alone.items()}, faults)


def _values(target: Target, layers: Sequence[str], images: Tensor) -> dict[str, Float[Tensor, "b units h w"]]:
    found: dict[str, Tensor] = {}

    def keep(layer: str, maps: Tensor, cls: Tensor | None) -> None:
        found[layer] = maps.detach().clone()

    with run_to_layers(target, layers, keep) as look:
        look(images)
    return found


def _difference(one: Float[Tensor, "1 ..."], others: Float[Tensor, "b ..."]) -> float:
    """The largest difference, as a share of the largest value; what is NaN or infinite in both does not differ."""
    largest = one.nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp_min(1e-30)
    return float((others - one).nan_to_num().abs().max() / largest)


def _tolerance(target: Target) -> float:
    return torch.finfo(target.dtype).eps ** 0.5


def _faults(target: Target, varying: dict[str, float], images: Tensor, alone: dict[str, Tensor]) -> dict[str, str]:
    """What to say of each layer whose values vary, by how much they do."""
    again = _values(target, list(varying), images[:1])
    if any(_difference(alone[name], again[name]) > _tolerance(target) for name in varying):
        how, cause = "run twice, one image gives values", ""
        first = _first_to_differ(target, _marks(target, images[:1], 0), _marks(target, images[:1], 0))
    else:
        how, cause = "run alone and among others, one image gives values", _batch_statistics(target)
        first = _first_to_differ(target, _marks(target, images[:1], 0), _marks(target, images[BATCH], SAME[0]))
    what = f"of {target.name} is no function of the image: {how} that differ by"
    return {name: f"layer {name!r} {what} {share:.0%} of the largest{first}{cause}" for name, share in varying.items()}


def _batch_statistics(target: Target) -> str:
    """Name a module that normalizes by the batch, as batch normalization without running statistics does."""
    kind = nn.modules.batchnorm._BatchNorm
    modules = [(name, module) for name, module in target.modules().items() if isinstance(module, kind)]
    names = [name for name, module in modules if module.running_mean is None]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    what = "batch normalization without running statistics (track_running_stats=False)"
    return f"; {names[0]}{more} is {what}" if names else ""


def _first_to_differ(target: Target, one: Sequence[_Mark], other: Sequence[_Mark]) -> str:
    """Name the first module whose output for the image differs."""
    for mark, again in zip(one, other, strict=False):
        same = torch.allclose(mark.sums, again.sums, rtol=_tolerance(target), atol=0, equal_nan=True)
        if mark.name == again.name and not same:
            return f" (first in {mark.name}, {mark.kind})"
    return ""


def _marks(target: Target, images: Tensor, row: int) -> list[_Mark]:
    """Of each call of a module two sums over its output for one image of the batch, of which one tells places apart."""
    found: list[_Mark] = []

    def note(name: str, module: nn.Module, output: object) -> None:
        tensor = select_tensor(output, target.output_index)
        if tensor is None or not tensor[1].ndim or len(tensor[1]) != len(images):
            return
        values = tensor[1][row].detach().double().flatten()
        weights = torch.arange(len(values), device=values.device).double().cos()
        found.append(_Mark(name, type(module).__name__, torch.stack([values.abs().sum(), values @ weights])))

    with target.evaluation_mode(), torch.no_grad():
        handles = [
            module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, output))
            for name, module in target.modules().items()
        ]
        try:
            target.core(images)
        finally:
            for handle in handles:
                handle.remove()
    return found

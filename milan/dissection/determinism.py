"""Check that activations are a function of the image: equal for an image alone, in a batch, and in a second run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.dissection.forward_blocks import exact
from milan.errors import BadInput, MilanError
from milan.storage.hub_access import format_error_line
from milan.targets.hooks import run_to_layers
from milan.targets.module_access import forward_hooks
from milan.targets.module_outputs import select_tensor
from milan.targets.preprocessing import Size
from milan.targets.target import Target

# The batch of three images: the first one occurs twice, at ``SAME``, among others.
BATCH, SAME = [1, 0, 2, 0], [1, 3]
REMEDY = (
    "switch off what is random or depends on other images (dropout outside nn.Dropout, random masks, batch statistics),"
    " or continue anyway with --allow_nondeterministic (in Python allow_nondeterministic=True)"
)


@dataclass(frozen=True)
class Examination:
    """Results of a few passes over images of noise.

    Attributes:
        grids: height and width of each layer's maps.
        faults: for layers whose activations are no function of the image, the reason.
    """

    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Mark:
    """A summary of a module's output for one image."""

    name: str
    kind: str
    sums: Float[Tensor, " 2"]


def examine(target: Target, layers: Sequence[str], size: Size) -> Examination:
    """Compare the outputs of layers for an image alone and in a batch, in two passes up to the last layer.

    Values may differ by the square root of their precision, relative to a layer's largest, since sums are rounded
    differently in batches of another length.

    Raises:
        BadInput: the network takes no single image, or a layer's activations are no function of the image and the
            target does not allow that.
    """
    images = target.noise(max(BATCH) + 1, size)
    # Codes are a function of the layer's output, of which a rounding error may exchange two of the top k.
    sources = {name: target.layer(name).network_layer for name in layers}
    examined = list(dict.fromkeys(sources.values()))
    with exact(target.device):
        try:
            alone = _values(target, examined, images[:1])
        except MilanError:
            raise
        # The network's own code raises anything.
        except Exception as error:
            text = f"{target.name} cannot be run on one image alone: {format_error_line(error)}"
            raise BadInput(f"{text}{_batch_statistics(target)}") from error
        among = _values(target, examined, images[BATCH])
        differences = {name: _difference(alone[name], among[name][SAME]) for name in alone}
        varying = {name: share for name, share in differences.items() if share > _tolerance(target)}
        faults = _faults(target, varying, images, alone) if varying else {}
    if faults and not target.allow_nondeterministic:
        raise BadInput(f"{next(iter(faults.values()))}; {REMEDY}")
    grids = {name: (values.shape[2], values.shape[3]) for name, values in alone.items()}
    return Examination(
        {name: (1, 1) if target.layer(name).grid == (1, 1) else grids[sources[name]] for name in layers},
        {name: faults[sources[name]] for name in layers if sources[name] in faults},
    )


def _values(target: Target, layers: Sequence[str], images: Tensor) -> dict[str, Float[Tensor, "b units h w"]]:
    found: dict[str, Tensor] = {}

    def keep(layer: str, maps: Tensor, cls: Tensor | None) -> None:
        found[layer] = maps.detach().clone()

    with run_to_layers(target, layers, keep) as look:
        look(images)
    return found


def _difference(one: Float[Tensor, "1 ..."], others: Float[Tensor, "b ..."]) -> float:
    """Return the largest difference relative to the largest value, where NaN and infinity equal themselves."""
    largest = one.nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp_min(1e-30)
    return float((others - one).nan_to_num().abs().max() / largest)


def _tolerance(target: Target) -> float:
    return torch.finfo(target.dtype).eps ** 0.5


def _faults(target: Target, varying: dict[str, float], images: Tensor, alone: dict[str, Tensor]) -> dict[str, str]:
    """Return a message for each layer whose values vary, with the size of the variation."""
    again = _values(target, list(varying), images[:1])
    if any(_difference(alone[name], again[name]) > _tolerance(target) for name in varying):
        how, cause = "in two runs an image gives values", ""
        first = _first_to_differ(target, _marks(target, images[:1], 0), _marks(target, images[:1], 0))
    else:
        how, cause = "alone and in a batch an image gives values", _batch_statistics(target)
        first = _first_to_differ(target, _marks(target, images[:1], 0), _marks(target, images[BATCH], SAME[0]))
    what = f"of {target.name} is no function of the image: {how} that differ by"
    return {name: f"layer {name!r} {what} {share:.0%} of the largest{first}{cause}" for name, share in varying.items()}


def _batch_statistics(target: Target) -> str:
    """Return a note about batch normalization without running statistics, which normalizes by the batch."""
    kind = nn.modules.batchnorm._BatchNorm
    modules = [(name, module) for name, module in target.modules().items() if isinstance(module, kind)]
    names = [name for name, module in modules if module.running_mean is None]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    what = "batch normalization without running statistics (track_running_stats=False)"
    return f"; {names[0]}{more} is {what}" if names else ""


def _first_to_differ(target: Target, one: Sequence[_Mark], other: Sequence[_Mark]) -> str:
    """Return a note about the first module whose output for the image differs."""
    for mark, again in zip(one, other, strict=False):
        same = torch.allclose(mark.sums, again.sums, rtol=_tolerance(target), atol=0, equal_nan=True)
        if mark.name == again.name and not same:
            return f" (first in {mark.name}, {mark.kind})"
    return ""


def _marks(target: Target, images: Tensor, row: int) -> list[_Mark]:
    """Return two sums over the output of each call of a module for an image of the batch, one weighted by place."""
    found: list[_Mark] = []

    def make_hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def note(module: nn.Module, inputs: object, output: object) -> None:
            tensor = select_tensor(output, target.output_index)
            if tensor is None or not tensor[1].ndim or len(tensor[1]) != len(images):
                return
            values = tensor[1][row].detach().double().flatten()
            weights = torch.arange(len(values), device=values.device).double().cos()
            found.append(_Mark(name, type(module).__name__, torch.stack([values.abs().sum(), values @ weights])))

        return note

    with target.evaluation_mode(), torch.no_grad(), forward_hooks(target.modules(), make_hook):
        target.core(images)
    return found

"""Whether what layers put out is a function of the image: one image, run alone, twice and among others, must give the same values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.dissection.hooks import recorded
from milan.dissection.passes import exact
from milan.errors import BadInput, MilanError
from milan.preprocessing import Size
from milan.targets import Target
from milan.targets.outputs import chosen

# One image, which stands among others in the rows ``SAME`` of the batch.
BATCH, SAME = (1, 0, 2, 0), (1, 3)
REMEDY = (
    "switch off what is random or looks at the other images (dropout outside nn.Dropout, random masks, batch statistics), "
    "or go on all the same with allow_nondeterministic (--allow_nondeterministic)"
)


@dataclass(frozen=True)
class Examination:
    """What a few passes over noise show of some layers.

    Attributes:
        grids: height and width of each layer's maps.
        faults: why a layer's values are no function of the image; only of the layers where they are not.
    """

    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def examine(target: Target, layers: Sequence[str], size: Size) -> Examination:
    """Compare what layers put out for one image alone and among others: two passes, up to the last of the layers.

    Values may differ by what sums of 16 or 32 bits are rounded by: the square root of the precision, of a layer's largest value.

    Raises:
        BadInput: the network takes no single image, or the values are no function of the image and the target does not allow that.
    """
    images = target.noise(max(BATCH) + 1, size)
    with exact(target.device):
        try:
            alone = _values(target, layers, images[:1])
        except MilanError:
            raise
        except Exception as error:  # any fault of the network's own code
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadInput(f"{target.name} cannot be run on one image alone: {reason}{_batch_statistics(target)}") from error
        among = {name: values[list(SAME)] for name, values in _values(target, layers, images[list(BATCH)]).items()}
        off = {name: share for name in alone if (share := _difference(alone[name], among[name])) > _tolerance(target)}
        faults = _faults(target, off, images, alone) if off else {}
    if faults and not target.allow_nondeterministic:
        raise BadInput(f"{next(iter(faults.values()))}; {REMEDY}")
    return Examination({name: (values.shape[2], values.shape[3]) for name, values in alone.items()}, faults)


def _values(target: Target, layers: Sequence[str], images: Float[Tensor, "b ..."]) -> dict[str, Float[Tensor, "b units h w"]]:
    found: dict[str, Tensor] = {}

    def keep(layer: str, maps: Tensor, cls: Tensor | None) -> None:
        found[layer] = maps.detach().clone()

    with recorded(target, layers, keep) as look:
        look(images)
    return found


def _difference(one: Float[Tensor, "1 ..."], others: Float[Tensor, "b ..."]) -> float:
    """The largest difference, as a share of the largest value; what is NaN or infinite in both does not differ."""
    difference = (others - one).nan_to_num().abs().max()
    return float(difference / one.nan_to_num(posinf=0.0, neginf=0.0).abs().max().clamp_min(1e-30))


def _tolerance(target: Target) -> float:
    return torch.finfo(target.dtype).eps ** 0.5


def _faults(target: Target, off: dict[str, float], images: Tensor, alone: dict[str, Tensor]) -> dict[str, str]:
    """What to say of each layer that differs."""
    again = _values(target, list(off), images[:1])
    random = any(_difference(alone[name], again[name]) > _tolerance(target) for name in off)
    if random:
        how, first = "run twice, one image gives values", _first_to_differ(target, images[:1], 0, images[:1], 0)
    else:
        how = "run alone and among others, one image gives values"
        first = _first_to_differ(target, images[:1], 0, images[list(BATCH)], SAME[0])
    where = f" (first in {first})" if first else ""
    cause = "" if random else _batch_statistics(target)
    return {
        name: f"layer {name!r} of {target.name} is no function of the image: {how} that differ by {share:.0%} of the largest{where}{cause}"
        for name, share in off.items()
    }


def _batch_statistics(target: Target) -> str:
    """Names a module that normalizes by the batch, as batch normalization without running statistics does."""
    kinds = (nn.modules.batchnorm._BatchNorm,)
    names = [name for name, module in target.modules().items() if isinstance(module, kinds) and module.running_mean is None]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"; {names[0]}{more} is batch normalization without running statistics (track_running_stats=False)" if names else ""


def _first_to_differ(target: Target, one: Tensor, row: int, other: Tensor, other_row: int) -> str:
    """The first module whose output for one image differs between two batches."""
    for (name, kind, mark), (same, _, other_mark) in zip(_marks(target, one, row), _marks(target, other, other_row), strict=False):
        if name == same and not torch.allclose(mark, other_mark, rtol=_tolerance(target), atol=0, equal_nan=True):
            return f"{name}, {kind}"
    return ""


def _marks(target: Target, images: Tensor, row: int) -> Iterator[tuple[str, str, Float[Tensor, " 2"]]]:
    """Of each call of a module: its name, its class, and the sums of the absolute and of the squared output for one image of the batch."""
    found: list[tuple[str, str, Tensor]] = []

    def note(name: str, module: nn.Module, output: object) -> None:
        tensor = chosen(output, target.output_index)
        if tensor is not None and tensor[1].ndim and len(tensor[1]) == len(images):
            values = tensor[1][row].detach().double()
            found.append((name, type(module).__name__, torch.stack([values.abs().sum(), values.square().sum()])))

    with target.borrowed(), torch.no_grad():
        handles = [
            module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, output))
            for name, module in target.modules().items()
        ]
        try:
            target.core(images)
        finally:
            for handle in handles:
                handle.remove()
    return iter(found)

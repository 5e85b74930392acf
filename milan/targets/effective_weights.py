"""Effective weights: the product of the weight matrices between a layer and a later one, or the network's output.

"Naively combining weights" of *Tell me what you see* (section 3.2.3, equation 1). Activation functions and statistics
of the data are ignored, and so are places: a convolution counts by the spatial sum of its kernel, and a fully connected
layer that reads a whole map by the sum over its places. Residual connections are added, since they are linear too.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from milan.errors import BadInput
from milan.storage.hub_access import format_error_line
from milan.targets.module_access import forward_hooks
from milan.targets.module_outputs import select_tensor
from milan.targets.replay import record_replays
from milan.targets.target import Target

Forward = Callable[[Tensor], Tensor]
# Modules that are ignored, since they only bend or average the activation of a unit.
IGNORED_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Softmax,
    nn.LogSoftmax,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.AlphaDropout,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LocalResponseNorm,
    nn.Upsample,
)
NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


@torch.no_grad()
def compute_effective_weights(target: Target, layer: str, later_layer: str = "") -> Float[Tensor, "further units"]:
    """Return the effective weights of a layer's units in the units of a later layer, or in the network's output.

    A weight is the change of a later unit, at each place, per unit of activation at all places.

    Args:
        target: the network.
        layer: name of the layer.
        later_layer: name of the later layer; by default the network's output.

    Raises:
        UnknownName: there is no such layer.
        BadInput: ``later_layer`` does not come after ``layer``, or an operation between them is neither linear nor a
            module with known weights.
    """
    # The units may be latents, each of which writes a direction to the layer of the network.
    units, found = target.layer(layer), target.layer(target.layer(layer).network_layer)
    if later_layer and (network_layer := target.layer(later_layer).network_layer) != target.layer(later_layer).name:
        raise BadInput(f"no weights lead to codes, as of {later_layer}; name {network_layer} as the later layer")
    with record_replays(target, found.name) as look:
        replay = look(target.noise(1, target.image_size))

        def further(values: Tensor) -> Tensor:
            with _linearize(target, found.module), _capture_output(target, later_layer) as seen:
                answers = replay.run_from(_arrange_values(values, found.layout))
            return _reduce_places((seen or [torch.zeros_like(values)])[0] if later_layer else answers, len(values))

        one = torch.eye(found.units, device=replay.values.device, dtype=replay.values.dtype)
        try:
            zero = further(torch.zeros_like(one[:1]))
            weights = further(one) - zero
            # ReLU doubles with its argument, but does not change its sign, so -2 detects what is not linear.
            other = further(-2 * one) - zero
        except (RuntimeError, IndexError, TypeError) as error:
            raise BadInput(
                f"{_resolve_later_layer(target, layer, later_layer)} cannot be multiplied together:"
                f" {format_error_line(error)[:160]}"
            ) from None
    # Layers before it are not computed again.
    if later_layer and not weights.nan_to_num().any():
        raise BadInput(f"{later_layer} does not come after {layer}, so that no weights lead to it")
    if not torch.allclose(other, -2 * weights, rtol=1e-3, atol=1e-4 * float(weights.abs().max())):
        raise BadInput(
            f"{_resolve_later_layer(target, layer, later_layer)}: an operation there is not linear, such as"
            " attention or a function that is no module"
        )
    return units.written_directions(weights.float().cpu()).T


def _resolve_later_layer(target: Target, layer: str, later_layer: str) -> str:
    return f"what lies between {layer} and {later_layer or 'the answers'} of {target.name}"


def _arrange_values(values: Float[Tensor, "b units"], layout: str) -> Tensor:
    """Return activations of units at one place in a layer's layout."""
    if layout == "BCHW":
        return values[:, :, None, None]
    return {"BHWC": values[:, None, None, :], "BNC": values[:, None, :]}.get(layout, values)


def _reduce_places(output: Tensor, count: int) -> Float[Tensor, "b further"]:
    """Return one number for each unit of an output, whose places all have the same value."""
    if output.ndim == 4:
        output = output.mean((2, 3))
    elif output.ndim == 3:
        output = output.mean(1)
    return output.expand(count, -1)


@contextmanager
def _capture_output(target: Target, name: str) -> Iterator[list[Tensor]]:
    """Collect the outputs of a layer's module within the block."""
    seen: list[Tensor] = []
    if not name:
        yield seen
        return
    layer = target.layer(name)

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        found = select_tensor(output, target.output_index)
        if found is not None:
            seen.append(found[1].clone())

    with forward_hooks({layer.module: target.modules()[layer.module]}, lambda name: note):
        yield seen


@contextmanager
def _linearize(target: Target, layer: str) -> Iterator[None]:
    """Replace each module that has weights by its linear part within the block, except for ``layer`` itself."""
    with ExitStack() as stack:
        for name, module in target.modules().items():
            forward = _linear_forward(module)
            if (
                forward is not None
                and name != layer
                and not name.startswith(f"{layer}.")
                and "forward" not in module.__dict__
            ):
                module.forward = forward
                stack.callback(module.__dict__.pop, "forward", None)
        yield


def _linear_forward(module: nn.Module) -> Forward | None:
    """Return the linear part of a module, without places and statistics of the data; None for other modules."""
    if isinstance(module, IGNORED_MODULES):
        return lambda values: values
    if isinstance(module, nn.Conv2d):
        return lambda values: _apply_convolution(module, values)
    if isinstance(module, nn.Linear):
        return lambda values: _apply_linear(module, values)
    if isinstance(module, NORM_MODULES):
        return lambda values: _apply_norm(module, values)
    return None


def _apply_convolution(module: nn.Conv2d, values: Float[Tensor, "b units h w"]) -> Float[Tensor, "b further h w"]:
    sums = module.weight.sum((2, 3))  # further, units of the group
    groups = values.unflatten(1, (module.groups, -1))
    return torch.einsum("bguhw,gfu->bgfhw", groups, sums.unflatten(0, (module.groups, -1))).flatten(1, 2)


def _apply_linear(module: nn.Linear, values: Tensor) -> Tensor:
    places, rest = divmod(module.in_features, values.shape[-1])
    weight = module.weight.unflatten(1, (values.shape[-1], places)).sum(2) if places > 1 and not rest else module.weight
    return linear(values, weight)


def _apply_norm(module: nn.Module, values: Tensor) -> Tensor:
    weight = getattr(module, "weight", None)
    scale = torch.ones((), device=values.device) if weight is None else weight
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is not None:
        scale = scale / (module.running_var + module.eps).sqrt()
    along = (1, -1, *(1,) * (values.ndim - 2)) if not isinstance(module, nn.LayerNorm) else (-1,)
    return values * scale.reshape(along) if scale.ndim else values * scale

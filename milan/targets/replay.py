"""Rerun the part of a network after a layer with other outputs of the layer, without rerunning what precedes it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.errors import MilanError
from milan.targets.layouts import unit_axis
from milan.targets.module_access import forward_hooks, run_eagerly
from milan.targets.module_outputs import replace_tensor, select_tensor
from milan.targets.target import Target


class Replay:
    """A batch whose forward pass was recorded.

    Attributes:
        axis: axis of the units in ``values``.
        outputs: the network's output.
    """

    def __init__(self, target: Target, layer: str, images: Tensor):
        self._target, self._layer = target, target.layer(layer)
        self.axis = unit_axis(self._layer.layout)
        self._modules = target.modules()
        self._names = {id(module): name for name, module in self._modules.items()}
        # Outputs, call by call, of the modules that finished before the layer.
        self._module_outputs: dict[str, list[Any]] = {}
        self._raw_output: Any = None
        # Modules whose output is changed in place; None until it is known.
        self._modified_in_place: set[str] | None = None
        self.images = images
        self.outputs = self._run_first()

    @property
    def values(self) -> Tensor:
        """The activations of the layer's units, in its own layout; computed anew, as latents would take much memory."""
        return self._layer.read(self._output)

    def _run_first(self) -> Tensor:
        calls: Counter[str] = Counter()

        def note(module: nn.Module, _: Any, output: Any) -> None:
            name = self._names[id(module)]
            if self._raw_output is not None:
                return
            if name == self._layer.module and calls[name] == self._layer.call:
                self._raw_output = deepcopy(output)
            else:
                # Only the outermost of the finished modules are needed.
                for inner in [other for other in self._module_outputs if other.startswith(f"{name}.")]:
                    del self._module_outputs[inner]
                self._module_outputs.setdefault(name, []).append(deepcopy(output))
            calls[name] += 1

        with forward_hooks(self._modules, lambda name: note):
            outputs = self._outputs_now()
        found = None if self._raw_output is None else select_tensor(self._raw_output, self._target.output_index)
        if found is None:
            raise MilanError(
                f"layer {self._layer.name!r} of {self._target.name} did not run in this pass, though it did for the"
                " first images"
            )
        self._path, self._output = found
        self._module_outputs = {
            name: kept for name, kept in self._module_outputs.items() if not name.startswith(f"{self._layer.module}.")
        }
        return outputs

    def drop_unneeded(self, unneeded: frozenset[str] | None = None) -> frozenset[str]:
        """Drop the outputs of modules that nothing after the layer reads, which may be most of a deep network.

        A module is not needed if the network's output is the same when the module's output is all NaN.

        Args:
            unneeded: modules that an earlier batch did not need; computed by default.
        """
        if unneeded is None:
            right, names = (
                self.run_from(),
                [name for name, kept in self._module_outputs.items() if _are_floats(kept)],
            )
            unneeded = frozenset(
                names if self._is_same(right, names) else (name for name in names if self._is_same(right, [name]))
            )
        self._module_outputs |= {
            name: [_nan_like(output) for output in self._module_outputs[name]]
            for name in unneeded & set(self._module_outputs)
        }
        return unneeded

    def _is_same(self, right: Tensor, names: Iterable[str]) -> bool:
        whole = self._module_outputs
        self._module_outputs = whole | {name: [_nan_like(output) for output in whole[name]] for name in names}
        try:
            return torch.equal(self.run_from(), right)
        # A tensor without a storage of its own cannot be changed in place.
        except RuntimeError:
            return False
        finally:
            self._module_outputs = whole

    def _outputs_now(self) -> Tensor:
        found = select_tensor(self._target.core(self.images))
        if found is None:
            raise MilanError(f"{self._target.name} puts out no tensor of numbers")
        return found[1]

    def run_from(self, values: Float[Tensor, "..."] | None = None) -> Tensor:
        """Return the network's output for other activations of the units, or for the same ones by default.

        Gradients are computed if enabled.
        """
        changed = self._output if values is None else self._layer.write(values, self._output)
        calls: Counter[str] = Counter()
        handed: list[tuple[str, Any, list[int] | None]] = []

        def instead(name: str, module: nn.Module) -> Callable[..., Any]:
            kept, usual = self._module_outputs.get(name, []), module.forward

            def forward(*given: Any, **named: Any) -> Any:
                call = calls[name]
                calls[name] += 1
                if name == self._layer.module and call == self._layer.call:
                    return replace_tensor(self._raw_output, self._path, changed.clone())
                if call >= len(kept):
                    return usual(*given, **named)
                if self._modified_in_place is not None and name not in self._modified_in_place:
                    return kept[call]
                output = deepcopy(kept[call])
                handed.append((name, output, _tensor_versions(output)))
                return output

            return forward

        with ExitStack() as stack:
            for name in {*self._module_outputs, self._layer.module}:
                module = self._modules[name]
                module.forward = instead(name, module)
                stack.callback(module.__dict__.pop, "forward")
            outputs = self._outputs_now()
        if self._modified_in_place is None:
            self._modified_in_place = {
                name for name, output, versions in handed if versions is None or _tensor_versions(output) != versions
            }
        return outputs


@contextmanager
def record_replays(target: Target, layer: str) -> Iterator[Callable[[Tensor], Replay]]:
    """Yield a function that runs preprocessed images once and returns a :class:`Replay` from a layer.

    Modules that finished before the layer are not run again: their outputs are reused. Operations between modules
    before the layer are computed again, since nothing shows that they are not needed.

    The function raises UnknownName or BadInput if there is no such layer.
    """
    needless: list[frozenset[str]] = []

    def run(images: Tensor) -> Replay:
        replay = Replay(target, layer, images)
        needless[:] = [replay.drop_unneeded(*needless)]
        return replay

    with target.evaluation_mode(), run_eagerly(target.model), torch.no_grad():
        yield run


def _are_floats(outputs: Sequence[Any]) -> bool:
    return all(isinstance(output, Tensor) and output.is_floating_point() for output in outputs)


def _nan_like(output: Tensor) -> Tensor:
    """Return NaN of the same shape, without allocating memory for it."""
    return torch.full((), torch.nan, dtype=output.dtype, device=output.device).expand(output.shape)


def _tensor_versions(output: Any) -> list[int] | None:
    """Return how often each tensor was changed in place."""
    found = list_tensors(output)
    return None if found is None else [tensor._version for tensor in found]


def list_tensors(output: Any) -> list[Tensor] | None:
    """Return all tensors of an output; None for an output of an unknown type."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, dict | list | tuple):
        return None
    parts = [
        list_tensors(part) for part in (output.values() if isinstance(output, dict) else output) if part is not None
    ]
    return None if None in parts else [tensor for part in parts for tensor in part or ()]

"""Looking into a network and changing it for a while: ``recorded`` and ``ablated``."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.errors import BadInput, MilanError
from milan.targets.layers import Layer
from milan.targets.layouts import unit_axis
from milan.targets.module_access import run_eagerly
from milan.targets.module_outputs import replace_tensor, select_tensor
from milan.targets.target import Target
from milan.units import Unit

Reduce = Callable[[str, Float[Tensor, "b units h w"], Float[Tensor, "b units"] | None], None]


class _StopForward(BaseException):
    """Raised by the last hook to end the forward pass; no Exception, so that a network's own ``except`` does not catch
    it.
    """


class _Recorder:
    """Hands each asked layer's output to ``reduce`` within its hook, and ends the pass after the last."""

    def __init__(self, target: Target, names: Sequence[str], reduce: Reduce):
        self.target, self.reduce = target, reduce
        self.requested_names: dict[str, list[str]] = {}  # a layer's own name -> the names it was asked by
        self.layers: dict[str, dict[int, Layer]] = {}  # module -> number of the call -> layer
        for name in dict.fromkeys(names):
            layer = target.layer(name)
            self.requested_names.setdefault(layer.name, []).append(name)
            self.layers.setdefault(layer.module, {})[layer.call] = layer
        self.calls: Counter[str] = Counter()
        self.pending: set[str] = set()  # layers not yet seen in this pass; empty while look() is not at work

    def hook(self, module: str) -> Callable[[nn.Module, Any, Any], None]:
        wanted = self.layers[module]

        def record(_: nn.Module, inputs: Any, output: Any) -> None:
            if not self.pending:  # the network is run in the block by someone else
                return
            layer = wanted.get(self.calls[module])
            self.calls[module] += 1
            if layer is not None:
                self._record(layer, output)
                self.pending.discard(layer.name)
                if not self.pending:
                    raise _StopForward

        return record

    def _record(self, layer: Layer, output: Any) -> None:
        found = select_tensor(output, self.target.output_index)
        if found is None:
            raise MilanError(
                f"layer {layer.name!r} put out no tensor of numbers in this pass, though it did for the first images"
            )
        maps = layer.maps(found[1])
        cls = found[1][:, 0].to(maps.dtype) if layer.has_class_token else None
        for name in self.requested_names[layer.name]:
            self.reduce(name, maps, cls)

    def run(self, images: Tensor) -> None:
        """Runs prepared images through the network up to the last asked layer."""
        self.calls.clear()
        self.pending = set(self.requested_names)
        try:
            with torch.no_grad():
                self.target.core(images)
        except _StopForward:
            return
        finally:
            missed, self.pending = sorted(self.pending), set()
        if missed:
            raise MilanError(
                f"{', '.join(missed)} of {self.target.name} did not run in this pass, though it did for the first"
                " images"
            )


@contextmanager
def recorded(target: Target, layers: Sequence[str], reduce: Reduce) -> Iterator[Callable[[Tensor], None]]:
    """Yields ``look``: called with prepared images, it runs the network and hands each layer's values to ``reduce``.

    ``reduce(layer, maps, cls)`` is called inside the hook, before anything that runs in place after the layer, and must
    keep no view of
    what it is given: ``maps`` (batch, units, height, width) whatever the layer's layout, prefix tokens dropped and the
    others put back on their grid; ``cls`` (batch, units), the class token, else None. The pass ends after the last of
    the layers. Within the block the network is in evaluation mode on the target's device; afterwards it is as it was,
    also after an exception.

    Raises:
        UnknownName: for a layer that is not there.
        BadInput: for one that cannot be laid out over the image.
    """
    if not layers:
        raise BadInput("no layers were given to record")
    recorder = _Recorder(target, layers, reduce)
    with ExitStack() as stack:
        stack.enter_context(target.evaluation_mode())
        modules = target.modules()
        for module in recorder.layers:
            handle = modules[module].register_forward_hook(recorder.hook(module))
            stack.callback(handle.remove)
        yield recorder.run


class _Ablation:
    """Sets units of one module to a value in its output, call by call."""

    def __init__(self, target: Target, module: str, value: float):
        self.output_index, self.value = target.output_index, value
        self.calls_per_pass = max(1, target.count_calls(module))  # calls in one forward pass
        self.units: dict[int, tuple[int, Tensor]] = {}  # by number of the call: the axis of the units, and which
        self.current_call = 0

    def add(self, layer: Layer, indices: list[int]) -> None:
        self.units[layer.call] = (unit_axis(layer.layout), torch.tensor(indices))

    def start(self, *_: Any) -> None:
        """A new forward pass begins."""
        self.current_call = 0

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        found_units = self.units.get(self.current_call % self.calls_per_pass)
        self.current_call += 1
        found = select_tensor(output, self.output_index)
        if found_units is None or found is None:
            return None
        axis, units = found_units
        path, tensor = found
        return replace_tensor(output, path, tensor.index_fill(axis, units.to(tensor.device), self.value))


@contextmanager
def ablated(target: Target, units: Iterable[Unit], value: float = 0.0) -> Iterator[None]:
    """Within the block the output of each unit is ``value``, at every place and (for tokens) in the prefix tokens too.

    Holds for any way the network is called within the block, by :func:`recorded` or directly, compiled or not. Nothing
    remains afterwards.

    Raises:
        UnknownName, BadInput: for a layer that is not there, or a unit it does not have.
    """
    ablations = _make_ablations(target, units, value)
    with ExitStack() as stack:
        stack.enter_context(run_eagerly(target.model))
        modules = target.modules()
        for module, ablation in ablations.items():
            # first of all hooks, so that recorded() sees the ablated output whichever of the two was entered first
            handle = modules[module].register_forward_hook(ablation, prepend=True)
            stack.callback(handle.remove)
            stack.callback(target.core.register_forward_pre_hook(ablation.start).remove)
        yield


def _make_ablations(target: Target, units: Iterable[Unit], value: float) -> dict[str, _Ablation]:
    asked: dict[str, list[int]] = {}
    for unit in units:
        asked.setdefault(unit.layer, []).append(unit.index)
    merged: dict[str, tuple[Layer, set[int]]] = {}
    for name, indices in asked.items():
        layer = target.layer(name)
        wrong = [index for index in indices if not 0 <= index < layer.units]
        if wrong:
            raise BadInput(
                f"layer {name!r} has {layer.units} units, 0 to {layer.units - 1}; there is no unit {wrong[0]}"
            )
        merged.setdefault(layer.name, (layer, set()))[1].update(indices)
    ablations: dict[str, _Ablation] = {}
    for layer, chosen_units in merged.values():
        ablations.setdefault(layer.module, _Ablation(target, layer.module, value)).add(layer, sorted(chosen_units))
    return ablations

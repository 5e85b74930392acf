"""Record, ablate and steer the units of a network within a ``with`` block."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from milan.errors import BadInput, MilanError
from milan.targets.layers import Layer
from milan.targets.layouts import unit_axis
from milan.targets.module_access import forward_hooks, run_eagerly
from milan.targets.module_outputs import replace_tensor, select_tensor
from milan.targets.sparse_activations import SparseActivations
from milan.targets.target import Target
from milan.units import Unit, as_unit

Maps = Float[Tensor, "b units h w"]
StoreMaps = Callable[[str, Maps, Float[Tensor, "b units"] | None], None]
StoreSparse = Callable[[str, SparseActivations], None]
SteeringMode = Literal["add", "clamp", "scale"]


class _StopForward(BaseException):
    """Raised in the hook of the last layer to end the forward pass.

    It is no ``Exception``, so that an ``except Exception`` in the network's own code does not catch it.
    """


class _Recorder:
    """Calls ``store`` with the maps of each layer, in the hook of its module.

    Attributes:
        pending: layers that have not run yet in the current pass; empty between passes.
        stops: whether the pass ends after the last of the layers.
    """

    def __init__(
        self,
        target: Target,
        names: Sequence[str],
        store: StoreMaps,
        stops: bool,
        store_sparse: StoreSparse | None = None,
    ):
        if not names:
            raise BadInput("no layers were given to record; name at least one, as 'layer4'")
        self.target, self.store, self.stops, self.store_sparse = target, store, stops, store_sparse
        # A layer's own name -> the names under which it was requested.
        self.requested_names: dict[str, list[str]] = {}
        # Module -> number of its call -> layers.
        self.layers: dict[str, dict[int, dict[str, Layer]]] = {}
        for name in dict.fromkeys(names):
            layer = target.layer(name)
            self.requested_names.setdefault(layer.name, []).append(name)
            self.layers.setdefault(layer.module, {}).setdefault(layer.call, {})[layer.name] = layer
        self.calls: Counter[str] = Counter()
        self.pending: set[str] = set()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the hooks on the network within the block."""
        modules = self.target.modules()
        with forward_hooks({name: modules[name] for name in self.layers}, self._hook):
            yield

    def start(self, *_: Any) -> None:
        """Begin a forward pass."""
        self.calls.clear()
        self.pending = set(self.requested_names)

    def run(self, inputs: Tensor) -> None:
        """Run the network on prepared images, up to the last of the layers."""
        self.start()
        try:
            with torch.no_grad():
                self.target.core(inputs)
        except _StopForward:
            return
        finally:
            missed, self.pending = sorted(self.pending), set()
        if missed:
            names = ", ".join(missed)
            raise MilanError(f"{names} of {self.target.name} did not run in this pass, as it did for the first images")

    def _hook(self, module: str) -> Callable[[nn.Module, Any, Any], None]:
        layers = self.layers[module]

        def record_call(_: nn.Module, inputs: Any, output: Any) -> None:
            # Between passes the network is run by other code.
            if not self.pending:
                return
            called = layers.get(self.calls[module], {})
            self.calls[module] += 1
            for layer in called.values():
                self._store(layer, output)
                self.pending.discard(layer.name)
            if called and self.stops and not self.pending:
                raise _StopForward

        return record_call

    def _store(self, layer: Layer, output: Any) -> None:
        selected = select_tensor(output, self.target.output_index)
        if selected is None:
            raise MilanError(f"layer {layer.name!r} put out no floating-point tensor, as it did for the first images")
        if layer.is_sparse and self.store_sparse is not None:
            sparse = layer.sparse_activations(selected[1])
            for name in self.requested_names[layer.name]:
                self.store_sparse(name, sparse)
            return
        maps = layer.maps(selected[1])
        cls = layer.class_token(selected[1])
        cls = None if cls is None else cls.to(maps.dtype)
        for name in self.requested_names[layer.name]:
            self.store(name, maps, cls)


@contextmanager
def run_to_layers(
    target: Target, layers: Sequence[str], store: StoreMaps, store_sparse: StoreSparse | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """Yield a function that runs prepared images through the network up to the last of some layers.

    Within the block the network is in evaluation mode on the target's device. Afterwards it is as it was, also after an
    exception. For each layer ``store(layer, maps, cls)`` is called in the layer's hook, before any operation that
    changes its output in place, so ``store`` must keep no view of its arguments: ``maps`` has the shape (batch, units,
    height, width) in any layout, with prefix tokens removed and the other tokens on their grid; ``cls`` (batch, units)
    is the class token, or None. If ``store_sparse`` is given, ``store_sparse(layer, activations)`` is called instead
    for sparse layers, whose dense maps then never exist.

    Raises:
        UnknownName: the target has no such layer.
        BadInput: a layer's output cannot be laid out over the image.
    """
    recorder = _Recorder(target, layers, store, stops=True, store_sparse=store_sparse)
    with target.evaluation_mode(), recorder.attached():
        yield recorder.run


@contextmanager
def record(
    target: Target, layers: Sequence[str], reduce: Callable[[Maps], Tensor] | None = None
) -> Iterator[dict[str, Shaped[Tensor, "b units ..."]]]:
    """Yield a dictionary that each call of the network within the block fills with the activations of some layers.

    ``with record(target, ["layer4"]) as activations: target(images)`` leaves ``activations["layer4"]`` with the shape
    (b, units, height, width), whatever the layer's layout. A further call replaces the activations. The network may be
    called as ``target(images)``, or directly with prepared images, then also with gradients.

    Args:
        target: the network.
        layers: names of layers, as :meth:`Target.layers` lists them.
        reduce: computes what is kept of a layer's activations, as ``lambda maps: maps.amax((2, 3))``; by default all.

    Raises:
        UnknownName: the target has no such layer.
        BadInput: a layer's output cannot be laid out over the image.
    """
    activations: dict[str, Tensor] = {}

    def keep(name: str, maps: Tensor, cls: Tensor | None) -> None:
        # A copy, since a later operation may change the output in place.
        activations[name] = (maps if reduce is None else reduce(maps)).clone()

    def start(*_: Any) -> None:
        activations.clear()
        recorder.start()

    recorder = _Recorder(target, [layers] if isinstance(layers, str) else layers, keep, stops=False)
    with run_eagerly(target.model), recorder.attached(), ExitStack() as stack:
        stack.callback(target.core.register_forward_pre_hook(start).remove)
        yield activations


class _Intervention:
    """Changes units in the output of one module, call by call."""

    def __init__(self, target: Target, module: str, mode: SteeringMode):
        self.output_index, self.mode = target.output_index, mode
        self.calls_per_pass = max(1, target.count_calls(module))
        # Number of the call -> for each layer the indices of its units and the amount for each.
        self.units: dict[int, list[tuple[Layer, Tensor, Tensor]]] = {}
        self.current_call = 0

    def add(self, layer: Layer, amounts: Mapping[int, float]) -> None:
        values = torch.tensor(list(amounts.values()), dtype=torch.float64)
        self.units.setdefault(layer.call, []).append((layer, torch.tensor(list(amounts)), values))

    def start(self, *_: Any) -> None:
        """Begin a forward pass."""
        self.current_call = 0

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        steered = self.units.get(self.current_call % self.calls_per_pass)
        self.current_call += 1
        selected = select_tensor(output, self.output_index)
        if steered is None or selected is None:
            return None
        path, tensor = selected
        for layer, indices, amounts in steered:
            tensor = _steered_output(tensor, layer, indices, amounts, self.mode)
        return replace_tensor(output, path, tensor)


def _steered_output(output: Tensor, layer: Layer, indices: Tensor, amounts: Tensor, mode: SteeringMode) -> Tensor:
    values, axis = layer.read(output), unit_axis(layer.layout)
    indices, amounts = indices.to(values.device), amounts.to(values.device, values.dtype)
    amounts = amounts.view([-1 if at == axis % values.ndim else 1 for at in range(values.ndim)])
    changed = _steered_values(values.index_select(axis, indices), amounts, mode)
    return layer.write(values.index_copy(axis, indices, changed), output)


def _steered_values(values: Tensor, amounts: Tensor, mode: SteeringMode) -> Tensor:
    if mode == "clamp":
        return amounts.expand_as(values)
    return values + amounts if mode == "add" else values * amounts


@contextmanager
def steer(target: Target, amounts: Mapping[Unit | str, float], mode: SteeringMode = "add") -> Iterator[None]:
    """Change the outputs of units within the block, at every place and (for tokens) in the prefix tokens too.

    The change holds in whichever way the network is called within the block, compiled or not, and is seen by
    :func:`record`. Blocks can be nested. Nothing remains afterwards.

    Args:
        target: the network.
        amounts: a number for each unit, as ``{"layer4:17": 2.0}``.
        mode: ``"add"`` the number to the unit's activation, ``"clamp"`` the activation to the number, or ``"scale"``
            the activation by the number.

    Raises:
        UnknownName: the target has no such layer.
        BadInput: a layer has no such unit, or the mode is unknown.
    """
    if mode not in get_args(SteeringMode):
        raise BadInput(f"mode is {mode!r}; choose one of {', '.join(get_args(SteeringMode))}")
    interventions = _make_interventions(target, amounts, mode)
    with run_eagerly(target.model), ExitStack() as stack:
        modules = target.modules()
        for module, intervention in interventions.items():
            # Before all other hooks, so that they see the changed output whichever block was entered first.
            handle = modules[module].register_forward_hook(intervention, prepend=True)
            stack.callback(handle.remove)
            stack.callback(target.core.register_forward_pre_hook(intervention.start).remove)
        yield


@contextmanager
def ablate(target: Target, units: Iterable[Unit | str] | Unit | str, value: float = 0.0) -> Iterator[None]:
    """Set the outputs of units to ``value`` within the block; see :func:`steer`.

    Args:
        target: the network.
        units: the units, as ``["layer4:17"]``.
        value: what each of them puts out.

    Raises:
        UnknownName: the target has no such layer.
        BadInput: a layer has no such unit.
    """
    chosen = [units] if isinstance(units, Unit | str) else units
    with steer(target, dict.fromkeys(chosen, value), mode="clamp"):
        yield


def _make_interventions(
    target: Target, amounts: Mapping[Unit | str, float], mode: SteeringMode
) -> dict[str, _Intervention]:
    by_layer: dict[str, tuple[Layer, dict[int, float]]] = {}
    for given, amount in amounts.items():
        unit = as_unit(given)
        layer = target.layer(unit.layer)
        if not 0 <= unit.index < layer.units:
            count = layer.units
            raise BadInput(f"layer {unit.layer!r} has {count} units, 0 to {count - 1}; there is no unit {unit.index}")
        layer_amounts = by_layer.setdefault(layer.name, (layer, {}))[1]
        if layer_amounts.setdefault(unit.index, amount) != amount:
            raise BadInput(f"two amounts are given for unit {Unit(layer.name, unit.index)}; give one")
    interventions: dict[str, _Intervention] = {}
    for layer, layer_amounts in by_layer.values():
        interventions.setdefault(layer.module, _Intervention(target, layer.module, mode)).add(layer, layer_amounts)
    return interventions


# Former names, kept for one version.
recorded, ablated = run_to_layers, ablate

"""Running what comes after a layer again and again, from other values of it, without running what comes before."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.errors import MilanError
from milan.targets import Target
from milan.targets.layouts import unit_axis
from milan.targets.modules import eager
from milan.targets.outputs import chosen, replaced


class Replay:
    """A batch that has been through the network once.

    Attributes:
        values: the layer's own output, laid out as the network has it.
        axis: that of its units.
        outputs: what the network answered.
    """

    def __init__(self, target: Target, layer: str, images: Tensor):
        self._target, self._layer = target, target.layer(layer)
        self.axis = unit_axis(self._layer.layout)
        self._modules = target.modules()
        self._names = {id(module): name for name, module in self._modules.items()}
        self._kept: dict[str, list[Any]] = {}  # what each module put out that had ended before the layer did, call by call
        self._raw: Any = None
        self._touched: set[str] | None = None  # those whose output something changes in place; None before it is known
        self.images = images
        self.values, self.outputs = self._first()

    def _first(self) -> tuple[Tensor, Tensor]:
        calls: Counter[str] = Counter()

        def note(module: nn.Module, _: Any, output: Any) -> None:
            name = self._names[id(module)]
            if self._raw is not None:
                return
            if name == self._layer.module and calls[name] == self._layer.call:
                self._raw = deepcopy(output)
            else:
                for inner in [other for other in self._kept if other.startswith(f"{name}.")]:
                    del self._kept[inner]  # only the outermost of what has ended is needed
                self._kept.setdefault(name, []).append(deepcopy(output))
            calls[name] += 1

        with ExitStack() as stack:
            for module in self._modules.values():
                stack.callback(module.register_forward_hook(note).remove)
            outputs = self._answer()
        found = None if self._raw is None else chosen(self._raw, self._target.output_index)
        if found is None:
            raise MilanError(
                f"layer {self._layer.name!r} of {self._target.name} did not run in this pass, though it did for the first images"
            )
        self._path = found[0]
        self._kept = {name: kept for name, kept in self._kept.items() if not name.startswith(f"{self._layer.module}.")}
        return found[1], outputs

    def spare(self, needless: frozenset[str] | None = None) -> frozenset[str]:
        """Forgets what was kept of modules that nothing after the layer reads, which may be most of a deep network.

        A module is needless if the answer stays the same when its output is all NaN.

        Args:
            needless: as an earlier batch found; found out if not given.
        """
        if needless is None:
            right, names = self.again(self.values), [name for name, kept in self._kept.items() if _are_floats(kept)]
            needless = frozenset(names if self._same(right, names) else (name for name in names if self._same(right, [name])))
        self._kept |= {name: [_nothing_like(output) for output in self._kept[name]] for name in needless & set(self._kept)}
        return needless

    def _same(self, right: Tensor, names: Iterable[str]) -> bool:
        whole = self._kept
        self._kept = whole | {name: [_nothing_like(output) for output in whole[name]] for name in names}
        try:
            return torch.equal(self.again(self.values), right)
        except RuntimeError:  # what has no storage of its own cannot be changed in place
            return False
        finally:
            self._kept = whole

    def _answer(self) -> Tensor:
        found = chosen(self._target.core(self.images))
        if found is None:
            raise MilanError(f"{self._target.name} puts out no tensor of numbers")
        return found[1]

    def again(self, values: Float[Tensor, "..."]) -> Tensor:
        """What the network answers when the layer puts out ``values``; gradients flow where they are asked for."""
        calls: Counter[str] = Counter()
        handed: list[tuple[str, Any, list[int] | None]] = []

        def instead(name: str, module: nn.Module) -> Callable[..., Any]:
            kept, usual = self._kept.get(name, []), module.forward

            def forward(*given: Any, **named: Any) -> Any:
                call = calls[name]
                calls[name] += 1
                if name == self._layer.module and call == self._layer.call:
                    return replaced(self._raw, self._path, values.clone())
                if call >= len(kept):
                    return usual(*given, **named)
                if self._touched is not None and name not in self._touched:
                    return kept[call]
                output = deepcopy(kept[call])
                handed.append((name, output, _versions(output)))
                return output

            return forward

        with ExitStack() as stack:
            for name in {*self._kept, self._layer.module}:
                module = self._modules[name]
                module.forward = instead(name, module)
                stack.callback(module.__dict__.pop, "forward")
            outputs = self._answer()
        if self._touched is None:
            self._touched = {name for name, output, versions in handed if versions is None or _versions(output) != versions}
        return outputs


@contextmanager
def replayed(target: Target, layer: str) -> Iterator[Callable[[Tensor], Replay]]:
    """Yields a function that runs prepared images once and gives what is needed to go on from the layer.

    Modules that had ended before the layer did are not run again: their outputs stand in for them. What the network computes between
    modules before the layer is done anew, since nothing says that it is not needed.

    The function raises UnknownName or BadInput for a layer that is not there.
    """
    needless: list[frozenset[str]] = []

    def run(images: Tensor) -> Replay:
        replay = Replay(target, layer, images)
        needless[:] = [replay.spare(*needless)]
        return replay

    with target.borrowed(), eager(target.model), torch.no_grad():
        yield run


def _are_floats(outputs: Sequence[Any]) -> bool:
    return all(isinstance(output, Tensor) and output.is_floating_point() for output in outputs)


def _nothing_like(output: Tensor) -> Tensor:
    """NaN of the same shape, without the memory."""
    return torch.full((), torch.nan, dtype=output.dtype, device=output.device).expand(output.shape)


def _versions(output: Any) -> list[int] | None:
    """How often each tensor was changed in place."""
    found = tensors(output)
    return None if found is None else [tensor._version for tensor in found]


def tensors(output: Any) -> list[Tensor] | None:
    """All tensors in an output; None where it is of a kind that cannot be gone through."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, dict | list | tuple):
        return None
    parts = [tensors(part) for part in (output.values() if isinstance(output, dict) else output) if part is not None]
    return None if None in parts else [tensor for part in parts for tensor in part or ()]

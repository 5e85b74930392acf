"""A forward pass of a network, with the output shape of each call of its modules."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.targets.layouts import Layout, Shape, unit_axis
from milan.targets.module_access import forward_hooks
from milan.targets.module_outputs import select_tensor
from milan.targets.spatial_order import closeness

# Where units may be, by the number of an output's axes.
_UNIT_AXES = {3: (-1,), 4: (1, -1)}


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        module: dotted path of the module.
        index: number of the call in this pass, from 0.
        shape: shape of the tensor that is dissected, with the batch axis; None if there is none.
        near: closeness of each place to two images (see ``closeness``), by the axis that may hold the units; empty if
            it was not computed.
    """

    module: str
    index: int
    shape: Shape | None
    near: dict[int, Float[Tensor, "masks *places"]] = field(default_factory=dict, repr=False)

    def places(self, layout: Layout) -> Float[Tensor, "masks places"] | None:
        """Return the closeness of each place of the layout's grid, row by row; None if it was not computed."""
        near = self.near.get(unit_axis(layout.name))
        return None if near is None else near.flatten(1)[:, layout.prefix :]


class ForwardTrace:
    """The calls of all modules in a forward pass, up to a failure if there is one.

    Args:
        modules: the modules by dotted path.
        output_index: index of the tensor to use, see ``select_tensor``.
        compare: whether the images are those of ``mixed``, so that closeness is computed too.
    """

    def __init__(self, modules: dict[str, nn.Module], output_index: int | None, compare: bool = False):
        self.modules, self.output_index, self.compare = modules, output_index, compare
        self.calls: list[ModuleCall] = []
        self.error: Exception | None = None

    def run(self, forward: Callable[[Tensor], Any], images: Tensor) -> "ForwardTrace":
        """Run the network once on preprocessed images; an exception is stored in ``error``."""
        try:
            with torch.no_grad(), forward_hooks(self.modules, self._hook):
                forward(images)
        # The network's own code raises anything.
        except Exception as error:
            self.error = error
        return self

    def by_call(self) -> dict[tuple[str, int], ModuleCall]:
        """Return the calls by module and number."""
        return {(call.module, call.index): call for call in self.calls}

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        count = 0

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal count
            found = select_tensor(output, self.output_index)
            if found is None:
                self.calls.append(ModuleCall(name, count, None))
            else:
                axes = _UNIT_AXES.get(found[1].ndim, ()) if self.compare and len(found[1]) > 2 else ()
                near = {axis: closeness(found[1], axis) for axis in axes}
                self.calls.append(ModuleCall(name, count, tuple(found[1].shape), near))
            count += 1

        return note

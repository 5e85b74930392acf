"""The layers of a network that can be dissected, inferred by running it on images of two sizes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.errors import BadInput, UnknownName
from milan.targets.forward_trace import ForwardTrace, ModuleCall
from milan.targets.layouts import Layout, LayoutContext, Shape, UnknownLayout, infer_layout, to_maps
from milan.targets.module_access import WRAPPER_PREFIXES, list_modules, strip_wrapper_prefixes
from milan.targets.network_interface import RunnableNetwork
from milan.targets.preprocessing import Size, as_size, height_width
from milan.targets.sparse_activations import SparseActivations
from milan.targets.spatial_order import Grid, Order, Verdict, digits, halves, mixed, raster_order, verdict


@dataclass(frozen=True, repr=False)
class Layer:
    """One output of a module: the activations of its units on a grid of places in the image.

    Attributes:
        name: dotted path of the module; ``relu#1`` for the second call of a module that is called more than once.
        shape: shape of the output for one image, as the module lays it out.
        units: number of units.
        layout: BCHW, BHWC, BNC or BC.
        grid: height and width of a unit's map; (1, 1) for a vector.
        aliases: further names of the same module.
        prefix_tokens: number of tokens before the grid: class, distillation, registers.
        has_class_token: whether the first of them is a class token.
        order: for each place of the image, row by row, the index of the layer's place; empty if they are equal.
        module: dotted path of the module, without the number of the call.
        call: number of the module's call in a forward pass, from 0.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    layout: str
    grid: tuple[int, int]
    aliases: tuple[str, ...] = ()
    prefix_tokens: int = 0
    has_class_token: bool = False
    order: Order = ()
    module: str = ""
    call: int = 0

    def __repr__(self) -> str:
        place = f"{self.grid[0]} x {self.grid[1]} places" if self.grid != (1, 1) else "no places"
        return f"Layer({self.name!r}, {self.units} units, {place}, {self.layout})"

    @property
    def network_layer(self) -> str:
        """Name of the layer of the network whose output determines the units' activations."""
        return self.name

    def maps(self, output: Tensor) -> Tensor:
        """Return the units' activations as (batch, units, height, width); 16-bit floats become float32."""
        output = self.read(output)
        if output.dtype in (torch.float16, torch.bfloat16):
            output = output.float()
        maps = to_maps(output, Layout(self.layout, self.units, self.grid, self.prefix_tokens))
        if not self.order:
            return maps
        if maps.shape[2:] != self.grid:
            text = f"the order of places in {self.name} is known for {self.grid}, not for {tuple(maps.shape[2:])}"
            raise BadInput(f"{text}; give images of the target's size")
        return maps.flatten(2)[:, :, list(self.order)].unflatten(2, self.grid)

    def class_token(self, output: Tensor) -> Float[Tensor, "b units"] | None:
        """Return the units' activations in the class token; None if there is none."""
        return self.read(output[:, :1])[:, 0] if self.has_class_token else None

    @property
    def is_sparse(self) -> bool:
        """Whether a unit's activation is 0 at nearly all places."""
        return False

    def sparse_activations(self, output: Tensor) -> SparseActivations:
        """Return the units' activations that are not 0, in the grid and in the class token."""
        return SparseActivations.from_dense(self.maps(output), self.class_token(output))

    def read(self, output: Tensor) -> Tensor:
        """Return the units' activations in the module's output, in the layer's layout."""
        return output

    def written_directions(self, weights: Float[Tensor, "network_units further"]) -> Float[Tensor, "units further"]:
        """Return what each unit writes, given what follows from each unit of the network's layer."""
        return weights

    def write(self, values: Tensor, output: Tensor) -> Tensor:
        """Return the module's output in which the units have other activations, of the shape that ``read`` returns."""
        return values


class DissectableLayers:
    """The layers by name, and the reasons why other modules cannot be dissected."""

    def __init__(self, layers: Sequence[Layer], reasons: dict[str, str], calls: dict[str, int]):
        self.by_name = {layer.name: layer for layer in layers}
        self.by_alias = {
            f"{alias}{layer.name[len(layer.module) :]}": layer for layer in layers for alias in layer.aliases
        }
        self.reasons = reasons
        # Number of calls of each module in a forward pass.
        self.call_counts = calls

    def get(self, name: str, target: str) -> Layer:
        """Return a layer by name, as :meth:`Target.layer` does; ``target`` is the network's name in messages.

        Raises:
            UnknownName: there is no such layer; the message lists the three nearest names.
            BadInput: the module is called several times, or its output cannot be laid out over the image.
        """
        for possible in _possible_names(name):
            layer = self.by_name.get(possible) or self.by_alias.get(possible)
            if layer is not None:
                return layer
        raise self._make_error(name, target)

    def count_calls(self, name: str) -> int:
        """Return how often a module, given by its dotted path or an alias, is called in one forward pass."""
        first = next((layer.module for layer in self.by_name.values() if name in layer.aliases), name)
        return self.call_counts.get(first, 0)

    def _make_error(self, name: str, target: str) -> Exception:
        names = _possible_names(name)
        plain = next((possible for possible in names if self.count_calls(possible) > 1), None)
        if plain is not None:
            count = self.count_calls(plain)
            numbered = ", ".join(f"{plain}#{call}" for call in range(count))
            return BadInput(f"layer {plain!r} is called {count} times in one forward pass; name one of {numbered}")
        reason = next((self.reasons[possible] for possible in names if possible in self.reasons), None)
        if reason is not None:
            return BadInput(f"layer {name!r} of {target} {reason}")
        known = [*self.by_name, *self.by_alias]
        return UnknownName("layer", name, known, "list them with: python describe.py --target ... --list_layers")


def _possible_names(name: str) -> list[str]:
    """Return a name as given, without the prefixes of wrappers, and without the number of a first call."""
    names = [name, strip_wrapper_prefixes(name)]
    stripped = names[-1]
    while stripped.startswith(WRAPPER_PREFIXES):
        stripped = stripped.partition(".")[2]
        names.append(stripped)
    return [*names, *(each.removesuffix("#0") for each in names if each.endswith("#0"))]


def choose_second_sizes(size: Size) -> list[Size]:
    """Return image sizes to try besides ``size``: a smaller one, which is cheaper, then a larger one.

    >>> choose_second_sizes(224), choose_second_sizes(64), choose_second_sizes(32), choose_second_sizes((96, 128))
    ([160, 288], [32, 96], [64], [(64, 96), (128, 160)])
    """
    sides = height_width(size)
    sizes = [
        tuple(32 * round(side * 5 / 7 / 32) for side in sides),
        tuple(side + 32 * max(1, round(side / 112)) for side in sides),
    ]
    return [as_size(other) for other in sizes if 0 not in other and other != sides]


def find_layers(target: RunnableNetwork) -> DissectableLayers:
    """Return the layers, inferred by running the target on two images, two mixtures of them, and another size.

    The batch sizes differ, so that the batch axis can be recognized: a module that puts out position embeddings, or
    windows instead of images, is left out. The mixtures show whether a layer's places follow those of the image.

    Raises:
        BadInput: the network does not take a batch of images.
    """
    modules, aliases = list_modules(target.core)
    with target.evaluation_mode():
        reading = _Reading(target, modules)
        found: list[Layer] = []
        idle = [name for name in modules if name not in reading.counts]
        reasons = dict.fromkeys(idle, "is not run when the network is given images")
        for call in reading.first.calls:
            try:
                found.append(reading.layer(call, aliases.get(call.module, ())))
            except UnknownLayout as why:
                reasons[reading.name(call)] = str(why)
    order = {name: place for place, name in enumerate(modules)}
    return DissectableLayers(
        sorted(found, key=lambda layer: (order[layer.module], layer.call)), reasons, reading.counts
    )


class _Reading:
    """Infers the layout of each call in the order of the pass, from its shapes and the layouts of earlier calls."""

    def __init__(self, target: RunnableNetwork, modules: dict[str, nn.Module]):
        self.target, self.modules = target, modules
        noise = target.noise(2, target.image_size)
        # The input of a generator is a vector, which has no places.
        self.noise = noise if noise.ndim == 4 else None
        images = noise if self.noise is None else mixed(noise, halves(*noise.shape[2:]))
        self.first = self._run(images, compare=self.noise is not None)
        if self.first.error is not None:
            raise _make_unusable_error(target, self.first.error) from self.first.error
        self.batch = len(images)
        second_size, self.second = self._second_size()
        self.counts = Counter(call.module for call in self.first.calls)
        sizes = height_width(target.image_size), height_width(second_size)
        self.evidence = LayoutContext(target.layout, target.prefix_tokens, *sizes)
        self.orders: dict[tuple[str, Grid], Order | None] = {}
        self.following: dict[Grid, tuple[ModuleCall, Layout]] = {}
        self.numbered: dict[Grid, dict[tuple[str, int], list[ModuleCall]]] = {}

    def name(self, call: ModuleCall) -> str:
        """Return the name of the layer that a call is."""
        name = call.module if self.counts[call.module] == 1 else f"{call.module}#{call.index}"
        while name != call.module and name in self.modules:
            # A module itself may be named "relu#1".
            name = f"{call.module}#{name.removeprefix(call.module)}"
        return name

    def layer(self, call: ModuleCall, aliases: tuple[str, ...]) -> Layer:
        """Return the layer that a call is.

        Raises:
            UnknownLayout: the output cannot be laid out over the image; the message says why.
        """
        one, two = self._without_batch(call)
        layout = infer_layout(self.modules[call.module], one, two, self.evidence)
        order = self._order(call, layout)
        self.evidence.keep(layout, two)
        cls = layout.prefix > 0 and bool(getattr(self.target.core, "has_class_token", True))
        place = layout.grid, aliases, layout.prefix, cls, order
        return Layer(self.name(call), one, layout.units, layout.name, *place, call.module, call.index)

    def _run(self, images: Tensor, compare: bool = False) -> ForwardTrace:
        return ForwardTrace(self.modules, self.target.output_index, compare).run(self.target.core, images)

    def _second_size(self) -> tuple[Size, dict[tuple[str, int], ModuleCall]]:
        """Return another image size and its calls, up to a failure; no calls if no shape depends on the size."""
        best: tuple[Size, dict[tuple[str, int], ModuleCall]] = (self.target.image_size, {})
        for size in choose_second_sizes(self.target.image_size):
            survey = self._run(self.target.noise(1, size))
            best = max(best, (size, survey.by_call()), key=lambda each: len(each[1]))
            if survey.error is None:
                break
        size, calls = best
        seen = [(call.shape, calls[key].shape) for key, call in self.first.by_call().items() if key in calls]
        # A network that resizes its input puts out the same shapes for all sizes, which shows nothing.
        return size, calls if any(one and two and one[1:] != two[1:] for one, two in seen) else {}

    def _without_batch(self, call: ModuleCall) -> tuple[Shape, Shape | None]:
        one, other = call.shape, self.second.get((call.module, call.index))
        two = other.shape if other is not None else None
        if one is None:
            raise UnknownLayout("puts out no floating-point tensor (or none at output_index)")
        if not one or one[0] != self.batch or (two is not None and (not two or two[0] != 1)):
            raise UnknownLayout(f"puts out {one} for a batch of {self.batch} images: its first axis is not the batch")
        return one[1:], two[1:] if two is not None else None

    def _order(self, call: ModuleCall, layout: Layout) -> Order:
        """Return the order of a call's places with respect to the image's, row by row; empty if they are equal.

        If the call itself does not show it, as where each place attends to the whole image, it is the order of the last
        earlier layer with the same layout and grid.
        """
        near = call.places(layout)
        if near is None or layout.grid == (1, 1):
            return ()
        key = (layout.name, layout.grid)
        shown = verdict(near.unflatten(1, layout.grid))
        if shown is not Verdict.FOLLOWS and not layout.sure:
            shape = ("B", *(call.shape or ())[1:])
            raise UnknownLayout(
                f"puts out {shape}, whose places do not respond to parts of the image, as in attention maps; take"
                " another layer, or set layout if its places do lie over the image"
            )
        if shown is Verdict.FOLLOWS:
            self.orders[key], self.following[layout.grid] = (), (call, layout)
        elif shown is Verdict.SCRAMBLED and not self._fits(self.orders.get(key), near, layout.grid):
            self.orders[key] = self._searched(call, layout)
        order = self.orders.get(key, ())
        if order is None:
            raise UnknownLayout("has its places in another order than the image's, which cannot be inferred")
        return order

    def _fits(self, order: Order | None, near: Float[Tensor, "2 places"], grid: Grid) -> bool:
        return bool(order) and verdict(near[:, list(order or ())].unflatten(1, grid)) is Verdict.FOLLOWS

    def _searched(self, call: ModuleCall, layout: Layout) -> Order | None:
        """Return the order of a call's places, from mixtures that number rows and columns; None if there is none."""
        grid = layout.grid
        if self.noise is None or grid[0] > self.noise.shape[2] or grid[1] > self.noise.shape[3]:
            return None
        if grid not in self.numbered:
            calls = self.numbered.setdefault(grid, {})
            for masks in digits(grid, *self.noise.shape[2:]).split(2):
                for key, seen in self._run(mixed(self.noise, masks), compare=True).by_call().items():
                    calls.setdefault(key, []).append(seen)
        near = self._near(call, layout)
        like = self._near(*self.following[grid]) if grid in self.following else None
        return None if near is None else raster_order(near, grid, like)

    def _near(self, call: ModuleCall, layout: Layout) -> Float[Tensor, "masks places"] | None:
        """Return the closeness of a call's places for the mixtures that number its grid."""
        found = [seen.places(layout) for seen in self.numbered[layout.grid].get((call.module, call.index), [])]
        near = [part for part in found if part is not None]
        return torch.cat(near) if near else None


def _make_unusable_error(target: RunnableNetwork, error: Exception) -> BadInput:
    text = (str(error).strip() or "no message").splitlines()[0]
    batch = tuple(target.noise(2, target.image_size).shape)
    return BadInput(
        f"{target.name} cannot be run on images {batch}: {type(error).__name__}: {text}; if it takes others, set"
        " image_size or mean and std (a value for each channel: one for grey images), or wrap it in a module whose"
        " forward takes one batch of images"
    )


def format_layers(layers: Sequence[Layer]) -> str:
    """Return a table of the layers that can be dissected: name, output shape, units, layout and aliases."""
    rows = [("layer", "output", "units", "layout", "")]
    for layer in layers:
        layout = f"{layer.layout}, {layer.prefix_tokens} prefix" if layer.prefix_tokens else layer.layout
        also = f"also {', '.join(layer.aliases)}" if layer.aliases else ""
        rows.append((layer.name, "x".join(map(str, layer.shape)), str(layer.units), layout, also))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    ]
    return "\n".join(lines)

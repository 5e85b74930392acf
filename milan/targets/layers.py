"""The layers of a network that can be dissected, found by running it on probe images of two sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from milan.errors import BadInput
from milan.targets.layouts import Evidence, Layout, Shape, Unreadable, read_layout, to_maps
from milan.targets.modules import modules_by_name
from milan.targets.outputs import chosen

if TYPE_CHECKING:
    from milan.targets.target import Target


@dataclass(frozen=True)
class Layer:
    """One output of one module: the values of its units over a grid of places in the image."""

    name: str  # dotted path of the module; "relu#1" for the second call of a module that is called more than once
    shape: tuple[int, ...]  # of the output for one image, as the module lays it out
    units: int
    layout: str  # "BCHW", "BHWC", "BNC" or "BC"
    grid: tuple[int, int]  # height and width of the map of one unit; (1, 1) for a vector
    aliases: tuple[str, ...] = ()  # further names of the same module
    prefix_tokens: int = 0  # tokens before the grid: class, distillation, registers
    cls: bool = False  # whether the first of them is a class token
    module: str = ""  # dotted path of the module, without the number of the call
    call: int = 0  # which call of the module in one forward pass, from 0

    def maps(self, output: Tensor) -> Tensor:
        """A view of the module's output as (batch, units, height, width), float32 where it was 16 bits."""
        if output.dtype in (torch.float16, torch.bfloat16):
            output = output.float()
        return to_maps(output, Layout(self.layout, self.units, self.grid, self.prefix_tokens))


@dataclass(frozen=True)
class Call:
    """One call of a module as the survey saw it."""

    module: str
    index: int
    shape: Shape | None  # of the tensor that is dissected, batch axis included; None if there is none


class Survey:
    """The calls of all modules in one forward pass; what was seen before a failure counts too."""

    def __init__(self, modules: dict[str, nn.Module], output_index: int | None):
        self.modules = modules
        self.output_index = output_index
        self.calls: list[Call] = []
        self.error: Exception | None = None

    def run(self, forward: Callable[[Tensor], Any], images: Tensor) -> "Survey":
        """Runs the network once, noting the shape of what each module puts out."""
        handles = [module.register_forward_hook(self._hook(name)) for name, module in self.modules.items()]
        try:
            with torch.no_grad():
                forward(images)
        except Exception as error:  # any fault of the network's own code: told by the caller
            self.error = error
        finally:
            for handle in handles:
                handle.remove()
        return self

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        count = 0

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal count
            found = chosen(output, self.output_index)
            self.calls.append(Call(name, count, tuple(found[1].shape) if found else None))
            count += 1

        return note


class Layers:
    """The layers found, by name, and why the others cannot be dissected."""

    def __init__(self, layers: Sequence[Layer], reasons: dict[str, str], calls: dict[str, int]):
        self.by_name = {layer.name: layer for layer in layers}
        self.by_alias = {f"{alias}{layer.name[len(layer.module) :]}": layer for layer in layers for alias in layer.aliases}
        self.reasons = reasons
        self.calls = calls  # how often each module is called in one forward pass


def second_sizes(size: int) -> list[int]:
    """Image sizes to try beside ``size``: a smaller one (cheaper), then a larger one.

    >>> second_sizes(224), second_sizes(64), second_sizes(32)
    ([160, 288], [32, 96], [64])
    """
    sizes = [32 * round(size * 5 / 7 / 32), size + 32 * max(1, round(size / 112))]
    return [other for other in sizes if other > 0 and other != size]


def find_layers(target: "Target") -> Layers:
    """Runs the target on two images of its own size and one image of another.

    The numbers of images differ so that the batch axis shows: a module that puts out position embeddings, or windows instead of
    images, is left out.

    Raises:
        BadInput: if the network does not take a batch of images.
    """
    modules, aliases = modules_by_name(target.core)
    with target.borrowed():
        first = Survey(modules, target.output_index).run(target.core, target.noise(2, target.image_size))
        if first.error is not None:
            raise _unusable(target, first.error) from first.error
        second = _second_shapes(target, modules)
    seen = [(call.shape, second.get((call.module, call.index))) for call in first.calls]
    if not any(one and two and one[1:] != two[1:] for one, two in seen):
        second = {}  # the network brings its pictures to one size itself, so that another size says nothing
    evidence = Evidence(target.layout, target.prefix_tokens)
    return _read(first, second, evidence, modules, aliases, getattr(target.core, "has_class_token", True))


def _second_shapes(target: "Target", modules: dict[str, nn.Module]) -> dict[tuple[str, int], Shape | None]:
    """What the calls put out for one image of another size, as far as the network got with it."""
    best: dict[tuple[str, int], Shape | None] = {}
    for size in second_sizes(target.image_size):
        survey = Survey(modules, target.output_index).run(target.core, target.noise(1, size))
        shapes = {(call.module, call.index): call.shape for call in survey.calls}
        best = max(best, shapes, key=len)
        if survey.error is None:
            break
    return best


def _read(
    first: Survey,
    second: dict[tuple[str, int], Shape | None],
    evidence: Evidence,
    modules: dict[str, nn.Module],
    aliases: dict[str, tuple[str, ...]],
    class_token: bool,
) -> Layers:
    counts: dict[str, int] = {}
    for call in first.calls:
        counts[call.module] = counts.get(call.module, 0) + 1
    found: list[Layer] = []
    reasons = {name: "is not run when the network is given images" for name in modules if name not in counts}
    for call in first.calls:
        name = call.module if counts[call.module] == 1 else f"{call.module}#{call.index}"
        while name != call.module and name in modules:
            # a module may be called "relu#1" itself
            name = f"{call.module}#{name.removeprefix(call.module)}"
        try:
            one, two = _without_batch(call.shape, second.get((call.module, call.index)))
            layout = read_layout(modules[call.module], one, two, evidence)
        except Unreadable as why:
            reasons[name] = str(why)
            continue
        cls = layout.prefix > 0 and bool(class_token)
        also, place = aliases.get(call.module, ()), layout.grid
        found += [Layer(name, one, layout.units, layout.name, place, also, layout.prefix, cls, call.module, call.index)]
    order = {name: place for place, name in enumerate(modules)}
    return Layers(sorted(found, key=lambda layer: (order[layer.module], layer.call)), reasons, counts)


def _without_batch(one: Shape | None, two: Shape | None) -> tuple[Shape, Shape | None]:
    if one is None:
        raise Unreadable("puts out no tensor of numbers (or not as many as output_index asks for)")
    if not one or one[0] != 2 or (two is not None and (not two or two[0] != 1)):
        raise Unreadable(f"puts out {one} for a batch of 2 images: its first axis is not the batch")
    return one[1:], two[1:] if two is not None else None


def _unusable(target: "Target", error: Exception) -> BadInput:
    text = (str(error).strip() or "no message").splitlines()[0]
    batch = (2, 3, target.image_size, target.image_size)
    return BadInput(
        f"{target.name} cannot be run on images {batch}: {type(error).__name__}: {text}; if it takes other input (another"
        " size, several or named inputs), set image_size, or wrap it in a module whose forward takes one batch of images"
    )


def format_layers(target: "Target") -> str:
    """A table of the layers that can be dissected: name, output shape, units, layout, and other names of the same module."""
    rows = [("layer", "output", "units", "layout", "")]
    for layer in target.layers():
        layout = f"{layer.layout}, {layer.prefix_tokens} prefix" if layer.prefix_tokens else layer.layout
        also = f"also {', '.join(layer.aliases)}" if layer.aliases else ""
        rows.append((layer.name, "x".join(map(str, layer.shape)), str(layer.units), layout, also))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e}".rstrip() for a, b, c, d, e in rows]
    return "\n".join(lines)

"""The layout of a layer's output, inferred from its shapes at two image sizes.

An axis that grows with the image is spatial: (B, C, H, W), (B, H, W, C), or tokens (B, N, C) with a few prefix tokens
(class, distillation, registers) before the grid. For a network that takes only one size, grids of the image's shape and
of earlier layers in the same pass decide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

from torch import Tensor, nn

from milan.errors import BadInput

LAYOUTS = {"BCHW": 4, "BHWC": 4, "BNC": 3, "BC": 2}
PREFIX_TOKEN_COUNTS = (0, 1, 2, 5, 4, 3, 6, 7, 8, 9)  # numbers of tokens before the grid, most common first
Grid = tuple[int, int]
Shape = tuple[int, ...]
_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LocalResponseNorm),
    *(
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d,
        nn.Upsample,
        nn.PixelShuffle,
        nn.Dropout2d,
    ),
)


@dataclass(frozen=True)
class Layout:
    """The layout of a layer's output for one image."""

    name: str  # "BCHW", "BHWC", "BNC" or "BC"
    units: int
    grid: Grid
    prefix: int = 0
    # False if the shape is ambiguous, so that the layer's response to parts of the image must confirm the layout.
    sure: bool = True


@dataclass
class LayoutContext:
    """What earlier layers of a pass have shown, for inferring the layout of the next one."""

    layout: str | None = None
    prefix: int | None = None
    size: Grid = (1, 1)  # height and width of the images
    second_size: Grid = (1, 1)  # of those of the second size
    # Grids of earlier layers, at both sizes.
    grids: list[tuple[Grid, Grid | None]] = field(default_factory=list)
    # Numbers of tokens of earlier layers, at the first size.
    token_counts: set[int] = field(default_factory=set)

    def keep(self, layout: Layout, two: Shape | None) -> None:
        """Store the grid of a layer that lies over the image; ``two`` is its output's shape at the second size."""
        if layout.grid != (1, 1):
            self.grids.append((layout.grid, _infer_second_grid(layout, two, self)))

    @property
    def has_places(self) -> bool:
        """Whether an earlier layer had places or tokens."""
        return bool(self.grids or self.token_counts)

    def attends(self, grid: Grid) -> bool:
        """Return whether a grid may be attention among all places of earlier layers."""
        return set(grid) <= self.token_counts | {rows * columns for (rows, columns), _ in self.grids}


class UnknownLayout(Exception):
    """A layer's output cannot be laid out over the image; the message says why."""


def infer_layout(module: nn.Module, one: Shape, two: Shape | None, context: LayoutContext) -> Layout:
    """Return the layout of an output of shape ``one`` (and ``two`` at the second size), without the batch axis.

    Raises:
        UnknownLayout: the axes are ambiguous; the message says why and what to do.
    """
    if two is not None and len(two) != len(one):
        raise UnknownLayout(f"has {len(one) + 1} axes at one image size and {len(two) + 1} at another")
    rule: Callable[[nn.Module, Shape, Shape | None, LayoutContext], Layout] | None = {
        1: _infer_vector,
        2: _infer_tokens,
        3: _infer_maps,
    }.get(len(one))
    if rule is None or 0 in one:
        raise UnknownLayout(f"puts out {('B', *one)}, neither maps, tokens nor a vector")
    return rule(module, one, two, context)


def grid_of(count: int, size: Grid) -> Grid | None:
    """Return the grid that a number of tokens form over an image of the given height and width; None if there is none.

    >>> grid_of(49, (224, 224)), grid_of(48, (96, 128)), grid_of(50, (224, 224))
    ((7, 7), (6, 8), None)
    """
    height, width = size
    if height == width:
        side = isqrt(max(count, 0))
        return (side, side) if side and side * side == count else None
    grids = ((height // patch, width // patch) for patch in range(1, min(size) + 1))
    return next((grid for grid in grids if grid[0] * grid[1] == count), None)


def _infer_second_grid(found: Layout, two: Shape | None, seen: LayoutContext) -> Grid | None:
    if two is None or found.name == "BC":
        return None
    if found.name == "BNC":
        return grid_of(two[0] - found.prefix, seen.second_size)
    return (two[1], two[2]) if found.name == "BCHW" else (two[0], two[1])


def _infer_vector(module: nn.Module, one: Shape, two: Shape | None, context: LayoutContext) -> Layout:
    return Layout("BC", one[0], (1, 1))


def _infer_tokens(module: nn.Module, one: Shape, two: Shape | None, context: LayoutContext) -> Layout:
    if two is not None and context.layout != "BNC":
        if one[1] != two[1]:
            raise UnknownLayout(
                f"puts out {('B', *one)} whose last axis grows with the image; --layout cannot help, take a layer"
                " beside it"
            )
        if one[0] == two[0]:
            raise UnknownLayout(f"puts out {one[0]} tokens at any image size, so they lie on no grid of the image")
    prefix, grid, sure = _infer_token_grid(one[0], two[0] if two else None, context)
    context.token_counts.add(one[0])
    return Layout("BNC", one[1], grid, prefix, sure or context.layout is not None)


def _infer_token_grid(count: int, second: int | None, context: LayoutContext) -> tuple[int, Grid, bool]:
    """Return the number of tokens before the grid, the grid, and whether it is more than a guess from its shape."""
    allowed = PREFIX_TOKEN_COUNTS if context.prefix is None else (context.prefix,)
    for grid, other in reversed(context.grids):
        prefix = count - grid[0] * grid[1]
        same = second is None or other is None or second - other[0] * other[1] == prefix
        if prefix in allowed and same:
            return prefix, grid, True
    # Networks merge tokens on the way, and do not add any.
    largest = max((max(grid) for grid, _ in context.grids), default=count)
    for prefix in allowed[:6]:
        found = grid_of(count - prefix, context.size)
        if found and max(found) <= largest and (second is None or grid_of(second - prefix, context.second_size)):
            return prefix, found, second is not None or any(_is_pooled(found, grid) for grid, _ in context.grids)
    words = f"{context.prefix}" if context.prefix is not None else "0, 1, 2, 3, 4 or 5"
    raise UnknownLayout(
        f"puts out {count} tokens, which are no grid of the image's shape after {words} prefix tokens; give"
        " prefix_tokens"
    )


def _is_pooled(grid: Grid, larger: Grid) -> bool:
    """Return whether a grid may be a larger one that was pooled or subsampled by whole strides.

    >>> _is_pooled((7, 7), (14, 14)), _is_pooled((4, 4), (7, 7)), _is_pooled((16, 16), (56, 56))
    (True, True, False)
    """
    strides = range(2, 1 + min(larger))
    return any(
        all(short in (long // stride, -(-long // stride)) for short, long in zip(grid, larger, strict=True))
        for stride in strides
    )


def _infer_maps(module: nn.Module, one: Shape, two: Shape | None, context: LayoutContext) -> Layout:
    first = Layout("BCHW", one[0], (one[1], one[2]))
    last = Layout("BHWC", one[2], (one[0], one[1]))
    if context.layout in ("BCHW", "BHWC"):
        return first if context.layout == "BCHW" else last
    first, last = (replace(found, sure=not context.attends(found.grid)) for found in (first, last))
    if isinstance(module, _CHANNELS_FIRST):
        return first
    grown = [axis for axis in range(3) if two is not None and one[axis] != two[axis]]
    if grown:
        if grown not in ([0, 1], [1, 2]):
            raise UnknownLayout(f"puts out {('B', *one)} of which not two neighbouring axes grow with the image")
        return last if grown == [0, 1] else first
    known = [grid for grid, _ in context.grids]
    for found in (first, last):
        if found.grid in known or found.grid[0] == found.grid[1]:
            # Attention, of which no place lies anywhere, needs earlier layers whose places or channels attend.
            return replace(found, sure=found.sure and (found.grid in known or not context.has_places))
    raise UnknownLayout(f"puts out {('B', *one)}, which may be maps with channels first or last; say which with layout")


def to_maps(output: Tensor, layout: Layout) -> Tensor:
    """Return a view of an output as (batch, units, height, width), without prefix tokens.

    Raises:
        BadInput: the tokens form no grid.
    """
    if layout.name == "BCHW":
        return output
    if layout.name == "BHWC":
        return output.permute(0, 3, 1, 2)
    if layout.name == "BC":
        return output[:, :, None, None]
    grid = layout.grid
    count = output.shape[1] - layout.prefix
    # Images of another size than the target's have another grid.
    other = grid if grid[0] * grid[1] == count else grid_of(count, (64 * grid[0], 64 * grid[1]))
    if other is None:
        text = (
            f"{output.shape[1]} tokens less {layout.prefix} prefix tokens are no grid of the shape {grid[0]} x"
            f" {grid[1]}"
        )
        raise BadInput(f"{text}; give images of the target's shape, or prefix_tokens")
    return output[:, layout.prefix :].transpose(1, 2).unflatten(2, other)


def unit_axis(layout: str) -> int:
    """Return the axis of the units in an output of a layout, counting the batch axis."""
    return 1 if layout in ("BCHW", "BC") else -1


def check_layout(layout: str | None, prefix_tokens: int | None, layouts: Sequence[str] = tuple(LAYOUTS)) -> None:
    """Raise BadInput for an unknown layout or a negative number of prefix tokens."""
    if layout is not None and layout not in layouts:
        raise BadInput(f"unknown layout {layout!r}; one of {', '.join(layouts)}")
    if prefix_tokens is not None and prefix_tokens < 0:
        raise BadInput(f"prefix_tokens is {prefix_tokens}; it counts the tokens before the grid, so 0 or more")

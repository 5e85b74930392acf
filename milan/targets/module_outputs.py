"""Outputs of modules (a tensor, or tuples, mappings and dataclasses of tensors) and the tensor that is dissected."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

OutputPath = tuple[Any, ...]  # keys, indices and field names that lead from an output to one tensor in it


def _iter_children(output: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(output, Mapping):  # before dataclasses: transformers' outputs are both
        yield from output.items()
    elif isinstance(output, list | tuple):
        yield from enumerate(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from ((field.name, getattr(output, field.name)) for field in dataclasses.fields(output))


def iter_tensors(output: Any, path: OutputPath = ()) -> Iterator[tuple[OutputPath, Tensor]]:
    """Yield each floating-point tensor of an output, in order, with the path to it.

    >>> import torch
    >>> [path for path, _ in iter_tensors((None, {"a": torch.zeros(1), "b": [torch.ones(1), 3]}))]
    [(1, 'a'), (1, 'b', 0)]
    """
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield path, output
        return
    for key, value in _iter_children(output):
        yield from iter_tensors(value, (*path, key))


def select_tensor(output: Any, index: int | None = None) -> tuple[OutputPath, Tensor] | None:
    """Return the tensor of an output that is dissected, with the path to it; None if there is none.

    Args:
        output: a module's output.
        index: index of the tensor where there are several; by default the first.
    """
    if isinstance(output, Tensor):
        return ((), output) if output.is_floating_point() else None
    found = list(iter_tensors(output))
    if not found:
        return None
    if index is None or len(found) == 1:
        return found[0]
    return found[index] if 0 <= index < len(found) else None


def replace_tensor(output: Any, path: OutputPath, value: Tensor) -> Any:
    """Return a copy of an output with another tensor at a path; the output itself is unchanged."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(output, tuple):
        items = list(output)
        items[key] = replace_tensor(items[key], rest, value)
        return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
    new = copy.copy(output)
    if isinstance(output, Mapping | list):
        new[key] = replace_tensor(output[key], rest, value)
    else:
        # Also for a frozen dataclass.
        object.__setattr__(new, key, replace_tensor(getattr(output, key), rest, value))
    return new

"""What a module may put out: a tensor, or tuples, mappings and dataclasses of tensors; and the one tensor of it that is
dissected.
"""

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
    """Every floating-point tensor in ``output``, in its own order, with the path that leads to it.

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
    """The tensor of ``output`` that is dissected: the first, or the ``index``-th where there are several; None if there
    is no such one.
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
    """A copy of ``output`` with the tensor at ``path`` exchanged; ``output`` itself stays as it is."""
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
        object.__setattr__(
            new, key, replace_tensor(getattr(output, key), rest, value)
        )  # also where the dataclass is frozen
    return new

"""Weights from a file into a network, executing nothing in the file."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from milan.errors import BadInput
from milan.targets.modules import PREFIXES

NESTS = ("state_dict", "model_state_dict", "model", "weights", "module")  # under which training programs keep the state dict
Weights = dict[str, Tensor]


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors file or of a saved state dict, which is read with ``weights_only=True``.

    Raises:
        BadInput: if there is no such file, or it is damaged, or it holds other objects than tensors.
    """
    if not path.is_file():
        raise BadInput(f"no weights file {str(path)!r}; --weights takes a .safetensors file or a state dict saved with torch.save")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise BadInput(f"{path} cannot be read as safetensors: {_first_line(error)}") from error
    return _state_dict(_read_pickle(path), path)


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} is no plain state dict, and reading what it holds could run code in it, so it is not read; "
            "save it anew as torch.save(model.state_dict(), FILE) or with safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise BadInput(f"{path} is damaged or no weights file: {_first_line(error)}") from error


def _state_dict(content: Any, path: Path) -> Weights:
    for _ in range(3):  # a training program's checkpoint, and perhaps one in another
        if not isinstance(content, Mapping):
            break
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        nest = next((key for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            break
        content = content[nest]
    raise BadInput(f"{path} holds no state dict (looked for tensors by name, also under {', '.join(NESTS)})")


def fitted(weights: Weights, expected: Iterable[str]) -> Weights:
    """The same weights, each name without ``module.`` and ``_orig_mod.`` where only so the network knows it.

    >>> list(fitted({"module._orig_mod.fc.bias": torch.zeros(1)}, ["fc.bias"]))
    ['fc.bias']
    """
    known = set(expected)
    plain = {}
    for name, value in weights.items():
        short = name
        while short not in known and short.startswith(PREFIXES):
            short = short.partition(".")[2]
        if short not in known and "_orig_mod." in short:
            short = short.replace("_orig_mod.", "")
        plain[short] = value
    return plain


def put_weights(model: nn.Module, weights: Weights, source: str) -> None:
    """Loads the weights into the network.

    Raises:
        BadInput: if names or shapes differ; the text lists which.
    """
    expected = model.state_dict()
    weights = fitted(weights, expected)
    optional = {name for name in expected if name.endswith("num_batches_tracked")}  # older state dicts have none
    missing = sorted(set(expected) - set(weights) - optional)
    unexpected = sorted(set(weights) - set(expected))
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and isinstance(value, Tensor) and weights[name].shape != value.shape
    ]
    faults = [_listed("missing", missing), _listed("unknown", unexpected), _listed("of another shape", shapes)]
    if any(faults):
        raise BadInput(f"{source} does not fit {type(model).__name__}: {'; '.join(fault for fault in faults if fault)}")
    model.load_state_dict(weights, strict=False)


def classes_in(weights: Weights, model: nn.Module) -> int | None:
    """How many classes the weights are for, if only the last layer's size tells them from the network; None otherwise."""
    expected = model.state_dict()
    weights = fitted(weights, expected)
    differing = [name for name in weights if name in expected and weights[name].shape != expected[name].shape]
    sizes = {(weights[name].shape[0], expected[name].shape[0]) for name in differing if weights[name].dim() and expected[name].dim()}
    tails = all(weights[name].shape[1:] == expected[name].shape[1:] for name in differing)
    return next(iter(sizes))[0] if len(sizes) == 1 and tails else None


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{what}: {', '.join(names[:6])}{more}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

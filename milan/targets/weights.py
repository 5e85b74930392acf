"""Weights by name into a network: names as programs write them, weights that are tied, and what does not fit."""

import warnings
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from milan.errors import BadInput, MilanWarning
from milan.targets.checkpoints import Weights
from milan.targets.hubs import first_line

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})  # parts of names, wherever they stand
_USUAL = ("model.", "net.", "network.", "module.")  # prefixes of programs that keep the network as an attribute, as Lightning's do


def fitted(weights: Weights, expected: Iterable[str]) -> Weights:
    """The weights of the network among ``weights``, by the names that the network has for them; see ``network_names``.

    >>> list(fitted({"model.features.module.0.bias": torch.zeros(1), "loss.weight": torch.zeros(1)}, ["features.0.bias"]))
    ['features.0.bias']
    """
    return {name: weights[given] for given, name in network_names(weights, expected).items()}


def network_names(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """The names that the network has for the names in a file, by the latter; what is not of the network is left out.

    Parts that wrappers put into names (``DataParallel`` around the network or a part of it, ``torch.compile``, FSDP) are dropped, and a
    prefix that stands before all names of the network, as Lightning's ``model.``.

    >>> network_names(["module._orig_mod.fc.bias"], ["fc.bias"])
    {'module._orig_mod.fc.bias': 'fc.bias'}

    Raises:
        BadInput: there are two such prefixes, and none of them is usual.
    """
    known = set(expected)
    bare = {_bare(name): name for name in known}
    plain = {name: name if name in known else bare.get(_bare(name), _bare(name)) for name in names}
    prefix = _prefix(plain.values(), known)
    return {given: name.removeprefix(prefix) for given, name in plain.items() if name.startswith(prefix)}


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefix(names: Iterable[str], known: set[str]) -> str:
    """What stands before most of the network's names; nothing where most are there as they are."""
    counts = Counter(name[:start] for name in names for start in _starts(name) if name[start:] in known)
    most = max(counts.values(), default=0)
    if counts[""] == most:
        return ""
    best = [prefix for prefix, count in counts.items() if count == most]
    usual = [prefix for prefix in _USUAL if prefix in best]
    if len(best) > 1 and not usual:
        told = " and ".join(sorted(best))
        raise BadInput(f"the weights hold the network more than once, under {told}; save the one that is meant in a file of its own")
    return usual[0] if usual else best[0]


def _starts(name: str) -> list[int]:
    return [0, *(place + 1 for place, sign in enumerate(name) if sign == ".")]


def put_weights(model: nn.Module, weights: Weights, source: str) -> None:
    """Loads the weights into the network; of several names for one tensor (tied weights) one is enough.

    Raises:
        BadInput: if names, shapes or kinds of numbers differ; the text lists which.
    """
    expected = model.state_dict()
    names = network_names(weights, expected)
    left = [name for name in weights if name not in names]
    if left:
        text = f"{source}: {len(left)} of {len(weights)} tensors do not belong to the network and are left out"
        warnings.warn(f"{text} ({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})", MilanWarning, stacklevel=2)
    own, apart = _with_tied({name: weights[given] for given, name in names.items()}, expected)
    optional = {name for name in expected if name.endswith("num_batches_tracked")}  # older state dicts have none
    faults = [
        _listed("missing", sorted(set(expected) - set(own) - optional)),
        _listed("unknown", sorted(set(own) - set(expected))),
        _listed("of another shape", _other_shapes(own, expected)),
        _listed("of other kinds of numbers", _other_numbers(own, expected)),
        _listed("one tensor in the network and different in the file", apart),
    ]
    if any(faults):
        raise BadInput(f"{source} does not fit {type(model).__name__}: {'; '.join(fault for fault in faults if fault)}")
    try:
        model.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise BadInput(f"{source} does not fit {type(model).__name__}: {first_line(error)}") from error


def _with_tied(weights: Weights, expected: Weights) -> tuple[Weights, list[str]]:
    """The weights with those that are tied to one of them, and pairs of names that are tied in the network but differ in the weights."""
    tied: dict[tuple, list[str]] = {}
    for name, value in expected.items():
        if isinstance(value, Tensor) and not is_lazy(value) and value.numel():
            tied.setdefault((value.data_ptr(), tuple(value.shape), value.stride()), []).append(name)
    found, apart = dict(weights), []
    for group in tied.values():
        given = [name for name in group if name in weights]
        apart += [f"{given[0]} and {name}" for name in given[1:] if not torch.equal(weights[name], weights[given[0]])]
        found |= {name: weights[given[0]] for name in group if given and name not in weights}
    return found, apart


def _other_shapes(weights: Weights, expected: Weights) -> list[str]:
    return [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and isinstance(value, Tensor) and not is_lazy(value) and weights[name].shape != value.shape
    ]


def _other_numbers(weights: Weights, expected: Weights) -> list[str]:
    """Names whose values would lose their meaning: complex ones for real ones, or the integers of a quantized network for floats."""
    both = [(name, weights[name], value) for name, value in expected.items() if name in weights and isinstance(value, Tensor)]
    return [
        f"{name} {_dtype(given)} instead of {_dtype(value)}"
        for name, given, value in both
        if given.is_complex() != value.is_complex() or (value.is_floating_point() and not given.is_floating_point() and given.dim())
    ]


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


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

"""Load weights into a network by name: prefixes of training programs, tied weights, and what does not fit."""

import warnings
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from milan.errors import BadInput, MilanWarning
from milan.storage.hub_access import format_error_line
from milan.targets.checkpoints import Weights

# Parts that wrappers insert anywhere in names.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Common names for the attribute in which a program, such as a LightningModule, keeps its network.
_PREFIXES = ("model.", "net.", "network.", "module.")


def match_weight_names(weights: Weights, expected: Iterable[str]) -> Weights:
    """Return the network's weights among ``weights`` by the network's names; see ``network_names``.

    >>> list(match_weight_names({"model.a.module.bias": torch.zeros(1), "loss.scale": torch.zeros(1)}, ["a.bias"]))
    ['a.bias']
    """
    return {name: weights[given] for given, name in network_names(weights, expected).items()}


def network_names(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Map names in a file to the network's names; names that do not belong to the network are left out.

    Parts that wrappers insert (``DataParallel`` around the network or a part of it, ``torch.compile``, FSDP) are
    dropped, and so is a prefix before all names of the network, as Lightning's ``model.``.

    >>> network_names(["module._orig_mod.fc.bias"], ["fc.bias"])
    {'module._orig_mod.fc.bias': 'fc.bias'}

    Raises:
        BadInput: there are two such prefixes and none is common.
    """
    known = set(expected)
    bare = {_bare(name): name for name in known}
    plain = {name: name if name in known else bare.get(_bare(name), _bare(name)) for name in names}
    prefix = _prefix(plain.values(), known)
    return {given: name.removeprefix(prefix) for given, name in plain.items() if name.startswith(prefix)}


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefix(names: Iterable[str], known: set[str]) -> str:
    """Return the prefix of most of the network's names; empty if most names need none."""
    counts = Counter(name[:start] for name in names for start in _starts(name) if name[start:] in known)
    most = max(counts.values(), default=0)
    if counts[""] == most:
        return ""
    best = [prefix for prefix, count in counts.items() if count == most]
    common = [prefix for prefix in _PREFIXES if prefix in best]
    if len(best) > 1 and not common:
        places = " and ".join(sorted(best))
        raise BadInput(f"the weights hold the network under {places}; save the intended one in a file of its own")
    return common[0] if common else best[0]


def _starts(name: str) -> list[int]:
    return [0, *(place + 1 for place, sign in enumerate(name) if sign == ".")]


def load_weights_into(model: nn.Module, weights: Weights, source: str) -> None:
    """Load weights into a network. Of several names for one tensor (tied weights) one is enough.

    Raises:
        BadInput: names, shapes or kinds of numbers differ; the message lists them.
    """
    expected = model.state_dict()
    names = network_names(weights, expected)
    if left := [name for name in weights if name not in names]:
        examples = f"{', '.join(left[:3])}{', ...' if len(left) > 3 else ''}"
        text = f"{source}: {len(left)} of {len(weights)} tensors do not belong to the network and are left out"
        warnings.warn(f"{text} ({examples})", MilanWarning, stacklevel=2)
    own, apart = _with_tied({name: weights[given] for given, name in names.items()}, expected)
    # Older state dicts have no num_batches_tracked.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    faults = [
        _format_names("missing", sorted(set(expected) - set(own) - optional)),
        _format_names("unknown", sorted(set(own) - set(expected))),
        _format_names("of another shape", _other_shapes(own, expected)),
        _format_names("of other kinds of numbers", _other_numbers(own, expected)),
        _format_names("one tensor in the network and different in the file", apart),
    ]
    if any(faults):
        text = "; ".join(fault for fault in faults if fault)
        raise BadInput(f"{source} does not fit {type(model).__name__}: {text}")
    try:
        model.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise BadInput(f"{source} does not fit {type(model).__name__}: {format_error_line(error)}") from error


def _with_tied(weights: Weights, expected: Weights) -> tuple[Weights, list[str]]:
    """Add weights that are tied to given ones; also list pairs that are tied in the network and differ in the file."""
    tied: dict[tuple, list[str]] = {}
    for name, value in expected.items():
        if isinstance(value, Tensor) and not is_lazy(value) and value.numel():
            tied.setdefault((value.data_ptr(), tuple(value.shape), value.stride()), []).append(name)
    found, apart = dict(weights), []
    for group in tied.values():
        given = [name for name in group if name in weights]
        different = [name for name in given[1:] if not torch.equal(weights[name], weights[given[0]])]
        apart += [f"{given[0]} and {name}" for name in different]
        found |= {name: weights[given[0]] for name in group if given and name not in weights}
    return found, apart


def _other_shapes(weights: Weights, expected: Weights) -> list[str]:
    return [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and isinstance(value, Tensor) and not is_lazy(value) and weights[name].shape != value.shape
    ]


def _other_numbers(weights: Weights, expected: Weights) -> list[str]:
    """List values that would lose their meaning: complex ones for real ones, or a quantized network's integers."""
    found = []
    for name, value in expected.items():
        given = weights.get(name)
        if given is None or not isinstance(value, Tensor):
            continue
        integers = value.is_floating_point() and not given.is_floating_point() and given.dim()
        if integers or given.is_complex() != value.is_complex():
            found.append(f"{name} {_dtype(given)} instead of {_dtype(value)}")
    return found


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def infer_class_count(weights: Weights, model: nn.Module) -> int | None:
    """Return how many classes the weights are for, if only the last layer's size differs from the network's."""
    expected = model.state_dict()
    weights = match_weight_names(weights, expected)
    shapes = [(weights[name].shape, expected[name].shape) for name in weights if name in expected]
    differing = [(given, own) for given, own in shapes if given != own]
    sizes = {(given[0], own[0]) for given, own in differing if given and own}
    tails = all(given[1:] == own[1:] for given, own in differing)
    return next(iter(sizes))[0] if len(sizes) == 1 and tails else None


def _format_names(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{what}: {', '.join(names[:6])}{more}"

"""A target by name: of torchvision, timm, transformers or Diorama, or from a file of yours."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from milan.errors import BadInput, MilanError, MilanWarning, UnknownName, nearest
from milan.targets.families import from_diorama, from_huggingface, from_timm, from_torchvision
from milan.targets.generators import GeneratorTarget
from milan.targets.modules import check_usable, is_half, seeded
from milan.targets.sources import RANDOM, Network, Preprocessing, Source
from milan.targets.target import Target
from milan.user_code import is_file_spec, module_of, one_line

FAMILIES: dict[str, Callable[[str, Source], Network]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_huggingface,
    "diorama": from_diorama,
}
FORMS = "torchvision:NAME, timm:NAME, hf:ID_OR_PATH, diorama:NAME or PATH/FILE.py:FUNCTION"


def load_target(
    spec: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
    layout: str | None = None,
    prefix_tokens: int | None = None,
    output_index: int | None = None,
) -> Target:
    """The network that ``spec`` names, ready to be dissected.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``hf:ID_OR_PATH``, ``diorama:NAME``, or ``PATH/FILE.py:FUNCTION`` for a function of
            yours that returns a module (or a :class:`Target`, which brings its own preprocessing).
        weights: a safetensors file or a saved state dict, of which nothing is executed; ``"random"`` for untrained
            weights, the same each time; None for the library's pretrained ones.
        device, layout, prefix_tokens, output_index: see :class:`Target`.

    Raises:
        UnknownName: for a name that the family has not, with the three nearest.
        BadInput: if the weights cannot be had or do not fit, or the network cannot be looked into.
    """
    kind, _, name = spec.partition(":")
    source = Source(weights)
    options: dict[str, Any] = {"layout": layout, "prefix_tokens": prefix_tokens, "output_index": output_index, "device": device}
    # Random weights are the same each time, so that earlier results are found again.
    with seeded(torch.device("cpu")):
        if kind in FAMILIES and name:
            network = FAMILIES[kind](name, source)
            target = _target(network, spec, options)
        elif is_file_spec(spec):
            target = _from_file(spec, source, options)
        else:
            raise _unknown(spec)
    target.spec = spec
    target.weights = str(weights) if weights is not None else ""
    target.code = _code_hash(spec)
    return target


def _target(network: Network, name: str, options: dict[str, Any]) -> Target:
    model = network.model
    check_usable(model, name)
    if is_half(model) and torch.device(options["device"]).type == "cpu":
        warnings.warn(f"{name} keeps weights in 16 bits; on the CPU they are dissected in 32 bits", MilanWarning, stacklevel=3)
        model = model.float()
    if network.latents is not None:
        size = network.preprocessing.image_size
        target: Target = GeneratorTarget(model, network.latents, name=name, image_size=size, **options)
    else:
        target = Target(model, name=name, **vars(network.preprocessing), **options)
    model.eval().to(target.device)
    return target


def _from_file(spec: str, source: Source, options: dict[str, Any]) -> Target:
    module, name = module_of(spec, "target")
    file = spec.rpartition(":")[0]
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not callable(getattr(module, name, None)):
        raise UnknownName(f"function in {file}", name, known)
    try:
        made = getattr(module, name)()
    except MilanError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise BadInput(f"{name}() in {file} failed: {one_line(error)}") from error
    if isinstance(made, Target):
        source.fill(made.core)
        return _with_options(made, options)
    if not isinstance(made, nn.Module):
        raise BadInput(f"{name}() in {file} returns a {type(made).__name__}; it must return a torch.nn.Module or a milan.Target")
    return _target(Network(source.fill(made), Preprocessing()), spec, options)


def _with_options(target: Target, options: dict[str, Any]) -> Target:
    """The user's target with what the command line says of it; what it does not say stays."""
    given = {key: value for key, value in options.items() if value is not None and (key, value) != ("device", "cpu")}
    kept = {
        key: getattr(target, key) for key in ("image_size", "resize", "mean", "std", "layout", "prefix_tokens", "output_index", "device")
    }
    if isinstance(target, GeneratorTarget):
        own = {key: value for key, value in (kept | given).items() if key not in ("resize", "mean", "std")}
        return GeneratorTarget(target.model, target.latents, name=target.name, low=target.low, high=target.high, **own)
    return Target(target.model, name=target.name, **(kept | given))


def _code_hash(spec: str) -> str:
    """Return the sha256 of the Python file that a spec names; empty if it names none."""
    file = spec.rpartition(":")[0]
    return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest() if is_file_spec(spec) else ""


def _unknown(spec: str) -> MilanError:
    kind, colon, name = spec.partition(":")
    if colon and name:
        return UnknownName("kind of target", kind, FAMILIES, f"write {FORMS}")
    from torchvision.models import list_models

    near = nearest(spec, list_models(), 1)
    guess = f"; torchvision:{near[0]}?" if near else ""
    return BadInput(f"no target {spec!r}: write {FORMS}{guess}")


__all__ = ["FAMILIES", "RANDOM", "load_target"]

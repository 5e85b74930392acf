"""A target by name: of torchvision, timm, transformers or Diorama, or from a file of yours."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from milan.errors import BadInput, MilanError, MilanWarning, UnknownName, find_nearest_names
from milan.storage.user_code import is_file_spec, module_of, one_line
from milan.targets.detectors import assumed_preprocessing
from milan.targets.families import load_diorama, load_huggingface, load_timm, load_torchvision
from milan.targets.generator_target import GeneratorTarget
from milan.targets.library_transforms import KnownPreprocessing
from milan.targets.module_access import check_usable, is_half, seeded
from milan.targets.preprocessing import READING, TargetOptions, height_width
from milan.targets.target import Target, warn_assumed
from milan.targets.weight_source import RANDOM, LoadedNetwork, WeightSource

FAMILIES: dict[str, Callable[[str, WeightSource], LoadedNetwork]] = {
    "torchvision": load_torchvision,
    "timm": load_timm,
    "hf": load_huggingface,
    "diorama": load_diorama,
}
SPEC_FORMS = "torchvision:NAME, timm:NAME, hf:ID_OR_PATH, diorama:NAME or PATH/FILE.py:FUNCTION"


def load_target(
    spec: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu", **options: Any
) -> Target:
    """The network that ``spec`` names, ready to be dissected.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``hf:ID_OR_PATH``, ``diorama:NAME``, or ``PATH/FILE.py:FUNCTION`` for
            a function of yours that returns a module (or a :class:`Target`, which brings its own preprocessing).
        weights: a safetensors file or a saved state dict, of which nothing is executed; ``"random"`` for untrained
            weights, the same each time; None for the library's pretrained ones.
        device: see :class:`Target`.
        options: ``name``, ``image_size``, ``mean`` and the others of
            :class:`milan.targets.preprocessing.TargetOptions`, in place of what the library or the function says.

    Raises:
        UnknownName: for a name that the family has not, with the three nearest.
        BadInput: if the weights cannot be had or do not fit, or the network cannot be looked into, or its library's own
            transform of pictures cannot be reproduced and no ``interpolation`` is given.
    """
    kind, _, name = spec.partition(":")
    source, stated = WeightSource(weights), TargetOptions(**options)
    # Random weights are the same each time, so that earlier results are found again.
    with seeded(torch.device("cpu")):
        if kind in FAMILIES and name:
            target = _make_target(FAMILIES[kind](name, source), spec, stated, device)
        elif is_file_spec(spec):
            target = _load_from_file(spec, source, stated, device)
        else:
            raise _make_unknown_error(spec)
    target.spec, target.options = spec, stated.given
    target.weights = str(weights) if weights is not None else ""
    target.code = _code_hash(spec)
    return target


def _make_target(network: LoadedNetwork, spec: str, stated: TargetOptions, device: str | torch.device) -> Target:
    model = network.model
    check_usable(model, spec)
    if is_half(model) and torch.device(device).type == "cpu":
        warnings.warn(
            f"{spec} keeps weights in 16 bits; on the CPU they are dissected in 32 bits", MilanWarning, stacklevel=3
        )
        model = model.float()
    known = network.known or KnownPreprocessing(assumed_preprocessing(model))
    preprocessing = known.preprocessing.changed(**stated.preprocessing)
    rest: dict[str, Any] = {"name": stated.name or "", "device": device} | stated.reading
    if network.latents is not None:
        target: Target = GeneratorTarget(model, network.latents, image_size=preprocessing.image_size, **rest)
    else:
        target = Target(model, **vars(preprocessing), **rest)
        target.spec = spec
        _tell_preprocessing(target, known, stated)
        if network.known is None and not {"image_size", "mean", "std"} <= set(stated.given):
            warn_assumed(target)
        target.is_size_assumed = network.known is None and stated.image_size is None
    model.eval().to(target.device)
    return target


def _tell_preprocessing(target: Target, known: KnownPreprocessing, stated: TargetOptions) -> None:
    """Warns of what a user should know of the preprocessing.

    Raises:
        BadInput: it is not the library's own, and nobody stated another.
    """
    if known.fault and not stated.interpolation:
        size = " ".join(map(str, dict.fromkeys(height_width(target.image_size))))
        how = f"--image_size {size} --interpolation {target.preprocessing.interpolation}"
        raise BadInput(f"{target.spec}: {known.fault}; to go on with other images state how they are made, as {how}")
    if known.fault or known.note:
        told = f"{known.fault}; shown as stated: {target.preprocessing}" if known.fault else known.note
        warnings.warn(f"{target.spec}: {told}", MilanWarning, stacklevel=4)


def _load_from_file(spec: str, source: WeightSource, stated: TargetOptions, device: str | torch.device) -> Target:
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
        source.load_into(made.core)
        return _apply_options(made, stated, device)
    if not isinstance(made, nn.Module):
        raise BadInput(
            f"{name}() in {file} returns a {type(made).__name__}; it must return a torch.nn.Module or a milan.Target"
        )
    return _make_target(LoadedNetwork(source.load_into(made), None), spec, stated, device)


def _apply_options(target: Target, stated: TargetOptions, device: str | torch.device) -> Target:
    """The user's target with what the command line says of it; what it does not say stays."""
    kept: dict[str, Any] = {name: getattr(target, name) for name in READING}
    kept |= stated.reading
    kept |= {"name": stated.name or target.given_name, "device": target.device if str(device) == "cpu" else device}
    if isinstance(target, GeneratorTarget):
        if stated.preprocessing:
            raise BadInput(
                f"{target.name} makes pictures of its own; {', '.join(stated.preprocessing)} are for networks that take"
                " them"
            )
        size = target.image_size
        return GeneratorTarget(target.model, target.latents, image_size=size, low=target.low, high=target.high, **kept)
    return Target(target.model, **vars(target.preprocessing.changed(**stated.preprocessing)), **kept)


def _code_hash(spec: str) -> str:
    """Return the sha256 of the Python file that a spec names; empty if it names none."""
    file = spec.rpartition(":")[0]
    return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest() if is_file_spec(spec) else ""


def _make_unknown_error(spec: str) -> MilanError:
    kind, colon, name = spec.partition(":")
    if colon and name:
        return UnknownName("kind of target", kind, FAMILIES, f"write {SPEC_FORMS}")
    from torchvision.models import list_models

    near = find_nearest_names(spec, list_models(), 1)
    guess = f"; torchvision:{near[0]}?" if near else ""
    return BadInput(f"no target {spec!r}: write {SPEC_FORMS}{guess}")


__all__ = ["FAMILIES", "RANDOM", "load_target"]

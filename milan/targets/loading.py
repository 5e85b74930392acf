"""Load a target by name: from torchvision, timm, transformers, Diorama, or a Python file."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from milan.errors import BadInput, MilanWarning
from milan.storage.user_code import is_file_spec, load_from_file
from milan.targets.detectors import assumed_preprocessing
from milan.targets.dictionary_files import load_dictionary
from milan.targets.families import load_diorama, load_huggingface, load_timm, load_torchvision
from milan.targets.generator_target import GeneratorTarget
from milan.targets.library_transforms import KnownPreprocessing
from milan.targets.module_access import check_usable, is_half, seeded, unwrap
from milan.targets.preprocessing import READING, TargetOptions, height_width
from milan.targets.target import Target, warn_assumed
from milan.targets.target_specs import FAMILY_NAMES, make_unknown_spec_error
from milan.targets.weight_source import RANDOM, LoadedNetwork, WeightSource

FAMILIES: dict[str, Callable[[str, WeightSource], LoadedNetwork]] = dict(
    zip(FAMILY_NAMES, (load_torchvision, load_timm, load_huggingface, load_diorama), strict=True)
)


def load_target(
    spec: str, *, weights: str | Path | None = None, device: str | torch.device = "cpu", **options: Any
) -> Target:
    """Load the network that a spec names.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``hf:ID_OR_PATH``, ``diorama:NAME``, or ``PATH/FILE.py:FUNCTION`` for
            a custom function that returns a module or a :class:`Target` with its own preprocessing.
        weights: a safetensors file or a saved state dict, which is read without executing code; ``"random"`` for
            untrained weights from a fixed seed; None for the library's pretrained weights.
        device: the device that the network runs on.
        options: fields of :class:`milan.targets.preprocessing.TargetOptions` that replace the library's or the
            function's: ``name``, ``image_size``, ``mean``, ...

    Raises:
        UnknownName: the family has no such network; the message lists the three nearest names.
        BadInput: the weights are not available or do not fit, the network takes no hooks, or its library's
            preprocessing cannot be reproduced and no ``interpolation`` is given.
    """
    kind, _, name = spec.partition(":")
    source, stated = WeightSource(weights), TargetOptions(**options)
    # Read first: the library that a network comes from takes seconds to import.
    _ = source.tensors
    # Random weights are the same in each run, so that earlier results can be reused.
    with seeded(torch.device("cpu")):
        if kind in FAMILIES and name:
            target = _make_target(FAMILIES[kind](name, source), spec, stated, device)
        elif is_file_spec(spec):
            target = _load_from_file(spec, source, stated, device)
        else:
            raise make_unknown_spec_error(spec)
    target.spec, target.options = spec, stated.given
    target.weights = str(weights) if weights is not None else ""
    target.code = _code_hash(spec)
    if stated.dictionary is not None:
        return target.with_dictionary(load_dictionary(stated.dictionary), stated.dictionary_layer or "")
    if stated.dictionary_layer is not None:
        raise BadInput(f"dictionary_layer is {stated.dictionary_layer!r} without a dictionary; give --dictionary PATH")
    return target


def _make_target(network: LoadedNetwork, spec: str, stated: TargetOptions, device: str | torch.device) -> Target:
    model = network.model
    check_usable(model, spec)
    if is_half(model) and stated.precision is None and torch.device(device).type == "cpu":
        warnings.warn(
            f"{spec} has 16-bit weights; on the CPU they are converted to 32 bits", MilanWarning, stacklevel=3
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
        _check_preprocessing(target, known, stated)
        if network.known is None and not {"image_size", "mean", "std"} <= set(stated.given):
            warn_assumed(target)
        target.is_size_assumed = network.known is None and stated.image_size is None
    target.model.eval().to(target.device)
    return target


def _check_preprocessing(target: Target, known: KnownPreprocessing, stated: TargetOptions) -> None:
    """Warn about what the user should know of the preprocessing.

    Raises:
        BadInput: it differs from the library's, and no other is given.
    """
    if known.fault and not stated.interpolation:
        size = " ".join(map(str, dict.fromkeys(height_width(target.image_size))))
        how = f"--image_size {size} --interpolation {target.preprocessing.interpolation}"
        raise BadInput(f"{target.spec}: {known.fault}; to use another preprocessing, state it, as {how}")
    if known.fault or known.note:
        text = f"{known.fault}; used as stated: {target.preprocessing}" if known.fault else known.note
        warnings.warn(f"{target.spec}: {text}", MilanWarning, stacklevel=4)


def _load_from_file(spec: str, source: WeightSource, stated: TargetOptions, device: str | torch.device) -> Target:
    made = load_from_file(spec, "target")
    if isinstance(made, Target):
        source.load_into(unwrap(made.unrounded_model))
        return _apply_options(made, stated, device)
    if not isinstance(made, nn.Module):
        raise BadInput(f"{spec} returns a {type(made).__name__}; it must return a torch.nn.Module or a milan.Target")
    return _make_target(LoadedNetwork(source.load_into(made), None), spec, stated, device)


def _apply_options(target: Target, stated: TargetOptions, device: str | torch.device) -> Target:
    """Return a custom target with the options that are given in place of its own."""
    kept: dict[str, Any] = {name: getattr(target, name) for name in READING}
    kept |= stated.reading
    kept |= {"name": stated.name or target.given_name, "device": target.device if str(device) == "cpu" else device}
    if isinstance(target, GeneratorTarget):
        if stated.preprocessing:
            raise BadInput(
                f"{target.name} generates images; {', '.join(stated.preprocessing)} apply to networks that take images"
            )
        size = target.image_size
        return GeneratorTarget(
            target.unrounded_model, target.latents, image_size=size, low=target.low, high=target.high, **kept
        )
    return Target(target.unrounded_model, **vars(target.preprocessing.changed(**stated.preprocessing)), **kept)


def _code_hash(spec: str) -> str:
    """Return the sha256 of the Python file that a spec names; empty if it names none."""
    file = spec.rpartition(":")[0]
    return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest() if is_file_spec(spec) else ""


__all__ = ["FAMILIES", "RANDOM", "load_target"]

"""Reader of dictionaries of overcomplete: whole pickled modules, whose classes are never run, and state dicts.

A state dict lacks the number of active latents and the normalization of the dictionary; they are stated as options.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from milan.errors import BadInput
from milan.targets.checkpoints import pickled_name
from milan.targets.dictionary import Dictionary, DictionaryConfig
from milan.targets.dictionary_source import DictionaryFile, Settings

_ENCODER = "encoder.final_block.0"
_BATCH_NORM = "encoder.final_block.1"
# Of the library: added to norms and to sums of archetypes.
_EPS = 1e-8
# Default of torch.nn.BatchNorm1d.
_BATCH_NORM_EPS = 1e-5
# Largest difference of the dictionary that a module in eval mode keeps from the one that its weights give.
_FUSED_TOLERANCE = 1e-4
_FUSED = "_fused_dictionary"
_DEPTH = 6

NORMALIZATIONS = ("l2", "max_l2", "l1", "max_l1", "identity")
# Activation of each class.
_CLASSES = {
    "base.SAE": "relu",
    "topk_sae.TopKSAE": "topk",
    "batchtopk_sae.BatchTopKSAE": "batchtopk",
    "jump_sae.JumpSAE": "jump",
    "rasae.RATopKSAE": "topk",
    "rasae.RAJumpSAE": "jump",
}
# Classes that a module may consist of; the order of dots is the library's.
_PARTS = {
    "encoder": "overcomplete.sae.modules.MLPEncoder",
    "encoder.mlp_blocks": "torch.nn.modules.container.ModuleList",
    "encoder.final_block": "torch.nn.modules.container.Sequential",
    "encoder.final_block.0": "torch.nn.modules.linear.Linear",
    "encoder.final_activation": "torch.nn.modules.activation.ReLU",
}


def is_overcomplete(source: DictionaryFile) -> bool:
    """Return whether a file is of overcomplete: a pickled module or its state dict."""
    return pickled_name(source.content).startswith("overcomplete.") or f"{_ENCODER}.weight" in source.tensors


def read_overcomplete(source: DictionaryFile) -> Dictionary:
    """Read a dictionary of overcomplete as its modules compute it in eval mode."""
    fused = None
    if pickled_name(source.content):
        source, fused = _open_module(source)
    weights = {"encoder": source.matrix(f"{_ENCODER}.weight").T, "encoder_bias": source.tensor(f"{_ENCODER}.bias")}
    names = [f"{_ENCODER}.weight", f"{_ENCODER}.bias", "dictionary.multiplier"]
    if any(name.startswith(_BATCH_NORM) for name in source.tensors):
        weights |= _folded_batch_norm(source, weights)
        parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        names += [f"{_BATCH_NORM}.{part}" for part in parts]
    rows, row_names = _dictionary_rows(source)
    weights["decoder"] = rows * _multiplier(source).exp()
    if fused is not None:
        _check_fused(source, weights["decoder"], fused)
    activation, k = _activation(source)
    if activation in ("batchtopk", "jump"):
        weights["threshold"] = _threshold(source, activation, len(rows))
        names += ["thresholds"] if activation == "jump" else []
        activation = "jumprelu"
    source.check_names(*names, *row_names)
    config = DictionaryConfig(activation=activation, k=k, format="overcomplete", name=source.name)
    return Dictionary(**weights, config=config)


def _open_module(source: DictionaryFile) -> tuple[DictionaryFile, Tensor | None]:
    """Return a pickled module as a state dict with options, and the dictionary that a module in eval mode keeps."""
    if source.options.values:
        names = " and ".join(source.options.values)
        raise BadInput(f"{source.path} is a whole module, which states {names} itself; omit the option")
    name = pickled_name(source.content).removeprefix("overcomplete.sae.")
    if name not in _CLASSES:
        raise BadInput(f"{source.path} is of class {name!r} of overcomplete; known are {', '.join(_CLASSES)}")
    modules = _modules(source.content)
    for part, expected in _PARTS.items():
        if (actual := pickled_name(modules.get(part))) != expected:
            raise BadInput(f"{part} is of class {actual!r} in {source.path}; only {expected} is known")
    if _attributes(modules["encoder"]).get("residual"):
        raise BadInput(f"the encoder in {source.path} has a residual connection, which is not known")
    module, dictionary = _attributes(source.content), _attributes(modules.get("dictionary"))
    options = {
        "activation": _CLASSES[name],
        "k": module.get("top_k") if _CLASSES[name] == "topk" else None,
        "threshold": _number(module.get("running_threshold")),
        "normalization": pickled_name(dictionary.get("normalization")).rpartition("normalize_")[2] or None,
        "delta": _number(dictionary.get("delta")),
        "batch_norm_eps": _attributes(modules.get(_BATCH_NORM)).get("eps"),
    }
    tensors = {
        f"{path}.{key}".lstrip("."): value
        for path, part in modules.items()
        for kind in ("_parameters", "_buffers")
        for key, value in _attributes(part).get(kind, {}).items()
        if value is not None
    }
    fused = dictionary.get(_FUSED) if not module.get("training", True) else None
    opened = source.inner(tensors)
    settings = Settings(options, str(source.path))
    module_file = DictionaryFile(opened.path, {}, opened.tensors, source.settings, options=settings)
    return module_file, source.inner({_FUSED: fused}).tensor(_FUSED) if isinstance(fused, Tensor) else None


def _modules(module: object, path: str = "", depth: int = _DEPTH) -> dict[str, object]:
    """Return the modules inside a module by their dotted path, itself under the empty one."""
    children = _attributes(module).get("_modules") or {}
    found = {path: module}
    for name, child in children.items() if depth and isinstance(children, Mapping) else ():
        found |= _modules(child, f"{path}.{name}".lstrip("."), depth - 1)
    return found


def _attributes(value: object) -> dict[str, Any]:
    return dict(getattr(value, "__dict__", {}))


def _number(value: object) -> object:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _folded_batch_norm(source: DictionaryFile, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder with the normalization by running statistics multiplied into it."""
    if f"{_BATCH_NORM}.running_mean" not in source.tensors:
        reason = "normalizes its pre-activations (LayerNorm), so that they are no linear function of the activations"
        raise BadInput(f"the encoder in {source.path} {reason}; encoders with BatchNorm1d or none are read")
    parts = ("weight", "bias", "running_mean", "running_var")
    gain, bias, mean, variance = (source.tensor(f"{_BATCH_NORM}.{part}") for part in parts)
    latents = weights["encoder"].shape[1:]
    if any(value.shape != latents for value in (gain, bias, mean, variance, weights["encoder_bias"])):
        raise BadInput(f"the shapes of {_BATCH_NORM} do not agree with the encoder in {source.path}; copy it again")
    gain = gain / (variance + source.options.get("batch_norm_eps", float, _BATCH_NORM_EPS)).sqrt()
    return {
        "encoder": weights["encoder"] * gain,
        "encoder_bias": (weights["encoder_bias"] - mean) * gain + bias,
    }


def _dictionary_rows(source: DictionaryFile) -> tuple[Tensor, list[str]]:
    """Return the dictionary's rows before they are multiplied, and the names of the tensors they are made of."""
    if "dictionary._weights" in source.tensors:
        normalization = source.options.get("normalization", str, "")
        if normalization not in NORMALIZATIONS:
            kind = f"the normalization {normalization!r}" if normalization else "no normalization"
            known = ", ".join(repr(name) for name in NORMALIZATIONS)
            raise BadInput(f"{source.path} has {kind}; give normalization={known.replace(', ', ' or ')}")
        return _normalized(source.matrix("dictionary._weights"), normalization), ["dictionary._weights"]
    names = ["dictionary.W", "dictionary.C", "dictionary.Relax"]
    if missing := [name for name in names if name not in source.tensors]:
        raise BadInput(f"{source.path} has neither dictionary._weights nor {missing[0]}; save the whole state dict")
    if "delta" not in source.options:
        raise BadInput(f"{source.path} is an archetypal dictionary and does not hold its delta; give delta=...")
    mixture, archetypes, deviation = (source.matrix(name) for name in names)
    if mixture.shape[1] != archetypes.shape[0] or deviation.shape != (mixture.shape[0], archetypes.shape[1]):
        shapes = ", ".join(f"{name} {tuple(source.tensor(name).shape)}" for name in names)
        raise BadInput(f"shapes do not agree in {source.path}: {shapes}; copy it again")
    mixture = mixture.relu()
    mixture = mixture / (mixture.sum(1, keepdim=True) + _EPS)
    delta = source.options.get("delta", float)
    shrink = (delta / deviation.norm(dim=1, keepdim=True).clamp(min=_EPS)).clamp(max=1)
    return mixture @ archetypes + deviation * shrink, names


def _normalized(rows: Tensor, normalization: str) -> Tensor:
    if normalization == "identity":
        return rows
    norms = rows.norm(p=1 if normalization.endswith("l1") else 2, dim=1, keepdim=True)
    return rows / ((norms.max() if normalization.startswith("max") else norms) + _EPS)


def _multiplier(source: DictionaryFile) -> Tensor:
    """Return the logarithm of the factor of the whole dictionary."""
    value = source.tensor("dictionary.multiplier")
    if value.numel() != 1:
        raise BadInput(f"dictionary.multiplier has shape {tuple(value.shape)} in {source.path}; one value is needed")
    return value.reshape(())


def _check_fused(source: DictionaryFile, decoder: Tensor, fused: Tensor) -> None:
    if fused.shape != decoder.shape or not bool((fused - decoder).abs().max() <= _FUSED_TOLERANCE):
        reason = f"keeps a dictionary ({_FUSED}) that is not the one of its weights"
        raise BadInput(f"the module in {source.path} {reason}; call train() and eval() on it and save it again")


def _activation(source: DictionaryFile) -> tuple[str, int | None]:
    """Return the activation and k that the options state."""
    options = source.options
    if "thresholds" in source.tensors:
        for name in ("k", "threshold"):
            if name in options:
                raise BadInput(f"{source.path} is a JumpSAE, which has no {name}; omit the option")
        if options.get("activation", str, "jump") != "jump":
            raise BadInput(f"activation is {options.values['activation']!r}, and {source.path} is a JumpSAE; omit it")
        return "jump", None
    stated = "topk" if "k" in options else "batchtopk" if "threshold" in options else ""
    activation = options.get("activation", str, stated)
    if activation not in ("relu", "topk", "batchtopk"):
        missing = f"has the activation {activation!r}" if activation else "does not hold its activation"
        remedy = "give k=... (TopKSAE), threshold=... (BatchTopKSAE) or activation='relu' (SAE)"
        raise BadInput(f"{source.path} {missing}; {remedy}")
    if ("k" in options and "threshold" in options) or (stated and stated != activation):
        stated_options = ", ".join(f"{name}={value!r}" for name, value in options.values.items() if value is not None)
        raise BadInput(f"the options for {source.path} contradict each other: {stated_options}; give one of them")
    return activation, options.get("k", int) if activation == "topk" else None


def _threshold(source: DictionaryFile, activation: str, latents: int) -> Tensor:
    """Return the largest number below the threshold: the library keeps codes that equal the threshold."""
    if activation == "jump":
        threshold = source.tensor("thresholds").exp()
    else:
        if "threshold" not in source.options:
            reason = "has no running_threshold, so that its codes depend on the batch"
            raise BadInput(f"{source.path} {reason}; give threshold=... with its state dict")
        threshold = torch.full((latents,), source.options.get("threshold", float))
    return threshold.nextafter(torch.full_like(threshold, -torch.inf))

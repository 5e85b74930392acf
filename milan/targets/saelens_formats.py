"""Readers of dictionaries of SAELens and ViT-Prisma, which share most of their arithmetic and names, and a writer.

Each reader follows the library's own loader. A file with settings or tensors whose effect is not known here is refused,
since a reading that ignores them would give wrong codes without a sign of it.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from milan.errors import BadInput, MilanWarning
from milan.storage.files import atomic_write, write_text
from milan.targets.dictionary import Dictionary, DictionaryConfig
from milan.targets.dictionary_source import DictionaryFile, Settings, read_json

_EXPORT = "export it for inference (SAELens: save_inference_model) and load that"
# SAELens' architectures: activation, and whether it is a transcoder and has a skip connection.
_ARCHITECTURES = {
    "standard": ("relu", False, False),
    "topk": ("topk", False, False),
    "abstopk": ("abstopk", False, False),
    "jumprelu": ("jumprelu", False, False),
    "gated": ("gated", False, False),
    "matching_pursuit": ("matching_pursuit", False, False),
    "transcoder": ("relu", True, False),
    "skip_transcoder": ("relu", True, True),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
}
# Values of normalize_activations in SAELens and ViT-Prisma; a boolean in SAELens 3.
_NORMALIZATIONS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
_WITHOUT_FACTORS = ("expected_average_only_in", "covariance_whitening")
_ACTIVATIONS = {"relu": "relu", "topk": "topk", "tanh-relu": "tanh_relu"}
_SCALER_FILE = "activation_scaler.json"
# The version whose format is written. Without one its loader assumes an older format and drops the layer's name.
_WRITTEN_VERSION = "6.54.12"


def is_saelens(source: DictionaryFile) -> bool:
    """Return whether a file is of SAELens, current or flat."""
    return source.metadata is not None and "W_dec" in source.tensors


def read_saelens(source: DictionaryFile) -> Dictionary:
    """Read a dictionary of SAELens 3 to 6 (``cfg.json`` and ``sae_weights.safetensors``).

    The decoder bias is subtracted after normalization. The factor in ``activation_scaler.json`` beside the weights of
    an unfinished training run is applied, as its trainer does.
    """
    settings = source.settings
    # Every version writes it: settings without it belong to something else.
    settings.get("d_in", int)
    activation, transcoder, has_skip = _saelens_architecture(source)
    if settings.get("reshape_activations", str, "none") != "none":
        reason = f"reshape_activations is {settings.values['reshape_activations']!r} in {settings.origin}"
        raise BadInput(f"{reason}: it encodes attention heads side by side, which are no layer here; use another one")
    k = None
    if activation == "relu" and not transcoder:
        activation, k = _activation_function(settings, ("activation_fn_str", "activation_fn"), "relu")
    elif activation in ("topk", "abstopk"):
        k = _saelens_k(settings)
    elif activation == "matching_pursuit":
        k = settings.get("max_iterations", int)
    elif settings.get("activation_fn_str", str, "relu") != "relu":
        function = settings.values["activation_fn_str"]
        raise BadInput(f"activation_fn_str is {function!r} in {settings.origin}; for this architecture relu is known")
    weights = _saelens_weights(source, activation, has_skip)
    if settings.get("apply_b_dec_to_input", bool, True) and not transcoder:
        weights["input_bias"] = weights["decoder_bias"]
    elif activation == "matching_pursuit":
        del weights["decoder_bias"]
    source.check_sizes(weights["encoder"])
    if "d_out" in settings and transcoder and settings.get("d_out", int) != weights["decoder"].shape[1]:
        sizes = f"d_out is {settings.values['d_out']} and W_dec has shape {tuple(weights['decoder'].shape)}"
        raise BadInput(f"{sizes} in {source.path}; copy both files again")
    scale = _saelens_scale(source, transcoder)
    details = settings.section("metadata") if "metadata" in settings else settings
    config = DictionaryConfig(
        activation=activation,
        k=k,
        scale=scale,
        normalization=_normalization(settings, "none", warn=scale == 1),
        denormalize=not transcoder,
        transcoder=transcoder,
        residual_threshold=settings.get("residual_threshold", float, 0.01) if activation == "matching_pursuit" else 0.0,
        stop_on_repeat=settings.get("stop_on_duplicate_support", bool, True),
        format="saelens",
        name=source.name,
        model=details.get("model_name", str, ""),
        hook_point=details.get("hook_name", str, ""),
        layer_index=details.get("hook_layer", int) if "hook_layer" in details else None,
    )
    return Dictionary(**weights, config=config)


def _saelens_architecture(source: DictionaryFile) -> tuple[str, bool, bool]:
    name = source.settings.get("architecture", str, "standard")
    if "batchtopk" in name or "topk_threshold" in source.tensors:
        reason = f"is a training checkpoint (architecture {name!r}) whose codes depend on the other images of a batch"
        raise BadInput(f"{source.path} {reason}; {_EXPORT}")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise BadInput(f"architecture is {name!r} in {source.settings.origin}; known are {known}")
    return _ARCHITECTURES[name]


def _saelens_k(settings: Settings) -> int:
    if "k" in settings:
        return settings.get("k", int)
    return settings.section("activation_fn_kwargs").get("k", int)


def _saelens_weights(source: DictionaryFile, activation: str, has_skip: bool) -> dict[str, Tensor]:
    decoder = source.matrix("W_dec")
    weights = {"decoder": decoder, "decoder_bias": source.tensor("b_dec")}
    names = ["W_dec", "b_dec", *(["W_skip"] if has_skip else [])]
    if has_skip:
        weights["skip"] = source.tensor("W_skip")
    if activation == "matching_pursuit":
        source.check_names(*names)
        return weights | {"encoder": source.matrix("W_dec").T}
    weights["encoder"] = source.matrix("W_enc")
    if activation == "gated":
        weights |= _gated_weights(source, "b_gate", "r_mag", "b_mag")
        # ViT-Prisma keeps a bias that gated dictionaries do not use.
        source.check_names(*names, "W_enc", "b_gate", "r_mag", "b_mag", "b_enc")
        return weights
    weights["encoder_bias"] = source.tensor("b_enc")
    if activation == "jumprelu":
        weights["threshold"] = source.tensor("threshold")
        names.append("threshold")
    factors = _finetuned_factors(source)
    source.check_names(*names, "W_enc", "b_enc", *factors)
    for factor in factors.values():
        weights["decoder"] = _times_rows(weights["decoder"], factor, source)
    if source.settings.get("rescale_acts_by_decoder_norm", bool, False) and activation in ("topk", "abstopk"):
        return _rescaled_by_norm(weights, source)
    return weights


def _gated_weights(source: DictionaryFile, gate_bias: str, log_gain: str, gain_bias: str) -> dict[str, Tensor]:
    names = {"encoder_bias": gate_bias, "log_gain": log_gain, "gain_bias": gain_bias}
    return {weight: source.tensor(name) for weight, name in names.items()}


def _finetuned_factors(source: DictionaryFile) -> dict[str, Tensor]:
    """Return the factors of the codes before they are decoded, under their tensor's name; none where there are none."""
    applied = source.settings.get("finetuning_scaling_factor", bool, False)
    if "scaling_factor" in source.tensors:
        factor = source.tensor("scaling_factor")
        if not applied and not bool((factor == 1).all()):
            reason = f"has a scaling_factor other than 1 and {source.settings.origin} does not say it is applied"
            raise BadInput(f"{source.path} {reason}; state finetuning_scaling_factor there")
        return {"scaling_factor": factor}
    return {"finetuning_scaling_factor": source.tensor("finetuning_scaling_factor")} if applied else {}


def _times_rows(decoder: Tensor, factor: Tensor, source: DictionaryFile) -> Tensor:
    if factor.shape != decoder.shape[:1]:
        shapes = f"{tuple(factor.shape)} and the decoder {tuple(decoder.shape)}"
        raise BadInput(f"the factors of the codes have shape {shapes} in {source.path}; one per latent is needed")
    return decoder * factor[:, None]


def _rescaled_by_norm(weights: dict[str, Tensor], source: DictionaryFile) -> dict[str, Tensor]:
    """Return the weights with pre-activations multiplied by the norm of the decoder's row, and rows of norm 1."""
    norms = source.matrix("W_dec").norm(dim=1)
    encoder, bias, decoder = weights["encoder"], weights["encoder_bias"], weights["decoder"]
    if encoder.shape[1] != len(norms) or bias.shape != norms.shape:
        shapes = f"W_enc {tuple(encoder.shape)}, b_enc {tuple(bias.shape)}, W_dec {tuple(decoder.shape)}"
        raise BadInput(f"shapes do not agree in {source.path}: {shapes}; copy it again")
    # A row of zeros stays one.
    rows = decoder / norms.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return weights | {"encoder": encoder * norms, "encoder_bias": bias * norms, "decoder": rows}


def _saelens_scale(source: DictionaryFile, transcoder: bool) -> float:
    file = source.path.parent / _SCALER_FILE
    if not file.is_file():
        return 1.0
    scaler = Settings(read_json(file), str(file))
    if scaler.get("has_whitening", bool, False):
        raise BadInput(f"{file} says the activations were whitened, and the whitening is not in it; {_EXPORT}")
    scale = scaler.get("scaling_factor", float, 1.0)
    if transcoder and scale != 1:
        raise BadInput(f"{file} scales the input of a transcoder, and how its output is scaled is unknown; {_EXPORT}")
    return scale


def _normalization(settings: Settings, default: str, warn: bool) -> str:
    value = settings.values.get("normalize_activations", default)
    # A boolean in SAELens 3.
    name = {True: _WITHOUT_FACTORS[0], False: "none"}[value] if isinstance(value, bool) else value
    if name in _WITHOUT_FACTORS:
        if warn:
            reason = f"{settings.origin} says {name!r}, and the factors are in no file"
            advice = "activations are encoded as they are, as SAELens does; look at the explained variance"
            warnings.warn(f"{reason}; {advice}", MilanWarning, stacklevel=5)
        return "none"
    if not isinstance(name, str) or name not in _NORMALIZATIONS:
        known = ", ".join(_NORMALIZATIONS)
        raise BadInput(f"normalize_activations is {name!r} in {settings.origin}; known are {known}")
    return _NORMALIZATIONS[name]


def _activation_function(settings: Settings, names: tuple[str, ...], default: str) -> tuple[str, int | None]:
    """Return the activation and k that the name and arguments of an activation function state."""
    name = next((settings.get(name, str) for name in names if name in settings), default)
    if name not in _ACTIVATIONS:
        raise BadInput(f"the activation function is {name!r} in {settings.origin}; known are {', '.join(_ACTIVATIONS)}")
    arguments = settings.section("activation_fn_kwargs")
    if unknown := sorted(str(key) for key in set(arguments.values) - {"k", "use_sparse_activations"}):
        raise BadInput(f"{arguments.origin} has {unknown[0]!r}, and its effect on {name!r} is not known; remove it")
    return _ACTIVATIONS[name], arguments.get("k", int) if name == "topk" else None


def write_saelens(dictionary: Dictionary, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` as SAELens 6 does, which its loader and this package read.

    Args:
        dictionary: an autoencoder with top-k activation, whose decoder bias is subtracted from the input.
        folder: the folder to write to; it is created if absent.

    Raises:
        BadInput: the dictionary is of another kind.
    """
    config = dictionary.config
    is_plain = config.normalization == "none" and config.scale == 1 and config.tokens == "all"
    bias = dictionary.input_bias
    if config.activation != "topk" or not is_plain or bias is None or not torch.equal(bias, dictionary.decoder_bias):
        text = f"the dictionary {dictionary.name!r} ({dictionary.extra_repr()}) cannot be written in SAELens' format"
        raise BadInput(f"{text}; give a top-k autoencoder of all tokens without normalization")
    settings = {
        "architecture": "topk", "d_in": dictionary.d_in, "d_sae": dictionary.latents, "k": config.k,
        "rescale_acts_by_decoder_norm": False, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _WRITTEN_VERSION, "model_name": config.model, "hook_name": config.hook_point,
        },
    }  # fmt: skip
    weights = {"W_enc": dictionary.encoder, "b_enc": dictionary.encoder_bias, "W_dec": dictionary.decoder}
    weights["b_dec"] = dictionary.decoder_bias
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "sae_weights.safetensors") as path:
        save_file({name: value.cpu().contiguous() for name, value in weights.items()}, path)
    write_text(folder / "cfg.json", json.dumps(settings, indent=1) + "\n")


def is_vit_prisma(source: DictionaryFile) -> bool:
    """Return whether a file is of ViT-Prisma, with its settings inside or beside it."""
    if isinstance(source.content, Mapping) and {"cfg", "state_dict"} <= set(source.content):
        return True
    return "W_dec" in source.tensors and "hook_point_layer" in source.settings


def read_vit_prisma(source: DictionaryFile) -> Dictionary:
    """Read a dictionary of ViT-Prisma: ``weights.pt`` with its settings inside, or with ``config.json`` beside it.

    The input bias is always subtracted, after normalization. A transcoder's output is put back to the scale of its
    input.
    """
    if "state_dict" in source.content:
        origin = f"the cfg in {source.path}"
        source = source.inner(source.content["state_dict"], Settings(_attributes(source.content["cfg"]), origin))
    settings = source.settings
    architecture = settings.get("architecture", str, "standard")
    if architecture not in ("standard", "gated"):
        raise BadInput(f"architecture is {architecture!r} in {settings.origin}; known are standard and gated")
    transcoder = settings.get("is_transcoder", bool, False)
    encoder = source.matrix("W_enc")
    weights = {
        "encoder": encoder,
        "decoder": source.tensor("W_dec"),
        "input_bias": source.tensor("b_dec"),
        "decoder_bias": source.tensor("b_dec_out" if transcoder else "b_dec"),
    }
    names = ["W_enc", "W_dec", "b_dec", "b_enc"]
    activation, k = _activation_function(settings, ("activation_fn_str",), "topk")
    if transcoder:
        names.append("b_dec_out")
        if settings.get("transcoder_with_skip_connection", bool, True):
            weights["skip"] = source.tensor("W_skip")
            names.append("W_skip")
    if architecture == "gated":
        activation, k = "gated", None
        weights |= _gated_weights(source, "b_gate", "r_mag", "b_mag")
        names += ["b_gate", "r_mag", "b_mag"]
    else:
        weights["encoder_bias"] = source.tensor("b_enc")
    source.check_names(*names)
    source.check_sizes(encoder, factor="expansion_factor")
    config = DictionaryConfig(
        activation=activation,
        k=k,
        normalization=_normalization(settings, "layer_norm", warn=True),
        transcoder=transcoder,
        format="vit_prisma",
        name=source.name,
        model=settings.get("model_name", str, ""),
        tokens=_tokens(settings),
        **_vit_prisma_layer(settings),
    )
    return Dictionary(**weights, config=config)


def _attributes(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) and value else dict(getattr(value, "__dict__", {}))


def _tokens(settings: Settings) -> str:
    cls_only, patches_only = settings.get("cls_token_only", bool, False), settings.get("use_patches_only", bool, False)
    if cls_only and patches_only:
        raise BadInput(f"cls_token_only and use_patches_only are both true in {settings.origin}; correct one of them")
    return "cls" if cls_only else "patches" if patches_only else "all"


def _vit_prisma_layer(settings: Settings) -> dict[str, Any]:
    if "hook_point_layer" not in settings:
        return {}
    layer = settings.get("hook_point_layer", int)
    return {
        "layer_index": layer,
        "hook_point": f"blocks.{layer}.{settings.get('layer_subtype', str, 'hook_resid_post')}",
    }

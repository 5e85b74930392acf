"""Readers of dictionaries of saev, dictionary_learning and sparsify, and of sets of directions.

Each reader follows the library's own loader. A file with settings or tensors whose effect is not known here is refused,
since a reading that ignores them would give wrong codes without a sign of it.
"""

import json
import warnings
from collections.abc import Callable, Mapping

from torch import Tensor

from milan.errors import BadInput, MilanWarning
from milan.targets.dictionary import Dictionary, DictionaryConfig
from milan.targets.dictionary_source import DictionaryFile, Settings


def is_saev(source: DictionaryFile) -> bool:
    """Return whether a file is of saev: a line of JSON, then the weights."""
    return source.header is not None


def read_saev(source: DictionaryFile) -> Dictionary:
    """Read a dictionary of saev: no schema to schema 5.

    The decoder bias is subtracted from the input in files without a schema and of schema 1, and not in later ones.
    """
    header = Settings(source.header or {}, f"the first line of {source.path}")
    schema = header.get("schema", int, 0)
    if not 0 <= schema <= 5:
        raise BadInput(f"{source.path} is of schema {schema} of saev; known are 1 to 5 and none; save it with one")
    settings = header.section("cfg") if schema else header
    section = settings.section("activation") if schema > 1 else header
    name = section.get("cls", str, "Relu")
    parameters = section.section("params") if schema > 1 else settings
    encoder = source.matrix("W_enc")
    weights = {
        "encoder": encoder,
        "encoder_bias": source.tensor("b_enc"),
        "decoder": source.tensor("W_dec"),
        "decoder_bias": source.tensor("b_dec"),
    }
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    activation, k = "relu", None
    if name == "TopK":
        activation, k = "signed_topk", parameters.get("top_k", int)
    elif name == "BatchTopK":
        if "activation.threshold" not in source.tensors:
            reason = "is of BatchTopK without a threshold, so that its codes depend on the other images of a batch"
            raise BadInput(f"{source.path} {reason}; train or save it with saev of November 2025 or later")
        activation = "jumprelu"
        # The library uses 0 for a negative threshold.
        weights["threshold"] = _one_per_latent(source.tensor("activation.threshold"), encoder).clamp(min=0)
        names.append("activation.threshold")
    elif name != "Relu":
        raise BadInput(f"the activation is {name!r} in {source.path}; known are Relu, TopK and BatchTopK")
    source.check_names(*names)
    width = "d_model" if "d_model" in settings else "d_vit"
    source.inner(source.tensors, settings).check_sizes(encoder, width=width, factor="exp_factor")
    if schema <= 1:
        weights["input_bias"] = weights["decoder_bias"]
    if schema == 1:
        text = "schema 1 of saev was written before and after it stopped subtracting the decoder bias (July 2025)"
        advice = "it is read as the earlier ones; look at the explained variance"
        warnings.warn(f"{source.path}: {text}; {advice}", MilanWarning, stacklevel=4)
    config = DictionaryConfig(activation=activation, k=k, format="saev", name=source.name)
    return Dictionary(**weights, config=config)


def _one_per_latent(value: Tensor, encoder: Tensor) -> Tensor:
    return value.expand(encoder.shape[1]) if value.dim() == 0 else value


def is_ae_file(source: DictionaryFile) -> bool:
    """Return whether a file is of dictionary_learning: ``ae.pt`` with ``config.json``, or a training backup."""
    return "trainer" in source.settings or _is_backup(source)


def read_dictionary_learning(source: DictionaryFile) -> Dictionary:
    """Read a dictionary of dictionary_learning as its ``load_dictionary`` does.

    For the class AutoEncoder the decoder's rows are set to norm 1 and the encoder multiplied by their norm: codes are
    those of the library and not those of the stored weights. The backup of a training run that was stopped expects
    activations divided by its ``norm_factor``; this is done.
    """
    settings, scale = source.settings.section("trainer"), 1.0
    if _is_backup(source):
        backup = Settings(source.content, str(source.path))
        settings = settings if settings.values else backup.section("config")
        factor = backup.get("norm_factor", float)
        if not factor > 0:
            raise BadInput(f"norm_factor is {factor} in {source.path}; it must be positive; finish the training run")
        scale = 1 / factor
        source = source.inner(source.content["ae"])
    name = settings.get("dict_class", str)
    if name not in _DICT_CLASSES:
        raise BadInput(f"dict_class is {name!r} in {settings.origin}; known are {', '.join(_DICT_CLASSES)}")
    weights, k = _DICT_CLASSES[name](source)
    activation = "gated" if "log_gain" in weights else "jumprelu" if "threshold" in weights else "relu"
    sizes = source.inner(source.tensors, settings)
    sizes.check_sizes(weights["encoder"], width="activation_dim", latents="dict_size")
    hook_point = settings.get("submodule_name", str, "")
    config = DictionaryConfig(
        activation=activation if k is None else "topk",
        k=k,
        scale=scale,
        format="dictionary_learning",
        name=source.name,
        model=settings.get("lm_name", str, ""),
        hook_point=hook_point,
        layer_index=settings.get("layer", int) if "layer" in settings else None,
    )
    return Dictionary(**weights, config=config)


def _is_backup(source: DictionaryFile) -> bool:
    return isinstance(source.content, Mapping) and {"ae", "optimizer"} <= set(source.content)


def _linear_weights(source: DictionaryFile, *others: str) -> dict[str, Tensor]:
    """Return the encoder and decoder of two ``nn.Linear``, after a check that ``others`` are the only other tensors."""
    source.check_names("encoder.weight", "decoder.weight", *others)
    weights = {"encoder": source.matrix("encoder.weight").T, "decoder": source.matrix("decoder.weight").T}
    return weights | ({"encoder_bias": source.tensor("encoder.bias")} if "encoder.bias" in others else {})


def _auto_encoder(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    weights = _linear_weights(source, "encoder.bias", "bias")
    encoder, decoder, bias = (weights[name] for name in ("encoder", "decoder", "encoder_bias"))
    norms = decoder.norm(dim=1)
    if bias.shape != norms.shape or encoder.shape[1] != len(norms):
        shapes = f"encoder.weight {tuple(encoder.T.shape)} and encoder.bias {tuple(bias.shape)}"
        raise BadInput(f"shapes do not agree in {source.path}: {shapes} for {len(norms)} latents; copy it again")
    if bool((norms == 0).any()):
        latent = int((norms == 0).nonzero()[0])
        raise BadInput(f"latent {latent} has a decoder of norm 0 in {source.path}, which the library divides by it")
    weights |= {"encoder": encoder * norms, "encoder_bias": bias * norms, "decoder": decoder / norms[:, None]}
    return weights | {"input_bias": source.tensor("bias"), "decoder_bias": source.tensor("bias")}, None


def _auto_encoder_new(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    weights = _linear_weights(source, "encoder.bias", "decoder.bias")
    return weights | {"decoder_bias": source.tensor("decoder.bias")}, None


def _gated_auto_encoder(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    weights = _linear_weights(source, "decoder_bias", "r_mag", "gate_bias", "mag_bias")
    bias = source.tensor("decoder_bias")
    weights |= {"input_bias": bias, "decoder_bias": bias, "log_gain": source.tensor("r_mag")}
    return weights | {"encoder_bias": source.tensor("gate_bias"), "gain_bias": source.tensor("mag_bias")}, None


def _top_k(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    # The threshold is not used when k is.
    weights = _linear_weights(source, "encoder.bias", "b_dec", "k", "threshold")
    k = source.tensor("k")
    if k.numel() != 1 or float(k) != int(k):
        raise BadInput(f"k has the value {k.tolist()} in {source.path}; it must be one whole number")
    return weights | {"input_bias": source.tensor("b_dec"), "decoder_bias": source.tensor("b_dec")}, int(k)


def _batch_top_k(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    weights = _linear_weights(source, "encoder.bias", "b_dec", "k", "threshold")
    return _with_threshold(source, weights), None


def _matryoshka(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    source.check_names("W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold", "group_sizes")
    return _with_threshold(source, _plain_weights(source)), None


def _jump_relu(source: DictionaryFile) -> tuple[dict[str, Tensor], int | None]:
    source.check_names("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    threshold = source.tensor("threshold")
    return _plain_weights(source) | {"decoder_bias": source.tensor("b_dec"), "threshold": threshold}, None


def _plain_weights(source: DictionaryFile) -> dict[str, Tensor]:
    encoder, decoder = source.matrix("W_enc"), source.matrix("W_dec")
    return {"encoder": encoder, "encoder_bias": source.tensor("b_enc"), "decoder": decoder}


def _with_threshold(source: DictionaryFile, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    threshold = _one_per_latent(source.tensor("threshold"), weights["encoder"])
    bias = source.tensor("b_dec")
    return weights | {"threshold": threshold, "input_bias": bias, "decoder_bias": bias}


_DICT_CLASSES: dict[str, Callable[[DictionaryFile], tuple[dict[str, Tensor], int | None]]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "GatedAutoEncoder": _gated_auto_encoder,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
}


def is_sparsify(source: DictionaryFile) -> bool:
    """Return whether a file is of sparsify (formerly sae)."""
    return {"encoder.weight", "W_dec"} <= set(source.tensors)


def read_sparsify(source: DictionaryFile) -> Dictionary:
    """Read a dictionary of sparsify (``cfg.json`` and ``sae.safetensors``); the decoder's rows are used as stored."""
    settings = source.settings
    name = settings.get("activation", str, "topk")
    if name not in ("topk", "groupmax"):
        raise BadInput(f"activation is {name!r} in {settings.origin}; known are topk and groupmax")
    if settings.get("signed", bool, False):
        # Files of summer 2024: the k largest in absolute value, with their sign.
        name = "abstopk" if name == "topk" else name
    transcoder = settings.get("transcode", bool, False)
    encoder = source.matrix("encoder.weight").T
    bias = source.tensor("b_dec")
    weights = {
        "encoder": encoder,
        "encoder_bias": source.tensor("encoder.bias"),
        "decoder": source.matrix("W_dec"),
        "decoder_bias": bias,
    }
    names = ["encoder.weight", "encoder.bias", "W_dec", "b_dec"]
    if not transcoder:
        weights["input_bias"] = bias
    if settings.get("skip_connection", bool, False):
        weights["skip"] = source.tensor("W_skip")
        names.append("W_skip")
    source.check_names(*names)
    source.check_sizes(encoder, latents="num_latents", factor="expansion_factor")
    k = settings.get("k", int)
    config = DictionaryConfig(activation=name, k=k, transcoder=transcoder, format="sparsify", name=source.name)
    return Dictionary(**weights, config=config)


def is_directions(source: DictionaryFile) -> bool:
    """Return whether a file holds a set of directions."""
    return "directions" in source.tensors


def read_directions(source: DictionaryFile) -> Dictionary:
    """Read a set of directions: linear probes, concept activation vectors, or components of PCA or NMF.

    A code is the product of the activations with the direction, plus its bias. The decoder's row is the direction
    divided by its squared norm, so that changing one code by an amount changes its own product by that amount. For
    orthogonal directions the output is the projection of the activations on what they span.
    """
    source.check_names("directions", "bias")
    directions = source.matrix("directions")
    squares = directions.square().sum(1)
    if bool((squares == 0).any()):
        row = int((squares == 0).nonzero()[0])
        raise BadInput(f"direction {row} is 0 in {source.path}; leave it out")
    rows = directions / squares[:, None]
    bias = source.tensor("bias") if "bias" in source.tensors else None
    weights = {"encoder": directions.T, "decoder": rows}
    if bias is not None:
        if bias.shape != squares.shape:
            raise BadInput(f"bias has shape {tuple(bias.shape)} in {source.path}; {len(rows)} directions need one each")
        weights |= {"encoder_bias": bias, "decoder_bias": -(bias @ rows)}
    names = _latent_names(source)
    config = DictionaryConfig(activation="identity", format="directions", name=source.name, latent_names=names)
    return Dictionary(**weights, config=config)


def _latent_names(source: DictionaryFile) -> tuple[str, ...]:
    value = (source.metadata or {}).get("names")
    if value is None:
        return ()
    try:
        names = json.loads(value)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"names is {value!r:.80} in the metadata of {source.path}; it must be a JSON list of texts")
    return tuple(names)

"""Dictionaries of a layer: sparse autoencoders, transcoders and sets of directions, and all of their arithmetic.

A dictionary encodes the activations of a layer as a few active latents out of many, and decodes these codes. Published
formats differ in the steps below; each reader in ``dictionary_formats`` states them in a :class:`DictionaryConfig`.
"""

import warnings
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from milan.errors import BadInput, MilanWarning

# Of SAELens and ViT-Prisma: added to the standard deviation on the way in, not on the way out.
LAYER_NORM_EPS = 1e-5
# An all-zero input has no norm to rescale; it stays zero.
_MIN_NORM = 1e-12
LOW_EXPLAINED_VARIANCE = 0.3
# Codes held at a time when a dictionary is evaluated on many activations (64 MiB).
_MAX_CODES = 2**24

_SELECTS_K = ("topk", "signed_topk", "abstopk", "groupmax")
_NEEDS_K = (*_SELECTS_K, "matching_pursuit")
# Weights that one activation needs and no other has.
_EXTRA_WEIGHTS = {"threshold": "jumprelu", "log_gain": "gated", "gain_bias": "gated"}
ACTIVATIONS = ("identity", "relu", "tanh_relu", "jumprelu", "gated", *_NEEDS_K)
NORMALIZATIONS = ("none", "layer_norm", "constant_norm")
TOKENS = ("all", "cls", "patches")


@dataclass(frozen=True)
class DictionaryConfig:
    """How a dictionary computes codes and outputs from its weights, and which layer it belongs to.

    Args:
        activation: How codes are computed from pre-activations; see :meth:`Dictionary.encode`.
        k: Maximum number of active latents (``topk``, ``signed_topk``, ``abstopk``), number of groups (``groupmax``) or
            of iterations (``matching_pursuit``); None for other activations.
        scale: Factor by which inputs are multiplied and outputs divided, before and after all other steps.
        normalization: Normalization of each input vector: ``none``; ``layer_norm`` (mean 0, standard deviation 1,
            computed with n - 1); ``constant_norm`` (norm sqrt(d_in)).
        denormalize: Whether the output is multiplied by the norm or standard deviation of the input and its mean added.
        transcoder: Whether the output predicts another layer; otherwise it is a reconstruction of the input.
        residual_threshold: Norm of the residual below which ``matching_pursuit`` stops.
        stop_on_repeat: Whether ``matching_pursuit`` stops when an iteration adds no further latent.
        format: The file format it was read from.
        name: A short name, by default that of its file or folder.
        model: The network it was trained on, as the file names it; empty if the file does not state it.
        hook_point: The layer it was trained on, as the file names it; empty if the file does not state it.
        layer_index: Number of the layer it was trained on; None if the file does not state it.
        tokens: The tokens of a transformer it was trained on: ``all``, ``cls`` (the file says ``cls_token_only``) or
            ``patches`` (the file says ``use_patches_only``).
        latent_names: One name per latent, or none.
    """

    activation: str = "relu"
    k: int | None = None
    scale: float = 1.0
    normalization: str = "none"
    denormalize: bool = True
    transcoder: bool = False
    residual_threshold: float = 0.0
    stop_on_repeat: bool = True
    format: str = ""
    name: str = ""
    model: str = ""
    hook_point: str = ""
    layer_index: int | None = None
    tokens: str = "all"
    latent_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DictionaryQuality:
    """How well a dictionary represents a set of activations.

    Args:
        explained_variance: 1 minus the squared error of the reconstruction divided by the variance of the activations;
            1 for a perfect reconstruction, negative if it is worse than the mean. None for transcoders, whose output is
            no reconstruction, and for activations without variance.
        mean_l0: Mean number of active latents (codes other than 0) per activation vector.
        dead_share: Share of the latents, from 0 to 1, that are active on none of the activation vectors.
    """

    explained_variance: float | None
    mean_l0: float
    dead_share: float


class Dictionary(nn.Module):
    """Latents of a layer: encodes activations as codes and decodes codes.

    Weights are kept in float32, without gradients. Every activation vector is encoded on its own, so that codes do not
    depend on the batch.

    Args:
        encoder: Encoder weights, of shape (d_in, latents).
        decoder: Decoder weights, of shape (latents, d_out).
        encoder_bias: Added to the pre-activations; of shape (latents), zeros by default.
        decoder_bias: Added to the output; of shape (d_out), zeros by default.
        input_bias: Subtracted from the normalized input, of shape (d_in); in most formats this is the decoder's bias.
        threshold: For ``jumprelu``, of shape (latents): pre-activations above it are kept.
        log_gain: For ``gated``, of shape (latents): logarithm of the gain of the magnitudes.
        gain_bias: For ``gated``, of shape (latents): bias of the magnitudes.
        skip: Linear map from the input, as given, to the output, of shape (d_out, d_in).
        config: How the weights are used; a ReLU autoencoder by default.

    Raises:
        BadInput: Shapes do not agree, a weight is not finite, or the weights do not fit the config.
    """

    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    input_bias: Tensor | None
    threshold: Tensor | None
    log_gain: Tensor | None
    gain_bias: Tensor | None
    skip: Tensor | None

    def __init__(
        self,
        encoder: Tensor,
        decoder: Tensor,
        *,
        encoder_bias: Tensor | None = None,
        decoder_bias: Tensor | None = None,
        input_bias: Tensor | None = None,
        threshold: Tensor | None = None,
        log_gain: Tensor | None = None,
        gain_bias: Tensor | None = None,
        skip: Tensor | None = None,
        config: DictionaryConfig | None = None,
    ):
        super().__init__()
        self.config = config or DictionaryConfig()
        if encoder.dim() != 2 or decoder.dim() != 2:
            shapes = f"{tuple(encoder.shape)} and {tuple(decoder.shape)}"
            raise BadInput(f"encoder and decoder have shapes {shapes}; both must be matrices")
        d_in, latents, d_out = *encoder.shape, decoder.shape[1]
        weights = {
            "encoder": (encoder, (d_in, latents)),
            "decoder": (decoder, (latents, d_out)),
            "encoder_bias": (torch.zeros(latents) if encoder_bias is None else encoder_bias, (latents,)),
            "decoder_bias": (torch.zeros(d_out) if decoder_bias is None else decoder_bias, (d_out,)),
            "input_bias": (input_bias, (d_in,)),
            "threshold": (threshold, (latents,)),
            "log_gain": (log_gain, (latents,)),
            "gain_bias": (gain_bias, (latents,)),
            "skip": (skip, (d_out, d_in)),
        }
        for name, (value, shape) in weights.items():
            self.register_buffer(name, None if value is None else _weight(name, value, shape))
        _check_config(self)

    @property
    def d_in(self) -> int:
        """Width of the layer that is encoded."""
        return self.encoder.shape[0]

    @property
    def d_out(self) -> int:
        """Width of the output; it differs from ``d_in`` only for transcoders."""
        return self.decoder.shape[1]

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.encoder.shape[1]

    @property
    def name(self) -> str:
        """Short name, by default that of the file or folder."""
        return self.config.name

    def encode(self, inputs: Float[Tensor, "*places d_in"]) -> Float[Tensor, "*places latents"]:
        """Compute the code of each latent for each activation vector.

        With h the pre-activations, the activation keeps: ``identity`` all of h; ``relu`` its positive values;
        ``tanh_relu`` their tanh; ``topk`` the positive ones of the k largest; ``signed_topk`` the k largest, whatever
        their sign; ``abstopk`` the k largest in absolute value, with their sign; ``groupmax`` the largest of each of k
        groups of consecutive latents, if positive; ``jumprelu`` the positive ones above the latent's threshold.
        ``gated`` gives a magnitude where h is positive. ``matching_pursuit`` repeatedly takes the latent with the
        largest projection of the residual.

        Raises:
            BadInput: The activations have another width than the dictionary.
        """
        z = self._centered(inputs)
        if self.config.activation == "matching_pursuit":
            return self._matching_pursuit(z)
        if self.config.activation not in _SELECTS_K:
            return self._activate(z @ self.encoder)
        h = z @ self.encoder + self.encoder_bias
        latents, values = self._select(h)
        return torch.zeros_like(h).scatter_(-1, latents, values)

    def encode_sparse(
        self, inputs: Float[Tensor, "n d_in"]
    ) -> tuple[Int[Tensor, " active"], Int[Tensor, " active"], Float[Tensor, " active"]]:
        """Compute the codes that are not 0, as :meth:`encode` does, without holding those that are.

        Returns:
            For each such code the row of its activation vector, its latent and its value, by row.

        Raises:
            BadInput: The activations have another width than the dictionary.
        """
        if self.config.activation not in _SELECTS_K:
            codes = self.encode(inputs)
            rows, latents = codes.nonzero(as_tuple=True)
            return rows, latents, codes[rows, latents]
        latents, values = self._select(self._centered(inputs) @ self.encoder + self.encoder_bias)
        rows, columns = values.nonzero(as_tuple=True)
        return rows, latents[rows, columns], values[rows, columns]

    def decode(
        self, codes: Float[Tensor, "*#places latents"], inputs: Float[Tensor, "*#places d_in"] | None = None
    ) -> Float[Tensor, "... d_out"]:
        """Compute the output from codes.

        Args:
            codes: Codes as :meth:`encode` returns them, or edited ones; those of one place may stand for all.
            inputs: The activations that were encoded. Required if the output also depends on them: to restore the mean
                and scale of each activation vector, and for skip connections.

        Raises:
            BadInput: ``inputs`` is required and not given, or there is another number of codes than of latents.
        """
        if codes.shape[-1] != self.latents:
            raise BadInput(f"{codes.shape[-1]} codes per place do not fit the dictionary, which has {self.latents}")
        outputs = codes.to(self.decoder.dtype) @ self.decoder + self.decoder_bias
        restore = self.config.denormalize and self.config.normalization != "none"
        if restore or self.skip is not None:
            if inputs is None:
                reason = f"normalization {self.config.normalization!r}" if restore else "a skip connection"
                raise BadInput(f"this dictionary has {reason}: decode needs the activations that were encoded (inputs)")
            given = self._checked_inputs(inputs)
            outputs = outputs if self.skip is None else outputs + given @ self.skip.T
            outputs = self._restore(outputs, given) if restore else outputs
        return outputs / self.config.scale if self.config.denormalize and self.config.scale != 1 else outputs

    def forward(self, inputs: Float[Tensor, "*places d_in"]) -> Float[Tensor, "*places d_out"]:
        """Compute the reconstruction of activations or, for transcoders, the predicted output of the other layer."""
        return self.decode(self.encode(inputs), inputs)

    @torch.inference_mode()
    def quality(self, activations: Float[Tensor, "n d_in"]) -> DictionaryQuality:
        """Measure how well the dictionary represents activations of its layer.

        Warns where the explained variance of an autoencoder is below 0.3. Sets of directions do not aim at
        reconstruction: for them there is no warning.

        Raises:
            BadInput: There are no activations, or they have another width or values that are not finite.
        """
        if not len(activations):
            raise BadInput("no activations to evaluate the dictionary on; give at least one row")
        if not bool(activations.isfinite().all()):
            raise BadInput(f"{int((~activations.isfinite()).sum())} activations are NaN or infinite; leave them out")
        active = torch.zeros(self.latents, dtype=torch.int64, device=activations.device)
        mean = activations.mean(0, dtype=torch.float64)
        error = variance = 0.0
        for rows in activations.split(max(1, _MAX_CODES // self.latents)):
            codes = self.encode(rows)
            active += (codes != 0).sum(0)
            variance += float((rows - mean).square().sum())
            if not self.config.transcoder:
                error += float((rows - self.decode(codes, rows)).double().square().sum())
        explained = None if self.config.transcoder or variance == 0 else 1 - error / variance
        if explained is not None and explained < LOW_EXPLAINED_VARIANCE and self.config.activation != "identity":
            warnings.warn(_low_variance(self.config, explained, len(activations)), MilanWarning, stacklevel=2)
        count = int(active.sum())
        return DictionaryQuality(explained, count / len(activations), float((active == 0).double().mean()))

    def extra_repr(self) -> str:
        """Return the sizes and settings other than defaults, on one line."""
        config = self.config
        skipped = ("format", "name", "latent_names")
        changed = [field.name for field in fields(config) if getattr(config, field.name) != field.default]
        settings = [f"{name}={getattr(config, name)!r}" for name in changed if name not in skipped]
        sizes = f"{self.d_in} -> {self.latents} -> {self.d_out}"
        return ", ".join(part for part in (repr(config.name), config.format, sizes, *settings) if part)

    def _checked_inputs(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] != self.d_in:
            widths = f"width {inputs.shape[-1]}, the dictionary {self.name!r} has width {self.d_in}"
            raise BadInput(f"the activations have {widths}; it belongs to another layer or network")
        values = inputs.to(self.encoder.dtype)
        return values if self.config.scale == 1 else values * self.config.scale

    def _normalize(self, inputs: Tensor) -> Tensor:
        match self.config.normalization:
            case "layer_norm":
                centered = inputs - inputs.mean(-1, keepdim=True)
                return centered / (inputs.std(-1, keepdim=True) + LAYER_NORM_EPS)
            case "constant_norm":
                return inputs / _root_mean_square(inputs)
        return inputs

    def _restore(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        if self.config.normalization == "layer_norm":
            return outputs * inputs.std(-1, keepdim=True) + inputs.mean(-1, keepdim=True)
        return outputs * _root_mean_square(inputs)

    def _centered(self, inputs: Tensor) -> Tensor:
        z = self._normalize(self._checked_inputs(inputs))
        return z if self.input_bias is None else z - self.input_bias

    def _select(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents that the activation keeps, k for each vector, and their codes, some of which may be 0."""
        k = self.config.k or 0
        match self.config.activation:
            case "topk":
                top = h.topk(k)
                return top.indices, top.values.relu()
            case "signed_topk":
                top = h.topk(k)
                return top.indices, top.values
            case "abstopk":
                latents = h.abs().topk(k).indices
                return latents, h.gather(-1, latents)
        groups = h.unflatten(-1, (k, -1))
        largest = groups.max(-1)
        starts = torch.arange(0, h.shape[-1], groups.shape[-1], device=h.device)
        return largest.indices + starts, largest.values.relu()

    def _activate(self, projections: Tensor) -> Tensor:
        h = projections + self.encoder_bias
        match self.config.activation:
            case "relu":
                return h.relu()
            case "tanh_relu":
                return h.relu().tanh()
            case "jumprelu":
                assert self.threshold is not None
                return h.relu() * (h > self.threshold)
            case "gated":
                assert self.log_gain is not None
                assert self.gain_bias is not None
                return (projections * self.log_gain.exp() + self.gain_bias).relu() * (h > 0)
        return h

    def _matching_pursuit(self, z: Tensor) -> Tensor:
        # Each iteration magnifies rounding errors, so that float32 would depend on the order of summation.
        encoder, decoder, residual = self.encoder.double(), self.decoder.double(), z.double().reshape(-1, self.d_in)
        codes = residual.new_zeros(len(residual), self.latents)
        running = torch.ones(len(residual), 1, dtype=torch.bool, device=z.device)
        for _ in range(self.config.k or 0):
            largest, latent = (residual @ encoder).relu().max(-1, keepdim=True)
            step = largest * running
            previous = codes != 0
            codes = codes.scatter_add(1, latent, step)
            residual = residual - step * decoder[latent.squeeze(1)]
            if self.config.stop_on_repeat:
                running = running & ((codes != 0) != previous).any(-1, keepdim=True)
            running = running & (residual.norm(dim=-1, keepdim=True) >= self.config.residual_threshold)
            if not running.any():
                break
        return codes.to(z.dtype).reshape(*z.shape[:-1], self.latents)


def _weight(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(value.shape) != shape:
        raise BadInput(f"{name} has shape {tuple(value.shape)} where the encoder and decoder need {shape}")
    if not (value.is_floating_point() or value.dtype in (torch.int32, torch.int64)):
        raise BadInput(f"{name} has values of type {value.dtype}; they must be real numbers")
    weight = value.detach().to(torch.float32).clone()
    if count := int((~weight.isfinite()).sum()):
        raise BadInput(f"{name} has {count} values that are NaN or infinite")
    if not weight.numel():
        raise BadInput(f"{name} is empty, of shape {shape}")
    return weight


def _check_config(dictionary: Dictionary) -> None:
    config = dictionary.config
    choices = {"activation": ACTIVATIONS, "normalization": NORMALIZATIONS, "tokens": TOKENS}
    for setting, allowed in choices.items():
        if (value := getattr(config, setting)) not in allowed:
            raise BadInput(f"{setting} is {value!r}; it must be one of {', '.join(allowed)}")
    for weight, activation in _EXTRA_WEIGHTS.items():
        if (getattr(dictionary, weight) is None) == (config.activation == activation):
            verb = "needs" if config.activation == activation else "does not use"
            raise BadInput(f"activation {config.activation!r} {verb} the weight {weight!r}")
    _check_k(config, dictionary.latents)
    if not (config.scale > 0 and config.scale < float("inf")):
        raise BadInput(f"scale is {config.scale}; it must be positive and finite")
    if not config.transcoder and dictionary.d_out != dictionary.d_in:
        sizes = f"the decoder has width {dictionary.d_out} and the encoder {dictionary.d_in}"
        raise BadInput(f"{sizes}; only transcoders may differ")
    if config.latent_names and len(config.latent_names) != dictionary.latents:
        raise BadInput(f"there are {len(config.latent_names)} names for {dictionary.latents} latents")


def _check_k(config: DictionaryConfig, latents: int) -> None:
    if config.activation not in _NEEDS_K:
        if config.k is not None:
            raise BadInput(f"k is {config.k}, and activation {config.activation!r} does not use it")
        return
    if config.k is None or not 1 <= config.k <= latents:
        raise BadInput(f"k is {config.k}; activation {config.activation!r} of {latents} latents needs 1 to {latents}")
    if config.activation == "groupmax" and latents % config.k:
        raise BadInput(f"k is {config.k}, which does not divide the {latents} latents into groups of equal size")


def _low_variance(config: DictionaryConfig, explained: float, count: int) -> str:
    name = f"dictionary {config.name!r}" if config.name else "the dictionary"
    trained = f" (it was trained on {config.hook_point!r})" if config.hook_point else ""
    cause = f"a wrong layer, hook point or normalization is the usual cause{trained}"
    return f"{name} explains {explained:.2f} of the variance of {count} activations; {cause}"


def _root_mean_square(inputs: Tensor) -> Tensor:
    return inputs.norm(dim=-1, keepdim=True).clamp(min=_MIN_NORM) / inputs.shape[-1] ** 0.5

"""Target: a network under study, with its preprocessing and its layers."""

import copy
import hashlib
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from milan.errors import BadInput, MilanWarning, UnknownName
from milan.targets.detectors import assumed_preprocessing
from milan.targets.dictionary import Dictionary
from milan.targets.dictionary_layers import AttachedDictionary, add_dictionary_layers, attach_dictionary
from milan.targets.fingerprints import attribute_hash, network_hash, noise_outputs
from milan.targets.layers import DissectableLayers, Layer, find_layers
from milan.targets.layouts import check_layout
from milan.targets.module_access import (
    check_usable,
    evaluation_mode,
    is_half,
    list_modules,
    parse_device,
    unwrap,
)
from milan.targets.module_outputs import select_tensor
from milan.targets.preprocessing import Crop, Interpolation, Precision, Size, as_size, height_width, size_text


class Target:
    """A network under study. The given module keeps its mode, device, hooks and weights.

    Args:
        model: any module whose forward takes a batch of images, (b, channels, h, w).
        name: name in messages, tables and the default output folder; by default the spec given to ``load_target``, else
            the module's class.
        image_size: side of the network's square input in pixels, or height and width; by default 224, with a warning.
        resize: side of the frame (or height and width) to which an image is scaled before its centre is cropped; by
            default ``image_size``.
        interpolation, crop, channel_order, resampler, crop_rounding: see
            :class:`milan.targets.preprocessing.Preprocessing`.
        mean, std: normalization of each channel, in 0..1; by default ImageNet's (0 and 1 for torchvision's detectors,
            which normalize themselves). One value per channel of the network: 1 for grey images, 3 for RGB, or more
            for other bands.
        display_bands: see :class:`milan.targets.preprocessing.Preprocessing`.
        layout: BCHW, BHWC, BNC or BC, for outputs with that number of axes whose layout cannot be inferred.
        prefix_tokens: number of tokens before the grid, where it cannot be inferred.
        output_index: index of the tensor to use where a layer puts out several; by default the first.
        allow_nondeterministic: dissect the network, with a warning, even if its activations are no function of the
            image.
        precision: "bf16" or "fp32": run a copy of the network with weights in this precision; by default the weights'
            own, or 32 bits for 16-bit weights on the CPU.
        device: the device that the network runs on.

    Raises:
        BadInput: the module takes no hooks (TorchScript, quantized) or has no weights, or an option is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "",
        image_size: Size | None = None,
        resize: Size | None = None,
        interpolation: Interpolation = "bilinear",
        crop: Crop | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
        resampler: Literal["pillow", "torch"] = "pillow",
        crop_rounding: Literal["nearest", "down"] = "nearest",
        display_bands: Sequence[int] | None = None,
        layout: str | None = None,
        prefix_tokens: int | None = None,
        output_index: int | None = None,
        allow_nondeterministic: bool = False,
        precision: Precision | None = None,
        device: str | torch.device = "cpu",
    ):
        check_usable(model, name or type(model).__name__)
        check_layout(layout, prefix_tokens)
        # Set by load_target: the spec, the weights file (or "random"), and the sha256 of the Python file that was run.
        self.spec, self.weights, self.code = "", "", ""
        # The state of the network for which the outputs were computed, and the outputs.
        self._noise_outputs: tuple[Any, list[str]] = ((), [])
        # Dictionaries whose latents are units of the target.
        self.dictionaries: tuple[AttachedDictionary, ...] = ()
        # Further options of load_target.
        self.options: dict[str, Any] = {}
        self.given_name = name
        self.device, self.model, self.precision = parse_device(device), model, precision
        if is_half(model) and (precision == "fp32" or (precision is None and self.device.type == "cpu")):
            self.model = _copy_to_float32(model, "" if precision else self.name)
        # The network before its weights are rounded.
        self.unrounded_model = self.model
        if precision == "bf16":
            self.model = copy.deepcopy(unwrap(model)).to(torch.bfloat16)
        self.layout, self.prefix_tokens, self.output_index = layout, prefix_tokens, output_index
        self.allow_nondeterministic = allow_nondeterministic
        geometry = {
            "interpolation": interpolation,
            "channel_order": channel_order,
            "resampler": resampler,
            "crop_rounding": crop_rounding,
        }
        assumed = assumed_preprocessing(unwrap(model))
        self.preprocessing = assumed.changed(
            image_size=image_size, resize=resize, crop=crop, mean=mean, std=std, display_bands=display_bands, **geometry
        )
        self.is_size_assumed = image_size is None
        if self.is_size_assumed:
            warn_assumed(self)

    @property
    def name(self) -> str:
        """Name in messages and tables."""
        return self.given_name or self.spec or type(unwrap(self.model)).__name__

    @property
    def slug(self) -> str:
        """Name of the target's output folders, with part of the fingerprint for a module without a name."""
        weights = str(Path(self.weights).with_suffix("")) if self.weights else ""
        named = self.given_name or "-".join(filter(None, (self.spec, weights))) or f"{self.name}-{self.fingerprint[:8]}"
        named = "-".join([named, *(each.name for each in self.dictionaries)])
        return re.sub(r"[^\w.-]+", "-", named).strip("-")

    @property
    def image_size(self) -> Size:
        """Side of the network's input in pixels, or height and width."""
        return self.preprocessing.image_size

    @property
    def resize(self) -> Size | None:
        """Side of the frame from whose centre the input is cropped, or height and width; None if nothing is cropped."""
        return self.preprocessing.resize

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in 0..1."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in 0..1."""
        return self.preprocessing.std

    @property
    def channels(self) -> int:
        """Number of input channels: 1 for grey images, 3 for RGB, or another number of bands."""
        return self.preprocessing.channels

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of ``load_target`` that load the target again; empty if a part was given in Python."""
        if not self.spec or len(self.dictionaries) > ("dictionary" in self.options):
            return {}
        return {"spec": self.spec, "weights": self.weights or None, **self.options}

    def __repr__(self) -> str:
        return (
            f"Target({self.spec or self.name}, {type(self.core).__name__}, {size_text(self.image_size)} px,"
            f" {self.device})"
        )

    @property
    def core(self) -> nn.Module:
        """The network without the wrappers of ``torch.compile`` and ``DataParallel``."""
        return unwrap(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the network's input: that of its first floating-point parameter."""
        return next((p.dtype for p in self.core.parameters() if p.is_floating_point()), torch.float32)

    def prepare(self, images: Shaped[Tensor, "b colours h w"]) -> Float[Tensor, "b channels h w"]:
        """Return images as the network's input: pixels scaled from 0..255 to 0..1, normalized, on the target's device.

        RGB images become grey for a network with one channel; bands in units of their own are normalized only.

        Raises:
            BadInput: the network has another number of channels.
        """
        self.check_channels(images.shape[1])
        if images.shape[1] > self.channels:
            images = _grey(images)
        if self.preprocessing.channel_order == "bgr":
            images = images.flip(1)
        mean, std = (torch.tensor(values, device=self.device).view(-1, 1, 1) for values in (self.mean, self.std))
        pixels = images.to(self.device, torch.float32, copy=True)
        if images.dtype == torch.uint8:
            pixels.div_(255)
        return pixels.sub_(mean).div_(std).to(self.dtype)

    def make_input(self, ids: Int[Tensor, " b"], images: Shaped[Tensor, "b colours h w"]) -> Float[Tensor, "b ..."]:
        """Return the network's input for probe images and their indices.

        Raises:
            BadInput: the images have another size than the network's input.
        """
        self.check_size(as_size(images.shape[-2:]))
        return self.prepare(images)

    def check_size(self, size: Size) -> None:
        """Raise BadInput if images have another size than the network's input."""
        if size != self.image_size:
            text = f"the probe's images are {size_text(size)} pixels and {self.name} takes {size_text(self.image_size)}"
            raise BadInput(
                f"{text}; load them with load_probe(..., target=target), or give the target another image_size"
            )

    def check_channels(self, count: int) -> None:
        """Raise BadInput if the network does not take images with this number of channels."""
        if count != self.channels and (count, self.channels) != (3, 1):
            text = f"{self.name} takes images of {self.channels} channels and these have {count}"
            how = (
                "give a probe of arrays with as many bands (a folder of .npy or .tif), or as many values of mean"
                " and std"
            )
            raise BadInput(f"{text}; {how}")

    def noise(self, count: int, size: Size) -> Float[Tensor, "b ..."]:
        """Return preprocessed images of noise from a fixed seed; the global random state is unchanged."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, self.channels, *height_width(size))
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        if max(map(abs, self.mean)) <= 1:
            return self.prepare(noise)
        # For bands in units of their own the noise has their mean and standard deviation.
        return ((noise.to(self.device, torch.float32) - 127.5) / 74).to(self.dtype)

    def unrounded(self) -> "Target":
        """Return the same target in the precision of its weights, without ``precision="bf16"``."""
        other = copy.copy(self)
        other.model, other.precision = self.unrounded_model, None
        return other

    def allowing_nondeterminism(self) -> "Target":
        """Return the same target with ``allow_nondeterministic`` set."""
        other = copy.copy(self)
        other.allow_nondeterministic = True
        other.options = {**self.options, "allow_nondeterministic": True}
        return other

    def fitted_to(self, size: Size) -> "Target":
        """Return the same target for images of another size; its layers are found again."""
        other = copy.copy(self)
        vars(other).pop("dissectable_layers", None)
        other.preprocessing = self.preprocessing.changed(image_size=size)
        other.options = {**self.options, "image_size": size}
        return other

    def with_dictionary(self, dictionary: Dictionary, layer: str = "", name: str = "sae") -> "Target":
        """Return the same target with one more layer, whose units are the latents of a dictionary.

        The layer is called ``LAYER@NAME``, as in ``blocks.10@sae:1234`` for a unit. Its activations are the codes of
        the layer's output; ``ablate`` and ``steer`` change them through the decoder, so that the error of the
        reconstruction stays. ``DictionaryConfig.tokens`` says which tokens are encoded.

        Args:
            dictionary: the dictionary, as :func:`milan.load_dictionary` returns it.
            layer: the layer that it encodes, by its name in the network or in the dictionary's format, as
                ``blocks.10.hook_resid_post``; by default the one that the dictionary's file states.
            name: name of the dictionary.

        Raises:
            BadInput: no layer is stated, or it has another width or not the tokens that the dictionary encodes.
        """
        stated = layer or dictionary.config.hook_point
        if not stated:
            raise BadInput(f"the dictionary {dictionary.name!r} does not state its layer; name it (--dictionary_layer)")
        try:
            found: Layer | str = self.layer(stated)
        except UnknownName:
            found = stated
        attached = attach_dictionary(self.dissectable_layers, dictionary, found, name)
        other = copy.copy(self)
        other.dictionaries = (*self.dictionaries, attached)
        other.dissectable_layers = add_dictionary_layers(self.dissectable_layers, [attached])
        return other

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """Return the network's output for images, computed in evaluation mode and without gradients.

        Args:
            images: (b, 3, h, w), uint8 pixels from 0 to 255 of the target's size, not normalized; for a network with
                other bands than grey or RGB, floats in the bands' own units.

        Raises:
            BadInput: the images have another size, number of channels or data type than the network takes.
        """
        if images.ndim != 4:
            raise BadInput(f"images of shape {tuple(images.shape)} have not the 4 axes (b, channels, height, width)")
        if images.dtype != torch.uint8 and images.shape[1] in (1, 3):
            kind = str(images.dtype).removeprefix("torch.")
            raise BadInput(f"images are {kind}; give uint8 pixels from 0 to 255, which the target normalizes itself")
        inputs = self.make_input(torch.arange(len(images)), images)
        with self.evaluation_mode():
            return self.core(inputs)

    def evaluation_mode(self) -> AbstractContextManager[None]:
        """Keep the network in evaluation mode on the target's device within the block; then restore its state."""
        return evaluation_mode(self.model, self.device)

    def outputs(self, images: Float[Tensor, "b ..."]) -> Tensor:
        """Return the first tensor of the network's output for preprocessed images, as a classifier's logits."""
        with self.evaluation_mode(), torch.no_grad():
            found = select_tensor(self.core(images))
        if found is None:
            raise BadInput(f"{self.name} puts out no tensor of numbers")
        return found[1]

    @cached_property
    def dissectable_layers(self) -> DissectableLayers:
        """The layers, as inferred from a run of the network."""
        return add_dictionary_layers(find_layers(self), self.dictionaries)

    def layers(self) -> list[Layer]:
        """Return the layers that can be dissected, in the order of the network's modules."""
        return list(self.dissectable_layers.by_name.values())

    def layer(self, name: str) -> Layer:
        """Return a layer by name; the prefixes ``module.`` and ``_orig_mod.`` are ignored, and aliases are resolved.

        Raises:
            UnknownName: there is no such layer; the message lists the three nearest names.
            BadInput: the module is called several times, or its output cannot be laid out over the image.
        """
        return self.dissectable_layers.get(name, self.name)

    def select_layers(self, names: Sequence[str]) -> list[Layer]:
        """Return layers by name, each once, with a warning for a layer that is named twice or also by an alias."""
        chosen_layers: dict[str, Layer] = {}
        for name in [names] if isinstance(names, str) else names:
            layer = self.layer(name)
            if layer.name in chosen_layers:
                warnings.warn(
                    f"layer {name!r} is named twice (it is {layer.name}); it is used once", MilanWarning, stacklevel=2
                )
            chosen_layers[layer.name] = layer
        return list(chosen_layers.values())

    def modules(self) -> dict[str, nn.Module]:
        """Return each module of the network by its first dotted path, without the wrappers of ``torch.compile``."""
        return list_modules(self.core)[0]

    def count_calls(self, name: str) -> int:
        """Return how often a module, given by its dotted path or an alias, is called in one forward pass."""
        return self.dissectable_layers.count_calls(name)

    @property
    def fingerprint(self) -> str:
        """The sha256 of all that determines the activations, computed at each access.

        It covers weights, architecture, configuration, preprocessing, the Python file that the network was loaded
        from, the layers' outputs for an image of noise (see ``noise_outputs``), and the dictionaries.
        """
        reading = (self.preprocessing, self.layout, self.prefix_tokens, self.output_index)
        network = network_hash(self.core)
        state = (network, reading, attribute_hash(self.core))
        if self._noise_outputs[0] != state:
            self._noise_outputs = (state, noise_outputs(self))
        parts: tuple[Any, ...] = (network, reading, self.code, self._noise_outputs[1])
        parts += tuple(each.key for each in self.dictionaries)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def warn_assumed(target: Target) -> None:
    """Warn that the preprocessing is an assumption."""
    how = "set --image_size, --mean and --std (in Python arguments of milan.Target)"
    text = (
        f"the preprocessing of {target.name} is unknown: assumed {target.preprocessing}; if it was trained with"
        f" another, {how}"
    )
    warnings.warn(text, MilanWarning, stacklevel=3)


def _grey(images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 1 h w"]:
    """Return the luminance as Pillow and torchvision compute it (ITU-R 601); grey pixels keep their value."""
    weights = torch.tensor([19595, 38470, 7471], device=images.device).view(3, 1, 1)
    return ((images.int() * weights).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)


def _copy_to_float32(model: nn.Module, name: str) -> nn.Module:
    """Return a copy with 32-bit weights; warn if the network is named."""
    if name:
        warnings.warn(f"{name} has 16-bit weights; on the CPU a copy in 32 bits is used", MilanWarning, stacklevel=3)
    return copy.deepcopy(unwrap(model)).float()

"""Target: a network under study, with what it takes to feed it images and to name its layers."""

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
from milan.targets.fingerprints import attribute_hash, network_hash, noise_outputs
from milan.targets.layers import DissectableLayers, Layer, find_layers
from milan.targets.layouts import check_layout
from milan.targets.module_access import (
    WRAPPER_PREFIXES,
    check_usable,
    evaluation_mode,
    is_half,
    list_modules,
    strip_wrapper_prefixes,
    unwrap,
)
from milan.targets.module_outputs import select_tensor
from milan.targets.preprocessing import Crop, Interpolation, Size, as_size, height_width, size_text


class Target:
    """A network under study. The module given stays as it is: mode, device, hooks and weights.

    Args:
        model: any module whose forward takes a batch of images, (b, channels, h, w).
        name: what messages, tables and the default output folder call it; by default what ``load_target`` was given,
            else its class.
        image_size: side in pixels of the square images it takes, or height and width. Assumed to be 224, with a
            warning, unless given.
        resize: side of the frame (or height and width) to which a picture is scaled before its middle is cut out; None
            for ``image_size``: the short side is scaled to it, and nothing else happens.
        interpolation, crop, channel_order, resampler, crop_rounding: see
            :class:`milan.targets.preprocessing.Preprocessing`.
        mean, std: of the channels, in 0..1, for the normalization; ImageNet's unless given (0 and 1 for torchvision's
            detectors, which normalize within). As many values as the network takes channels: 1 for grey images, 3 for
            coloured ones, others for bands.
        display_bands: see :class:`milan.targets.preprocessing.Preprocessing`.
        layout: one of BCHW, BHWC, BNC, BC for outputs with as many axes, where it cannot be told by running the
            network.
        prefix_tokens: how many tokens stand before the grid, where it cannot be told.
        output_index: which tensor of a layer's output counts where there are several; the first otherwise.
        allow_nondeterministic: dissect it also where its values are no function of the image, with a warning.
        device: where it is run.

    Raises:
        BadInput: if the module's layers cannot be looked into (TorchScript, quantized, no weights), or an option cannot
            be.
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
        device: str | torch.device = "cpu",
    ):
        check_usable(model, name or type(model).__name__)
        check_layout(layout, prefix_tokens)
        self.spec = ""  # what load_target was given; empty for a module given in Python
        self.weights = ""  # the weights file it was given, "random", or empty
        self.code = ""  # sha256 of the Python file that load_target ran for it; empty if there is none
        # The state they were computed in, and the outputs.
        self._noise_outputs: tuple[Any, list[str]] = ((), [])
        self.options: dict[str, Any] = {}  # further options that load_target was given
        self.given_name = name
        self.device, self.model = _parse_device(device), model
        if self.device.type == "cpu" and is_half(model):
            self.model = _copy_to_float32(model, self.name)
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
        if image_size is None:
            warn_assumed(self)

    @property
    def name(self) -> str:
        """What messages and tables call it."""
        return self.given_name or self.spec or type(unwrap(self.model)).__name__

    @property
    def slug(self) -> str:
        """A folder name for what is made of it; that of a module without a name tells networks of one class apart."""
        weights = str(Path(self.weights).with_suffix("")) if self.weights else ""
        named = self.given_name or "-".join(filter(None, (self.spec, weights))) or f"{self.name}-{self.fingerprint[:8]}"
        return re.sub(r"[^\w.-]+", "-", named).strip("-")

    @property
    def image_size(self) -> Size:
        """Side of its images in pixels, or height and width."""
        return self.preprocessing.image_size

    @property
    def resize(self) -> Size | None:
        """Side of the frame from whose middle its images are cut, or height and width; None where nothing is
        cut off.
        """
        return self.preprocessing.resize

    @property
    def mean(self) -> tuple[float, ...]:
        """Of its channels, in 0..1."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of its channels, in 0..1."""
        return self.preprocessing.std

    @property
    def channels(self) -> int:
        """How many channels it takes: 1 for grey images, 3 for coloured ones, or another number of bands."""
        return self.preprocessing.channels

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``load_target`` that load it again; empty for a module given in Python."""
        if not self.spec:
            return {}
        return {"spec": self.spec, "weights": self.weights or None, **self.options}

    def __repr__(self) -> str:
        return (
            f"Target({self.spec or self.name}, {type(self.core).__name__}, {size_text(self.image_size)} px,"
            f" {self.device})"
        )

    @property
    def core(self) -> nn.Module:
        """The network without the wrappers of ``torch.compile`` and ``DataParallel``: what is run, and whose names
        count.
        """
        return unwrap(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of the images the network takes: that of its first floating-point parameter."""
        return next((p.dtype for p in self.core.parameters() if p.is_floating_point()), torch.float32)

    def preprocess(self, images: Shaped[Tensor, "b colours h w"]) -> Float[Tensor, "b channels h w"]:
        """Return images as the network takes them: pixels 0..255 scaled to 0..1, or bands; normalized, on its device.

        Coloured pixels become grey for a network of one channel.

        Raises:
            BadInput: the network takes another number of channels.
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
        """What the network is given for the images of those numbers in a probe: the images, prepared.

        Raises:
            BadInput: they are of another size than the network takes.
        """
        self.check_size(as_size(images.shape[-2:]))
        return self.preprocess(images)

    def check_size(self, size: Size) -> None:
        """Raises BadInput if a probe's images are not of the size that the network takes."""
        if size != self.image_size:
            text = f"the probe's images are {size_text(size)} pixels and {self.name} takes {size_text(self.image_size)}"
            raise BadInput(
                f"{text}; load them with load_probe(..., target=target), or give the target another image_size"
            )

    def check_channels(self, count: int) -> None:
        """Raises BadInput if images of so many channels are not what the network takes."""
        if count != self.channels and (count, self.channels) != (3, 1):
            told = f"{self.name} takes images of {self.channels} channels and these have {count}"
            how = (
                "give a probe of arrays with as many bands (a folder of .npy or .tif), or as many values of mean"
                " and std"
            )
            raise BadInput(f"{told}; {how}")

    def make_noise(self, count: int, size: Size) -> Float[Tensor, "b ..."]:
        """Prepared images of noise, always the same; the caller's random state stays as it is."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, self.channels, *height_width(size))
        noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        if max(map(abs, self.mean)) <= 1:
            return self.preprocess(noise)
        # Bands in units of their own: noise of their mean and standard deviation.
        return ((noise.to(self.device, torch.float32) - 127.5) / 74).to(self.dtype)

    def allowing_nondeterminism(self) -> "Target":
        """Return the same target, to be dissected also where its values are no function of the image."""
        other = copy.copy(self)
        other.allow_nondeterministic = True
        other.options = {**self.options, "allow_nondeterministic": True}
        return other

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """Return the network's output for images, computed in evaluation mode and without gradients.

        Args:
            images: (b, 3, h, w), uint8 pixels from 0 to 255 of the target's size, not normalized. For a network of other bands than
                grey or colours, floats in the bands' own units.

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
        """The network in evaluation mode on the target's device for a while; then exactly as it was."""
        return evaluation_mode(self.model, self.device)

    def outputs(self, images: Float[Tensor, "b ..."]) -> Tensor:
        """What the whole network answers to prepared images: the first tensor of it, for a classifier its logits."""
        with self.evaluation_mode(), torch.no_grad():
            found = select_tensor(self.core(images))
        if found is None:
            raise BadInput(f"{self.name} puts out no tensor of numbers")
        return found[1]

    @cached_property
    def dissectable_layers(self) -> DissectableLayers:
        """What a run of the network showed of its layers."""
        return find_layers(self)

    def layers(self) -> list[Layer]:
        """Every layer that can be dissected, in the order in which the network names its modules."""
        return list(self.dissectable_layers.by_name.values())

    def layer(self, name: str) -> Layer:
        """The layer of that name; ``module.`` and ``_orig_mod.`` before it are ignored, and an alias stands for the
        first name.

        Raises:
            UnknownName: with the three nearest names.
            BadInput: if the module is called several times, or puts out what cannot be laid out over the image.
        """
        for tried in _possible_names(name):
            layer = self.dissectable_layers.by_name.get(tried) or self.dissectable_layers.by_alias.get(tried)
            if layer is not None:
                return layer
        raise self._make_layer_error(name)

    def _make_layer_error(self, name: str) -> Exception:
        plain = next((tried for tried in _possible_names(name) if self.count_calls(tried) > 1), None)
        if plain is not None:
            numbered = ", ".join(f"{plain}#{call}" for call in range(self.count_calls(plain)))
            return BadInput(
                f"layer {plain!r} is called {self.count_calls(plain)} times in one forward pass; ask for one of"
                f" {numbered}"
            )
        reason = next(
            (
                self.dissectable_layers.reasons[tried]
                for tried in _possible_names(name)
                if tried in self.dissectable_layers.reasons
            ),
            None,
        )
        if reason is not None:
            return BadInput(f"layer {name!r} of {self.name} {reason}")
        known = [*self.dissectable_layers.by_name, *self.dissectable_layers.by_alias]
        return UnknownName("layer", name, known, "list them with: python describe.py --target ... --list_layers")

    def select_layers(self, names: Sequence[str]) -> list[Layer]:
        """The layers of those names, each once; a name given twice, or an alias beside the name it stands for, is
        warned of.
        """
        chosen_layers: dict[str, Layer] = {}
        for name in names:
            layer = self.layer(name)
            if layer.name in chosen_layers:
                warnings.warn(
                    f"layer {name!r} is asked for twice (it is {layer.name}); taken once", MilanWarning, stacklevel=2
                )
            chosen_layers[layer.name] = layer
        return list(chosen_layers.values())

    def modules(self) -> dict[str, nn.Module]:
        """Every module of the network once, by its first dotted path; without the wrappers of ``torch.compile``."""
        return list_modules(self.core)[0]

    def count_calls(self, name: str) -> int:
        """How often the module of that dotted path (or alias) is called in one forward pass."""
        first = next((layer.module for layer in self.layers() if name in layer.aliases), name)
        return self.dissectable_layers.call_counts.get(first, 0)

    @property
    def fingerprint(self) -> str:
        """The sha256 of what decides the activations, evaluated at each access.

        It covers weights, architecture, configuration, preprocessing, the file of code that the network was loaded
        from, and what its layers put out for an image of noise (see ``noise_outputs``).
        """
        reading = (self.preprocessing, self.layout, self.prefix_tokens, self.output_index)
        network = network_hash(self.core)
        state = (network, reading, attribute_hash(self.core))
        if self._noise_outputs[0] != state:
            self._noise_outputs = (state, noise_outputs(self))
        return hashlib.sha256(repr((network, reading, self.code, self._noise_outputs[1])).encode()).hexdigest()


def _possible_names(name: str) -> list[str]:
    """The names that may be meant: as given, without wrappers' prefixes, without a needless call number."""
    names = [name, strip_wrapper_prefixes(name)]
    stripped = names[-1]
    while stripped.startswith(WRAPPER_PREFIXES):
        stripped = stripped.partition(".")[2]
        names.append(stripped)
    return [*names, *(tried.removesuffix("#0") for tried in names if tried.endswith("#0"))]


def warn_assumed(target: Target) -> None:
    """Warns of preprocessing that nobody stated."""
    how = "set --image_size, --mean and --std (in Python arguments of milan.Target)"
    text = (
        f"nobody said what images {target.name} takes: assumed {target.preprocessing}; if it was trained on others,"
        f" {how}"
    )
    warnings.warn(text, MilanWarning, stacklevel=3)


def _grey(images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 1 h w"]:
    """Luminance as Pillow and torchvision take it (ITU-R 601); grey pixels keep their value."""
    weights = torch.tensor([19595, 38470, 7471], device=images.device).view(3, 1, 1)
    return ((images.int() * weights).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)


def _parse_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(
            f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}; --device cpu always can"
        ) from error


def _copy_to_float32(model: nn.Module, name: str) -> nn.Module:
    warnings.warn(
        f"{name} keeps weights in 16 bits; on the CPU a copy in 32 bits is dissected", MilanWarning, stacklevel=3
    )
    return copy.deepcopy(unwrap(model)).float()

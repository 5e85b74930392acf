"""Target: a network under study, with what it takes to feed it images and to name its layers."""

import copy
import hashlib
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from milan.errors import BadInput, MilanWarning, UnknownName
from milan.targets.fingerprints import attribute_hash, network_hash, noise_outputs
from milan.targets.layers import Layer, Layers, find_layers
from milan.targets.layouts import check_layout
from milan.targets.modules import PREFIXES, borrowed, check_usable, is_half, modules_by_name, plain_name, unwrapped
from milan.targets.outputs import chosen
from milan.targets.sources import IMAGENET_MEAN, IMAGENET_STD


class Target:
    """A network under study. The module given stays as it is: mode, device, hooks and weights.

    Args:
        model: any module whose forward takes a batch of images, (b, 3, h, w).
        name: what errors and tables call it.
        image_size: side in pixels of the square images it takes.
        resize: short side to which a picture is scaled before its centre is cut out; None for ``image_size``.
        mean, std: of the colours, in 0..1, for the normalisation.
        layout: one of BCHW, BHWC, BNC, BC for outputs with as many axes, where it cannot be told by running the network.
        prefix_tokens: how many tokens stand before the grid, where it cannot be told.
        output_index: which tensor of a layer's output counts where there are several; the first otherwise.
        device: where it is run.

    Raises:
        BadInput: if the module's layers cannot be looked into (TorchScript, quantized, no weights), or an option cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str = "model",
        image_size: int = 224,
        resize: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        layout: str | None = None,
        prefix_tokens: int | None = None,
        output_index: int | None = None,
        device: str | torch.device = "cpu",
    ):
        check_usable(model, name)
        check_layout(layout, prefix_tokens)
        self.device = _device(device)
        self.model = _full_precision(model, name) if self.device.type == "cpu" and is_half(model) else model
        self.name, self.image_size, self.resize = name, image_size, resize
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.layout, self.prefix_tokens, self.output_index = layout, prefix_tokens, output_index
        self.spec = ""  # what load_target was given; empty for a module given in Python
        self.weights = ""  # the weights file it was given, "random", or empty
        self.code = ""  # sha256 of the Python file that load_target ran for it; empty if there is none
        self._noise_outputs: tuple[Any, list[str]] = ((), [])  # the state they were computed in, and the outputs
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise BadInput(f"mean and std need three values each, std none of them 0: {self.mean}, {self.std}")

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``load_target`` that load it again; empty for a module given in Python."""
        if not self.spec:
            return {}
        options = {name: getattr(self, name) for name in ("layout", "prefix_tokens", "output_index")}
        return {"spec": self.spec, "weights": self.weights or None, **options}

    def __repr__(self) -> str:
        return f"Target({self.spec or self.name}, {type(self.core).__name__}, {self.image_size} px, {self.device})"

    @property
    def core(self) -> nn.Module:
        """The network without the wrappers of ``torch.compile`` and ``DataParallel``: what is run, and whose names count."""
        return unwrapped(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Of the images the network takes: that of its first floating-point parameter."""
        return next((p.dtype for p in self.core.parameters() if p.is_floating_point()), torch.float32)

    def prepare(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels 0..255 as the network takes them: scaled to 0..1, normalised, on its device."""
        mean = torch.tensor(self.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(3, 1, 1)
        return images.to(self.device, torch.float32).div_(255).sub_(mean).div_(std).to(self.dtype)

    def feed(self, ids: Int[Tensor, " b"], images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """What the network is given for the images of those numbers in a probe: the images, prepared."""
        return self.prepare(images)

    def noise(self, count: int, size: int) -> Float[Tensor, "b ..."]:
        """Prepared images of noise, always the same; the caller's random state stays as it is."""
        generator = torch.Generator().manual_seed(0)
        return self.prepare(torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator))

    def borrowed(self) -> AbstractContextManager[None]:
        """The network in evaluation mode on the target's device for a while; then exactly as it was."""
        return borrowed(self.model, self.device)

    def outputs(self, images: Float[Tensor, "b ..."]) -> Tensor:
        """What the whole network answers to prepared images: the first tensor of it, for a classifier its logits."""
        with self.borrowed(), torch.no_grad():
            found = chosen(self.core(images))
        if found is None:
            raise BadInput(f"{self.name} puts out no tensor of numbers")
        return found[1]

    @cached_property
    def found(self) -> Layers:
        """What a run of the network showed of its layers."""
        return find_layers(self)

    def layers(self) -> list[Layer]:
        """Every layer that can be dissected, in the order in which the network names its modules."""
        return list(self.found.by_name.values())

    def layer(self, name: str) -> Layer:
        """The layer of that name; ``module.`` and ``_orig_mod.`` before it are ignored, and an alias stands for the first name.

        Raises:
            UnknownName: with the three nearest names.
            BadInput: if the module is called several times, or puts out what cannot be laid out over the image.
        """
        for tried in _spellings(name):
            layer = self.found.by_name.get(tried) or self.found.by_alias.get(tried)
            if layer is not None:
                return layer
        raise self._no_layer(name)

    def _no_layer(self, name: str) -> Exception:
        plain = next((tried for tried in _spellings(name) if self.calls(tried) > 1), None)
        if plain is not None:
            numbered = ", ".join(f"{plain}#{call}" for call in range(self.calls(plain)))
            return BadInput(f"layer {plain!r} is called {self.calls(plain)} times in one forward pass; ask for one of {numbered}")
        reason = next((self.found.reasons[tried] for tried in _spellings(name) if tried in self.found.reasons), None)
        if reason is not None:
            return BadInput(f"layer {name!r} of {self.name} {reason}")
        known = [*self.found.by_name, *self.found.by_alias]
        return UnknownName("layer", name, known, "list them with: python describe.py --target ... --list_layers")

    def select(self, names: Sequence[str]) -> list[Layer]:
        """The layers of those names, each once; a name given twice, or an alias beside the name it stands for, is warned of."""
        chosen_layers: dict[str, Layer] = {}
        for name in names:
            layer = self.layer(name)
            if layer.name in chosen_layers:
                warnings.warn(f"layer {name!r} is asked for twice (it is {layer.name}); taken once", MilanWarning, stacklevel=2)
            chosen_layers[layer.name] = layer
        return list(chosen_layers.values())

    def modules(self) -> dict[str, nn.Module]:
        """Every module of the network once, by its first dotted path; without the wrappers of ``torch.compile``."""
        return modules_by_name(self.core)[0]

    def calls(self, name: str) -> int:
        """How often the module of that dotted path (or alias) is called in one forward pass."""
        first = next((layer.module for layer in self.layers() if name in layer.aliases), name)
        return self.found.calls.get(first, 0)

    @property
    def fingerprint(self) -> str:
        """The sha256 of what decides the activations, evaluated at each access.

        It covers weights, architecture, configuration, preprocessing, the file of code that the network was loaded
        from, and what its layers put out for an image of noise (see ``noise_outputs``).
        """
        reading = (self.image_size, self.resize, self.mean, self.std, self.layout, self.prefix_tokens, self.output_index)
        network = network_hash(self.core)
        state = (network, reading, attribute_hash(self.core))
        if self._noise_outputs[0] != state:
            self._noise_outputs = (state, noise_outputs(self))
        return hashlib.sha256(repr((network, reading, self.code, self._noise_outputs[1])).encode()).hexdigest()


def _spellings(name: str) -> list[str]:
    """The names that may be meant: as given, without wrappers' prefixes, without a needless call number."""
    names = [name, plain_name(name)]
    stripped = names[-1]
    while stripped.startswith(PREFIXES):
        stripped = stripped.partition(".")[2]
        names.append(stripped)
    return [*names, *(tried.removesuffix("#0") for tried in names if tried.endswith("#0"))]


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}; --device cpu always can") from error


def _full_precision(model: nn.Module, name: str) -> nn.Module:
    warnings.warn(f"{name} keeps weights in 16 bits; on the CPU a copy in 32 bits is dissected", MilanWarning, stacklevel=3)
    return copy.deepcopy(unwrapped(model)).float()

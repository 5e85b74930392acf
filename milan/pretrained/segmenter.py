"""Semantic segmentation networks: the concepts that each pixel shows, on one or several levels."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from milan.errors import BadInput, UnknownName, require_at_least
from milan.pretrained.model_sources import check_device, load_from_file, resolve_model
from milan.storage.files import content_key
from milan.storage.hub_access import format_error_line, quiet
from milan.targets.fingerprints import network_hash

FAMILIES = ("diorama", "hf", "torchvision")
SPEC_FORMS = (
    "diorama, diorama:FOLDER, hf:ID_OR_FOLDER, torchvision:NAME, torchvision:NAME=WEIGHTS_FILE or PATH/FILE.py:NAME"
)


class Segmenter(ABC):
    """Labels every pixel with the concepts that it shows.

    Attributes:
        key: content key of weights and preprocessing.
        concepts: names of the label numbers.
        level_names: names of the levels, of each of which a pixel has one label.
        batch_size: number of images per batch; changes no label.
    """

    key: str
    concepts: list[str]
    level_names: list[str]
    batch_size: int = 16

    def segment(self, images: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b levels h w"]:
        """Return the labels of each pixel, on the CPU: indices into ``concepts``, -1 for none. Pixels are 0..255."""
        if not len(images):
            return torch.zeros(0, len(self.level_names), *images.shape[-2:], dtype=torch.int64)
        return torch.cat([self._segment(part).cpu() for part in images.split(self.batch_size)])

    @abstractmethod
    def _segment(self, images: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b levels h w"]:
        """Return the labels of one batch of images."""


def load_segmenter(spec: str = "diorama", *, device: str = "cpu", batch_size: int = 16) -> Segmenter:
    """Load a segmentation network by name or path.

    Args:
        spec: ``hf:ID_OR_FOLDER`` (semantic segmentation of transformers: SegFormer, BEiT, DPT, UperNet, MobileViT,
            ...); ``torchvision:NAME`` (such as deeplabv3_resnet50) with published weights, ``torchvision:NAME=FILE``
            with those of a file, ``torchvision:NAME=random`` with random ones; ``diorama`` (the stand-in that comes
            with the package: colour, pattern, part, object, text and setting), ``diorama:FOLDER`` for one of another
            build of Diorama; or a custom Segmenter as ``PATH/FILE.py:NAME``, a class or function without arguments.
        device: device of the network.
        batch_size: number of images per batch.

    Raises:
        UnknownName: there is no such family or model.
        BadInput: the path leads to no such model, the hub lacks it or is out of reach, or the device cannot be used.
        MissingEvidence: the stand-in was not built.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    require_at_least(1, batch_size=batch_size)
    family, _, name = spec.partition(":")
    if family not in FAMILIES or not (name or family == "diorama"):
        raise UnknownName("segmenter", spec, ["diorama", *(f"{each}:" for each in FAMILIES[1:])], f"write {SPEC_FORMS}")
    device, folder = check_device(device), Path(name).expanduser()
    if family == "diorama" and not folder.is_dir():
        raise BadInput(
            f"no folder {name} (given as segmenter {spec!r}); write diorama, or diorama:FOLDER with a build of it"
        )
    segmenter = (
        DioramaSegmenter(device, folder if name else None)
        if family == "diorama"
        else {"hf": TransformersSegmenter, "torchvision": TorchvisionSegmenter}[family](name, device)
    )
    segmenter.batch_size = batch_size
    return segmenter


def _load_custom(spec: str) -> Segmenter:
    custom = load_from_file(spec, "segmenter")
    if not isinstance(custom, Segmenter):
        raise BadInput(f"{spec} makes a {type(custom).__name__}; it must make a milan.pretrained.segmenter.Segmenter")
    return custom


class DioramaSegmenter(Segmenter):
    """The network trained on Diorama's scenes; a name that two kinds share is one concept on both levels.

    Images are resized to its 64 pixels a side, and the labels back.

    Args:
        folder: of a build of Diorama, with ``segmenter`` and ``networks``; by default the package's.
    """

    def __init__(self, device: str = "cpu", folder: Path | None = None):
        from milan.diorama.segmenter_network import CLASS_NAMES, OPTIONAL_KINDS, format_label_name, load_scene_segmenter

        self.model, self.device = load_scene_segmenter(folder).to(device), device
        names = {
            kind: [format_label_name(kind, name) for name in class_names] for kind, class_names in CLASS_NAMES.items()
        }
        self.concepts = list(dict.fromkeys(name for kind in CLASS_NAMES for name in names[kind]))
        self.level_names = list(CLASS_NAMES)
        none = {kind: [-1] if kind in OPTIONAL_KINDS else [] for kind in CLASS_NAMES}
        self._numbers = {
            kind: torch.tensor(none[kind] + [self.concepts.index(name) for name in names[kind]]) for kind in CLASS_NAMES
        }
        self.key = content_key(segmenter="diorama", weights=network_hash(self.model), concepts=self.concepts)

    @torch.no_grad()
    def _segment(self, images: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b levels h w"]:
        from milan.diorama.scene_classifiers import IMAGE_SIZE, normalize_images

        size = tuple(images.shape[-2:])
        if size != (IMAGE_SIZE, IMAGE_SIZE):
            images = (
                interpolate(images.float(), (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
                .round()
                .clamp(0, 255)
            )
        logits = self.model(normalize_images(images).to(self.device))
        levels = torch.stack([self._numbers[kind][logits[kind].argmax(1).cpu()] for kind in self.level_names], dim=1)
        return interpolate(levels.double(), size, mode="nearest-exact").long() if levels.shape[-2:] != size else levels


class TransformersSegmenter(Segmenter):
    """A semantic segmentation network of transformers with its own image processor, without centre cropping."""

    def __init__(self, name: str, device: str = "cpu"):
        import transformers

        path, local = resolve_model(name)
        try:
            with quiet():
                options = {"local_files_only": local, "trust_remote_code": False}
                kind = transformers.AutoModelForSemanticSegmentation
                self.model = kind.from_pretrained(path, **options).float().eval()
                self.processor = transformers.AutoImageProcessor.from_pretrained(path, **options)
        except Exception as error:  # the hub's client, the network and transformers each raise their own
            raise BadInput(f"hf:{name} cannot be loaded as a segmenter: {format_error_line(error)}") from error
        self.model.to(device)
        self.device, self.level_names = device, ["label"]
        labels = self.model.config.id2label
        self.concepts = [
            str(labels.get(number, f"class {number}")).strip() for number in range(self.model.config.num_labels)
        ]
        read = {key: str(value) for key, value in self.processor.to_dict().items()}
        self.key = content_key(segmenter="hf", weights=network_hash(self.model), processor=read, concepts=self.concepts)

    @torch.no_grad()
    def _segment(self, images: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b levels h w"]:
        whole = {"do_center_crop": False} if hasattr(self.processor, "do_center_crop") else {}
        pixels = self.processor(images=list(images), return_tensors="pt", **whole)["pixel_values"]
        return _most_likely_labels(self.model(pixel_values=pixels.to(self.device)).logits, images)


class TorchvisionSegmenter(Segmenter):
    """A segmentation network of torchvision, ``NAME`` or ``NAME=FILE``.

    If the weights of a file have other classes than the published ones, these are called "class 1", "class 2", ...
    """

    def __init__(self, name: str, device: str = "cpu"):
        from torchvision import models

        from milan.targets.families import load_torchvision
        from milan.targets.weight_source import WeightSource

        name, _, file = name.partition("=")
        available = models.list_models(module=models.segmentation)
        if name not in available:
            raise UnknownName("torchvision segmentation model", name, available, "one of: " + ", ".join(available))
        self.model = load_torchvision(name, WeightSource(_parse_weights(file))).model.float().eval().to(device)
        self.device, self.level_names = device, ["label"]
        published = models.get_model_weights(name).DEFAULT
        self._size, self._mean, self._std = _read_preprocessing(published)
        with torch.no_grad():
            classes = self.model(torch.zeros(2, 3, 64, 64, device=device))["out"].shape[1]
        names = [str(each).strip("_") for each in published.meta["categories"]]
        self.concepts = names if len(names) == classes else [f"class {number}" for number in range(1, classes + 1)]
        reading = [self._size, self._mean.flatten().tolist(), self._std.flatten().tolist()]
        weights = network_hash(self.model)
        self.key = content_key(segmenter=name, weights=weights, reading=reading, concepts=self.concepts)

    @torch.no_grad()
    def _segment(self, images: UInt8[Tensor, "b 3 h w"]) -> Int[Tensor, "b levels h w"]:
        short = min(images.shape[-2:])
        size = [max(1, side * self._size // short) for side in images.shape[-2:]]
        scaled = interpolate(images.float(), size, mode="bilinear", antialias=True) / 255
        return _most_likely_labels(self.model(((scaled - self._mean) / self._std).to(self.device))["out"], images)


def _parse_weights(file: str) -> str | Path | None:
    return file if file == "random" else Path(file).expanduser() if file else None


def _read_preprocessing(published: Any) -> tuple[int, Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Return short side, mean and standard deviation of the preprocessing of torchvision's published weights."""
    transforms = published.transforms()
    size = transforms.resize_size[0] if isinstance(transforms.resize_size, list | tuple) else transforms.resize_size
    return int(size), torch.tensor(transforms.mean).view(3, 1, 1), torch.tensor(transforms.std).view(3, 1, 1)


def _most_likely_labels(
    logits: Float[Tensor, "b classes rows columns"], images: UInt8[Tensor, "b 3 h w"]
) -> Int[Tensor, "b 1 h w"]:
    """Return the most likely class of each pixel, after upsampling the logits as both libraries do."""
    return interpolate(logits.float(), images.shape[-2:], mode="bilinear", align_corners=False).argmax(1, keepdim=True)

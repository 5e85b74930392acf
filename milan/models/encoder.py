"""The frozen encoder: what a classifier sees in the masked part of each exemplar, at every resolution."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from milan.errors import BadInput
from milan.storage.files import content_key
from milan.targets.hooks import recorded
from milan.targets.loading import load_target
from milan.targets.preprocessing import height_width
from milan.targets.target import Target

MaskPooling = Literal["mean", "sum"]
Downsampling = Literal["bilinear", "area"]
RESNET_LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")
# Behind the ReLUs: the 2022 code names the convolutions, but the ReLUs, being in place, overwrite what it records.
ALEXNET_LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11")


class Encoder:
    """A frozen classifier's features of masked images (Hernandez et al. 2022, appendix B.1): each layer's maps pooled
    under the mask.

    Args:
        target: the classifier.
        layers: the first convolution and every stage.
        pooling: ``mean``: the downsampled mask is scaled to sum 1 (the released code); ``sum``: it is not (the paper's
            formula). A mask that is empty at a layer's resolution gives zeros there.
        downsampling: ``bilinear`` (paper and code) looks at four pixels for each place of the map, so that small masks
            vanish at coarse layers; with ``area`` every masked pixel counts.
    """

    def __init__(
        self,
        target: Target,
        layers: Sequence[str] = RESNET_LAYERS,
        *,
        pooling: MaskPooling = "mean",
        downsampling: Downsampling = "bilinear",
    ):
        self.target, self.layers, self.pooling, self.downsampling = target, list(layers), pooling, downsampling

    @cached_property
    def feature_length(self) -> int:
        """Of one exemplar's feature vector: 3,904 for ResNet-101."""
        return sum(self.target.layer(name).units for name in self.layers)

    @cached_property
    def settings(self) -> dict[str, str]:
        """What ``load_encoder`` takes to make it again."""
        settings = {"spec": self.target.spec, "pooling": self.pooling, "downsampling": self.downsampling}
        return settings | ({"weights": self.target.weights} if self.target.weights else {})

    @cached_property
    def key(self) -> str:
        """Content key of the weights and of how they are used."""
        return content_key(
            target=self.target.fingerprint, layers=self.layers, pooling=self.pooling, downsampling=self.downsampling
        )

    def encode(
        self, images: UInt8[Tensor, "k 3 height width"], masks: Bool[Tensor, "k 1 height width"]
    ) -> Float[Tensor, "k features"]:
        """One vector for each exemplar. Ask for one unit at a time: then what it gets does not depend on what else is
        encoded.

        Pictures of another size than the encoder's own are scaled to its short side: at another scale its stages see
        other things than in training.
        """
        return self.encode_preprocessed(
            self.target.preprocess(self._resize_images(images)), masks.to(self.target.device, torch.float32)
        )

    def _resize_images(self, images: UInt8[Tensor, "k 3 height width"]) -> UInt8[Tensor, "k 3 rows columns"]:
        height, width = images.shape[-2:]
        side = min(height_width(self.target.image_size))
        size = (round(side * height / min(height, width)), round(side * width / min(height, width)))
        return (
            images
            if size == (height, width)
            else F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        )

    def encode_preprocessed(
        self, images: Float[Tensor, "k 3 h w"], masks: Float[Tensor, "k 1 height width"]
    ) -> Float[Tensor, "k features"]:
        """As ``encode``, of images already as the target takes them (``target.preprocess``) and masks of 0 to 1."""
        parts: dict[str, Tensor] = {}

        def pool(layer: str, maps: Tensor, _cls: Tensor | None) -> None:
            weights = self._mask_weights(masks, maps.shape[-2:])
            parts[layer] = (maps.flatten(2) @ weights.flatten(2).transpose(1, 2)).squeeze(2).float().cpu()

        with recorded(self.target, self.layers, pool) as look:
            look(images)
        return torch.cat([parts[layer] for layer in self.layers], 1)

    def _mask_weights(self, masks: Tensor, grid: Sequence[int]) -> Tensor:
        height, width = grid
        if self.downsampling == "area":
            small = F.adaptive_avg_pool2d(masks, (height, width))
        else:
            small = F.interpolate(masks, size=(height, width), mode="bilinear", align_corners=False)
        if self.pooling == "sum":
            return small
        total = small.sum((2, 3), keepdim=True)
        return small / total.where(total > 0, 1)


def load_encoder(
    spec: str = "diorama:encoder",
    *,
    weights: str | Path | None = None,
    pooling: MaskPooling = "mean",
    downsampling: Downsampling = "bilinear",
    device: str | torch.device = "cpu",
) -> Encoder:
    """The encoder that ``spec`` names: ``diorama:encoder``, ``torchvision:resnet18|50|101|...``,
    ``torchvision:alexnet``, or any target whose stages are called as a ResNet's are. MILAN's paper uses
    ``torchvision:resnet101``, trained on ImageNet.

    Raises:
        BadInput: for a target that has no such stages.
    """
    target = load_target(spec, weights=weights, device=device)
    return build_encoder(target, pooling, downsampling)


def build_encoder(target: Target, pooling: MaskPooling = "mean", downsampling: Downsampling = "bilinear") -> Encoder:
    """Return the encoder that reads the first convolution and every stage of a ResNet or AlexNet.

    Raises:
        BadInput: for a target that has no such stages.
    """
    name = target.spec or target.name
    layers = ALEXNET_LAYERS if name.endswith(":alexnet") else RESNET_LAYERS
    known = {layer.name for layer in target.layers()}
    missing = [layer for layer in layers if layer not in known]
    if missing:
        instead = "use a ResNet or AlexNet, or milan.models.Encoder with its layers named"
        raise BadInput(f"{name} has no layers {', '.join(missing)} to encode with; {instead}")
    return Encoder(target, layers, pooling=pooling, downsampling=downsampling)

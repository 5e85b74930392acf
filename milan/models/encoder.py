"""The frozen encoder: a classifier's features of the masked part of each exemplar, at every resolution."""

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
# After the ReLUs: the 2022 code records the convolutions, whose outputs the in-place ReLUs overwrite.
ALEXNET_LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11")


class Encoder:
    """A frozen classifier that encodes masked images (Hernandez et al. 2022, appendix B.1).

    Each layer's feature maps are pooled under the mask, and the layers are concatenated.

    Args:
        target: the classifier.
        layers: the layers to pool, usually the first convolution and every stage.
        pooling: ``mean`` scales the downsampled mask to sum 1 (the released code); ``sum`` does not (the paper's
            formula). A mask that is empty at a layer's resolution gives zeros.
        downsampling: ``bilinear`` (paper and released code) reads four pixels of the mask per position of the feature
            map, so that small masks vanish at coarse layers; with ``area`` every masked pixel counts.
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
        """The length of one exemplar's feature vector: 3,904 for ResNet-101."""
        return sum(self.target.layer(name).units for name in self.layers)

    @cached_property
    def settings(self) -> dict[str, str]:
        """The arguments of ``load_encoder`` that restore this encoder."""
        settings = {"spec": self.target.spec, "pooling": self.pooling, "downsampling": self.downsampling}
        return settings | ({"weights": self.target.weights} if self.target.weights else {})

    @cached_property
    def key(self) -> str:
        """The content key of weights, layers and pooling."""
        return content_key(
            target=self.target.fingerprint, layers=self.layers, pooling=self.pooling, downsampling=self.downsampling
        )

    def encode(
        self, images: UInt8[Tensor, "k 3 height width"], masks: Bool[Tensor, "k 1 height width"]
    ) -> Float[Tensor, "k features"]:
        """Return one feature vector per exemplar.

        Images are scaled so that their short side is that of the encoder's input: at another scale its stages see other
        things than in training. Encode one unit at a time, so that its features do not depend on other units.
        """
        return self.encode_preprocessed(
            self.target.prepare(self._resize_images(images)), masks.to(self.target.device, torch.float32)
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
        """Return one feature vector per exemplar, given preprocessed images and masks with values in [0, 1]."""
        parts: dict[str, Tensor] = {}

        def pool(layer: str, maps: Tensor, _cls: Tensor | None) -> None:
            weights = self._mask_weights(masks, maps.shape[-2:])
            parts[layer] = (maps.flatten(2) @ weights.flatten(2).transpose(1, 2)).squeeze(2).float().cpu()

        with recorded(self.target, self.layers, pool) as run:
            run(images)
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
    """Load a frozen encoder.

    Args:
        spec: ``diorama:encoder``, ``torchvision:resnet18|50|101|...``, ``torchvision:alexnet``, or any target with the
            stages of a ResNet by name. MILAN's paper uses ``torchvision:resnet101``, trained on ImageNet.
        weights: a file of weights, if they are not the target's own.
        pooling: as for ``Encoder``.
        downsampling: as for ``Encoder``.
        device: a torch device.

    Raises:
        BadInput: the target has no such stages.
    """
    target = load_target(spec, weights=weights, device=device)
    return build_encoder(target, pooling, downsampling)


def build_encoder(target: Target, pooling: MaskPooling = "mean", downsampling: Downsampling = "bilinear") -> Encoder:
    """Return the encoder that reads the first convolution and every stage of a ResNet or AlexNet.

    Raises:
        BadInput: the target has no such stages.
    """
    name = target.spec or target.name
    layers = ALEXNET_LAYERS if name.endswith(":alexnet") else RESNET_LAYERS
    layer_names = {layer.name for layer in target.layers()}
    missing = [layer for layer in layers if layer not in layer_names]
    if missing:
        instead = "use a ResNet or AlexNet, or give milan.models.Encoder the names of its layers"
        raise BadInput(f"{name} has no layers {', '.join(missing)}, which the encoder reads; {instead}")
    return Encoder(target, layers, pooling=pooling, downsampling=downsampling)

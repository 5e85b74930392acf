"""The frozen encoder: a classifier's features of the masked part of each exemplar, at every resolution."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from milan.dissection.forward_blocks import BlockOutputs, block_length, map_blocks
from milan.errors import BadInput
from milan.storage.files import content_key
from milan.targets.loading import load_target
from milan.targets.preprocessing import as_size, height_width
from milan.targets.target import Target

MaskPooling = Literal["mean", "sum"]
Downsampling = Literal["bilinear", "area"]
RESNET_LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")
# After the ReLUs: the 2022 code records the convolutions, whose outputs the in-place ReLUs overwrite.
ALEXNET_LAYERS = ("features.1", "features.4", "features.7", "features.9", "features.11")


@runtime_checkable
class Masks(Protocol):
    """Masks of one image: a tensor (n, 1, height, width), or what loads some of them when they are needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> Bool[Tensor, "n 1 height width"]: ...


MASKS_AT_A_TIME = 32
# An image (3, height, width), of bytes or of numbers from 0 to 1, and the masks of its regions.
MaskedImage = tuple[Tensor, Masks]


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
        """Return one feature vector per exemplar; use ``encode_regions`` if an image has several masks."""
        return torch.cat(list(self.encode_regions(zip(images, masks.split(1), strict=True))))

    def encode_regions(self, images: Iterable[MaskedImage]) -> Iterator[Float[Tensor, "_ features"]]:
        """Yield the features of each image under each of its masks, in order; the network runs once on each image.

        Images are scaled so that their short side is that of the encoder's input: at another scale its stages see other
        things than in training. The network runs on blocks of a fixed number of images, the last one filled up, so that
        features do not depend on what else is encoded.

        Args:
            images: images of one size, each with its masks. They are read in the caller's thread, a few blocks ahead;
                masks are read where an image's maps are pooled, in another thread.
        """
        scaled = ((self._resize_image(image), masks) for image, masks in images)
        first = next(scaled, None)
        if first is None:
            return
        size = as_size(first[0].shape[-2:])
        target = self.target if size == as_size(self.target.image_size) else self.target.fitted_to(size)
        masks: dict[int, Masks] = {}
        batches = _read_blocks(chain([first], scaled), block_length(size, target.device), masks)
        for block in map_blocks(target, self.layers, batches, partial(self._pool_block, masks)):
            yield from block

    @torch.no_grad()
    def _pool_block(self, masks: dict[int, Masks], block: BlockOutputs) -> list[Float[Tensor, "_ features"]]:
        """Return the features of the images of a block; images that only fill it up have no masks."""
        rows = [(row, number) for row, number in enumerate(block.ids.tolist()) if number in masks]
        return [self._pool([block.maps[name][row] for name in self.layers], masks.pop(number)) for row, number in rows]

    def _pool(self, maps: Sequence[Float[Tensor, "_ _ _"]], masks: Masks) -> Float[Tensor, "masks features"]:
        """Return the layers' maps of one image, pooled under each mask.

        Products of a matrix and one vector, at addresses that are aligned alike, have the same bits whatever else is
        computed; in a product of two matrices the last bit can depend on the column.
        """
        matrices = [one.flatten(1).clone() for one in maps]
        pooled = torch.empty(len(masks), sum(map(len, maps)))
        for start in range(0, len(masks), MASKS_AT_A_TIME):
            some = masks[start : start + MASKS_AT_A_TIME]
            # Bytes become floats six times as fast as booleans.
            some = some.view(torch.uint8) if some.dtype == torch.bool else some
            some = some.to(self.target.device, torch.float32)
            weights = [self._mask_weights(some, one.shape[-2:]).flatten(1) for one in maps]
            for place in range(len(some)):
                # A copy, so that the address is aligned.
                pairs = zip(matrices, (each[place].clone() for each in weights), strict=True)
                pooled[start + place] = torch.cat([torch.mv(*pair) for pair in pairs])
        return pooled

    def _resize_image(self, image: Shaped[Tensor, "3 height width"]) -> Shaped[Tensor, "3 rows columns"]:
        height, width = image.shape[-2:]
        side = min(height_width(self.target.image_size))
        size = (round(side * height / min(height, width)), round(side * width / min(height, width)))
        if size == (height, width):
            return image
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]

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


def _read_blocks(
    images_with_masks: Iterable[MaskedImage], length: int, masks: dict[int, Masks]
) -> Iterator[tuple[Int[Tensor, " b"], Shaped[Tensor, "b 3 rows columns"]]]:
    """Yield blocks of images, each with its number, and put the masks of each image into ``masks`` by its number.

    Copies of the last image, which have no masks, fill up the last block.
    """
    images: list[Tensor] = []
    count = 0
    for image, of_image in images_with_masks:
        masks[count + len(images)] = of_image
        images.append(image)
        if len(images) == length:
            yield torch.arange(count, count + length), torch.stack(images)
            count, images = count + length, []
    if images:
        images += images[-1:] * (length - len(images))
        yield torch.arange(count, count + length), torch.stack(images)


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

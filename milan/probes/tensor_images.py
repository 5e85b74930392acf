"""Images in memory as the source of a probe."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from milan.errors import BadInput
from milan.probes.band_files import PICTURE_CHANNELS
from milan.probes.class_labels import class_labels
from milan.probes.image_sources import ImageSource
from milan.targets.fingerprints import tensor_hash

Labels = Sequence[Any] | np.ndarray | Tensor  # see ``milan.probes.class_labels``


class TensorSource(ImageSource):
    """Images in memory.

    Args:
        images: uint8 (n, 3, height, width), with one channel for grey images, or another number of bands, of any
            numbers.
        labels: class of each image, see ``milan.probes.class_labels``; None if unknown.
        classes: class names by number; None if unknown.

    Raises:
        BadInput: there are no images, they have another shape or data type, or another number than the labels.
    """

    is_presized = True

    def __init__(self, images: Tensor | np.ndarray, labels: Labels | None, classes: list[str] | None):
        self._images = _check_images(images)
        self.size, count = self._images.shape[-2:], self._images.shape[1]
        self.of_bytes = self._images.dtype == np.uint8
        self.bands = 0 if count in PICTURE_CHANNELS else count
        if labels is not None and len(labels) != len(images):
            raise BadInput(f"{len(labels)} labels for {len(images)} images")
        values = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
        self.labels, self.classes = (None, classes) if values is None else class_labels(values, classes)

    def __len__(self) -> int:
        return len(self._images)

    def load_image(self, index: int) -> np.ndarray:
        """Return a picture, uint8 (3, height, width), or bands as float32."""
        image = self._images[index]
        if self.bands:
            return image.astype(np.float32) / (255 if self.of_bytes else 1)
        return np.ascontiguousarray(np.broadcast_to(image, (3, *self.size)))

    def format_location(self, index: int) -> str:
        """Return the image's index."""
        return f"image {index} of a tensor"

    def content_facts(self) -> dict[str, Any]:
        """Return a hash of the pixels, and their shape."""
        return {"pixels": tensor_hash(torch.from_numpy(self._images)), "shape": list(self._images.shape)}


def _check_images(images: Tensor | np.ndarray) -> Shaped[np.ndarray, "n channels height width"]:
    """Return images as an array; raise BadInput if their shape or data type is wrong."""
    if not isinstance(images, Tensor | np.ndarray):
        raise BadInput(
            f"the images are a {type(images).__name__}; give a tensor or an array of n x 3 x height x width, uint8"
        )
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    shape, kind = " x ".join(map(str, array.shape)), str(array.dtype)
    bands = array.ndim == 4 and array.shape[1] not in PICTURE_CHANNELS and array.shape[-1] not in PICTURE_CHANNELS
    if array.dtype != np.uint8 and not (bands and array.dtype.kind in "iuf"):
        how = "(255 * images).round().to(torch.uint8) if they lie in 0..1"
        raise BadInput(f"the images are {kind}; give pixels from 0 to 255 as uint8, not normalized: {how}")
    if array.ndim != 4 or not (bands or array.shape[1] in PICTURE_CHANNELS):
        ways = {array.shape[-1:] == (3,): "permute the channels to axis 1", array.ndim == 3: "add the batch axis"}
        how = ways.get(True) or "three channels, red first"
        raise BadInput(f"the images have the shape {shape}; give n x 3 x height x width ({how})")
    if not array.size:
        raise BadInput(f"a probe needs at least one image; the tensor has the shape {shape}")
    return np.ascontiguousarray(array)

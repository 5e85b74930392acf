"""The interface of image-text models: what embeds images and texts into one space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Bool, Float, UInt8
from torch import Tensor


class Embedder(ABC):
    """Embeds images and texts into one space, in which an image is near the texts that describe it.

    Attributes:
        key: content key of weights, preprocessing and precision.
        features: length of an embedding.
        scale, bias: of the logits ``scale * cosine + bias``, if the model has them (a SigLIP has both, a CLIP a scale).
        batch_size: number of images or texts per batch; changes no embedding.
        masks_attention: whether ``encode_masked_images`` masks the attention of a class token.
    """

    key: str
    features: int
    scale: float | None = None
    bias: float | None = None
    batch_size: int = 64
    masks_attention: bool = False

    @abstractmethod
    def encode_images(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b features"]:
        """Return unit vectors, float32 on the CPU, of images with pixels 0..255 of any size.

        The model's own preprocessing is applied.
        """

    def encode_masked_images(
        self, images: UInt8[Tensor, "b 3 h w"], masks: Bool[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b features"]:
        """Return unit vectors of what the images show inside masks.

        Where ``masks_attention``, the attention of the class token is masked; else pixels outside become black.
        """
        return self.encode_images(images * masks)

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Return unit vectors, float32 on the CPU; the model's own tokenizer cuts long texts."""

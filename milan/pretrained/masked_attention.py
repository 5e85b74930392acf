"""Vision transformers whose class token attends only to the patches inside a mask.

In every layer the attention of the class token to the patches is multiplied, after the softmax, by the mask at patch
size (Hernandez et al. 2022, released code, ``src/milan/rerankers.py``); the attention of the patches stays as it is.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

ATTENTION_NAME = "milan_masked_class_token"


def find_patch_grid(model: nn.Module) -> tuple[int, int] | None:
    """Return rows and columns of the patches of a CLIP's vision transformer.

    Returns:
        None if the model has no class token whose attention can be masked: SigLIP, convolutional networks.
    """
    visual: Any = getattr(model, "visual", None)
    if visual is not None:  # open_clip
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
        usable = blocks is not None and all(
            isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks
        )
        return tuple(visual.grid_size) if usable and hasattr(visual, "class_embedding") else None
    embeddings: Any = getattr(getattr(model, "vision_model", None), "embeddings", None)
    if not hasattr(embeddings, "class_embedding"):
        return None
    side = math.isqrt(int(embeddings.num_patches))
    return side, side


def resize_masks(masks: Bool[Tensor, "b 1 height width"], grid: tuple[int, int]) -> Float[Tensor, "b patches"]:
    """Return masks at patch size, 0..1, of the centre square, to which a CLIP crops an image.

    They are interpolated bilinearly, as in the released code.

    >>> import torch
    >>> resize_masks(torch.tensor([[[[True, False], [True, True]]]]), (2, 2))
    tensor([[1., 0., 1., 1.]])
    """
    height, width = masks.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = masks[..., top : top + side, left : left + side].float()
    return interpolate(square, size=grid, mode="bilinear", align_corners=False).flatten(1)


@contextmanager
def masked_class_token(model: nn.Module, masks: Float[Tensor, "b patches"]) -> Iterator[None]:
    """Restrict the class token's attention to the patches inside the masks, within the context.

    Args:
        model: a vision transformer for which ``find_patch_grid`` returns a grid.
        masks: weights of the patches, 0..1, of the images of the next batch.
    """
    visual: Any = getattr(model, "visual", None)
    if visual is None:
        with _masked_transformers(model, masks):
            yield
        return
    modules = [block.attn for block in visual.transformer.resblocks]
    try:
        for module in modules:
            # The attribute of the instance hides the method of the class until it is deleted.
            module.forward = _MaskedAttention(module, masks)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def attend(
    query: Float[Tensor, "b heads tokens d"],
    key: Float[Tensor, "b heads tokens d"],
    value: Float[Tensor, "b heads tokens d"],
    masks: Float[Tensor, "b patches"],
) -> Float[Tensor, "b heads tokens d"]:
    """Return attention whose first row, that of the class token, is multiplied by the masks but for its own entry."""
    weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)
    weights[:, :, 0, 1:] *= masks[:, None].to(weights)
    return weights @ value


class _MaskedAttention:
    """The forward of an ``nn.MultiheadAttention`` that attends to itself."""

    def __init__(self, module: nn.MultiheadAttention, masks: Tensor):
        self.module, self.masks = module, masks

    def __call__(self, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        module: Any = self.module
        hidden = query if module.batch_first else query.transpose(0, 1)
        parts = linear(hidden, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = module.out_proj(attend(query, key, value, self.masks).transpose(1, 2).flatten(2))
        return (attended if module.batch_first else attended.transpose(0, 1)), None


@contextmanager
def _masked_transformers(model: nn.Module, masks: Tensor) -> Iterator[None]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return attend(query, key, value, masks).transpose(1, 2).contiguous(), None

    configuration: Any = model.vision_model.config  # type: ignore[union-attr]
    before = configuration._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, attention)
    configuration._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        configuration._attn_implementation = before

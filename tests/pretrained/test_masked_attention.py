"""Attention of the class token under a mask, computed by hand on a CLIP of one layer."""

import math

import open_clip
import pytest
import torch
from torch.nn.functional import layer_norm, normalize

from milan.pretrained.embedder import load_embedder
from milan.pretrained.masked_attention import attend, find_patch_grid, resize_masks
from tests.pretrained import tiny


def test_only_the_class_tokens_view_of_the_patches_is_multiplied():
    equal = torch.zeros(1, 1, 3, 2)
    value = torch.tensor([[[[3.0, 0.0], [0.0, 3.0], [6.0, 6.0]]]])
    found = attend(equal, equal, value, torch.tensor([[1.0, 0.5]]))
    # A third of each row, but the class token sees half as much of the second patch.
    assert found[0, 0].tolist() == [[2.0, 2.0], [3.0, 3.0], [3.0, 3.0]]


def test_masks_are_resized_bilinearly_after_the_centre_is_cut_out():
    masks = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    masks[..., :2, 1:3] = True
    masks[..., 0, 3] = True
    assert resize_masks(masks, (2, 2)).tolist() == [[1.0, 0.25, 0.0, 0.0]]


def by_hand(vision, pixels, mask):
    """The first token's way through one layer of open_clip's vision transformer, written out."""
    patches = vision.conv1(pixels).flatten(2)[0].T
    tokens = torch.cat([vision.class_embedding[None], patches]) + vision.positional_embedding
    tokens = vision.ln_pre(tokens)
    (block,) = vision.transformer.resblocks
    attention, seen = block.attn, block.ln_1(tokens)
    query, key, value = (seen @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)
    size = query.shape[1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * size, (head + 1) * size)
        weights = (query[:, part] @ key[:, part].T / math.sqrt(size)).softmax(1)
        heads.append((weights[0] * torch.cat([torch.ones(1), mask])) @ value[:, part])
    first = tokens[0] + attention.out_proj(torch.cat(heads))
    first = first + block.mlp(block.ln_2(first))
    norm = vision.ln_post
    return layer_norm(first, first.shape, norm.weight, norm.bias, norm.eps) @ vision.proj


@pytest.fixture
def one_layer():
    torch.manual_seed(0)
    vision = {"image_size": 8, "layers": 1, "width": 8, "head_width": 4, "patch_size": 4}
    text = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=6, vision_cfg=vision, text_cfg=text).eval()


def test_a_tiny_clip_agrees_with_the_formula_written_out(one_layer):
    from milan.pretrained.masked_attention import masked_class_token

    pixels, mask = torch.randn(1, 3, 8, 8), torch.tensor([1.0, 0.0, 0.25, 0.5])
    with torch.no_grad():
        plain = one_layer.encode_image(pixels)
        with masked_class_token(one_layer, mask[None]):
            masked = one_layer.encode_image(pixels)
        with masked_class_token(one_layer, torch.ones(1, 4)):
            whole = one_layer.encode_image(pixels)
        expected = by_hand(one_layer.visual, pixels, mask)
        torch.testing.assert_close(masked[0], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(whole, plain, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(masked, plain, atol=1e-3)
        torch.testing.assert_close(one_layer.encode_image(pixels), plain)


@pytest.mark.parametrize(("family", "masks"), [("open_clip", True), ("clip", True), ("siglip", False)])
def test_a_full_mask_changes_nothing_and_an_empty_one_does(family, masks, tmp_path):
    embedder = load_embedder(tiny.make(family, tmp_path / family))
    images = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = embedder.encode_images(images)
    full = embedder.encode_masked_images(images, torch.ones(3, 1, 20, 30, dtype=torch.bool))
    empty = embedder.encode_masked_images(images, torch.zeros(3, 1, 20, 30, dtype=torch.bool))
    assert embedder.masks_attention is masks
    assert (find_patch_grid(embedder.model) is not None) is masks
    torch.testing.assert_close(full, plain, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(empty, plain, atol=1e-4)
    torch.testing.assert_close(empty.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(normalize(plain, dim=1), plain)

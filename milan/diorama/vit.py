"""A small vision transformer: 8 x 8 tokens of a 64 x 64 image and a class token."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

TOKEN_GRID = 8  # tokens a side
WIDTH, DEPTH, HEADS, HIDDEN = 96, 2, 3, 288
STEM_CHANNELS = (3, 32, 64, WIDTH)
MLP_LAYERS = tuple(
    f"blocks.{number}.mlp.fc1" for number in range(DEPTH)
)  # the layers to dissect, as MILANNOTATIONS names them


class Mlp(nn.Module):
    """Two linear layers; the output of the first has the units to dissect."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Return the second layer's output for each token."""
        return self.fc2(self.act(self.fc1(tokens)))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Return what each token gathers from all tokens of its image."""
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Pre-norm attention and MLP with skip connections (Dosovitskiy et al. 2021, section 3.1)."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Return the tokens after attention and MLP, each added to its input."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ResidualConv(nn.Module):
    """A convolution with a skip connection."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, width), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, maps: Float[Tensor, "batch width height side"]) -> Float[Tensor, "batch width height side"]:
        """Return the maps plus their convolution."""
        return maps + self.conv(gelu(self.norm(maps)))


class ViT(nn.Module):
    """A vision transformer with a convolutional stem (Xiao et al. 2021: it trains faster); returns the class token.

    Pictures of other sizes than 64 pixels have as many more or fewer tokens: the embedding of places is interpolated.
    """

    def __init__(self) -> None:
        super().__init__()
        steps = pairwise(STEM_CHANNELS)
        halvings = [part for before, width in steps for part in _make_downsampling(before, width)]
        self.patch_embed = nn.Sequential(*halvings, ResidualConv(WIDTH))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, WIDTH, TOKEN_GRID, TOKEN_GRID), std=0.02))
        self.blocks = nn.ModuleList([TransformerLayer(WIDTH, HEADS, HIDDEN) for _ in range(DEPTH)])
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Return the normalized class token of each image."""
        return self.forward_tokens(images)[:, 0]

    def forward_summary(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch twice_features"]:
        """Return the class token followed by the mean of the other tokens."""
        tokens = self.forward_tokens(images)
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)

    def forward_tokens(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens features"]:
        """Return the class token, then those of the patches, row by row."""
        patches = self.patch_embed(images)
        side = patches.shape[-1]
        places = (
            self.pos_embed
            if side == TOKEN_GRID
            else interpolate(self.pos_embed, (side, side), mode="bicubic", align_corners=False)
        )
        patches = (patches + places).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1).to(patches.dtype), patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def _make_downsampling(before: int, width: int) -> list[nn.Module]:
    """Return a step that halves the resolution; the last step is linear, as a patch embedding is."""
    halved = nn.Conv2d(before, width, 3, 2, 1)
    return [halved] if width == WIDTH else [halved, nn.GroupNorm(4, width), nn.GELU()]

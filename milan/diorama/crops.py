"""Crops of pictures as DINO shows them: many of each, large and small, mirrored, in other colours, blurred (Caron et al. 2021, section 3.1;
Grill et al. 2020, appendix B). What is drawn differs from picture to picture and depends on a random generator alone."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from milan.diorama.networks import MEAN, STD

GLOBAL = (2, 40, 0.6, 1.0)  # how many crops, their side in pixels, the least and the most of a picture's area that they show
LOCAL = (2, 24, 0.3, 0.6)
HUE = 0.5  # of a turn at most: any, since things here have any colour (0.1 for photographs)
LUMA = (0.299, 0.587, 0.114)


def crops(images: Tensor, dice: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Large and small crops of pictures of 0..1, (n, 3, 64, 64), as the networks want them: lists of (n, 3, side, side)."""
    large = [_crop(images, GLOBAL, blurred, inverted, dice) for blurred, inverted in ((0.5, 0.0), (0.1, 0.2))]
    small = [_crop(images, LOCAL, 0.3, 0.0, dice) for _ in range(LOCAL[0])]
    return large, small


def _crop(images: Tensor, kind: tuple[int, int, float, float], blurred: float, inverted: float, dice: torch.Generator) -> Tensor:
    _, side, least, most = kind
    pixels = _cut(images, side, (least, most), dice)
    pixels = _recoloured(pixels, dice)
    pixels = torch.where(_chance(pixels, blurred, dice), _blurred(pixels), pixels)
    pixels = torch.where(_chance(pixels, inverted, dice) & (pixels > 0.5), 1 - pixels, pixels)  # solarised
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def _cut(images: Tensor, side: int, area: tuple[float, float], dice: torch.Generator) -> Tensor:
    """A box of each picture, of which half are mirrored."""
    count = len(images)
    share = _between(*area, count, dice)
    stretch = _between(math.log(3 / 4), math.log(4 / 3), count, dice).exp().sqrt()
    wide, high = (share.sqrt() * stretch).clamp(max=1), (share.sqrt() / stretch).clamp(max=1)
    across = _between(-1.0, 1.0, count, dice) * (1 - wide)
    down = _between(-1.0, 1.0, count, dice) * (1 - high)
    mirror = torch.where(torch.rand(count, generator=dice) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    rows = [torch.stack([wide * mirror, zero, across], 1), torch.stack([zero, high, down], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), [count, 3, side, side], align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recoloured(pixels: Tensor, dice: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue for four of five pictures; no colour at all for one of five."""
    count = len(pixels)

    def factor(strength: float) -> Tensor:
        return _between(1 - strength, 1 + strength, count, dice).view(-1, 1, 1, 1)

    changed = pixels * factor(0.4)
    middle = _grey(changed).mean(dim=(2, 3), keepdim=True)
    changed = middle + (changed - middle) * factor(0.4)
    grey = _grey(changed)
    changed = _turned(grey + (changed - grey) * factor(0.2), _between(-HUE, HUE, count, dice) * 2 * math.pi)
    pixels = torch.where(_chance(pixels, 0.8, dice), changed.clamp(0, 1), pixels)
    return torch.where(_chance(pixels, 0.2, dice), _grey(pixels).expand_as(pixels), pixels)


def _turned(pixels: Tensor, angle: Tensor) -> Tensor:
    """Hues turned about the axis of greys (Rodrigues' formula)."""
    third, root = 1 / 3, math.sqrt(1 / 3)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    around = torch.tensor([[0, -root, root], [root, 0, -root], [-root, root, 0]])
    turn = cos * torch.eye(3) + (1 - cos) * third + sin * around
    return torch.einsum("nij,njhw->nihw", turn, pixels)


def _blurred(pixels: Tensor) -> Tensor:
    """With a binomial of 3 x 3 pixels."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    return conv2d(pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def _chance(pixels: Tensor, share: float, dice: torch.Generator) -> Tensor:
    return (torch.rand(len(pixels), generator=dice) < share).view(-1, 1, 1, 1)


def _between(least: float, most: float, count: int, dice: torch.Generator) -> Tensor:
    return least + (most - least) * torch.rand(count, generator=dice)

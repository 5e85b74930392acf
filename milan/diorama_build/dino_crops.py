"""DINO's augmentations: large and small crops, mirrored, with changed colours, blurred.

They are those of Caron et al. 2021, section 3.1, and Grill et al. 2020, appendix B. Each image has augmentations of its
own, which depend on the random generator alone.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from milan.diorama.scene_classifiers import MEAN, STD

# Number of crops, their side in pixels, and their smallest and largest share of the image's area.
GLOBAL = (2, 40, 0.6, 1.0)
LOCAL = (2, 24, 0.3, 0.6)
# In turns of the colour circle: any hue, since things in Diorama have any colour; for photographs it is 0.1.
MAX_HUE_TURN = 0.5
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def make_crops(images: Tensor, rng: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Return normalized large and small crops, lists of (n, 3, side, side), of images (n, 3, 64, 64) in 0..1."""
    large = [_make_crop(images, GLOBAL, blurred, inverted, rng) for blurred, inverted in ((0.5, 0.0), (0.1, 0.2))]
    small = [_make_crop(images, LOCAL, 0.3, 0.0, rng) for _ in range(LOCAL[0])]
    return large, small


def _make_crop(
    images: Tensor, kind: tuple[int, int, float, float], blurred: float, inverted: float, rng: torch.Generator
) -> Tensor:
    _, side, least, most = kind
    pixels = _crop_boxes(images, side, (least, most), rng)
    pixels = _jitter_colours(pixels, rng)
    pixels = torch.where(_random_mask(pixels, blurred, rng), _blur(pixels), pixels)
    pixels = torch.where(_random_mask(pixels, inverted, rng) & (pixels > 0.5), 1 - pixels, pixels)  # solarised
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def _crop_boxes(images: Tensor, side: int, area: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Return a random box of each image, resized to ``side`` pixels; half of them are mirrored."""
    count = len(images)
    share = _uniform(*area, count, rng)
    stretch = _uniform(math.log(3 / 4), math.log(4 / 3), count, rng).exp().sqrt()
    wide, high = (share.sqrt() * stretch).clamp(max=1), (share.sqrt() / stretch).clamp(max=1)
    across = _uniform(-1.0, 1.0, count, rng) * (1 - wide)
    down = _uniform(-1.0, 1.0, count, rng) * (1 - high)
    mirror = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    rows = [torch.stack([wide * mirror, zero, across], 1), torch.stack([zero, high, down], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), [count, 3, side, side], align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter_colours(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue of 80% of the images, and make 20% grey."""
    count = len(pixels)

    def factor(strength: float) -> Tensor:
        return _uniform(1 - strength, 1 + strength, count, rng).view(-1, 1, 1, 1)

    changed = pixels * factor(0.4)
    middle = _to_grey(changed).mean(dim=(2, 3), keepdim=True)
    changed = middle + (changed - middle) * factor(0.4)
    grey = _to_grey(changed)
    changed = _rotate_hue(
        grey + (changed - grey) * factor(0.2), _uniform(-MAX_HUE_TURN, MAX_HUE_TURN, count, rng) * 2 * math.pi
    )
    pixels = torch.where(_random_mask(pixels, 0.8, rng), changed.clamp(0, 1), pixels)
    return torch.where(_random_mask(pixels, 0.2, rng), _to_grey(pixels).expand_as(pixels), pixels)


def _rotate_hue(pixels: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours about the axis of greys by angles in radians (Rodrigues' formula)."""
    third, root = 1 / 3, math.sqrt(1 / 3)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    around = torch.tensor([[0, -root, root], [root, 0, -root], [-root, root, 0]])
    turn = cos * torch.eye(3) + (1 - cos) * third + sin * around
    return torch.einsum("nij,njhw->nihw", turn, pixels)


def _blur(pixels: Tensor) -> Tensor:
    """Blur with a binomial kernel of 3 x 3 pixels."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    return conv2d(pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


def _to_grey(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor(LUMA_WEIGHTS).view(3, 1, 1)).sum(1, keepdim=True)


def _random_mask(pixels: Tensor, share: float, rng: torch.Generator) -> Tensor:
    return (torch.rand(len(pixels), generator=rng) < share).view(-1, 1, 1, 1)


def _uniform(low: float, high: float, count: int, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)

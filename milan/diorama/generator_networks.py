"""Class-conditional generators of Diorama scenes, to be dissected on their own images.

A generator is fed rows of numbers: LATENT_SIZE of them from a normal distribution, then one number for each class, 1
for the one that is wanted. The first of the normal numbers are read as where the main thing is and what it looks like,
as often as scenes of that class have it so; the others are free. Its answer is a picture in -1..1.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, one_hot, relu

from milan.diorama.canvas import RGB
from milan.diorama.scene_classifiers import CLASSES
from milan.diorama.scene_vocabulary import COLOURS, PATTERNS
from milan.diorama.segmenter_network import to_float32

BOX_NUMBERS = 4  # numbers of the main thing's box: centre across and down, width and height, in shares of the picture
READ_SIZES = {
    "other": 0,
    "colour": len(COLOURS),
    "pattern": len(PATTERNS),
    "second": len(COLOURS),
}  # what is read, of how many; other: below
LATENT_SIZE = 64
FREE_LATENTS = LATENT_SIZE - BOX_NUMBERS - len(READ_SIZES)
CONDITION_SIZE = 96  # numbers by which every stage is steered
STAGE_WIDTHS = (144, 112, 88, 48, 32)  # of the maps of 4, 8, 16, 32 and 64 places a side
STAGES = [f"stage{number}" for number in range(1, len(STAGE_WIDTHS) + 1)]
STAMP_CHANNELS = 24  # channels of the main thing before it is moved to its box
PLACEMENT_CHANNELS = 5 + 6 + STAMP_CHANNELS


class LatentReader(nn.Module):
    """Reads the first latents: the box of the main thing, and by the shares of each class the other world's class (the
    setting of an
    object, the main thing of a scene), the thing's colour, pattern and second colour."""

    middle: Tensor
    spread: Tensor

    def __init__(self, classes: int, others: int):
        super().__init__()
        self.sizes = {**READ_SIZES, "other": others}
        self.register_buffer("middle", torch.zeros(classes, BOX_NUMBERS))
        self.register_buffer("spread", torch.eye(BOX_NUMBERS).repeat(classes, 1, 1))
        for kind, size in self.sizes.items():
            self.register_buffer(f"shares_{kind}", torch.full((classes, size), 1 / size))

    def forward(self, latents: Float[Tensor, "b latents"]) -> tuple[Float[Tensor, "b 4"], Int[Tensor, "b 4"]]:
        """Return the box (centre and size), and the indices read, in the order of READ_SIZES."""
        label = latents[:, LATENT_SIZE:].argmax(1)
        box = self.middle[label] + (self.spread[label] @ latents[:, :BOX_NUMBERS, None])[:, :, 0]
        size = box[:, 2:].clamp(0.1, 1.0)
        centre = torch.minimum(torch.maximum(box[:, :2], size / 2), 1 - size / 2)
        even = (1 + torch.erf(latents[:, BOX_NUMBERS : BOX_NUMBERS + len(READ_SIZES)] / math.sqrt(2))) / 2
        read = [
            (even[:, at, None] > self.get_buffer(f"shares_{kind}")[label].cumsum(1)[:, :-1]).sum(1)
            for at, kind in enumerate(READ_SIZES)
        ]
        return torch.cat([centre, size], 1), torch.stack(read, 1)


def render_placement(
    box: Float[Tensor, "b 4"], inks: Float[Tensor, "b 6"], stamp: Tensor, side: int
) -> Float[Tensor, "b places side side"]:
    """Return the position inputs of each place: in the image and in the main thing's box, with the thing's colours and
    stamp there.
    """
    steps = (torch.arange(side, device=box.device) + 0.5) / side
    across = ((steps - box[:, :1]) / (box[:, 2:3] / 2))[:, None, :].expand(-1, side, -1)
    down = ((steps - box[:, 1:2]) / (box[:, 3:4] / 2))[:, :, None].expand(-1, -1, side)
    within = torch.sigmoid(8 * (1.1 - across.abs())) * torch.sigmoid(8 * (1.1 - down.abs()))
    far = [steps.expand(len(box), side, side) * 2 - 1, (steps * 2 - 1)[:, None].expand(len(box), side, side)]
    near = torch.stack([*far, within, across.clamp(-2, 2), down.clamp(-2, 2)], 1)
    there = grid_sample(stamp.float(), torch.stack([across, down], 3), padding_mode="zeros", align_corners=False)
    return torch.cat([near, within[:, None] * inks[:, :, None, None], there], 1).contiguous(
        memory_format=torch.channels_last
    )


class ConditionalBatchNorm(nn.Module):
    """Batch normalization whose scale and shift depend on latents and class (BigGAN: Brock et al. 2019, appendix B)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        # The name is part of the shipped weights.
        self.told = nn.Linear(CONDITION_SIZE, 2 * width)
        nn.init.normal_(self.told.weight, std=0.05)
        nn.init.zeros_(self.told.bias)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Return normalized maps (b, width, h, w), scaled and shifted by the condition (b, CONDITION_SIZE)."""
        scale, shift = self.told(condition)[:, :, None, None].chunk(2, dim=1)
        return self.norm(maps) * (1 + scale) + shift


class FirstStage(nn.Module):
    """Generates the coarsest maps from latents and class."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.spread, self.norm, self.relu = (
            width,
            nn.Linear(CONDITION_SIZE, width * 16),
            ConditionalBatchNorm(width),
            nn.ReLU(),
        )

    def forward(self, condition: Tensor) -> Tensor:
        """Return maps (b, width, 4, 4) from the condition (b, CONDITION_SIZE)."""
        maps = self.spread(condition).unflatten(1, (self.width, 4, 4)).contiguous(memory_format=torch.channels_last)
        return self.relu(self.norm(maps, condition))


class UpsamplingStage(nn.Module):
    """Upsamples its maps by 2 and applies two convolutions with position inputs and a skip connection."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.narrow = nn.Conv2d(before, width, 1, bias=False)
        self.where = nn.Conv2d(PLACEMENT_CHANNELS, width, 1, bias=False)
        self.norm1, self.conv1 = ConditionalBatchNorm(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2, self.conv2 = ConditionalBatchNorm(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor, condition: Tensor, placement: Tensor) -> Tensor:
        """Return maps of twice the resolution, (b, width, 2h, 2w); ``placement`` has that resolution."""
        wide = interpolate(self.narrow(maps), scale_factor=2, mode="nearest") + self.where(placement)
        inside = self.conv1(relu(self.norm1(wide, condition)))
        return self.relu(wide + self.conv2(relu(self.norm2(inside, condition))))


class ThingDecoder(nn.Module):
    """Decodes the main thing at 16 x 16 places of its box, independent of the box's position."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.coarse, self.fine = (
            FirstStage(64),
            nn.Conv2d(64, 48, 3, 1, 1, bias=False),
            nn.Conv2d(48, STAMP_CHANNELS, 3, 1, 1),
        )
        self.norm = ConditionalBatchNorm(48)

    def forward(self, condition: Tensor) -> Tensor:
        """Return the stamp of the main thing, (b, STAMP_CHANNELS, 16, 16), from the condition."""
        maps = self.coarse(interpolate(self.first(condition), scale_factor=2, mode="nearest"))
        return self.fine(interpolate(relu(self.norm(maps, condition)), scale_factor=2, mode="nearest"))


class FinalStage(nn.Module):
    """Upsamples to the resolution of the colours."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.deal, self.norm, self.relu = (
            nn.ConvTranspose2d(before, width, 2, 2, bias=False),
            ConditionalBatchNorm(width),
            nn.ReLU(),
        )

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Return maps of twice the resolution, (b, width, 2h, 2w), after normalization and ReLU."""
        return self.relu(self.norm(self.deal(maps), condition))


class SceneGenerator(nn.Module):
    """Five stages of 4 to 64 places a side; ``stage1`` to ``stage5`` are the layers to dissect."""

    inks: Tensor

    def __init__(self, world: str, widths: tuple[int, ...] = STAGE_WIDTHS):
        super().__init__()
        self.classes, others = len(CLASSES[world]), len(CLASSES["scenes" if world == "objects" else "objects"])
        self.read = LatentReader(self.classes, others)
        facts = self.classes + sum(self.read.sizes.values()) + BOX_NUMBERS + FREE_LATENTS
        self.tell = nn.Sequential(
            nn.Linear(facts, 128), nn.ReLU(), nn.Linear(128, CONDITION_SIZE), nn.LayerNorm(CONDITION_SIZE)
        )
        self.stamp = ThingDecoder()
        self.register_buffer("inks", torch.tensor([RGB[colour] for colour in COLOURS]) / 127.5 - 1)
        self.stage1 = FirstStage(widths[0])
        self.stage2, self.stage3, self.stage4 = (UpsamplingStage(widths[at], widths[at + 1]) for at in range(3))
        self.stage5 = FinalStage(widths[3], widths[4])
        self.paint = nn.Conv2d(widths[4], 3, 3, 1, 1)

    def forward(self, latents: Float[Tensor, "b latents"]) -> Float[Tensor, "b 3 64 64"]:
        """Return images from -1 to 1, from latents whose last numbers are the class as a one-hot vector."""
        box, read = self.read(latents)
        return self.render(
            latents[:, LATENT_SIZE:].argmax(1), box, read, latents[:, LATENT_SIZE - FREE_LATENTS : LATENT_SIZE]
        )

    def render(self, label: Tensor, box: Tensor, read: Tensor, free: Tensor) -> Float[Tensor, "b 3 64 64"]:
        """Return the image of a class, a box, further attributes, and free latents."""
        hot = [
            one_hot(read[:, at], size).float() for at, size in enumerate(self.read.sizes[kind] for kind in READ_SIZES)
        ]
        condition = self.tell(torch.cat([one_hot(label, self.classes).float(), *hot, 4 * box - 2, free], 1))
        inks, stamp = self.inks[read[:, [1, 3]]].flatten(1), self.stamp(condition)
        maps = self.stage1(condition)
        for stage in (self.stage2, self.stage3, self.stage4):
            maps = stage(maps, condition, render_placement(box, inks, stamp, 2 * maps.shape[-1]))
        return torch.tanh(self.paint(self.stage5(maps, condition)))


def load_scene_generator(world: str, file: Path) -> SceneGenerator:
    """Return a trained generator in evaluation mode."""
    model = SceneGenerator(world)
    model.load_state_dict({key: to_float32(value) for key, value in load_file(file).items()})
    return model.eval()

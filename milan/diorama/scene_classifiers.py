"""Architectures of Diorama's classifiers and of MILAN's encoder, and how they take images."""

import torch
from torch import Tensor, nn

from milan.diorama.scene_vocabulary import COLOURS, OBJECTS, PARTS, PATTERNS, SETTINGS, THINGS

IMAGE_SIZE = 64
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
CLASSES = {"objects": THINGS, "scenes": SETTINGS}


class AlexNet(nn.Sequential):
    """Five convolutions and two fully connected layers, as in AlexNet; 64 x 64 pixels in, one logit per class out."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 112, 112, 96), hidden: int = 256):
        super().__init__()
        for number, (before, width) in enumerate(zip((3, *widths), widths, strict=False), 1):
            kernel, stride = (5, 2) if number == 1 else (3, 1)
            self.add_module(f"conv{number}", nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False))
            self.add_module(f"norm{number}", nn.BatchNorm2d(width))
            self.add_module(f"relu{number}", nn.ReLU())
            if number in (1, 2, 5):
                self.add_module(f"pool{number}", nn.MaxPool2d(2))
        self.add_module("flat", nn.Flatten())
        self.add_module("drop", nn.Dropout(0.3))
        self.add_module("fc6", nn.Linear(widths[-1] * 16, hidden))
        self.add_module("relu6", nn.ReLU())
        self.add_module("fc7", nn.Linear(hidden, classes))


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.around = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (b, width, h / stride, w / stride) from maps (b, before, h, w)."""
        inside = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(maps)))))
        return self.relu(inside + self.around(maps))


class ResNet(nn.Module):
    """A stem and four residual stages at 32, 16, 8, 8 and 4 places a side; 64 x 64 pixels in, one logit per
    class out.
    """

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 48, 72, 104, 160)):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.layer1, self.layer2 = ResidualBlock(widths[0], widths[1], 2), ResidualBlock(widths[1], widths[2], 2)
        self.layer3, self.layer4 = ResidualBlock(widths[2], widths[3], 1), ResidualBlock(widths[3], widths[4], 2)
        self.fc = nn.Linear(widths[4], classes)

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return the output of each of the five layers."""
        maps, outputs = images, []
        for stage in (self.conv1, self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
            outputs.append(maps)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes, (b, classes), for normalized images (b, 3, h, w)."""
        return self.fc(self.forward_stages(images)[-1].mean(dim=(2, 3)))


HEAD_SPECS = {
    "colour": (1, len(COLOURS)),
    "pattern": (2, len(PATTERNS)),
    "part": (3, len(PARTS) + 1),
    "object": (3, len(OBJECTS) + 1),
}


class SceneEncoder(ResNet):
    """A wider ResNet trained on both tasks, and with heads for colour, pattern, part and object at each place.

    Its output is the logits of all things, then of all settings.
    """

    def __init__(self) -> None:
        super().__init__(len(THINGS) + len(SETTINGS), (48, 64, 96, 144, 224))
        widths = (48, 64, 96, 144, 224)
        self.heads = nn.ModuleDict(
            {kind: nn.Conv2d(widths[stage], count, 1) for kind, (stage, count) in HEAD_SPECS.items()}
        )

    def forward_with_heads(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits, and the logits of each kind of label at each place."""
        stages = self.forward_stages(images)
        return self.fc(stages[-1].mean(dim=(2, 3))), {
            kind: self.heads[kind](stages[stage]) for kind, (stage, _) in HEAD_SPECS.items()
        }


def normalize_images(images: Tensor) -> Tensor:
    """Normalize pixels 0..255, uint8 (n, 3, 64, 64), as Diorama's networks take them."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

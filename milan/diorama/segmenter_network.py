"""The embedded segmenter, which predicts the labels of every pixel; ``planted`` is built on it.

Its weights lie in ``data/diorama/segmenter``, but for those of the encoder that it looks through.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from milan.diorama.scene_classifiers import SceneEncoder
from milan.diorama.scene_concepts import get_concepts_by_name, get_readable_name
from milan.diorama.scene_vocabulary import COLOURS, LETTERS, OBJECTS, PARTS, PATTERNS, SETTINGS, THINGS
from milan.errors import MissingEvidence
from milan.storage.packaged_data import locate_packaged_data

CLASS_NAMES = {
    "colour": COLOURS,
    "pattern": PATTERNS,
    "part": PARTS,
    "object": OBJECTS,
    "text": LETTERS,
    "setting": SETTINGS,
}
OPTIONAL_KINDS = (
    "part",
    "object",
    "text",
)  # kinds of which a pixel may show nothing: their class 0; every pixel has the others
ENCODER_CHANNELS = (
    48,
    64,
    144,
    224,
)  # channels of the encoder's conv1, layer1, layer3 and layer4, at 32, 16, 8 and 4 places a side
DECODER_CHANNELS = (128, 80, 64)  # channels on the way up, at 8, 16 and 32 places a side
STEM_CHANNELS = 24  # channels at full resolution, beside the encoder's features
TRUNK_CHANNELS = 48  # channels that all heads but the setting's look at


def count_classes(kind: str) -> int:
    """Return the number of logits of a kind.

    >>> count_classes("setting"), count_classes("text")
    (10, 27)
    """
    return len(CLASS_NAMES[kind]) + (kind in OPTIONAL_KINDS)


def get_first_label(kind: str) -> int:
    """Return the label of class 0 of a kind, where labels count from 1 and 0 is none of the kind."""
    return 0 if kind in OPTIONAL_KINDS else 1


def format_label_name(kind: str, name: str) -> str:
    """Return a label's name as it is read back from a text.

    >>> format_label_name("part", "top"), format_label_name("text", "a"), format_label_name("object", "cat")
    ('table top', 'letter a', 'cat')
    """
    return get_readable_name(get_concepts_by_name()[f"letter {name}" if kind == "text" else name])


class UpsamplingJoin(nn.Module):
    """Joins upsampled features of half the resolution with features of this resolution."""

    def __init__(self, below: int, here: int, width: int):
        super().__init__()
        self.below, self.here = nn.Conv2d(below, width, 1), nn.Conv2d(here, width, 1)
        self.conv, self.norm, self.relu = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, below: Tensor, here: Tensor) -> Tensor:
        """Return joined features at the resolution of ``here``; ``below`` has half of it."""
        wide = interpolate(self.below(below), size=here.shape[-2:], mode="bilinear", align_corners=False)
        return self.relu(self.norm(self.conv((wide + self.here(here)).relu())))


class SceneSegmenter(nn.Module):
    """A U-Net whose encoder is Diorama's encoder, with one trunk and a head for each kind of label.

    It takes normalized images (b, 3, h, w) and was trained on 64 x 64 pixels. The setting, which all pixels of an image
    share, is predicted from the encoder alone.
    """

    def __init__(self, encoder: SceneEncoder | None = None) -> None:
        super().__init__()
        self.encoder = (encoder or SceneEncoder()).requires_grad_(False)
        self.stem = nn.Sequential(
            nn.Conv2d(3, STEM_CHANNELS, 3, 1, 1, bias=False), nn.BatchNorm2d(STEM_CHANNELS), nn.ReLU()
        )
        belows = (ENCODER_CHANNELS[-1], *DECODER_CHANNELS)
        self.up = nn.ModuleList(
            UpsamplingJoin(*sizes) for sizes in zip(belows, ENCODER_CHANNELS[-2::-1], DECODER_CHANNELS, strict=False)
        )
        self.narrow = nn.Conv2d(DECODER_CHANNELS[-1], 32, 1)
        self.trunk = nn.Sequential(
            nn.Conv2d(32 + STEM_CHANNELS, TRUNK_CHANNELS, 3, 1, 1, bias=False),
            nn.BatchNorm2d(TRUNK_CHANNELS),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict(
            {kind: nn.Conv2d(TRUNK_CHANNELS, count_classes(kind), 1) for kind in CLASS_NAMES if kind != "setting"}
        )

    def train(self, mode: bool = True) -> "SceneSegmenter":
        """Keep the encoder, including its normalization, in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def own_state_dict(self) -> dict[str, Tensor]:
        """Return the weights without the encoder's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trunk's output at each pixel, (b, 48, h, w), and the logits of the setting, (b, 10)."""
        with torch.no_grad():
            first, second, _, third, last = self.encoder.forward_stages(images)
            setting = self.encoder.fc(last.mean(dim=(2, 3)))[:, len(THINGS) :]
        maps, fine = last, self.stem(images)
        for join, here in zip(self.up, (third, second, first), strict=True):
            maps = join(maps, here)
        wide = interpolate(self.narrow(maps), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.trunk(torch.cat([wide, fine], dim=1)), setting

    def forward_heads(self, trunk: Tensor, setting: Tensor) -> dict[str, Tensor]:
        """Return the logits of each kind at each pixel of the trunk's output, (b, classes, h, w)."""
        logits = {kind: head(trunk) for kind, head in self.heads.items()}
        return {**logits, "setting": setting[:, :, None, None].expand(-1, -1, *trunk.shape[-2:])}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of each kind of label at each pixel, (b, classes, h, w), for images (b, 3, h, w)."""
        return self.forward_heads(*self.forward_features(images))


def load_scene_segmenter(folder: Path | None = None) -> SceneSegmenter:
    """Return the trained segmenter in evaluation mode.

    Args:
        folder: folder with ``segmenter`` and ``networks``; by default the package's ``data/diorama``.

    Raises:
        MissingEvidence: its weights, or those of the encoder, were not built.
    """
    home = folder or locate_packaged_data("data") / "diorama"
    path = home / "segmenter" / "model.safetensors"
    if not path.is_file():
        command = "python -m milan.diorama build --only segmenter"
        raise MissingEvidence(f"no weights of Diorama's segmenter at {path}; build them with: {command}")
    model = SceneSegmenter(load_scene_encoder(home))
    model.load_state_dict({**model.state_dict(), **{key: to_float32(value) for key, value in load_file(path).items()}})
    return model.eval()


def load_scene_encoder(home: Path) -> SceneEncoder:
    """Return Diorama's encoder from a folder's ``networks``. Raise MissingEvidence if it was not built."""
    path = home / "networks" / "encoder.safetensors"
    if not path.is_file():
        raise MissingEvidence(f"no encoder at {path}; build it first: python -m milan.diorama build --only encoder")
    encoder = SceneEncoder()
    encoder.load_state_dict({key: to_float32(value) for key, value in load_file(path).items()})
    return encoder.eval()


def to_float32(value: Tensor) -> Tensor:
    """Convert 16-bit tensors to 32 bits."""
    return value.float() if value.is_floating_point() else value

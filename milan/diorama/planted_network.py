"""``planted``: a network whose units detect known concepts.

Its trunk is the labeller's. From what the labeller makes of each pixel, each unit of its layer ``units`` makes the
log-odds of a concept of
its own: a single one, two at once, either of two, or nothing in particular (a random direction of the trunk). Below the
log-odds that serve its concept best a unit is silent, as after a ReLU. Concepts are planted that cover less than 1% of
a probe's pixels: then a unit's 0.99 quantile is 0, and its masks at this usual threshold are all the pixels where it
answers. (Of a concept that covers 9%, such as a colour, the strongest 1% could overlap with a ninth at most.)

What each unit truly detects was measured, and is kept in ``data/diorama/networks/planted.json``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import conv2d

from milan.diorama.segmenter_network import CLASS_NAMES, SceneSegmenter, count_classes, load_scene_segmenter
from milan.errors import MissingEvidence
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit

PlantedKind = Literal["single", "conjunction", "either", "nothing"]
LAYER = "units"
CLASSES = sum(map(count_classes, CLASS_NAMES))
PROBABILITY_EPSILON = 1e-7  # distance from 0 and 1 at which 32 bits still hold a probability
BUILD_HINT = "python -m milan.diorama build --only planted"


@dataclass(frozen=True)
class PlantedUnitTruth:
    """What a unit was built to detect, and how well it does, measured on scenes that nothing was trained or chosen on.

    concepts: names of ``milan.diorama.scene_concepts``; text: the same in words that read back as them; both empty for
        "nothing".
    iou: of the unit's masks in a dissection with the usual quantile with what the text says, 0..1; for "nothing" with
    whatever single concept fits best. iou_own_area: with the mask of every pixel where the unit answers at all,
    whatever the quantile.
    area: the share of all pixels that show the concept; halves: of an either-or unit, the share of the masks of its
    exemplars that each of its two concepts has.
    """

    kind: PlantedKind
    concepts: tuple[str, ...]
    text: str
    iou: float
    iou_own_area: float
    area: float
    halves: tuple[float, ...] = ()


class ConceptUnits(nn.Module):
    """Units built from concepts, then units of random directions.

    members: 0 or 1, (terms, 161), which classes of the labeller make up a term; joins: 0 or 1, (parts, terms), which
    terms must hold at once in a part; thresholds, gains: (parts,), from which log-odds a part answers, and how loudly;
    choices: (units, 2), which two parts either of which a unit answers to (the same one twice for most); directions:
    (nothings, 48), offsets: (nothings,).
    """

    members: Tensor
    joins: Tensor
    thresholds: Tensor
    gains: Tensor
    choices: Tensor
    directions: Tensor
    offsets: Tensor

    def __init__(self, recipe: dict[str, Tensor]):
        super().__init__()
        for name in ("members", "joins", "thresholds", "gains", "choices", "directions", "offsets"):
            self.register_buffer(name, recipe[name].clone())

    def forward(self, trunk: Tensor, logits: dict[str, Tensor]) -> Float[Tensor, "b units h w"]:
        odds = compute_log_odds(logits, self.members, self.joins)
        parts = ((odds - self.thresholds[:, None, None]) * self.gains[:, None, None]).relu()
        known = torch.maximum(parts[:, self.choices[:, 0]], parts[:, self.choices[:, 1]])
        nothing = conv2d(trunk, self.directions[:, :, None, None], self.offsets).relu()
        return torch.cat([known, nothing], dim=1)


def compute_log_odds(logits: dict[str, Tensor], members: Tensor, joins: Tensor) -> Float[Tensor, "b parts h w"]:
    """Return the log-odds of each part at each pixel, from the product of its terms' probabilities."""
    likely = torch.cat([logits[kind].float().softmax(1) for kind in CLASS_NAMES], dim=1)
    terms = conv2d(likely, members[:, :, None, None]).clamp(1e-12, 1.0).log()
    logs = conv2d(terms, joins[:, :, None, None]).clamp(max=-PROBABILITY_EPSILON)
    return logs - (-logs.expm1()).log()


class PlantedNetwork(nn.Module):
    """The segmenter with known units on top; images (b, 3, 64, 64) in, the maximum of each unit (b, units) out."""

    def __init__(self, recipe: dict[str, Tensor], segmenter: SceneSegmenter | None = None):
        super().__init__()
        self.segmenter = segmenter or SceneSegmenter()
        self.units = ConceptUnits(recipe)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b units"]:
        trunk, setting = self.segmenter.forward_features(images)
        return self.units(trunk, self.segmenter.forward_heads(trunk, setting)).amax(dim=(2, 3))


def load_planted_network(folder: Path | None = None, weights: bool = True) -> PlantedNetwork:
    """Return the network in evaluation mode, with the embedded segmenter's weights or random ones.

    folder: that holds ``networks`` and ``segmenter``; the package's ``data/diorama`` unless given.
    Raises MissingEvidence if it was not built.
    """
    home = folder or locate_packaged_data("data") / "diorama"
    recipe = _require_file(home / "networks" / "planted.safetensors")
    segmenter = load_scene_segmenter(home) if weights else None
    tensors = {name: value if name == "choices" else value.float() for name, value in load_file(recipe).items()}
    return PlantedNetwork(tensors, segmenter).eval()


def load_planted_truth(folder: Path | None = None) -> dict[Unit, PlantedUnitTruth]:
    """Return what each unit of ``planted`` detects, measured over 2,000 scenes of the probe ``diorama:objects``.

    folder: as for ``load_planted_network``. Raises MissingEvidence if it was not built.
    """
    facts = json.loads(
        _require_file((folder or locate_packaged_data("data") / "diorama") / "networks" / "planted.json").read_text()
    )
    return {Unit(LAYER, each.pop("unit")): _parse_truth(each) for each in facts["truth"]}


def _parse_truth(each: dict[str, Any]) -> PlantedUnitTruth:
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
    return PlantedUnitTruth(**facts)


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise MissingEvidence(f"no file of the planted network at {path}; make it with: {BUILD_HINT}")
    return path

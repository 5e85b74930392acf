"""``planted``: a network whose units detect known concepts; ``planted-rotated``: the same with its units mixed.

The trunk is that of the segmenter. Each unit of the layer ``units`` computes the log-odds of its concept from the
segmenter's output at each pixel: a single concept, two at once, or either of two; or it is a random direction of the
trunk, which detects nothing in particular. Below the log-odds that serve its concept best a unit is 0, as after a ReLU.
Planted concepts cover less than 1% of a probe's pixels, so that a unit's 0.99 quantile is 0, and its masks at this
usual threshold are all pixels where it is active. (Of a concept that covers 9%, such as a colour, the strongest 1%
could overlap with a ninth at most.)

What each unit truly detects was measured, and is stored in ``data/diorama/networks/planted.json``.

In ``planted-rotated`` the channels of the layer ``units`` are mixed by a random orthogonal matrix: its neurons mean
little, and the rows of the inverse matrix are directions with the planted meanings. The unmixed units are the layer
``units.concepts``.
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
# Of ``planted-rotated``: the layer of the units before they are mixed.
UNMIXED_LAYER = "units.concepts"
ROTATION_SEED = 0
CLASSES = sum(map(count_classes, CLASS_NAMES))
PROBABILITY_EPSILON = 1e-7  # distance from 0 and 1 at which 32 bits still hold a probability
BUILD_HINT = "python -m milan.diorama build --only planted"


@dataclass(frozen=True)
class PlantedUnitTruth:
    """What a unit was built to detect, and how well it does, measured on scenes used for neither training nor choice.

    Attributes:
        kind: what it was built from.
        concepts: names of ``milan.diorama.scene_concepts``; none for "nothing".
        text: the concepts in words that are parsed as them; empty for "nothing".
        iou: IoU, 0..1, of the unit's masks in a dissection with the usual quantile with the pixels that the text
            denotes; for "nothing" with the single concept that fits best.
        iou_own_area: the same of all pixels where the unit is active, whatever the quantile.
        area: share of all pixels that show the concept.
        halves: for an either-or unit, the share of the masks of its exemplars that each of its two concepts covers.
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

    Attributes:
        members: 0 or 1, (terms, 161): which classes of the segmenter make up a term.
        joins: 0 or 1, (parts, terms): which terms must hold at once in a part.
        thresholds: (parts): log-odds above which a part is active.
        gains: (parts): activation per log-odds above the threshold.
        choices: (units, 2): the two parts of which a unit has the maximum; twice the same one for most.
        directions: (nothings, 48): directions of the trunk.
        offsets: (nothings): biases of the directions.
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


class RotatedUnits(nn.Module):
    """Units built from concepts, mixed by a rotation: unit i is the sum of ``rotation[i, j]`` times concept unit j."""

    rotation: Tensor

    def __init__(self, concepts: ConceptUnits, rotation: Float[Tensor, "units units"]):
        super().__init__()
        self.concepts = concepts
        self.register_buffer("rotation", rotation)

    def forward(self, trunk: Tensor, logits: dict[str, Tensor]) -> Float[Tensor, "b units h w"]:
        return conv2d(self.concepts(trunk, logits), self.rotation[:, :, None, None])


def make_rotation(size: int, seed: int = ROTATION_SEED) -> Float[Tensor, "size size"]:
    """Return an orthogonal matrix that is uniformly random."""
    generator = torch.Generator().manual_seed(seed)
    matrix, upper = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    # Without the signs the distribution would not be uniform, and would depend on the library.
    return (matrix * upper.diagonal().sign()).float()


class PlantedNetwork(nn.Module):
    """The segmenter with known units on top; images (b, 3, 64, 64) in, the maximum of each unit (b, units) out.

    Args:
        recipe: the tensors of ``ConceptUnits``.
        segmenter: the segmenter; by default one with random weights.
        is_rotated: whether the units are mixed by ``make_rotation``.
    """

    def __init__(self, recipe: dict[str, Tensor], segmenter: SceneSegmenter | None = None, is_rotated: bool = False):
        super().__init__()
        self.segmenter = segmenter or SceneSegmenter()
        concepts = ConceptUnits(recipe)
        count = len(recipe["choices"]) + len(recipe["directions"])
        self.units = RotatedUnits(concepts, make_rotation(count)) if is_rotated else concepts

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b units"]:
        trunk, setting = self.segmenter.forward_features(images)
        return self.units(trunk, self.segmenter.forward_heads(trunk, setting)).amax(dim=(2, 3))


def load_planted_network(folder: Path | None = None, weights: bool = True, is_rotated: bool = False) -> PlantedNetwork:
    """Return the network in evaluation mode.

    Args:
        folder: the folder that holds ``networks`` and ``segmenter``; by default the package's ``data/diorama``.
        weights: whether the segmenter has its trained weights, or else random ones.
        is_rotated: whether its units are mixed by a rotation.

    Raises:
        MissingEvidence: the network was not built.
    """
    home = folder or locate_packaged_data("data") / "diorama"
    recipe = _require_file(home / "networks" / "planted.safetensors")
    segmenter = load_scene_segmenter(home) if weights else None
    tensors = {name: value if name == "choices" else value.float() for name, value in load_file(recipe).items()}
    return PlantedNetwork(tensors, segmenter, is_rotated).eval()


def load_planted_truth(folder: Path | None = None) -> dict[Unit, PlantedUnitTruth]:
    """Return what each unit of ``planted`` detects, measured over 2,000 scenes of the probe ``diorama:objects``.

    Args:
        folder: as for ``load_planted_network``.

    Raises:
        MissingEvidence: the network was not built.
    """
    file = (folder or locate_packaged_data("data") / "diorama") / "networks" / "planted.json"
    facts = json.loads(_require_file(file).read_text())
    return {Unit(LAYER, each.pop("unit")): _parse_truth(each) for each in facts["truth"]}


def _parse_truth(each: dict[str, Any]) -> PlantedUnitTruth:
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
    return PlantedUnitTruth(**facts)


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise MissingEvidence(f"no file of the planted network at {path}; make it with: {BUILD_HINT}")
    return path

"""Networks whose units detect known concepts: ``planted``, ``planted-2``, and ``planted-rotated``, which mixes them.

Their trunk is the segmenter's. From the segmenter's class probabilities at each pixel, each unit of the layer ``units``
computes the log-odds of its own formula: a single concept, two at once, or either of two. Below the log-odds that
separate its concept best the unit is silent, as after a ReLU.

- ``planted``: concepts that cover less than 1% of a probe's pixels, so that a unit's 0.99 quantile is 0 and its masks
  at this usual threshold are all pixels where it is active. Its units of the kind ``nothing`` are random directions of
  the trunk. They are *not* units that detect nothing: formulas such as "black or brown or red" correlate with them.
- ``planted-2``: other concepts, of which some cover up to 6%, other conjunctions and other pairs, of which half join a
  conjunction to a thing. Its units of the kind ``nothing`` are noise: blobs at random places in a random few images,
  drawn by a checksum of the image, so that they are a function of the image but independent of what it shows.
- ``planted-rotated``: ``planted`` with the channels of the layer ``units`` mixed by a random orthogonal matrix: its
  neurons mean little, and the rows of the inverse matrix are directions with the planted meanings. The unmixed units
  are the layer ``units.concepts``.

What each unit detects was measured, and is kept in ``data/diorama/networks/<name>.json``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import conv2d

from milan.diorama.scene_classifiers import MEAN, STD
from milan.diorama.segmenter_network import CLASS_NAMES, SceneSegmenter, count_classes, load_scene_segmenter
from milan.errors import MissingEvidence
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit

PlantedKind = Literal["single", "conjunction", "either", "nothing"]
LAYER = "units"
ROTATED_NETWORK = "planted-rotated"
# Of it: the layer of the units before they are mixed.
UNMIXED_LAYER = "units.concepts"
ROTATION_SEED = 0
CLASSES = sum(map(count_classes, CLASS_NAMES))
PROBABILITY_EPSILON = 1e-7  # distance from 0 and 1 at which 32 bits still hold a probability
PLANTED_NETWORKS = ("planted", "planted-2")
NOISE_PRIME = 2**31 - 1
# Noise is a blob whose peak is NOISE_GAIN times a strength of MIN_STRENGTH to 1, cut off below NOISE_CUT.
NOISE_GAIN, MIN_STRENGTH, NOISE_CUT = 10.0, 0.3, 0.2


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
    """Units built from concepts, then units of random directions, then units of noise.

    Attributes:
        members: 0 or 1, (terms, 161): which classes of the segmenter make up a term.
        joins: 0 or 1, (parts, terms): which terms must hold at once in a part.
        thresholds: (parts): log-odds above which a part is active.
        gains: (parts): activation per log-odds above the threshold.
        choices: (units, 2): the two parts of which a unit has the maximum; twice the same one for most.
        directions: (nothings, 48): directions of the trunk.
        offsets: (nothings): biases of the directions.
        noise: (noises, 2): the share of images in which a noise unit is active, and the radius of its blobs in pixels;
            empty if the recipe has none.
    """

    members: Tensor
    joins: Tensor
    thresholds: Tensor
    gains: Tensor
    choices: Tensor
    directions: Tensor
    offsets: Tensor
    noise: Tensor

    def __init__(self, recipe: dict[str, Tensor]):
        super().__init__()
        self.register_buffer("noise", recipe.get("noise", torch.zeros(0, 2)).clone())
        for name in ("members", "joins", "thresholds", "gains", "choices", "directions", "offsets"):
            self.register_buffer(name, recipe[name].clone())

    def forward(
        self, trunk: Tensor, logits: dict[str, Tensor], images: Float[Tensor, "b 3 h w"] | None = None
    ) -> Float[Tensor, "b units h w"]:
        """Return the units' maps; units of noise need the images."""
        odds = compute_log_odds(logits, self.members, self.joins)
        parts = ((odds - self.thresholds[:, None, None]) * self.gains[:, None, None]).relu()
        known = torch.maximum(parts[:, self.choices[:, 0]], parts[:, self.choices[:, 1]])
        units = [known]
        if len(self.directions):
            units.append(conv2d(trunk, self.directions[:, :, None, None], self.offsets).relu())
        if images is not None and len(self.noise):
            units.append(make_noise(images, self.noise))
        return torch.cat(units, dim=1)


def make_noise(images: Float[Tensor, "b 3 h w"], settings: Float[Tensor, "noises 2"]) -> Float[Tensor, "b noises h w"]:
    """Return blobs at random places of random images: a function of the image that its content does not determine.

    Args:
        images: normalized by Diorama's mean and standard deviation.
        settings: of each unit the share of images with a blob, and the blobs' radius in pixels.
    """
    height, width = images.shape[-2:]
    strength, across, down = _draw_blobs(images, settings[:, 0])
    rows = torch.arange(height, device=images.device) - (down * height)[..., None]
    columns = torch.arange(width, device=images.device) - (across * width)[..., None]
    distance = rows.square()[..., :, None] + columns.square()[..., None, :]
    blobs = strength[..., None, None] * torch.exp(-distance / (2 * settings[:, 1, None, None] ** 2))
    return NOISE_GAIN * (blobs - NOISE_CUT).relu()


def _draw_blobs(images: Tensor, rates: Float[Tensor, " noises"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return strengths (0 for no blob), and places across and down as shares of the image, each (b, noises)."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    pixels = ((images.float() * std + mean) * 255).round().long().flatten(1)
    places = torch.arange(pixels.shape[1], device=images.device)
    checksums = (pixels * (places * 2_654_435_761 % NOISE_PRIME)).sum(1) % NOISE_PRIME
    numbers = np.random.default_rng(0).integers(1, NOISE_PRIME, (2, len(rates), 4))
    factors, offsets = torch.from_numpy(numbers).to(images.device)
    draws = ((checksums[:, None, None] * factors + offsets) % NOISE_PRIME).double() / NOISE_PRIME
    is_on, strength, across, down = draws.float().unbind(2)
    strength = MIN_STRENGTH + (1 - MIN_STRENGTH) * strength
    return strength * (is_on < rates), across, down


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

    def forward(
        self, trunk: Tensor, logits: dict[str, Tensor], images: Float[Tensor, "b 3 h w"] | None = None
    ) -> Float[Tensor, "b units h w"]:
        """Return the rotated maps of the concept units."""
        return conv2d(self.concepts(trunk, logits, images), self.rotation[:, :, None, None])


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
        """Return the maximum of each unit over each image."""
        trunk, setting = self.segmenter.forward_features(images)
        return self.units(trunk, self.segmenter.forward_heads(trunk, setting), images).amax(dim=(2, 3))


def load_planted_network(folder: Path | None = None, weights: bool = True, *, name: str = "planted") -> PlantedNetwork:
    """Return a planted network in evaluation mode.

    Args:
        folder: the folder that holds ``networks`` and ``segmenter``; by default the package's ``data/diorama``.
        weights: whether the segmenter has its trained weights, or else random ones.
        name: one of PLANTED_NETWORKS, or ROTATED_NETWORK.

    Raises:
        MissingEvidence: the network was not built.
    """
    home = folder or locate_packaged_data("data") / "diorama"
    recipe = _require_file(home, f"{'planted' if name == ROTATED_NETWORK else name}.safetensors")
    segmenter = load_scene_segmenter(home) if weights else None
    tensors = {part: value if part == "choices" else value.float() for part, value in load_file(recipe).items()}
    return PlantedNetwork(tensors, segmenter, is_rotated=name == ROTATED_NETWORK).eval()


def load_planted_truth(folder: Path | None = None, *, name: str = "planted") -> dict[Unit, PlantedUnitTruth]:
    """Return what each unit of a planted network detects, measured over 2,000 scenes of the probe ``diorama:objects``.

    Args:
        folder: as for ``load_planted_network``.
        name: one of PLANTED_NETWORKS.

    Raises:
        MissingEvidence: the network was not built.
    """
    home = folder or locate_packaged_data("data") / "diorama"
    facts = json.loads(_require_file(home, f"{name}.json").read_text())
    return {Unit(LAYER, each.pop("unit")): _parse_truth(each) for each in facts["truth"]}


def _parse_truth(each: dict[str, Any]) -> PlantedUnitTruth:
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in each.items()}
    return PlantedUnitTruth(**facts)


def _require_file(home: Path, file: str) -> Path:
    path = home / "networks" / file
    if not path.is_file():
        command = f"python -m milan.diorama build --only {path.stem}"
        raise MissingEvidence(f"no file of the planted network at {path}; make it with: {command}")
    return path

"""Detection, fuzzing and intruder scores: what a judge can tell of a unit's examples, with its description or without.

They carry the scores of language-model interpretability (Paulo et al. 2024, "Automatically Interpreting Millions of
Features in Large Language Models"; the code is delphi) over to images. Examples are drawn over the whole range of a
unit's activation, not only from its strongest images; half of the inactive ones look like the active ones.

- Detection: the judge rates how well the description fits each image. The score is the AUROC of active against
  inactive images; 0.5 is chance.
- Fuzzing: the judge rates two regions of each active image: the one that activates the unit, and one of another
  example's shape where the unit is least active. The score is the share of images in which the first is rated higher;
  ties count half, and 0.5 is chance.
- Intruder: the judge, without a description, is shown some active images and an inactive one, and names the one that
  does not belong. The score is the share found; it is high where the unit has one meaning that the judge sees.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from milan.dissection.dissection import Dissection
from milan.dissection.forward_blocks import BlockOutputs, map_blocks
from milan.probes import Probe
from milan.scores.generated_image_scores import painted_auc
from milan.targets.preprocessing import height_width
from milan.targets.target import Target
from milan.units import Unit

ACTIVE_SHARE = 0.2  # of the images: the strongest, from which active examples are drawn
MIN_ACTIVE = 0.05  # of the unit's largest activation: weaker images are not called active
BANDS = 5  # parts of equal size of the active images, from the weakest to the strongest, drawn from alike
REGION_SHARE = 0.1  # of an image's pixels: the region that activates the unit
INTRUDER_GROUP = 4  # active images that an intruder is hidden among
BATCH = 16


@dataclass(frozen=True, eq=False)
class UnitExamples:
    """Images on which a unit is active or inactive, as rows of a probe.

    Attributes:
        unit: the unit.
        active: from the weakest band to the strongest.
        bands: of each active image, the band of activation, 0 the weakest.
        inactive: as many images whose activation is at most the median; the first half look like the active ones.
        regions: of each active image, the pixels of REGION_SHARE where the activation is largest; empty for a layer
            without a grid.
        wrong_regions: of each, the region of another active image over which the activation is least in this one.
    """

    unit: Unit
    active: Int[np.ndarray, " n"]
    bands: Int[np.ndarray, " n"]
    inactive: Int[np.ndarray, " m"]
    regions: Bool[Tensor, "k 1 height width"]
    wrong_regions: Bool[Tensor, "k 1 height width"]


def select_examples(
    activations: Float[np.ndarray, " images"],
    likeness: Float[np.ndarray, "images features"] | None,
    count: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Return the rows of active images, their bands, and the rows of inactive images.

    Args:
        activations: of the unit on each image; NaN for images that could not be read.
        likeness: embeddings of the images, of which those nearest to the active ones' mean give half of the inactive
            images; None to draw all of them at random.
        count: of active images, and of inactive ones; fewer where the unit is active on fewer.
        rng: draws images.

    >>> values = np.arange(100.0)
    >>> active, bands, inactive = select_examples(values, None, 10, np.random.default_rng(0))
    >>> bool(values[active].min() >= 80), bands.tolist(), bool(values[inactive].max() <= 49.5)
    (True, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], True)
    """
    rows = np.flatnonzero(np.isfinite(activations))
    values = activations[rows]
    order = rows[np.argsort(values, kind="stable")]
    is_active = activations[order] > MIN_ACTIVE * max(values.max(initial=0.0), 0.0)
    is_active[: len(order) - max(BANDS, round(ACTIVE_SHARE * len(order)))] = False
    pool = order[is_active]
    parts = [part for part in np.array_split(pool, BANDS) if len(part)]
    drawn = [rng.choice(part, min(len(part), -(-count // BANDS)), replace=False) for part in parts]
    active = np.concatenate([*drawn, pool[:0]])[:count]
    bands = np.repeat(np.arange(len(drawn)), [len(part) for part in drawn])[:count]
    quiet = rows[values <= np.median(values)] if len(rows) else rows
    quiet = np.setdiff1d(quiet, pool)
    random = rng.permutation(quiet)
    if likeness is not None and len(active):
        nearest = quiet[np.argsort(-likeness[quiet] @ likeness[active].mean(0), kind="stable")][: len(active) // 2]
        random = np.concatenate([nearest, random[~np.isin(random, nearest)]])
    return active, bands, random[: len(active)]


def draw_examples(
    target: Target,
    probe: Probe,
    dissection: Dissection,
    units: Sequence[Unit],
    *,
    count: int = 10,
    likeness: Float[np.ndarray, "images features"] | None = None,
    seed: int = 0,
) -> dict[Unit, UnitExamples]:
    """Draw the examples of units of one layer, and compute their regions; the target runs once on each drawn image.

    Args:
        target: the network.
        probe: the images of the dissection.
        dissection: states the activation of each unit on each image.
        units: units of its layer; units that are active on no image are left out.
        count: of active images of each unit, and of inactive ones.
        likeness: see ``select_examples``.
        seed: of the draw, with the unit's index, so that a unit's examples do not depend on the other units.
    """
    drawn = {}
    for some, values in dissection.iter_activations("max", units):
        for unit, column in zip(some, values.T.numpy(), strict=True):
            found = select_examples(column, likeness, count, np.random.default_rng([seed, unit.index]))
            if len(found[0]) > 1 and len(found[2]):
                drawn[unit] = found
    maps = _collect_maps(target, probe, dissection.layer, {unit: found[0] for unit, found in drawn.items()})
    size = height_width(probe.size)
    examples = {}
    for unit, (active, bands, inactive) in drawn.items():
        right, wrong = make_regions(torch.stack([maps[unit, row] for row in active.tolist()]), size)
        examples[unit] = UnitExamples(unit, active, bands, inactive, right, wrong)
    return examples


def _collect_maps(
    target: Target, probe: Probe, layer: str, rows: Mapping[Unit, Int[np.ndarray, " n"]]
) -> dict[tuple[Unit, int], Float[Tensor, "h w"]]:
    """Return the activation map of each unit on each of its images."""
    units_by_row: dict[int, list[Unit]] = {}
    for unit, own in rows.items():
        for row in own.tolist():
            units_by_row.setdefault(row, []).append(unit)
    name = target.layer(layer).name

    def batches() -> Iterator[tuple[Int[Tensor, " b"], Tensor]]:
        order = sorted(units_by_row)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            yield torch.tensor(part), torch.stack([probe.input(row) for row in part])

    def select(seen: BlockOutputs) -> dict[tuple[Unit, int], Tensor]:
        maps = seen.maps[name]
        return {
            (unit, row): maps[place, unit.index].float().cpu()
            for place, row in enumerate(seen.ids.tolist())
            for unit in units_by_row[row]
        }

    found: dict[tuple[Unit, int], Tensor] = {}
    for part in map_blocks(target, [name], batches(), select):
        found |= part
    return found


def make_regions(
    maps: Float[Tensor, "n h w"], size: tuple[int, int]
) -> tuple[Bool[Tensor, "k 1 height width"], Bool[Tensor, "k 1 height width"]]:
    """Return the region of each image that activates the unit, and a wrong one; none for maps of a single place."""
    if maps.shape[-2:] == (1, 1):
        return (torch.zeros(0, 1, *size, dtype=torch.bool),) * 2
    large = interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False).flatten(1)
    strongest = large.topk(max(1, round(REGION_SHARE * large.shape[1])), dim=1).indices
    right = torch.zeros_like(large, dtype=torch.bool).scatter_(1, strongest, True)
    inside = large @ right.float().T  # of each image under each region
    wrong = right[inside.fill_diagonal_(torch.inf).argmin(1)]
    return right.view(-1, 1, *size), wrong.view(-1, 1, *size)


@dataclass(frozen=True)
class ExampleScores:
    """The scores of one description, each 0..1 and NaN where it is not defined.

    Attributes:
        detection: AUROC of the ratings of active against inactive images.
        fuzzing: share of active images whose right region is rated above the wrong one.
        by_band: the detection score of each band of activation, from the weakest.
    """

    detection: float
    fuzzing: float
    by_band: tuple[float, ...]


def compute_example_scores(
    examples: UnitExamples,
    active: Float[np.ndarray, " n"],
    inactive: Float[np.ndarray, " m"],
    right: Float[np.ndarray, " k"],
    wrong: Float[np.ndarray, " k"],
) -> ExampleScores:
    """Return the scores of a judge's ratings of a unit's active and inactive images, and right and wrong regions."""
    by_band = [
        painted_auc(active[examples.bands == band], inactive) if (examples.bands == band).any() else float("nan")
        for band in range(BANDS)
    ]
    fuzzing = float(np.mean((right > wrong) + 0.5 * (right == wrong))) if len(right) else float("nan")
    return ExampleScores(painted_auc(active, inactive), fuzzing, tuple(by_band))


def make_intruder_groups(
    examples: UnitExamples, rng: np.random.Generator
) -> list[tuple[Int[np.ndarray, " group"], int]]:
    """Return groups of INTRUDER_GROUP active rows and one inactive row, shuffled, with the place of the intruder.

    >>> rows = np.arange(10)
    >>> nothing = torch.zeros(0, 1, 2, 2, dtype=torch.bool)
    >>> examples = UnitExamples(Unit("layer", 0), rows, rows // 2, rows + 10, nothing, nothing)
    >>> groups = make_intruder_groups(examples, np.random.default_rng(0))
    >>> len(groups), all(group[place] >= 10 for group, place in groups)
    (2, True)
    """
    order = rng.permutation(len(examples.active))
    groups = []
    for number in range(len(order) // INTRUDER_GROUP):
        own = examples.active[order[number * INTRUDER_GROUP : (number + 1) * INTRUDER_GROUP]]
        group = rng.permutation(np.append(own, examples.inactive[number % len(examples.inactive)]))
        place = int(np.flatnonzero(group == examples.inactive[number % len(examples.inactive)])[0])
        groups.append((group, place))
    return groups

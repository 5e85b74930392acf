"""Search for units by an image: those that it activates unusually strongly, and where."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from milan.dissection.dissection import Dissection
from milan.dissection.masks import masks_from_maps
from milan.errors import BadInput, MissingEvidence
from milan.probes.image_decoding import UnreadableImage, decode_image
from milan.results.search import DEFAULT_COUNT, FoundUnit, SearchedRun, list_units
from milan.targets.generator_target import GeneratorTarget
from milan.targets.hooks import recorded
from milan.targets.target import Target
from milan.units import Exemplars

PICTURE_ID = -1  # row in the probe of a picture that is not in it


def find_by_image(image: Path | str, runs: Sequence[SearchedRun], *, count: int = DEFAULT_COUNT) -> list[FoundUnit]:
    """Return the units that an image activates unusually strongly, with the region where they are active.

    Units are ranked by the percentage of the probe's images that activate them less; ties by how far the activation
    lies above the unit's median, relative to the distance of its largest activation from its median.

    Args:
        image: a picture file of any size.
        runs: the described networks, each with its dissections.
        count: the number of units to return.

    Raises:
        BadInput: the file is not a readable picture, or ``count`` is not positive.
        MissingEvidence: a run has no dissection, or its network cannot be loaded again.
    """
    list_units(runs, count)
    found = [each for run in runs for each in _find_active_units(Path(image), run)]
    return sorted(found, key=lambda each: (-each.parts["percentile"], -each.score, each.run, each.unit))[:count]


def _find_active_units(image: Path, run: SearchedRun) -> list[FoundUnit]:
    if not run.dissections:
        raise MissingEvidence(f"{run.name} has no dissection, so its network is not known; give the folder of a run")
    target = next(iter(run.dissections.values())).open_target()
    if isinstance(target, GeneratorTarget):
        raise BadInput(f"{run.name} is of {target.name}, which generates pictures; search it with a text")
    pixels = _read_picture(image, target)
    maps: dict[str, Tensor] = {}

    def keep(layer: str, values: Tensor, cls: Tensor | None) -> None:
        maps[layer] = values[0].float().cpu()

    with recorded(target, list(run.dissections), keep) as look:
        look(target.make_input(torch.tensor([PICTURE_ID]), pixels[None]))
    return [
        each
        for layer, dissection in run.dissections.items()
        for each in _rate_layer(pixels, maps[layer], dissection, run)
    ]


def _read_picture(image: Path, target: Target) -> UInt8[Tensor, "3 height width"]:
    try:
        return torch.from_numpy(target.preprocessing.pixels(decode_image(image.expanduser())))
    except UnreadableImage as error:
        raise BadInput(f"cannot read the picture {image}: {error}; give a picture file") from None


def _rate_layer(
    pixels: UInt8[Tensor, "3 height width"],
    maps: Float[Tensor, "units h w"],
    dissection: Dissection,
    run: SearchedRun,
) -> list[FoundUnit]:
    thresholds, found = dissection.thresholds(), []
    columns = (
        (unit, column)
        for some, values in dissection.iter_activations("max")
        for unit, column in zip(some, values.T.numpy(), strict=True)
    )
    for unit, peaks in columns:
        row, own = dissection.row_of(unit), maps[unit.index]
        peaks, peak = peaks[np.isfinite(peaks)], float(own.max())
        if dissection.status[unit] not in ("ok", "sparse") or not len(peaks) or not math.isfinite(peak):
            continue
        middle, top = float(np.median(peaks)), float(peaks.max())
        mask = masks_from_maps(own[None], float(thresholds[row]), dissection.image_size)
        picture = Exemplars(unit, pixels[None], mask[:, None], torch.tensor([peak]), torch.tensor([PICTURE_ID]))
        parts = {"percentile": 100 * float((peaks < peak).mean()), "activation": peak}
        score = (peak - middle) / (top - middle) if top > middle else 0.0
        found.append(FoundUnit(run.name, unit, run.texts.get(unit, ""), score, parts, picture))
    return found

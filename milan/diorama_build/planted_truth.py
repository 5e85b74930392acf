"""Plants the units of ``planted`` and ``planted-2`` and measures what each of them detects, by dissecting it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.planted_network import LAYER, load_planted_network
from milan.diorama.scene_classifiers import IMAGE_SIZE, MEAN, STD
from milan.diorama.text_reader import parse_description
from milan.diorama_build.planted_units import PlantedUnitSpec, plant_units
from milan.diorama_build.second_planting import plant_second_units
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.masks import iter_unit_masks
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import DioramaLabels
from milan.storage.files import atomic_write
from milan.targets.target import Target
from milan.units import Unit

PROBE, SCENES, QUANTILE = "diorama:objects", 2_000, 0.99
NOTHING = PlantedUnitSpec("nothing", (), (), "")


def build_planted(data: Path, work: Path, seed: int, name: str = "planted") -> dict[str, float]:
    """Write ``networks/<name>.safetensors`` and ``networks/<name>.json``; return each kind's mean IoU."""
    plant = plant_units if name == "planted" else plant_second_units
    facts = measure_units(plant(data, work, seed=seed), data, work, name=name)
    with atomic_write(data / "networks" / f"{name}.json") as path:
        # One unit per line.
        truth = ",\n".join(json.dumps(each) for each in facts.pop("truth"))
        path.write_text(json.dumps({**facts, "seed": seed}, indent=1)[:-2] + f',\n "truth": [\n{truth}\n ]\n}}\n')
    return dict(facts["mean_iou"])


def measure_units(
    chosen: Sequence[PlantedUnitSpec], data: Path, work: Path, scenes: int = SCENES, name: str = "planted"
) -> dict[str, Any]:
    """Return what each unit detects over scenes of the probe: the content of ``<name>.json``."""
    network = load_planted_network(data, name=name)
    target = Target(network, name=name, image_size=IMAGE_SIZE, mean=MEAN, std=STD)
    probe = load_probe(PROBE, limit=scenes)
    dissection = dissect(target, probe, [LAYER], work / "dissections" / name, quantile=QUANTILE)[LAYER]
    signatures = DioramaLabels(probe, work).signatures
    silent = torch.zeros(len(dissection.units))
    counts = [
        _count_pixels_above(levels, target, probe, signatures).toarray() for levels in (dissection.thresholds(), silent)
    ]
    choices = [*chosen, *[NOTHING] * (len(dissection.units) - len(chosen))]
    units = [
        _collect_facts(unit, choice, dissection, signatures, [rows[place] for rows in counts])
        for place, (unit, choice) in enumerate(zip(dissection.units, choices, strict=True))
    ]
    kinds = dict.fromkeys(each["kind"] for each in units)
    return {"network": name, "units": {LAYER: len(units)}, "probe": PROBE, "scenes": scenes, "quantile": QUANTILE,
            "mean_iou": {kind: _mean_of_kind(units, kind, "iou") for kind in kinds},
            "mean_iou_own_area": {kind: _mean_of_kind(units, kind, "iou_own_area") for kind in kinds},
            "truth": units}  # fmt: skip


def _count_pixels_above(levels: Tensor, target: Target, probe: Probe, signatures: LabelSignatures) -> sparse.csr_matrix:
    """Return how many pixels of each signature each unit is active on above its level, (units, signatures)."""
    masks = iter_unit_masks(target, probe, LAYER, levels)
    return sum(
        (signatures.count_pixels(ids.numpy(), inside.numpy()) for ids, inside in masks),
        sparse.csr_matrix((len(levels), len(signatures.table))),
    )


def _compute_iou(counts: np.ndarray, signatures: LabelSignatures, text: str) -> float:
    """Return the IoU of masks with what a text denotes, or with the best concept if it is empty."""
    where = signatures.text_mask(parse_description(text))[:, None] if text else signatures.has_concept.toarray() > 0
    both = counts @ where
    return float((both / np.maximum(1, counts.sum() + signatures.area @ where - both)).max())


def _collect_facts(
    unit: Unit,
    choice: PlantedUnitSpec,
    dissection: Dissection,
    signatures: LabelSignatures,
    counts: Sequence[np.ndarray],
) -> dict[str, Any]:
    overlaps = [_compute_iou(each, signatures, choice.text) for each in counts]
    share = (
        signatures.area[signatures.text_mask(parse_description(choice.text))].sum() / signatures.area.sum()
        if choice.text
        else 0.0
    )
    halves = _measure_halves(dissection.exemplars(unit), choice, signatures) if choice.kind == "either" else []
    return {"unit": unit.index, "kind": choice.kind, "concepts": list(choice.names), "text": choice.text,
            "iou": round(overlaps[0], 4), "iou_own_area": round(overlaps[1], 4), "area": round(float(share), 5),
            **({"halves": halves} if halves else {})}  # fmt: skip


def _measure_halves(exemplars: Any, choice: PlantedUnitSpec, signatures: LabelSignatures) -> list[float]:
    """Return the share of the exemplars' masks that shows each concept of an either-or unit."""
    inside = signatures.pixels[exemplars.ids.numpy()][exemplars.masks[:, 0].numpy()]
    return [
        round(float(signatures.text_mask(parse_description(text))[inside].mean()), 4)
        for text in choice.text.split(" or ")
    ]


def _mean_of_kind(units: Sequence[Mapping[str, Any]], kind: str, name: str) -> float:
    return round(float(np.mean([each[name] for each in units if each["kind"] == kind])), 4)

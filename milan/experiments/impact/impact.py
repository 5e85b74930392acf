"""How much of a unit's impact on its network is on the images that activate it most (Linear Explanations, Table 1)."""

from collections.abc import Sequence

import numpy as np

from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.impact.config import ImpactConfig
from milan.scores.ablation_score import SHARES, UnitImpacts, compute_impacts, compute_top_impact
from milan.scores.confidence_intervals import estimate_mean
from milan.storage.files import content_key
from milan.storage.journal import Journal
from milan.targets.unit_selection import get_default_layers

NOTES = (
    "The impact of a unit is the mean change of the network's accuracy and of its loss (the temperature calibrated on"
    " these images) when the unit is set to 0. Top Impact is the share of the sum of its absolute values that is on the"
    " images with the highest mean activation; of the last image only a part may count. For random images Top Impact"
    " would be the share of images itself.",
    "The network runs once up to the layer; the part after the layer runs again for each unit.",
)


def impact(config: ImpactConfig) -> Report:
    """Measure Top Impact of randomly sampled units, layer by layer."""
    with Study.open(config) as study:
        shares = config.top_shares or SHARES
        layers = [layer.name for layer in study.target.select_layers(config.layers or get_default_layers(study.target))]
        images = min(config.max_images, len(study.probe))
        report = study.report(
            study.target.name,
            f"{config.units_per_layer} random units of each layer, and {images:,} random images of {study.probe.spec}.",
            [_make_table(shares, {layer: _measure_layer(study, layer, config) for layer in layers}, config.seed)],
            notes=NOTES,
            facts={"images": images, "units": config.units_per_layer},
        )
        report.write(study.out)
    return report


def _make_table(shares: Sequence[float], impacts: dict[str, UnitImpacts], seed: int) -> Table:
    """Return a row for each layer."""
    names = [f"{100 * share:g}%" for share in shares]
    columns = [
        Column(name, f"Top Impact: the share of a unit's impact that is on the {name} of images with the highest"
               " activation.", "%", 2)
        for name in names
    ]  # fmt: skip
    columns += [
        Column("accuracy", "The drop of the network's accuracy without the unit, a mean over units.", "%", 3),
        Column("loss", "The growth of its loss without the unit, relative to the loss.", "%", 3),
        Column("units", "The number of sampled units that have an impact on any image."),
    ]
    rows = []
    for layer, found in impacts.items():
        top = compute_top_impact(found.impact, found.activation, shares)
        active = np.isfinite(top).all(1)
        values: dict[str, Value] = {
            name: estimate_mean(top[active, place].tolist(), seed) for place, name in enumerate(names)
        }
        values |= {name: estimate_mean(getattr(found, name).tolist(), seed) for name in ("accuracy", "loss")}
        rows.append(Row(layer, values | {"units": int(active.sum())}))
    return Table("by layer", tuple(columns), tuple(rows), "layer")


def _measure_layer(study: Study, layer: str, config: ImpactConfig) -> UnitImpacts:
    """Return the impacts of sampled units of a layer, which are kept for the next run."""
    count = study.target.layer(layer).units
    units = sorted(np.random.default_rng(config.seed).permutation(count)[: config.units_per_layer].tolist())
    rows = sorted(np.random.default_rng(config.seed).permutation(len(study.probe))[: config.max_images].tolist())
    images = study.probe.subset(rows)
    key = content_key(
        target=study.target.fingerprint, layer=layer, units=units, probe=images.fingerprint, synsets=config.synsets
    )
    with Journal(study.out / "impacts.sqlite", content_key(format=1)) as journal:
        if (kept := journal.get(key)) is None:
            impacts = compute_impacts(study.target, layer, units, images, config.synsets)
            readable = np.isfinite(impacts.impact).all(0)
            kept = {
                name: (each[:, readable] if each.ndim > 1 else each).tolist() for name, each in vars(impacts).items()
            }
            journal.put(key, kept)
    return UnitImpacts(**{name: np.array(each, dtype=np.float64) for name, each in kept.items()})

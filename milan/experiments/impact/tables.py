"""What units drawn by lot are worth to a classifier, layer by layer, and on which images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.probes import Probe
from milan.scores.ablation_score import UnitImpacts, compute_impacts, compute_top_impact
from milan.scores.confidence_intervals import estimate_mean
from milan.storage.files import Journal, collect_versions, content_key
from milan.targets.target import Target

NOTES = (
    (
        "Impact: the mean of how much of the network's accuracy and of its loss (its temperature calibrated on these"
        " images) changes when the unit is put to 0. Top Impact is the share of its absolute sum on the images with the"
        " highest mean activation; a part of an image counts in part. By lot it is the share of images itself."
    ),
    "The network is run once as far as the layer; what comes after it is run again for each unit.",
)


@dataclass(frozen=True)
class ImpactMeasurement:
    """Which units and images are drawn, and what of.

    Attributes:
        units: of each layer.
        images: of the probe.
        shares: of the images, those with the highest activation.
        synsets: which output is which class, see ``milan.probes.superclasses.match_outputs``.
        seed: of lots and intervals.
    """

    target: Target
    probe: Probe
    units: int
    images: int
    shares: tuple[float, ...]
    synsets: str = ""
    seed: int = 0

    @property
    def _column_names(self) -> list[str]:
        return [f"{100 * share:g}%" for share in self.shares]

    def make_report(self, layers: Sequence[str], folder: Path) -> Report:
        """A row for each layer; what was measured is kept in ``folder``, layer by layer."""
        columns = [
            Column(
                name,
                f"Top Impact: the share of a unit's impact that is on the {name} of images that move it most.",
                "%",
                2,
            )
            for name in self._column_names
        ]
        columns += [
            Column("accuracy", "By how much the network's accuracy falls without the unit, a mean over units.", "%", 3),
            Column("loss", "By how much of itself its loss grows without it.", "%", 3),
            Column("units", "Units that matter for any image, of those drawn."),
        ]
        rows = [self._make_row(layer, folder) for layer in layers]
        table = Table("by layer", tuple(columns), tuple(rows), "layer")
        name = self.target.name
        facts = {
            "target": name, "probe": self.probe.spec, "images": min(self.images, len(self.probe)), "units": self.units,
            "seed": self.seed, "versions": collect_versions(), "warnings": get_recorded_warnings(),
        }  # fmt: skip
        lede = f"{self.units} units of each layer, drawn by lot, and {facts['images']:,} images of {self.probe.spec}."
        sources = {"target": name, "probe": self.probe.spec}
        return Report("impact", name, lede, (table,), notes=NOTES, facts=facts, sources=sources)

    def _make_row(self, layer: str, folder: Path) -> Row:
        found = self._measure_layer(layer, folder)
        top = compute_top_impact(found.impact, found.activation, self.shares)
        alive = np.isfinite(top).all(1)
        values: dict[str, Value] = {
            name: estimate_mean(top[alive, place].tolist(), self.seed) for place, name in enumerate(self._column_names)
        }
        return Row(layer, values | {
            "accuracy": estimate_mean(found.accuracy.tolist(), self.seed),
            "loss": estimate_mean(found.loss.tolist(), self.seed), "units": int(alive.sum()),
        })  # fmt: skip

    def _measure_layer(self, layer: str, folder: Path) -> UnitImpacts:
        rng = np.random.default_rng(self.seed)
        count = self.target.layer(layer).units
        units = sorted(rng.permutation(count)[: self.units].tolist())
        rows = sorted(np.random.default_rng(self.seed).permutation(len(self.probe))[: self.images].tolist())
        some = self.probe.subset(rows)
        key = content_key(
            target=self.target.fingerprint, layer=layer, units=units, probe=some.fingerprint, synsets=self.synsets
        )
        folder.mkdir(parents=True, exist_ok=True)
        with Journal(folder / "impacts.sqlite", content_key(format=1)) as journal:
            if (kept := journal.get(key)) is None:
                found = compute_impacts(self.target, layer, units, some, self.synsets)
                read = np.isfinite(found.impact).all(0)
                kept = {name: (each[:, read] if each.ndim > 1 else each).tolist() for name, each in vars(found).items()}
                journal.put(key, kept)
            return UnitImpacts(**{name: np.array(each, dtype=np.float64) for name, each in kept.items()})

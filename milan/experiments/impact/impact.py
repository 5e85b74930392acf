"""How much of what a unit is worth to its network is on the images that move it most: table 1 of Linear
Explanations.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def impact(
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str | None = None,
    synsets: str = "",
    limit: int | None = None,
    layers: list[str] | None = None,
    units: int = 20,
    images: int = 1000,
    shares: list[float] | None = None,
    out: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Measures Top Impact: the share of a unit's impact on accuracy and loss that lies on its highest activations

    Args:
        target: a classifier
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: images with labels; those of the target's own task by default
        synsets: FILE that says which class each output of the network is, where the probe does not show all of them
        limit: only the first so many images are drawn from
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, drawn by lot
        images: drawn by lot, at most
        shares: of the images, from 0 to 1, those with the highest activation; 0.0003, 0.002, 0.02, 0.1 and 0.5 by
            default, as in the paper
        out: the folder to write to; runs/impact-TARGET by default
        seed: of lots and intervals
        device: where the network runs
    """
    from milan.experiments.impact.tables import ImpactMeasurement
    from milan.probes import load_probe
    from milan.scores.ablation_score import SHARES
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_layers, get_default_probe

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("impact", network)
    seen = load_probe(probe or get_default_probe(network), target=network, limit=limit)
    with lock_folder(out):
        worth = ImpactMeasurement(network, seen, units, images, tuple(shares or SHARES), synsets, seed)
        report = worth.make_report(
            [layer.name for layer in network.select_layers(layers or get_default_layers(network))], out
        )
        report.write(out)
    return report

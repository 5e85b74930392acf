"""Any describers on one network whose truth is known: how true, exact, varied and fast they are, with ceiling and floors."""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.reporting.report import Report


def bench(
    describers: list[str],
    target: str = "diorama:planted",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str | None = None,
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    planted: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Compares describers on units whose truth is known; ceiling and floors are always beside them.

    Args:
        describers: names of describers, set as for Diorama (configs/describe/NAME-diorama.yaml), or files of options as in configs/describe
        target: a network dissected on a probe that Diorama draws, as diorama:planted or diorama:resnet-objects
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: the images; those of the target's own task by default
        limit: only the first so many images
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        out: the folder to write to; runs/bench-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        planted: a csv of what a network of yours was made to detect: layer, unit, kind (single, either, nothing, ...), text
        seed: of the intervals and of the floors
        device: where network and describers run
    """
    from milan.dissection.dissect import dissect
    from milan.errors import MissingEvidence
    from milan.experiments.comparison.standings import case_of, report_of, stage_of
    from milan.experiments.describing.entrants import describe_with, entrants_of
    from milan.page import write_sheets
    from milan.probes import load_probe
    from milan.storage import locked
    from milan.targets import load_target
    from milan.targets.choosing import default_out, own_probe, units_of
    from milan.units import Unit

    entrants = entrants_of(describers, seed, device)
    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("bench", network)
    images = load_probe(probe or own_probe(network), target=network, limit=limit)
    if not images.spec.startswith("diorama:"):
        raise MissingEvidence(f"nobody knows what is true of units on the probe {images.spec or images.name!r}; take one of Diorama's")
    chosen = units_of(network, layers or (), units)
    with locked(out):
        dissections = dissect(network, images, list(chosen), out / "dissection", k=k, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        stage = stage_of(network, dissections, wanted, planted)
        for entrant in entrants:
            describe_with(entrant, dissections, wanted, out / "describers" / entrant.name)
        report = report_of(stage, entrants, seed)
        sheets = write_sheets(dissections, stage.units, out / "page")
        report.write(out, [case_of(stage, unit, entrants) | {"sheet": sheets.get(unit)} for unit in stage.units])
    return report

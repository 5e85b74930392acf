"""Any describers on one network whose truth is known: how true, exact, varied and fast they are, with ceiling and
floors.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


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
        describers: names of describers, NAME:KEY=VALUE,..., or files of options as
            in configs/describe
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
        planted: a csv of what a network of yours was made to detect: layer, unit, kind (single, either, nothing, ...),
            text
        seed: of the intervals and of the floors
        device: where network and describers run
    """
    from milan.describers import load_describer
    from milan.dissection.dissect import dissect
    from milan.errors import MissingEvidence
    from milan.experiments.bench.tables import make_report, make_unit_view, prepare_bench
    from milan.experiments.core.evaluated_describers import load_evaluated_describers, run_describer
    from milan.probes import load_probe
    from milan.results.page import write_contact_sheets
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe, select_units
    from milan.units import Unit

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("bench", network)
    images = load_probe(probe or get_default_probe(network), target=network, limit=limit)
    if not images.spec.startswith("diorama:"):
        raise MissingEvidence(
            f"nobody knows what is true of units on the probe {images.spec or images.name!r}; take one of Diorama's"
        )
    evaluated_describers = load_evaluated_describers(describers, network, images, seed, device)
    chosen = select_units(network, layers or (), units)
    with lock_folder(out):
        dissections = dissect(network, images, list(chosen), out / "dissection", k=k, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        stage = prepare_bench(network, dissections, wanted, planted)
        for evaluated in sorted(
            evaluated_describers, key=lambda each: each.role == "floor" and each.name == "constant"
        ):
            if evaluated.role == "floor" and evaluated.name == "constant":
                # Last, since measuring what is true caches what would make other describers seem quick.
                evaluated.describer = load_describer("constant", text=stage.find_best_constant())
            run_describer(evaluated, dissections, wanted, out / "describers" / evaluated.name)
        report = make_report(stage, evaluated_describers, seed)
        sheets = write_contact_sheets(dissections, stage.units, out / "page")
        report.write(
            out,
            [make_unit_view(stage, unit, evaluated_describers) | {"sheet": sheets.get(unit)} for unit in stage.units],
        )
    return report

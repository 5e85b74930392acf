"""How many descriptions change when what should not matter does: other images, seeds, k, quantiles and a describer's
own settings.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def robustness(
    describer: str = "sand",
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str | None = None,
    others: list[str] | None = None,
    samples: int = 2,
    ks: list[int] | None = None,
    quantiles: list[float] | None = None,
    seeds: list[int] | None = None,
    vary: dict[str, list[float]] | None = None,
    embedder: str = "diorama",
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Counts the descriptions that change under another sample of the probe, seed, k, quantile, or setting such as η of
    SAND

    Args:
        describer: a name, NAME:KEY=VALUE,..., or a file of options
        target: the network
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: the images; those of the target's own task by default
        others: further images that the units are dissected on instead; PROBE@judge for Diorama's by default
        samples: halves of the probe, drawn by lot, that the units are dissected on instead
        ks: numbers of exemplars instead of k; 5, 10 and 30 by default
        quantiles: instead of the quantile; 0.98 and 0.995 by default
        seeds: of the describer, where it has one, instead of its own; 1 and 2 by default
        vary: settings of the describer and their values, as '{"eta":[0.05,0.15]}'; for a describer with eta 0.05, 0.15
            and 0.2 by default
        embedder: whose text side says how alike descriptions are
        limit: only the first so many images
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        out: the folder to write to; runs/robustness-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the halves and the intervals
        device: where network and describer run
    """
    from milan.experiments.core.evaluated_describers import load_evaluated_describer
    from milan.experiments.robustness.perturbations import RobustnessSetup, list_perturbations, make_report
    from milan.pretrained.embedder import load_embedder
    from milan.probes import load_probe
    from milan.results.page import write_contact_sheets
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe, select_units

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("robustness", network)
    spec = probe or get_default_probe(network)
    if others is None:
        others = [f"{spec}@judge"] if spec.startswith("diorama:") and "@" not in spec else []
    images = load_probe(spec, target=network, limit=limit)
    further = {name: load_probe(name, target=network, limit=limit) for name in others}
    chosen = select_units(network, layers or (), units)
    asked = load_evaluated_describer(describer, network, images, device).describer
    with lock_folder(out):
        frame = RobustnessSetup(network, images, chosen, asked, (k, quantile, seed), out)
        changes = list_perturbations(frame, further, samples, {"k": ks, "quantile": quantiles, "seed": seeds}, vary)
        report, cases = make_report(frame, changes, load_embedder(embedder, device=device), embedder)
        sheets = write_contact_sheets(frame.dissections, [case.unit for case in cases], out / "page")
        report.write(out, [case.view | {"sheet": sheets.get(case.unit)} for case in cases])
    return report

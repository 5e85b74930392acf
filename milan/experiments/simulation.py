"""How well descriptions predict their units' activations on images that no describer saw, as tables 2 and 10 of Linear Explanations."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.report import Report


def simulation(
    describers: list[str],
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    probe: str | None = None,
    simulator: str = "labels",
    calibration: str = "",
    superclasses: str = "",
    synsets: str = "",
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Scores descriptions by how well they predict activations on images that were kept from every describer

    Args:
        describers: names of describers, set as for Diorama (configs/describe/NAME-diorama.yaml), or files of options as in configs/describe
        target: the network
        weights: of the target, if not its own
        probe: the images; SPEC@learn, four fifths of them, is explained, and SPEC@judge judged; those of the target's own task by default
        simulator: labels (what the judged images' labels tell) or an image-text model as --settings.embedder takes it
        calibration: of the simulator: A,B, model, or labels; as published, else by labels, by default
        superclasses: FILE.json of the classes' superclasses, see milan.probes.superclasses
        synsets: FILE that says what the numbers in superclasses mean
        limit: only the first so many images of each part
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        out: the folder to write to; runs/simulation-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the intervals and of what is shuffled
        device: where network, describers and simulator run
    """
    from milan.dissection.dissect import dissect
    from milan.experiments.bench import own_probe
    from milan.experiments.entrants import describe_with, entrant_of
    from milan.experiments.predictions import floors, judge, report_of, told_by
    from milan.probes import load_probe
    from milan.scores.simulation import load_simulator, related
    from milan.storage import locked
    from milan.targets import load_target
    from milan.targets.choosing import choose_units, default_layers
    from milan.units import Unit

    entrants = [entrant_of(name, device) for name in describers]
    network = load_target(target, weights=weights, device=device)
    out = out or Path("runs") / f"simulation-{network.spec.replace(':', '-') or network.name}"
    spec = probe or own_probe(network)
    learnt, judged = (
        load_probe(f"{spec}@{part}", size=network.image_size, resize=network.resize, limit=limit) for part in ("learn", "judge")
    )
    chosen = choose_units(units, {layer.name: layer.units for layer in network.select(layers or default_layers(network))})
    seer = load_simulator(simulator, judged, learnt, calibration, superclasses, synsets, device)
    with locked(out):
        explained = dissect(network, learnt, list(chosen), out / "dissection", k=k, quantile=quantile)
        kept = dissect(network, judged, list(chosen), out / "judged", k=1, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        found = []
        for entrant in entrants:
            describe_with(entrant, explained, wanted, out / "describers" / entrant.name)
            one = judge(entrant.name, entrant.role, told_by(entrant), kept, seer)
            one.kin = related(simulator, entrant.describer.settings)
            found.append(one)
        found += floors(found[0], kept, seer, seed)
        report = report_of(found, network.spec or network.name, seer, learnt.spec, explained, seed)
        report.write(out)
    return report

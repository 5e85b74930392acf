"""How well descriptions predict their units' activations on images no describer saw: tables 2, 3 and 8 to 10 of Linear Explanations."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.reporting.report import Report


def simulation(
    describers: list[str] | None = None,
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    probe: str | None = None,
    simulator: str = "",
    calibration: str = "",
    superclasses: str = "",
    synsets: str = "",
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    without_search: list[int] | None = None,
    replaced: int = 16,
    replaced_layer: str = "",
    replaced_images: int = 300,
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Scores descriptions by how well they predict activations on images that were kept from every describer

    Args:
        describers: names of describers, set as for Diorama (configs/describe/NAME-diorama.yaml), files of options as in configs/describe,
            or tables of descriptions; those of the paper's tables, as they are set for Diorama, by default
        target: the network
        weights: of the target, if not its own
        probe: the images; SPEC@learn, four fifths of them, is explained, and SPEC@judge judged; those of the target's own task by default
        simulator: labels (what the judged images' labels tell) or an image-text model as --settings.embedder takes it; by default
            diorama:siglip-large on Diorama, else labels
        calibration: of the simulator: A,B, model, or labels; as published, else by labels, by default
        superclasses: FILE.json of the classes' superclasses, see milan.probes.superclasses
        synsets: FILE that says what the numbers in superclasses mean, and which class each output of the network is
        limit: only the first so many images of each part
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        without_search: how many concepts Linear Explanations name without their greedy search, for a table of it; 5 and 4 by default
        replaced: so many units, drawn by lot, are replaced by what is predicted of them, for a table of ablation scores; 0 for none
        replaced_layer: their layer; the last of the layers by default
        replaced_images: so many images are fitted on there, and as many judged, at most
        out: the folder to write to; runs/simulation-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the intervals, and of what is drawn and shuffled
        device: where network, describers and simulator run
    """
    import warnings

    from milan.describers import sources_of
    from milan.dissection.dissect import dissect
    from milan.errors import MilanWarning
    from milan.experiments.describing.entrants import describe_with, entrant_of
    from milan.experiments.prediction.activations import DESCRIBERS, Stage, told_by
    from milan.experiments.prediction.replacing import Replacing
    from milan.experiments.prediction.searching import LENGTHS, search_table
    from milan.probes import load_probe
    from milan.scores.simulation import load_simulator, related, usual_simulator
    from milan.storage import locked
    from milan.targets import load_target
    from milan.targets.choosing import own_probe, units_of
    from milan.units import Unit

    entrants = [entrant_of(name, device) for name in describers or DESCRIBERS]
    network = load_target(target, weights=weights, device=device)
    out = out or Path("runs") / f"simulation-{network.spec.replace(':', '-') or network.name}"
    spec = probe or own_probe(network)
    simulator = simulator or usual_simulator(spec)
    kin = {entrant.name: related(simulator, entrant.describer.settings) for entrant in entrants}
    for name, why in kin.items():
        if why:
            warnings.warn(
                f"{name} and the simulator {simulator}: {why}; what they get wrong together, no score sees", MilanWarning, stacklevel=2
            )
    learnt, judged = (
        load_probe(f"{spec}@{part}", size=network.image_size, resize=network.resize, limit=limit) for part in ("learn", "judge")
    )
    chosen = units_of(network, layers or (), units)
    fitting, seer = (load_simulator(simulator, each, learnt, calibration, superclasses, synsets, device) for each in (learnt, judged))
    with locked(out):
        explained = dissect(network, learnt, list(chosen), out / "dissection", k=k, quantile=quantile)
        kept = dissect(network, judged, list(chosen), out / "judged", k=1, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        stage = Stage(network.spec or network.name, explained, kept, seer, seed)
        found = []
        for entrant in entrants:
            describe_with(entrant, explained, wanted, out / "describers" / entrant.name)
            one = stage.judge(entrant.name, entrant.role, told_by(entrant))
            one.kin = kin[entrant.name]
            found.append(one)
        found += stage.floors(found)
        lengths = LENGTHS if without_search is None else without_search
        more = search_table(stage, list(zip(entrants, found, strict=False)), wanted, lengths, out / "describers")
        sources = sources_of(explained.values(), {entrant.name: entrant.describer for entrant in entrants})
        replacing = Replacing(network, replaced_layer or list(chosen)[-1], replaced, replaced_images, synsets, seed)
        tables, notes = replacing.tables(found, fitting, seer)
        report = stage.report(found, [*more, *tables], sources, notes)
        report.write(out)
    return report

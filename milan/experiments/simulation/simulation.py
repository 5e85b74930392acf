"""How well descriptions predict their units' activations on images no describer saw: tables 2, 3 and 8 to 10 of Linear
Explanations.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def simulation(
    describers: list[str] | None = None,
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
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
        describers: names of describers, NAME:KEY=VALUE,..., files of options as in
            configs/describe, or tables of descriptions; those of the paper's tables, as they are set for Diorama, by
            default
        target: the network
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: the images; SPEC@learn, four fifths of them, is explained, and SPEC@judge judged; those of the target's
            own task by default
        simulator: labels (what the judged images' labels tell) or an image-text model as --settings.embedder takes it;
            by default diorama:siglip-large on Diorama, else labels
        calibration: of the simulator: A,B, model, or labels; as published, else by labels, by default
        superclasses: FILE.json of the classes' superclasses, see milan.probes.superclasses
        synsets: FILE that says what the numbers in superclasses mean, and which class each output of the network is
        limit: only the first so many images of each part
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        without_search: how many concepts Linear Explanations name without their greedy search, for a table of it; 5 and
            4 by default
        replaced: so many units, drawn by lot, are replaced by what is predicted of them, for a table of ablation
            scores; 0 for none
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
    from milan.experiments.core.evaluated_describers import load_evaluated_describer, run_describer
    from milan.experiments.simulation.search_ablation import PAPER_LENGTHS, make_search_table
    from milan.experiments.simulation.tables import DEFAULT_DESCRIBERS, SimulationSetup, list_descriptions
    from milan.experiments.simulation.unit_replacement import UnitReplacement
    from milan.probes import load_probe
    from milan.scores.activation_simulation import choose_simulator, find_shared_source, load_simulator
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe, select_units
    from milan.units import Unit

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("simulation", network)
    spec = probe or get_default_probe(network)
    simulator = simulator or choose_simulator(spec)
    learnt, judge_dissections = (
        load_probe(f"{spec}@{part}", target=network, limit=limit) for part in ("learn", "judge")
    )
    evaluated_describers = [
        load_evaluated_describer(name, network, learnt, device) for name in describers or DEFAULT_DESCRIBERS
    ]
    shared_source = {
        evaluated.name: find_shared_source(simulator, evaluated.describer.settings)
        for evaluated in evaluated_describers
    }
    for name, why in shared_source.items():
        if why:
            warnings.warn(
                f"{name} and the simulator {simulator}: {why}; what they get wrong together, no score sees",
                MilanWarning,
                stacklevel=2,
            )
    chosen = select_units(network, layers or (), units)
    fitting, judge_simulator = (
        load_simulator(simulator, each, learnt, calibration, superclasses, synsets, device)
        for each in (learnt, judge_dissections)
    )
    with lock_folder(out):
        explained = dissect(network, learnt, list(chosen), out / "dissection", k=k, quantile=quantile)
        kept = dissect(network, judge_dissections, list(chosen), out / "judged", k=1, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        stage = SimulationSetup(network.name, explained, kept, judge_simulator, seed)
        found = []
        for evaluated in evaluated_describers:
            run_describer(evaluated, explained, wanted, out / "describers" / evaluated.name)
            one = stage.score_describer(evaluated.name, evaluated.role, list_descriptions(evaluated))
            one.shared_source = shared_source[evaluated.name]
            found.append(one)
        found += stage.score_floors(found)
        lengths = PAPER_LENGTHS if without_search is None else without_search
        more = make_search_table(
            stage, list(zip(evaluated_describers, found, strict=False)), wanted, lengths, out / "describers"
        )
        sources = sources_of(
            explained.values(), {evaluated.name: evaluated.describer for evaluated in evaluated_describers}
        )
        replacing = UnitReplacement(
            network, replaced_layer or list(chosen)[-1], replaced, replaced_images, synsets, seed
        )
        tables, notes = replacing.make_tables(found, fitting, judge_simulator)
        report = stage.make_report(found, [*more, *tables], sources, notes)
        report.write(out)
    return report

"""How well descriptions predict their units' activations on images that no describer saw, as tables 2 and 10 of Linear Explanations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    import numpy as np

    from milan.dissection.store import Dissection
    from milan.experiments.entrants import Entrant
    from milan.experiments.report import Report, Row
    from milan.scores.simulation import Simulator
    from milan.units import Description

FLOORS = ("shuffled", "constant")
SPREAD = "in standard deviations of the description's predictions"


@dataclass
class _Judged:
    """One describer's explanations of all layers, what they score, and how long that took."""

    name: str
    role: str
    said: "list[Description]" = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    bands: "list[np.ndarray]" = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kin: str = ""


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
            one = _judge(entrant.name, entrant.role, _told(entrant), kept, seer)
            one.kin = related(simulator, entrant.describer.settings)
            found.append(one)
        found += _floors(found[0], kept, seer, seed)
        report = _report(found, network.spec or network.name, seer, learnt.spec, explained, seed)
        report.write(out)
    return report


def _told(entrant: "Entrant") -> "list[Description]":
    return [entry.description for entry in entrant.entries if entry.description is not None]


def _judge(name: str, role: str, said: "Sequence[Description]", kept: "Mapping[str, Dissection]", seer: "Simulator") -> _Judged:
    import time

    from milan.scores.simulation import simulate

    one = _Judged(name, role)
    for layer, dissection in kept.items():
        here = [each for each in said if each.unit.layer == layer]
        if not here:
            continue
        seer.presence(
            sorted({text for each in here for text, _ in each.concepts or ((each.text, 1.0),)})
        )  # what is encoded once is not timed
        start = time.monotonic()
        activation = dissection.activations("mean")[:, [dissection.row(each.unit) for each in here]].numpy()
        simulated = simulate(activation, here, seer)
        one.seconds += time.monotonic() - start
        one.said += here
        one.layers += [layer] * len(here)
        one.bands += list(simulated.bands)
        for metric, values in simulated.scores.items():
            one.scores.setdefault(metric, []).extend(values.tolist())
    return one


def _floors(first: _Judged, kept: "Mapping[str, Dissection]", seer: "Simulator", seed: int) -> list[_Judged]:
    """The first describer's explanations dealt to other units of the layer, and the commonest of them for every unit."""
    from collections import Counter
    from dataclasses import replace

    import numpy as np

    dice = np.random.default_rng(seed)
    dealt, same = [], []
    for layer in dict.fromkeys(first.layers):
        here = [each for each in first.said if each.unit.layer == layer]
        order = np.roll(cycle := dice.permutation(len(here)), 1)
        dealt += [replace(here[other], unit=here[own].unit) for own, other in zip(cycle, order, strict=True)]
        common = Counter(each.text for each in here).most_common(1)[0][0]
        model = next(each for each in here if each.text == common)
        same += [replace(model, unit=each.unit) for each in here]
    return [_judge(name, "floor", said, kept, seer) for name, said in zip(FLOORS, (dealt, same), strict=True)]


def _report(
    found: Sequence[_Judged], target: str, seer: "Simulator", probe: str, explained: "Mapping[str, Dissection]", seed: int
) -> "Report":
    from milan.command import warnings_so_far
    from milan.experiments.report import Column, Report, Table
    from milan.scores.simulation import BANDS, TRUSTED
    from milan.storage import versions

    texts = {
        "correlation": "Pearson's correlation of what the description predicts with the unit's mean activation.",
        "cosine": "The cosine of the two.",
        "auprc": "Average precision of the prediction for the 5% of images that move the unit most; by lot 0.05.",
        "f1": "F1 of predicting these images, a prediction counting as yes above the middle of what the description can predict.",
        "iou": "Images predicted and firing, of those that are either.",
    }
    columns = [Column(name, texts[name], "", 3, "more") for name in TRUSTED]
    columns += [
        Column("concepts", "The mean number of concepts in a description."),
        Column("described", "How many units have a description."),
        Column("distinct", "How many different descriptions there are."),
        Column("time", "Wall-clock time to score a unit, beyond encoding the distinct texts and images once.", "s", 5),
    ]
    whole = Table("all units", tuple(columns), tuple(_row(one, seed) for one in found))
    layers = Table(
        "by layer",
        tuple(Column(layer, "The mean correlation over the layer's units.", "", 3, "more") for layer in explained),
        tuple(_by_layer(one, seed) for one in found),
    )
    names = [f"{100 * low:g} to {100 * high:g}%" for low, high in BANDS]
    banded = Table(
        "by activation",
        tuple(
            Column(name, "The mean prediction on these images, in standard deviations of the description's predictions.", "", 2)
            for name in names
        ),
        tuple(_by_band(one, names, seed) for one in found),
    )
    kin = [f"{one.name}: {one.kin}, so its figures may be too high." for one in found if one.kin]
    notes = (
        f"Explained from {probe}, judged on {seer.judged.spec}: no describer, split or calibration has looked at the judged images.",
        f"Simulator: {seer.spec}. A description that never varies on the judged images has no correlation and counts as 0 in the means.",
        "Floors: the first describer's explanations dealt to other units of the layer, and its commonest one for every unit.",
        "By activation: images sorted by each unit's own activation, from its weakest half to its strongest hundredth.",
        *kin,
    )
    facts = {
        "target": target,
        "probe": probe,
        "judged": seer.judged.spec,
        "simulator": seer.spec,
        "images": len(seer.judged),
        "seed": seed,
        "hashes": {layer: dissection.key for layer, dissection in explained.items()},
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    best = max((one for one in found if not one.role), key=lambda one: _mean(one, "correlation", seed).value)
    heads = ((f"{_mean(best, 'correlation', seed).value:.2f}", f"correlation: {best.name}"),)
    asked, images = len(found) - len(FLOORS), f"{len(seer.judged):,} images"
    lede = f"What {asked} describers say of {len(found[0].said)} units, as predictions of their activations on {images} kept from them."
    return Report("simulation", target, lede, (whole, layers, banded), heads, notes, facts)


def _mean(one: _Judged, metric: str, seed: int) -> Any:
    """What is not defined, since the prediction never varies or the unit never fires, counts as nothing predicted."""
    from milan.scores.intervals import mean

    return mean([0.0 if value != value else value for value in one.scores[metric]], seed)


def _row(one: _Judged, seed: int) -> "Row":
    from milan.experiments.report import Row

    values = {metric: _mean(one, metric, seed) for metric in one.scores}
    values |= {
        "concepts": sum(max(1, len(each.concepts)) for each in one.said) / max(1, len(one.said)),
        "described": len(one.said),
        "distinct": len({each.text for each in one.said}),
        "time": one.seconds / max(1, len(one.said)),
    }
    return Row(one.name, values, _role(one))


def _by_layer(one: _Judged, seed: int) -> "Row":
    from milan.experiments.report import Row
    from milan.scores.intervals import mean

    values = {}
    for layer in dict.fromkeys(one.layers):
        here = [value for value, where in zip(one.scores["correlation"], one.layers, strict=True) if where == layer]
        values[layer] = mean([0.0 if value != value else value for value in here], seed)
    return Row(one.name, values, _role(one))


def _by_band(one: _Judged, names: Sequence[str], seed: int) -> "Row":
    from milan.experiments.report import Row
    from milan.scores.intervals import mean

    return Row(one.name, {name: mean([float(each[place]) for each in one.bands], seed) for place, name in enumerate(names)}, _role(one))


def _role(one: _Judged) -> Any:
    return one.role

"""How well explanations predict the pairs they were not made from, as tables 1 and 2 of *Tell me what you see*."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.reporting.report import Report


def assessment(
    describers: list[str],
    pairs: list[str] | None = None,
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    probe: str | None = None,
    settings: dict[str, Any] | None = None,
    share: float = 0.5,
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Scores descriptions by how well a language model predicts from them weights and activations that no explanation was made from

    Args:
        describers: names of describers, set as for Diorama (configs/describe/NAME-diorama.yaml), or files of options as in configs/describe
        pairs: what is predicted: weight_label, weight_clip, caption_activation; weight_label by default
        target: the network
        weights: of the target, if not its own
        probe: the images; those of the target's own task by default
        settings: of the pairs and of the language model that predicts, as of these describers: --settings.llm openai:gpt-4o-mini
        share: of the pairs that explanations may be made from; half of the others choose among several explanations, half judge
        limit: only the first so many images
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        out: the folder to write to; runs/assessment-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the division into shown and judged pairs, of what is drawn, and of the intervals
        device: where network, describers and language model run
    """
    from milan.describers import sources_of
    from milan.dissection.dissect import dissect
    from milan.experiments.describing.entrants import describe_with, entrant_of
    from milan.experiments.prediction.pairs import halved, judged, judges_of, report_of, shuffled
    from milan.probes import load_probe
    from milan.storage import locked
    from milan.targets import load_target
    from milan.targets.choosing import own_probe, units_of
    from milan.units import Unit

    judges = judges_of(pairs or ["weight_label"], dict(settings or {}), share, seed, device)
    entrants = [halved(entrant_of(name, device), share, seed) for name in describers]
    network = load_target(target, weights=weights, device=device)
    out = out or Path("runs") / f"assessment-{network.spec.replace(':', '-') or network.name}"
    images = load_probe(probe or own_probe(network), size=network.image_size, resize=network.resize, limit=limit)
    chosen = units_of(network, layers or (), units)
    with locked(out):
        dissections = dissect(network, images, list(chosen), out / "dissection", k=k, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        found = []
        for entrant in entrants:
            describe_with(entrant, dissections, wanted, out / "describers" / entrant.name)
            found.append(judged(entrant.name, entrant.role, entrant.entries, dissections, judges, share, seed))
        found.append(judged("shuffled", "floor", shuffled(entrants[0].entries, seed), dissections, judges, share, seed))
        asked = {entrant.name: entrant.describer for entrant in entrants}
        sources = sources_of(dissections.values(), asked | {f"judge {kind}": judge for kind, judge in judges.items()})
        report = report_of(found, judges, network.spec or network.name, dissections, share, seed, sources)
        report.write(out)
    return report

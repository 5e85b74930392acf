"""How well explanations predict the pairs they were not made from, as tables 1 and 2 of *Tell me what you see*."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def assessment(
    describers: list[str],
    pairs: list[str] | None = None,
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
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
    """Scores descriptions by how well a language model predicts from them weights and activations that no explanation
    was made from

    Args:
        describers: names of describers, NAME:KEY=VALUE,..., or files of options as
            in configs/describe
        pairs: what is predicted: weight_label, weight_clip, caption_activation; weight_label by default
        target: the network
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: the images; those of the target's own task by default
        settings: of the pairs and of the language model that predicts, as of these describers: --settings.llm
            openai:gpt-4o-mini
        share: of the pairs that explanations may be made from; half of the others choose among several explanations,
            half judge
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
    from milan.experiments.assessment.tables import (
        assess_describer,
        load_explainers,
        make_report,
        restrict_to_share,
        shuffle_entries,
    )
    from milan.experiments.core.evaluated_describers import load_evaluated_describer, run_describer
    from milan.probes import load_probe
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe, select_units
    from milan.units import Unit

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("assessment", network)
    images = load_probe(probe or get_default_probe(network), target=network, limit=limit)
    simulated = (network.name, images.spec)
    judges = load_explainers(pairs or ["weight_label"], dict(settings or {}), simulated, share, seed, device)
    evaluated_describers = [
        restrict_to_share(load_evaluated_describer(name, network, images, device), share, seed) for name in describers
    ]
    chosen = select_units(network, layers or (), units)
    with lock_folder(out):
        dissections = dissect(network, images, list(chosen), out / "dissection", k=k, quantile=quantile)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in chosen.items()}
        found = []
        for evaluated in evaluated_describers:
            run_describer(evaluated, dissections, wanted, out / "describers" / evaluated.name)
            found.append(
                assess_describer(evaluated.name, evaluated.role, evaluated.entries, dissections, judges, share, seed)
            )
        found.append(
            assess_describer(
                "shuffled",
                "floor",
                shuffle_entries(evaluated_describers[0].entries, seed),
                dissections,
                judges,
                share,
                seed,
            )
        )
        asked = {evaluated.name: evaluated.describer for evaluated in evaluated_describers}
        sources = sources_of(dissections.values(), asked | {f"judge {kind}": judge for kind, judge in judges.items()})
        report = make_report(found, judges, network.name, dissections, share, seed, sources)
        report.write(out)
    return report

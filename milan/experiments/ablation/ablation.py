"""Units taken away in the order of what their descriptions are like as language: MILAN's section 5, with Figure 4."""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def ablation(
    describer: str = "milan",
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str | None = None,
    judged: str | None = None,
    synsets: str = "",
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    out: Path | None = None,
    language: str = "",
    vectors: str = "",
    most: float = 0.2,
    step: float = 0.02,
    draws: int = 2,
    random_orders: int = 5,
    annotations: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Accuracy as units are taken away by the nouns, verbs, adpositions, adjectives, length, depth and contrasts of
    their descriptions

    Args:
        describer: a name, NAME:KEY=VALUE,..., a file of options, or a table of
            descriptions
        target: a classifier
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: the images it is dissected on; those of the target's own task by default
        judged: labelled images whose accuracy is measured; PROBE@judge by default
        synsets: FILE that says which class each output is, where the judged images do not show all
        limit: only the first so many images of each
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        out: the folder to write to; runs/ablation-TARGET by default
        language: the spaCy pipeline; the first en_core_web_* that is installed by default, else ours
        vectors: of words: pipeline, or an image-text model as --settings.embedder takes it; the pipeline's if it has
            some, else diorama
        most: the share of the units that is taken away in the end
        step: the share that is taken away at a time
        draws: orders of each criterion, which differ in how equals are put, by lot
        random_orders: of units by lot alone
        annotations: a csv of layer, unit and summary whose words are counted too, as in Table 5
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the lots and the intervals
        device: where network and describer run
    """
    from milan.errors import BadInput
    from milan.experiments.ablation.ablation_orders import AblationResult, make_order_sets
    from milan.experiments.core.described_network import DescribedNetwork, DescriptionConfig
    from milan.probes import load_probe
    from milan.results.page import write_contact_sheets
    from milan.scores.accuracy_under_ablation import evaluate_ablations
    from milan.scores.linguistic_criteria import compute_criteria, load_word_vectors
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe

    if not 0 < step <= most <= 1:
        raise BadInput(f"steps of {step} up to {most}; give shares of the units, the step no larger than the end")
    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("ablation", network)
    spec = probe or get_default_probe(network)
    shown, tested = (load_probe(name, target=network, limit=limit) for name in (spec, judged or f"{spec}@judge"))
    with lock_folder(out):
        look = DescriptionConfig(describer, layers or (), units, k, quantile, device)
        described = DescribedNetwork.dissect_and_describe(network, shown, look, out)
        words, vectors_name = load_word_vectors(vectors, language, device)
        values = compute_criteria(described.texts, words, language)
        tried = make_order_sets(values, draws, random_orders, seed)
        counts = [round(number * step * len(described.texts)) for number in range(1, round(most / step) + 1)]
        sets = [
            order[:count]
            for order, count in [
                ((), 0),
                *((order, count) for each in tried for order in each.orders for count in counts),
            ]
        ]
        _, right = evaluate_ablations(network, tested, sets, out / "accuracy.sqlite", synsets)
        outcome = AblationResult(
            described,
            values,
            tried,
            counts,
            right,
            {"language": language, "vectors": vectors_name, "seed": seed, "step": step},
        )
        report = outcome.make_report(tested.spec or tested.name, annotations)
        sheets = write_contact_sheets(described.dissections, outcome.first_units, out / "page")
        report.write(out, [outcome.make_unit_view(unit, sheets.get(unit)) for unit in outcome.first_units])
    return report

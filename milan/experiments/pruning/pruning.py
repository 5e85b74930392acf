"""Units that no other is said to be like, pruned: Describe-and-Dissect's section 5, with Tables 7, 8 and 13."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def pruning(
    describer: str = "clip_dissect",
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
    embedder: str = "diorama",
    similar: float = 0.8,
    candidates: int = 1,
    draws: int = 5,
    classifier: Literal["linear", "forest"] = "linear",
    embedding: str = "",
    terms: list[str] | None = None,
    common: int = 4,
    language: str = "",
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Prunes the units whose description is like no other's, and those of common terms, against as many drawn by lot

    Args:
        describer: a name, NAME:KEY=VALUE,..., a file of options, or a table of
            descriptions
        target: a classifier
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: labelled images: it is dissected on them, and a new classifier learns from them; those of the target's
            task by default
        judged: labelled images whose accuracy is measured; PROBE@judge by default
        synsets: FILE that says which class each output is, where the judged images do not show all
        limit: only the first so many images of each
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        out: the folder to write to; runs/pruning-TARGET by default
        embedder: whose text side says how alike descriptions are
        similar: cosine from which on two units are alike
        candidates: texts of each unit that are compared: its description and its best candidates
        draws: sets of units drawn by lot
        classifier: what is trained anew on what the pruned network makes of the images: logistic regression, or a
            forest of scikit-learn
        embedding: the layer whose means over the image it is trained on; the last of the layers by default
        terms: words whose units are pruned, as red or pink/purple; the most common by default
        common: how many of the most common terms
        language: the spaCy pipeline; the first en_core_web_* that is installed by default, else ours
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the lots and the intervals
        device: where network and describer run
    """
    from milan.experiments.core.described_network import DescribedNetwork, DescriptionConfig
    from milan.experiments.pruning.tables import PruningAccuracy, PruningPlan, make_report
    from milan.pretrained.embedder import load_embedder
    from milan.probes import load_probe
    from milan.scores.accuracy_under_ablation import sort_by_execution
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("pruning", network)
    spec = probe or get_default_probe(network)
    learnt, tested = (load_probe(name, target=network, limit=limit) for name in (spec, judged or f"{spec}@judge"))
    with lock_folder(out):
        described = DescribedNetwork.dissect_and_describe(
            network, learnt, DescriptionConfig(describer, layers or (), units, k, quantile, device), out
        )
        last = embedding or sort_by_execution(network, described.dissections, network.image_size)[-1]
        plan = PruningPlan.make(
            described,
            load_embedder(embedder, device=device),
            (similar, candidates),
            (terms or [], common, language),
            draws,
            seed,
        )
        seen = PruningAccuracy.evaluate(plan, (learnt, tested), last, out, synsets, classifier)
        facts = {
            "embedder": embedder,
            "similar": similar,
            "candidates": candidates,
            "classifier": classifier,
            "features": last,
        }
        report = make_report(plan, seen, facts | {"judged": tested.spec or tested.name})
        report.write(out)
    return report

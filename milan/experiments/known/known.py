"""Descriptions where the answer is known: units of the final layer, Diorama's truth, and classes that the network was
never taught.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def known(
    describers: list[str],
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str | None = None,
    final: str = "fc",
    layers: list[str] | None = None,
    unseen: str = "diorama:scenes",
    encoder: str = "diorama",
    limit: int | None = None,
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Scores descriptions of units whose answer is known, as CLIP-Dissect's Table 2 and Describe-and-Dissect's Table 14

    Args:
        describers: names of describers, NAME:KEY=VALUE,..., files of options as in
            configs/describe, or tables of descriptions
        target: a classifier
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: images of the classifier's classes, in their order; those of the target's own task by default
        final: the layer of which unit i is class i; empty to leave it out
        layers: among whose units a classifier is sought for each class of unseen; the last that Diorama's networks have
            by default
        unseen: images with labels, of classes that the target was never taught; empty to leave it out
        encoder: by which descriptions are compared with those classes' names: an image-text model, or
            sentences:hf:ID_OR_FOLDER
        limit: only the first so many images of each
        out: the folder to write to; runs/known-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of intervals, floors and lots
        device: where network, describers and encoder run
    """
    from milan.experiments.core.scored_descriptions import DissectionConfig
    from milan.experiments.known.tables import KnownAnswerTables
    from milan.probes import load_probe
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_layers, get_default_probe

    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("known", network)
    images = load_probe(probe or get_default_probe(network), target=network, limit=limit)
    look = DissectionConfig(layers or get_default_layers(network)[-1:], "", k, quantile, seed, device)
    with lock_folder(out):
        answers = KnownAnswerTables(describers, network, images, look, out)
        if final:
            answers.add_final_layer(final)
        if unseen:
            answers.add_unseen_classes(load_probe(unseen, target=network, limit=limit), encoder)
        report = answers.make_report()
        report.write(out)
    return report

"""Cut-and-paste adversarial images for either-or units (Hernandez et al. 2022, appendix D and Figure 14; Mu & Andreas
2020).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def cut_and_paste(
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str = "diorama:objects",
    limit: int | None = None,
    describer: str = "compositional",
    layer: str = "layer4",
    units: list[str] | None = None,
    count: int = 12,
    vectors: str = "diorama",
    originals: int = 30,
    distractors: int = 8,
    pushed: int = 3,
    synsets: str = "",
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Pastes what one half of an either-or unit sees into other images, and looks whether the network then sees the
    other half

    Args:
        target: a classifier
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: images with classes
        limit: only the first so many
        describer: a name, NAME:KEY=VALUE,..., or a file of options
        layer: dotted path; one just before the last as a rule
        units: those to attack, as layer4:17; by default those whose descriptions join what is least alike
        count: how many of these
        vectors: the image-text model by whose text side two things are compared, as --settings.embedder takes it
        originals: images that are pasted into, of each unit
        distractors: images that are cut from, of each unit
        pushed: classes that the unit moves the network to, by what it does to the logits of its exemplars
        synsets: FILE that says which class each output is, where the probe does not show all
        out: the folder to write to; runs/cut-and-paste-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of all lots and intervals
        device: where network and describer run
    """
    from milan.experiments.core.described_network import DescribedNetwork, DescriptionConfig
    from milan.experiments.cut_and_paste.attacks import AttackConfig, attack_unit, find_either_or_units, make_unit_views
    from milan.experiments.cut_and_paste.tables import make_report
    from milan.probes import load_probe
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out

    network = load_target(target, weights=weights, device=device, **target_options.given)
    images = load_probe(probe, target=network, limit=limit)
    out = out or default_out("cut-and-paste", network)
    with lock_folder(out):
        described = DescribedNetwork.dissect_and_describe(
            network, images, DescriptionConfig(describer, [layer], k=k, quantile=quantile, device=device), out
        )
        chosen = find_either_or_units(described, units or (), count, vectors, device)
        plan = AttackConfig(originals, distractors, pushed, synsets, seed)
        found = [
            one for unit, apart in chosen if (one := attack_unit(described, images, unit, apart, plan)) is not None
        ]
        report = make_report(described, found, plan, vectors)
        report.write(out, make_unit_views(found, out / "page"))
    return report

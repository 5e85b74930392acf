"""Cut-and-paste adversarial images for either-or units (Hernandez et al. 2022, appendix D and Figure 14; Mu & Andreas 2020)."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.reporting.report import Report


def cut_and_paste(
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
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
    """Pastes what one half of an either-or unit sees into other images, and looks whether the network then sees the other half

    Args:
        target: a classifier
        weights: of the target, if not its own
        probe: images with classes
        limit: only the first so many
        describer: a name, set as for Diorama (configs/describe/NAME-diorama.yaml), or a file of options
        layer: dotted path; one just before the last as a rule
        units: those to attack, as layer4:17; by default those whose descriptions join what is least alike
        count: how many of these
        vectors: the image-text model by whose text side two things are compared, as --settings.embedder takes it
        originals: images that are pasted into, of each unit
        distractors: images that are cut from, of each unit
        pushed: classes that the unit moves the network to, by what it does to the logits of its exemplars
        synsets: FILE that says which class each output is, where the probe does not show all
        out: the folder to write to; runs/cut-and-paste by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of all lots and intervals
        device: where network and describer run
    """
    from milan.experiments.applications.pasting import Attacks, attacked, cases, either_or
    from milan.experiments.applications.pasting_tables import report_of
    from milan.experiments.describing.described import Described, Look
    from milan.probes import load_probe
    from milan.storage import locked
    from milan.targets import load_target

    network = load_target(target, weights=weights, device=device)
    images = load_probe(probe, size=network.image_size, resize=network.resize, limit=limit)
    out = out or Path("runs") / "cut-and-paste"
    with locked(out):
        described = Described.of(network, images, Look(describer, [layer], k=k, quantile=quantile, device=device), out)
        chosen = either_or(described, units or (), count, vectors, device)
        plan = Attacks(originals, distractors, pushed, synsets, seed)
        found = [one for unit, apart in chosen if (one := attacked(described, images, unit, apart, plan)) is not None]
        report = report_of(described, found, plan, vectors)
        report.write(out, cases(found, out / "page"))
    return report

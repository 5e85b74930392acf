"""Auditing anonymized models (Hernandez et al. 2022, section 6): do networks trained on blurred faces have units for
faces?
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def audit(
    plain: list[str] | None = None,
    blurred: list[str] | None = None,
    plain_weights: list[str] | None = None,
    blurred_weights: list[str] | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str = "diorama:objects",
    limit: int | None = None,
    describer: str = "milan",
    words: list[str] | None = None,
    layers: list[str] | None = None,
    units: str = "",
    marks: list[str] | None = None,
    cut: float = 0.04,
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Counts units said to detect faces, in networks trained on images as they are and on the same with faces blurred.

    Args:
        plain: networks trained on images as they are; diorama:resnet-objects by default
        blurred: those trained on blurred ones, each beside its pair above; diorama:resnet-blurred by default
        plain_weights: their files, where they are not their own; one for each network
        blurred_weights: the same of the blurred
        target_options: what is said of every network besides
        probe: unblurred images, of which the exemplars are
        limit: only the first so many
        describer: a name, NAME:KEY=VALUE,..., or a file of options
        words: a unit whose description has one of them, as a whole word, is counted; face, head, nose, eyes, mouth (and
            plurals) by default
        layers: dotted paths of the layers, of every network; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        marks: files that the page check.html saved, in which people said which units they take for faces
        cut: intersection over union of masks and people's faces from which a unit detects them, where that is known
        out: the folder to write to; runs/audit by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of the intervals
        device: where networks and describer run
    """
    from milan.experiments.audit.audited_networks import (
        WORDS,
        FaceCriteria,
        NetworkPair,
        audit_networks,
        make_unit_views,
        write_check_form,
    )
    from milan.experiments.audit.tables import make_report
    from milan.experiments.core.described_network import DescriptionConfig
    from milan.experiments.core.form_answers import read_answers
    from milan.storage.files import lock_folder

    out = out or Path("runs") / "audit"
    pairs = NetworkPair.pair_up(
        plain or ["diorama:resnet-objects"], blurred or ["diorama:resnet-blurred"], plain_weights, blurred_weights
    )
    look = DescriptionConfig(describer, layers or (), units, k, quantile, device)
    with lock_folder(out):
        found = audit_networks(
            pairs, target_options, (probe, limit), look, FaceCriteria(tuple(words or WORDS), cut), out
        )
        form = write_check_form(found, out / "page")
        answers = read_answers(marks or (), form)
        report = make_report(found, answers, seed)
        report.write(out, make_unit_views(found, answers, out / "page"))
    return report

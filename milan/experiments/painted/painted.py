"""Whether pictures painted from descriptions move the units: SAND's activation fraction, CoSy's AUC and MAD, own
pictures before others.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def painted(
    describers: list[str],
    target: str = "diorama:resnet-objects",
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str | None = None,
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    painter: str = "diorama",
    pictures: int = 10,
    prompt: str = "{}",
    negatives: int = 5,
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Scores descriptions by pictures painted from them, which the network is shown

    Args:
        describers: names of describers, NAME:KEY=VALUE,..., files of options as in
            configs/describe, or tables of descriptions
        target: the network
        weights: of the target, if not its own
        target_options: what is said of the target besides
        probe: the images that pictures are compared with; those of the target's own task by default
        limit: only the first so many images
        layers: dotted paths of the layers; Diorama's networks have theirs
        units: of each layer, as 0-99 or 3,17 or layer4:0-9; all by default
        painter: diorama, which draws exactly what a text says, diffusers:ID_OR_FOLDER, or PATH/FILE.py:NAME
        pictures: of each text; CoSy paints 50, SAND's appendix has ten prompts and no number
        prompt: what a text is put into, {} standing for it, as in "realistic photo of a close up of {}"
        negatives: how many texts of other units each unit's own is set against
        out: the folder to write to; runs/painted-TARGET by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of pictures, intervals, floors and lots
        device: where network, describers and painter run
    """
    from milan.experiments.core.report import Report
    from milan.experiments.core.scored_descriptions import DescriptionSets, DissectionConfig
    from milan.experiments.painted.tables import PaintedScores
    from milan.pretrained.painter import load_painter
    from milan.probes import load_probe
    from milan.storage.files import lock_folder
    from milan.targets.loading import load_target
    from milan.targets.unit_selection import default_out, get_default_probe

    artist = load_painter(painter, device=device)
    network = load_target(target, weights=weights, device=device, **target_options.given)
    out = out or default_out("painted", network)
    images = load_probe(probe or get_default_probe(network), target=network, limit=limit)
    with lock_folder(out):
        scored = DescriptionSets.dissect_and_describe(
            describers, network, images, DissectionConfig(layers or (), units, k, quantile, seed, device), out
        )
        album = PaintedScores(scored, artist, pictures, prompt, negatives)
        said = f"What {len(describers)} describers say of {len(scored.sets[0].descriptions)} units"
        report = Report(
            "painted",
            scored.name,
            f"{said}, painted {pictures} times and shown to the network.",
            (album.make_table(),),
            album.make_headlines(),
            (*album.make_notes(painter), scored.note),
            scored.facts | {"painter": painter, "pictures": pictures, "prompt": prompt, "negatives": negatives},
            sources={**scored.sources, "painter": painter},
        )
        report.write(out)
    return report

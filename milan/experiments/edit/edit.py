"""Editing spurious features (Hernandez et al. 2022, section 7): units said to detect text are removed from a network
that relies on it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from milan.experiments.edit.lettering import Lettering
from milan.experiments.edit.torchvision_classifier import ClassifierTraining

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def edit(
    images: str = "diorama:objects",
    test_images: str = "",
    size: int = 224,
    resize: int | None = None,
    describer: str = "milan",
    words: list[str] | None = None,
    layers: list[str] | None = None,
    scenes: int = 1000,
    validated: int = 400,
    tests: int = 800,
    most: int = 64,
    draws: int = 5,
    out: Path | None = None,
    lettering: Lettering = Lettering(),  # noqa: B008 (frozen)
    training: ClassifierTraining = ClassifierTraining(),  # noqa: B008
    k: int = 15,
    quantile: float = 0.99,
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Removes the units said to detect text, and looks how well the network then does where the text lies.

    Args:
        images: diorama:objects, whose networks are there; or a folder of classes (FILE.parquet, hf:ID) to letter and to
            train on
        test_images: more images of the same classes, to test with; a tenth of the images by default
        size: side of the square images that are written, and that both networks take
        resize: short side to which an image is scaled before its middle is cut out; SIZE by default
        describer: a name, NAME:KEY=VALUE,..., or a file of options
        words: a unit whose description has one of them, as a whole word, is removed; text, word, letter and their
            plurals by default
        layers: dotted paths of the layers; of a ResNet the first convolution and the four stages by default
        scenes: Diorama's images to dissect on; of other images all those held out are
        validated: images to validate with, at most
        tests: images to test with, at most
        most: units removed, at most
        draws: random orders beside it
        out: the folder to write to; runs/edit by default
        lettering: how names are written into images that are not Diorama's
        training: how the two networks are trained on them
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        seed: of ties, random orders and intervals
        device: where all of it runs
    """
    from milan.experiments.core.described_network import DescribedNetwork, DescriptionConfig
    from milan.experiments.edit.spurious_networks import build_networks, load_diorama_networks
    from milan.experiments.edit.tables import make_report
    from milan.experiments.edit.unit_removal import RemovalConfig, make_unit_views, measure_removal
    from milan.results.page import write_contact_sheets
    from milan.storage.files import lock_folder
    from milan.targets.preprocessing import Preprocessing

    out = out or Path("runs") / "edit"
    plan = RemovalConfig(tuple(words or ()) or RemovalConfig.words, most, draws, seed)
    with lock_folder(out):
        if images == "diorama:objects":
            network = load_diorama_networks(scenes, validated, tests, device)
        else:
            network = build_networks(
                images, test_images, Preprocessing(size, resize), lettering, training, out, (validated, tests, device)
            )
        look = DescriptionConfig(describer, layers or network.layers, k=k, quantile=quantile, device=device)
        described = DescribedNetwork.dissect_and_describe(network.target, network.dissection_images, look, out)
        found = measure_removal(network, described, plan, out)
        report = make_report(found, out)
        sheets = write_contact_sheets(described.dissections, found.text_units, out / "page")
        report.write(out, [case | {"sheet": sheets.get(unit)} for unit, case in make_unit_views(found)])
    return report

"""Networks that were trained on images with names of classes in them, and the images to look at, validate and test them
with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from milan.experiments.edit.lettering import Lettering, build_folders
from milan.experiments.edit.torchvision_classifier import ClassifierTraining, train_classifier
from milan.probes import Probe, load_probe
from milan.storage.files import cache_root
from milan.targets.loading import load_target
from milan.targets.preprocessing import Preprocessing
from milan.targets.target import Target

VALIDATION_OFFSET = 10_000  # scenes between those tested with and those validated with
RESNET_LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")  # of a ResNet, as in section 3.3 of the paper


@dataclass(frozen=True)
class SpuriousNetwork:
    """A network that learnt to read, and all images that the experiment needs; no image is in two of them but for the
    text in it.

    Attributes:
        target: the network.
        clean: one trained on images without text.
        dissection_images: images with text, to dissect on.
        validation: images without text.
        lettered: the same images, each with the name of a random class.
        in_distribution: held-out training images, half of which carry their class's name: by these the paper tells what
            a unit is worth and when to stop (section 7, appendix E).
        plain: test images without text.
        adversarial: the same test images, each with the name of a class drawn by lot.
        note: how all this was made.
        images: where they are from.
    """

    target: Target
    clean: Target
    dissection_images: Probe
    validation: Probe
    lettered: Probe
    in_distribution: Probe
    plain: Probe
    adversarial: Probe
    note: str
    images: str
    layers: Sequence[str] = RESNET_LAYERS


def load_diorama_networks(scenes: int, validated: int, tests: int, device: str) -> SpuriousNetwork:
    """Diorama's networks resnet-spurious and resnet-objects, and scenes that neither was trained on."""
    from milan.diorama.scenes import HELD_OUT_START, VALIDATION_START

    note = (
        "resnet-spurious was trained on 12,000 scenes of which half carry the name of their class; resnet-objects,"
        " without text, on 60,000 (among them the same, without text), so that part of the gap between them is that it"
        " saw more. Test and validation scenes are others."
    )
    return SpuriousNetwork(
        load_target("diorama:resnet-spurious", device=device),
        load_target("diorama:resnet-objects", device=device),
        load_probe("diorama:objects-spurious", limit=scenes),
        _load_scenes("objects", HELD_OUT_START + VALIDATION_OFFSET, validated),
        _load_scenes(
            "objects-spurious", HELD_OUT_START + VALIDATION_OFFSET, validated
        ),  # from HELD_OUT on, names are drawn by lot
        _load_scenes("objects-spurious", VALIDATION_START, validated),
        _load_scenes(
            "objects", HELD_OUT_START + 2 * VALIDATION_OFFSET, tests
        ),  # those before were looked at while words and orders were chosen
        _load_scenes("objects-spurious", HELD_OUT_START + 2 * VALIDATION_OFFSET, tests),
        note,
        "diorama:objects",
    )


def _load_scenes(world: str, first: int, count: int) -> Probe:
    from milan.diorama.scene_cache import load_scene_arrays
    from milan.diorama.scene_vocabulary import THINGS

    shown = load_scene_arrays(world, first, count, cache_root() / "diorama")
    return Probe.from_tensor(torch.from_numpy(np.array(shown.images)), shown.things.tolist(), list(THINGS))


def build_networks(
    images: str,
    tests: str,
    written: Preprocessing,
    lettering: Lettering,
    training: ClassifierTraining,
    out: Path,
    limits: tuple[int, int, str],
) -> SpuriousNetwork:
    """Writes names into images of any kind, and trains a network on them and one on the same images without names.

    Args:
        written: how the square images are made of pictures.
        limits: images to validate and to test with, at most, and the device.
    """
    validated, count, device = limits
    size = written.image_size
    source = load_probe(images, **written.geometry)
    folders = build_folders(source, load_probe(tests, **written.geometry) if tests else None, out / "images", lettering)

    def opened(name: str, limit: int | None = None) -> Probe:
        return _sample_images(load_probe(str(folders[name]), size=size), limit, lettering.seed)

    def network(kind: str) -> Target:
        spec, weights = train_classifier(
            opened(f"{kind}/train"), opened(f"{kind}/validation"), training, out / kind, device
        )
        return load_target(spec, weights=weights, device=device)

    reading, clean = network("lettered"), network("plain")
    share, held = 100 * lettering.share, 100 * lettering.held_out
    note = (
        f"Two {training.architecture} were trained from nothing on the same images of {source.spec or source.name}, one"
        f" with the class's name ({lettering.place}) in {share:.0f} % of them; {held:.0f} % of each class were held out"
        " for validation, and dissected too."
    )
    seen = load_probe(str(folders["lettered/validation"]), size=size)
    plain, adversarial, own = (opened(f"{kind}/validation", validated) for kind in ("plain", "adversarial", "lettered"))
    tested, misled = (opened(f"{kind}/test", count) for kind in ("plain", "adversarial"))
    return SpuriousNetwork(reading, clean, seen, plain, adversarial, own, tested, misled, note, images)


def _sample_images(probe: Probe, limit: int | None, seed: int) -> Probe:
    """At most so many images, drawn by lot: those of a folder stand class by class. The same ones of two folders with
    the same files.
    """
    if limit is None or len(probe) <= limit:
        return probe
    rows = np.sort(np.random.default_rng(seed).choice(len(probe), limit, replace=False)).tolist()
    labels = probe.labels or []
    return Probe.from_tensor(
        torch.stack([probe.image(row) for row in rows]), [labels[row] for row in rows], probe.classes
    )

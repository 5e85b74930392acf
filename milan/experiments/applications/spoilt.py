"""Networks that were trained on images with names of classes in them, and the images to look at, validate and test them with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from milan.experiments.applications.classifying import Training, trained
from milan.experiments.applications.lettering import Lettering, build
from milan.probes import Probe, load_probe
from milan.storage import cache_root
from milan.targets import Target, load_target

APART = 10_000  # scenes between those tested with and those validated with
LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")  # of a ResNet, as in section 3.3 of the paper


@dataclass(frozen=True)
class Spoilt:
    """A network that learnt to read, and all images that the experiment needs; no image is in two of them but for the text in it.

    Attributes:
        target: the network.
        clean: one trained on images without text.
        seen: images with text, to dissect on.
        validation: images without text.
        lettered: the same images, each with the name of a random class.
        alike: held-out training images, half of which carry their class's name: by these the paper tells what a unit is
            worth and when to stop (section 7, appendix E).
        plain: test images without text.
        adversarial: the same test images, each with the name of a class drawn by lot.
        note: how all this was made.
        images: where they are from.
    """

    target: Target
    clean: Target
    seen: Probe
    validation: Probe
    lettered: Probe
    alike: Probe
    plain: Probe
    adversarial: Probe
    note: str
    images: str
    layers: Sequence[str] = LAYERS


def dioramas(scenes: int, validated: int, tests: int, device: str) -> Spoilt:
    """Diorama's networks resnet-spurious and resnet-objects, and scenes that neither was trained on."""
    from milan.diorama.scenes import HELD_OUT
    from milan.diorama.training import VALIDATION

    note = (
        "resnet-spurious was trained on 12,000 scenes of which half carry the name of their class; resnet-objects, without text, "
        "on 60,000 (among them the same, without text), so that part of the gap between them is that it saw more. Test and validation "
        "scenes are others."
    )
    return Spoilt(
        load_target("diorama:resnet-spurious", device=device),
        load_target("diorama:resnet-objects", device=device),
        load_probe("diorama:objects-spurious", limit=scenes),
        _scenes("objects", HELD_OUT + APART, validated),
        _scenes("objects-spurious", HELD_OUT + APART, validated),  # from HELD_OUT on, names are drawn by lot
        _scenes("objects-spurious", VALIDATION, validated),
        _scenes("objects", HELD_OUT + 2 * APART, tests),  # those before were looked at while words and orders were chosen
        _scenes("objects-spurious", HELD_OUT + 2 * APART, tests),
        note,
        "diorama:objects",
    )


def _scenes(world: str, first: int, count: int) -> Probe:
    from milan.diorama.album import album
    from milan.diorama.names import THINGS

    shown = album(world, first, count, cache_root() / "diorama")
    return Probe.from_tensor(torch.from_numpy(np.array(shown.images)), shown.things.tolist(), list(THINGS))


def made(images: str, tests: str, size: int, lettering: Lettering, training: Training, out: Path, rest: tuple[int, int, str]) -> Spoilt:
    """Writes names into images of any kind, and trains a network on them and one on the same images without names.

    Args:
        rest: images to validate and to test with, at most, and the device.
    """
    validated, count, device = rest
    source = load_probe(images, size=size)
    folders = build(source, load_probe(tests, size=size) if tests else None, out / "images", lettering)

    def opened(name: str, limit: int | None = None) -> Probe:
        return _mixed(load_probe(str(folders[name]), size=size, resize=size), limit, lettering.seed)

    def network(kind: str) -> Target:
        spec, weights = trained(opened(f"{kind}/train"), opened(f"{kind}/validation"), training, out / kind, device)
        return load_target(spec, weights=weights, device=device)

    reading, clean = network("lettered"), network("plain")
    share, held = 100 * lettering.share, 100 * lettering.held_out
    note = (
        f"Two {training.architecture} were trained from nothing on the same images of {source.spec or source.name}, one with the class's "
        f"name ({lettering.place}) in {share:.0f} % of them; {held:.0f} % of each class were held out for validation, and dissected too."
    )
    seen = load_probe(str(folders["lettered/validation"]), size=size, resize=size)
    plain, adversarial, own = (opened(f"{kind}/validation", validated) for kind in ("plain", "adversarial", "lettered"))
    tested, misled = (opened(f"{kind}/test", count) for kind in ("plain", "adversarial"))
    return Spoilt(reading, clean, seen, plain, adversarial, own, tested, misled, note, images)


def _mixed(probe: Probe, limit: int | None, seed: int) -> Probe:
    """At most so many images, drawn by lot: those of a folder stand class by class. The same ones of two folders with the same files."""
    if limit is None or len(probe) <= limit:
        return probe
    rows = np.sort(np.random.default_rng(seed).choice(len(probe), limit, replace=False)).tolist()
    labels = probe.labels or []
    return Probe.from_tensor(torch.stack([probe.image(row) for row in rows]), [labels[row] for row in rows], probe.classes)

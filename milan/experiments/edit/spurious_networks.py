"""Networks that may read class names in images, and the images for dissection, validation and tests."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from milan.experiments.edit.config import EditConfig
from milan.experiments.edit.lettering import build_tables
from milan.experiments.edit.torchvision_classifier import train_classifier
from milan.probes import Probe, load_probe
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.storage.files import cache_root
from milan.targets.loading import load_target
from milan.targets.preprocessing import Preprocessing
from milan.targets.target import Target
from milan.units import Unit

VALIDATION_OFFSET = 10_000  # scenes
# As in section 3.3 of the paper.
RESNET_LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class SpuriousNetwork:
    """A network that relies on text, with all images of the experiment; no two probes have an image in common but for
    the text in it.

    Attributes:
        target: the network.
        clean: a network that is trained on images without text; None if there is none.
        dissection_images: images with text to dissect on.
        validation: images without text.
        lettered: the same images, each with the name of a random class.
        in_distribution: held-out training images, half of which carry their class's name: by these the paper orders
            units and decides when to stop (section 7, appendix E).
        plain: test images without text.
        adversarial: the same test images, each with the name of a random class.
        note: how the networks were trained.
        images: where the images are from.
        layers: to dissect by default; none if they must be given.
        synsets: which class each output is, where networks have other classes than the images.
    """

    target: Target
    clean: Target | None
    dissection_images: Probe
    validation: Probe
    lettered: Probe
    in_distribution: Probe
    plain: Probe
    adversarial: Probe
    note: str
    images: str
    layers: Sequence[str] = RESNET_LAYERS
    synsets: str = ""

    def evaluate(self, probe: Probe, sets: Sequence[Collection[Unit]], file: Path) -> Bool[np.ndarray, "sets images"]:
        """Return which images the network classifies correctly without each set of units; answers are kept in a file.

        Raises:
            MissingEvidence: the network does not answer with a logit for each class of the images.
        """
        return evaluate_ablations(self.target, probe, sets, file, self.synsets)[1]

    def evaluate_clean(self, probe: Probe, file: Path) -> Bool[np.ndarray, " images"] | None:
        """Return which images the network without text classifies correctly; None if there is no such network."""
        return None if self.clean is None else evaluate_ablations(self.clean, probe, [[]], file, self.synsets)[1][0]


def load_diorama_networks(config: EditConfig) -> SpuriousNetwork:
    """Return Diorama's networks resnet-spurious and resnet-objects, and scenes that neither was trained on."""
    from milan.diorama.scenes import HELD_OUT_START, VALIDATION_START

    note = (
        "resnet-spurious was trained on 12,000 scenes of which half carry the name of their class; resnet-objects,"
        " without text, on 60,000 (among them the same, without text), so that a part of the gap between them is due to"
        " more training images. Test and validation scenes are others."
    )
    # From HELD_OUT_START on, names are random. Scenes before the test scenes were used to choose words and orders.
    validation_start, test_start = HELD_OUT_START + VALIDATION_OFFSET, HELD_OUT_START + 2 * VALIDATION_OFFSET
    validation_count, test_count = config.max_validation_images, config.max_test_images
    return SpuriousNetwork(
        load_target("diorama:resnet-spurious", device=config.device),
        load_target("diorama:resnet-objects", device=config.device),
        load_probe("diorama:objects-spurious", limit=config.dissection_images),
        _load_scenes("objects", validation_start, validation_count),
        _load_scenes("objects-spurious", validation_start, validation_count),
        _load_scenes("objects-spurious", VALIDATION_START, validation_count),
        _load_scenes("objects", test_start, test_count),
        _load_scenes("objects-spurious", test_start, test_count),
        note,
        "diorama:objects",
    )


def _load_scenes(world: str, first: int, count: int) -> Probe:
    from milan.diorama.scene_cache import load_scene_arrays
    from milan.diorama.scene_vocabulary import THINGS

    scenes = load_scene_arrays(world, first, count, cache_root() / "diorama")
    return Probe.from_tensor(torch.from_numpy(np.array(scenes.images)), scenes.things.tolist(), list(THINGS))


def build_networks(config: EditConfig, out: Path) -> SpuriousNetwork:
    """Write names into images; load the target, or train a network on them and one on the same images without names."""
    lettering, training, options = config.lettering, config.training, config.target_options
    target = None
    if config.target:
        target = load_target(config.target, weights=config.weights, device=config.device, **options.given)
    own = Preprocessing().changed(image_size=options.image_size, resize=options.resize)
    preprocessing = target.preprocessing if target else own
    source = load_probe(config.images, **preprocessing.geometry)
    tests = load_probe(config.test_images, **preprocessing.geometry) if config.test_images else None
    files = build_tables(source, tests, out / "images", lettering, train=target is None)

    def load_images(name: str, limit: int | None = None) -> Probe:
        return _sample_images(load_probe(str(files[name]), size=preprocessing.image_size), limit, lettering.seed)

    def train_network(kind: str) -> Target:
        probes = load_images(f"{kind}/train"), load_images(f"{kind}/validation")
        spec, weights = train_classifier(*probes, training, out / kind, config.device)
        return load_target(spec, weights=weights, device=config.device)

    place = source.spec or source.name
    if target:
        note = f"{target.name} was given; names ({lettering.place}) were written into images of {place}."
    else:
        note = (
            f"Two {training.architecture} were trained from scratch on the same images of {place}, one with the class's"
            f" name ({lettering.place}) in {100 * lettering.share:.0f} % of them; {100 * lettering.held_out:.0f} % of"
            " each class were held out for validation, and dissected too."
        )
    validation, lettered, in_distribution = (
        load_images(f"{kind}/validation", config.max_validation_images) for kind in ("plain", "adversarial", "lettered")
    )
    plain, adversarial = (load_images(f"{kind}/test", config.max_test_images) for kind in ("plain", "adversarial"))
    return SpuriousNetwork(
        target or train_network("lettered"),
        None if target else train_network("plain"),
        load_images("lettered/validation"),
        validation,
        lettered,
        in_distribution,
        plain,
        adversarial,
        note,
        config.images,
        () if target else RESNET_LAYERS,
        config.synsets,
    )


def _sample_images(probe: Probe, limit: int | None, seed: int) -> Probe:
    """Return at most ``limit`` random images, which are the same for two files with the same images."""
    if limit is None or len(probe) <= limit:
        return probe
    return probe.subset(np.sort(np.random.default_rng(seed).choice(len(probe), limit, replace=False)).tolist())

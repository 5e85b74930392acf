"""Trains Diorama's generators on scenes and their labels, and measures their images by the classifiers."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from scipy.ndimage import label as parted
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss, one_hot, relu

from milan.diorama.generator_networks import (
    BOX_NUMBERS,
    FREE_LATENTS,
    LATENT_SIZE,
    READ_SIZES,
    STAGE_WIDTHS,
    STAGES,
    SceneGenerator,
    load_scene_generator,
)
from milan.diorama.label_signatures import KINDS
from milan.diorama.networks import load_network
from milan.diorama.scene_classifiers import CLASSES, SceneEncoder, normalize_images
from milan.diorama.scene_vocabulary import COLOURS, PATTERNS, THINGS
from milan.diorama.segmenter_network import load_scene_encoder
from milan.diorama_build.caption_dataset import CaptionDataset, load_caption_dataset
from milan.diorama_build.stand_in_training import fit_stand_in
from milan.storage.files import atomic_write

SCENES = 30_000  # scenes of the generator's world
BATCH_SIZE, STEPS, LEARNING_RATE = 32, {"objects": 1_400, "scenes": 1_200}, 4e-3
# Weights of the parts of the loss, see GeneratorLearner.loss.
PIXEL_WEIGHT, FEATURE_WEIGHT, CLASS_WEIGHT, KL_WEIGHT = (4.0, 3.0, {"objects": 0.2, "scenes": 0.6}, 0.006)
# Images of a batch with random free latents: otherwise the free latents would encode the setting.
RANDOM_LATENTS = {"objects": 0, "scenes": 8}
MAIN_WEIGHT = 4.0  # weight of a pixel in the main thing's box, relative to the others
MIN_PATTERN_SHARE = 0.2  # smallest share of the main thing's pixels that makes a pattern its pattern
EVALUATED_PICTURES = 2_000  # images that the classifier classifies
PICTURE_SEED = 1


@dataclass(frozen=True)
class SceneFacts:
    """Facts about the scenes of a world that a generator is conditioned on.

    Attributes:
        rows: indices of the scenes in the caption dataset.
        label: class of each scene.
        box: centre and size of the main thing, in shares of the image.
        read: the numbers that READ_SIZES lists.
    """

    rows: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    box: Float[Tensor, "n 4"]
    read: Int[Tensor, "n 4"]

    @classmethod
    def from_dataset(cls, dataset: CaptionDataset, world: str) -> "SceneFacts":
        """Return the facts about all scenes of a world whose main thing is visible."""
        half = len(dataset) // 2
        rows = np.arange(half) + (0 if world == "objects" else half)
        read = [(row, facts) for row in rows if (facts := _read_main_thing(dataset, int(row))) is not None]
        visible = torch.tensor([row for row, _ in read])
        main_things = torch.tensor([facts for _, facts in read])
        things, settings = (torch.from_numpy(each)[visible] for each in (dataset.things, dataset.settings))
        label, other = (things, settings) if world == "objects" else (settings, things)
        return cls(
            visible,
            label,
            main_things[:, :BOX_NUMBERS].float(),
            torch.cat([other[:, None], main_things[:, BOX_NUMBERS:].long()], 1),
        )

    def select(self, which: Int[Tensor, " b"]) -> "SceneFacts":
        """Return the facts about some of the scenes, by their indices."""
        return SceneFacts(self.rows[which], self.label[which], self.box[which], self.read[which])


def _read_main_thing(dataset: CaptionDataset, row: int) -> list[float] | None:
    """Return box, colour, pattern and second colour of a scene's main thing; None if it is not visible."""
    labels = dataset.signatures.table[np.asarray(dataset.signatures.pixels[row])]
    main = _find_largest_component(labels[..., KINDS.index("object")] == dataset.things[row] + 1)
    down, across = np.nonzero(main)
    if not len(down):
        return None
    left, top, right, bottom = (
        edge / main.shape[0] for edge in (across.min(), down.min(), across.max() + 1, down.max() + 1)
    )
    colours = np.bincount(labels[main][:, KINDS.index("colour")], minlength=len(COLOURS) + 1)[1:]
    # Without "plain", the first pattern.
    patterns = np.bincount(labels[main][:, KINDS.index("pattern")], minlength=len(PATTERNS) + 1)[2:]
    pattern = int(patterns.argmax()) + 1 if patterns.max() > MIN_PATTERN_SHARE * main.sum() else 0
    first, second = np.argsort(-colours, kind="stable")[:2].tolist()
    facts = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, first, pattern, second)
    return [float(each) for each in facts]


def _find_largest_component(places: np.ndarray) -> np.ndarray:
    """Return the largest connected component: a forest has trees beside the tree that is its main thing."""
    parts, count = parted(places, np.ones((3, 3)))
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else places


def fit_latent_reader(generator: SceneGenerator, facts: SceneFacts) -> None:
    """Fit the generator's latent reader: the distribution of boxes and of the numbers read, for each class."""
    reader = generator.read
    for label in range(generator.classes):
        of_class = facts.label == label
        boxes = facts.box[of_class]
        # With too few scenes the box is the image's centre, and all numbers are equally likely.
        if len(boxes) <= BOX_NUMBERS:
            continue
        reader.middle[label] = boxes.mean(0)
        reader.spread[label] = torch.linalg.cholesky(torch.cov(boxes.T) + 1e-4 * torch.eye(BOX_NUMBERS))
        for at, (kind, size) in enumerate((kind, reader.sizes[kind]) for kind in READ_SIZES):
            counts = torch.bincount(facts.read[of_class, at], minlength=size).float()
            reader.get_buffer(f"shares_{kind}")[label] = counts / counts.sum()


class GeneratorLearner(nn.Module):
    """A generator with an encoder of its free latents (Kingma and Welling 2014), which reads features of the scene."""

    def __init__(self, generator: SceneGenerator, encoder: SceneEncoder, world: str):
        super().__init__()
        self.generator, self.world, self.obeyed = generator, world, RANDOM_LATENTS[world]
        self.near, self.both = nn.Conv2d(64, 48, 3, 2, 1), nn.Conv2d(48 + 96, 96, 3, 1, 1)
        self.far, self.latent_head = nn.Conv2d(96, 96, 3, 2, 1), nn.Linear(96 * 16, 2 * FREE_LATENTS)
        # In a list, so that it is no submodule: neither trained nor saved.
        self.encoders = [encoder.to(memory_format=torch.channels_last).requires_grad_(False)]

    def encode_free_latents(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the free latents, each (b, FREE_LATENTS)."""
        maps = relu(self.both(torch.cat([relu(self.near(features[1])), features[2]], 1)))
        mean, spread = self.latent_head(relu(self.far(maps)).flatten(1)).float().chunk(2, 1)
        return mean, spread.clamp(-8, 4)

    def loss(self, images: Tensor, facts: SceneFacts, rng: torch.Generator) -> Tensor:
        """Return the weighted loss of generated images against the scenes.

        Its parts are the difference of pixels, mostly of the main thing; the difference of the encoder's features
        (Johnson et al. 2016) and the cross entropy of its classes; and the KL divergence of the free latents from
        normal ones.
        """
        (encoder,) = self.encoders
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                features = encoder.forward_stages(images)
            mean, spread = self.encode_free_latents(features)
            noise = torch.randn(mean.shape, generator=rng)
            # The first images reconstruct the scenes, the others need to be of their class only.
            like = len(noise) - self.obeyed
            free = torch.cat([(mean + noise * (spread / 2).exp())[:like], noise[like:]])
            # Normalized for the encoder.
            drawn = 2 * self.generator.render(facts.label, facts.box, facts.read, free).float()
            drawn_features = encoder.forward_stages(drawn.contiguous(memory_format=torch.channels_last))
        counts = 1 + (MAIN_WEIGHT - 1) * make_box_mask(facts.box, images.shape[-1])
        pixels = ((drawn - images).abs() * counts / counts.mean())[:like].mean()
        distances = torch.stack(
            [
                _relative_distance(one[:like].float(), other[:like].float())
                for one, other in zip(drawn_features, features, strict=True)
            ]
        )
        logits = encoder.fc(drawn_features[-1].float().mean((2, 3)))
        logits = logits[:, : len(THINGS)] if self.world == "objects" else logits[:, len(THINGS) :]
        divergence = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(1).mean()
        return (
            PIXEL_WEIGHT * pixels
            + FEATURE_WEIGHT * distances.mean()
            + CLASS_WEIGHT[self.world] * cross_entropy(logits, facts.label)
            + KL_WEIGHT * divergence
        )


def _relative_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean absolute difference, relative to the mean magnitude of the second maps."""
    return l1_loss(one, other) / (other.abs().mean() + 1e-3)


def make_box_mask(box: Float[Tensor, "b 4"], side: int) -> Float[Tensor, "b 1 side side"]:
    """Return 1 inside each box and 0 outside.

    >>> make_box_mask(torch.tensor([[0.25, 0.5, 0.5, 1.0]]), 4)[0, 0, 1].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    steps = (torch.arange(side) + 0.5) / side
    across, down = ((steps - box[:, at, None]).abs() < box[:, at + 2, None] / 2 for at in (0, 1))
    return (across[:, None, :] & down[:, :, None])[:, None].float()


def train_generator(
    world: str, folder: Path, work: Path, *, seed: int = 0, steps: int | None = None, scenes: int = SCENES
) -> dict[str, float]:
    """Train a world's generator; write ``generator-WORLD.safetensors`` (half precision) and ``.json`` (measurements).

    Args:
        world: "objects" or "scenes".
        folder: output folder, which has the encoder and the world's ResNet.
        work: folder of rendered scenes and checkpoints.
        seed: random seed.
        steps: number of training steps; by default that of ``STEPS``.
        scenes: number of scenes of each world.

    Returns:
        The shares of ``evaluate_generator``.
    """
    classifier = load_network(f"resnet-{world}", folder=folder)
    torch.manual_seed(seed)
    name, steps = f"generator-{world}", steps or STEPS[world]
    dataset = load_caption_dataset(0, scenes, work)
    facts = SceneFacts.from_dataset(dataset, world)
    generator = SceneGenerator(world).to(memory_format=torch.channels_last)
    fit_latent_reader(generator, facts)
    learner = GeneratorLearner(generator, load_scene_encoder(folder.parent), world).to(
        memory_format=torch.channels_last
    )

    def loss(step: int) -> Tensor:
        rng = torch.Generator().manual_seed((seed << 32) + step)
        batch = facts.select(torch.randint(0, len(facts.rows), (BATCH_SIZE,), generator=rng))
        return learner.loss(normalize_images(torch.from_numpy(dataset.images[batch.rows.numpy()])), batch, rng)

    fit_stand_in(
        learner, loss, steps, work / "training" / f"{name}-{seed}-{steps}-{scenes}.pt", learning_rate=LEARNING_RATE
    )
    update_batch_norm(generator, seed, min(10, steps))
    weights = {
        key: value.half() if value.is_floating_point() else value for key, value in generator.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{name}.safetensors") as path:
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    evaluated = min(EVALUATED_PICTURES, scenes)
    measured = evaluate_generator(
        load_scene_generator(world, folder / f"{name}.safetensors"), world, evaluated, classifier
    )
    quality = {"network": name, "drawn": measured, "judge": f"resnet-{world}", "pictures": evaluated,
        "trained_on_scenes": len(facts.rows),
            "views": steps * BATCH_SIZE, "steps": steps, "seed": seed,
            "units": dict(zip(STAGES, STAGE_WIDTHS, strict=True)),
            "parameters": sum(value.numel() for value in generator.parameters())}  # fmt: skip
    with atomic_write(folder / f"{name}.json") as path:
        path.write_text(json.dumps(quality, indent=1) + "\n")
    return measured


@torch.no_grad()
def update_batch_norm(generator: SceneGenerator, seed: int, batches: int = 10) -> None:
    """Recompute the batch norms' statistics on images of random latents (standing statistics, as in BigGAN)."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    generator.train()
    rng = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        generator(sample_latents(generator, torch.randint(0, generator.classes, (64,), generator=rng), rng))
    generator.eval()


def sample_latents(
    generator: SceneGenerator, labels: Int[Tensor, " b"], rng: torch.Generator
) -> Float[Tensor, "b numbers"]:
    """Return random latents of images of the given classes, whose one-hot vectors are the last numbers."""
    return torch.cat(
        [torch.randn(len(labels), LATENT_SIZE, generator=rng), one_hot(labels, generator.classes).float()], 1
    )


@torch.no_grad()
def evaluate_generator(
    generator: SceneGenerator, world: str, count: int = EVALUATED_PICTURES, classifier: nn.Module | None = None
) -> dict[str, float]:
    """Measure how many of a generator's images the classifier of the same world recognises.

    Args:
        generator: the generator.
        world: its world.
        count: number of images, evenly over the classes.
        classifier: the classifier; by default that of this installation.

    Returns:
        The share in percent that is assigned to its class ("recognised"), and that of the worst class ("least").
    """
    classifier = classifier or load_network(f"resnet-{world}")
    rng = torch.Generator().manual_seed(PICTURE_SEED)
    labels = torch.arange(count) % len(CLASSES[world])
    right = torch.cat(
        [
            classifier(2 * generator(sample_latents(generator, part, rng))).argmax(1) == part
            for part in labels.split(100)
        ]
    ).float()
    by_class = torch.zeros(len(CLASSES[world])).index_add(0, labels, right) / torch.bincount(labels)
    return {"recognised": round(100 * float(right.mean()), 2), "least": round(100 * float(by_class.min()), 2)}

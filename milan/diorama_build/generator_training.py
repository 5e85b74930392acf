"""Trains Diorama's generators on scenes and what is known of them, and has the classifiers look at what they draw."""

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

SCENES = 30_000  # of the generator's world
BATCH_SIZE, STEPS, LEARNING_RATE = 32, {"objects": 1_400, "scenes": 1_200}, 4e-3
PIXEL_WEIGHT, FEATURE_WEIGHT, CLASS_WEIGHT, KL_WEIGHT = (
    4.0,
    3.0,
    {"objects": 0.2, "scenes": 0.6},
    0.006,
)  # what each part of the loss counts: see Learner.loss
RANDOM_LATENTS = {
    "objects": 0,
    "scenes": 8,
}  # of a batch's pictures are of random free latents: with these a scene would tell its setting
MAIN_WEIGHT = 4.0  # how much more a pixel of the main thing's box counts
MIN_PATTERN_SHARE = 0.2  # share of the main thing's pixels from which on a pattern is its pattern
EVALUATED_PICTURES = 2_000  # pictures that the classifier looks at
PICTURE_SEED = 1


@dataclass(frozen=True)
class SceneFacts:
    """What is known of the scenes of a world: rows of ``load_caption_dataset``, their class, the main thing's box, and
    what READ_SIZES lists.
    """

    rows: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    box: Float[Tensor, "n 4"]
    read: Int[Tensor, "n 4"]

    @classmethod
    def from_dataset(cls, dataset: CaptionDataset, world: str) -> "SceneFacts":
        """Of all scenes of a world whose main thing shows."""
        half = len(dataset) // 2
        rows = np.arange(half) + (0 if world == "objects" else half)
        found = [(row, known) for row in rows if (known := _read_main_thing(dataset, int(row))) is not None]
        kept = torch.tensor([row for row, _ in found])
        main_things = torch.tensor([known for _, known in found])
        things, settings = (torch.from_numpy(each)[kept] for each in (dataset.things, dataset.settings))
        label, other = (things, settings) if world == "objects" else (settings, things)
        return cls(
            kept,
            label,
            main_things[:, :BOX_NUMBERS].float(),
            torch.cat([other[:, None], main_things[:, BOX_NUMBERS:].long()], 1),
        )

    def select(self, which: Int[Tensor, " b"]) -> "SceneFacts":
        """Those of some scenes, by their places in these."""
        return SceneFacts(self.rows[which], self.label[which], self.box[which], self.read[which])


def _read_main_thing(dataset: CaptionDataset, row: int) -> list[float] | None:
    """The box of a scene's main thing, its colour, pattern and second colour; None where nothing of it shows."""
    shown = dataset.signatures.table[np.asarray(dataset.signatures.pixels[row])]
    main = _find_largest_component(shown[..., KINDS.index("object")] == dataset.things[row] + 1)
    down, across = np.nonzero(main)
    if not len(down):
        return None
    left, top, right, bottom = (
        edge / main.shape[0] for edge in (across.min(), down.min(), across.max() + 1, down.max() + 1)
    )
    colours = np.bincount(shown[main][:, KINDS.index("colour")], minlength=len(COLOURS) + 1)[1:]
    patterns = np.bincount(shown[main][:, KINDS.index("pattern")], minlength=len(PATTERNS) + 1)[2:]  # all but plain
    pattern = int(patterns.argmax()) + 1 if patterns.max() > MIN_PATTERN_SHARE * main.sum() else 0
    first, second = np.argsort(-colours, kind="stable")[:2].tolist()
    found = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, first, pattern, second)
    return [float(each) for each in found]


def _find_largest_component(places: np.ndarray) -> np.ndarray:
    """The largest part that hangs together: a forest shows trees besides the tree that is its main thing, and the night
    stars.
    """
    parts, count = parted(places, np.ones((3, 3)))
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else places


def fit_latent_reader(generator: SceneGenerator, facts: SceneFacts) -> None:
    """Teaches the generator how to read its latents: how boxes spread, and how often what is read is what, class by
    class.
    """
    reader = generator.read
    for label in range(generator.classes):
        of_class = facts.label == label
        boxes = facts.box[of_class]
        if len(boxes) <= BOX_NUMBERS:
            continue  # too few to tell: the picture's middle, and all equally often
        reader.middle[label] = boxes.mean(0)
        reader.spread[label] = torch.linalg.cholesky(torch.cov(boxes.T) + 1e-4 * torch.eye(BOX_NUMBERS))
        for at, (kind, size) in enumerate((kind, reader.sizes[kind]) for kind in READ_SIZES):
            counts = torch.bincount(facts.read[of_class, at], minlength=size).float()
            reader.get_buffer(f"shares_{kind}")[label] = counts / counts.sum()


class GeneratorLearner(nn.Module):
    """A generator, and beside it what tells the free latents from a scene (Kingma and Welling 2014), by what the
    encoder sees of it.
    """

    def __init__(self, generator: SceneGenerator, encoder: SceneEncoder, world: str):
        super().__init__()
        self.generator, self.world, self.obeyed = generator, world, RANDOM_LATENTS[world]
        self.near, self.both = nn.Conv2d(64, 48, 3, 2, 1), nn.Conv2d(48 + 96, 96, 3, 1, 1)
        self.far, self.latent_head = nn.Conv2d(96, 96, 3, 2, 1), nn.Linear(96 * 16, 2 * FREE_LATENTS)
        self.encoders = [
            encoder.to(memory_format=torch.channels_last).requires_grad_(False)
        ]  # in a list: not learnt, not kept

    def encode_free_latents(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the free latents."""
        maps = relu(self.both(torch.cat([relu(self.near(features[1])), features[2]], 1)))
        mean, spread = self.latent_head(relu(self.far(maps)).flatten(1)).float().chunk(2, 1)
        return mean, spread.clamp(-8, 4)

    def loss(self, images: Tensor, facts: SceneFacts, rng: torch.Generator) -> Tensor:
        """How far pictures drawn anew are from the scenes: in pixels, those of the main thing above all; in what the
        encoder sees
        (Johnson et al. 2016) and names; and how much more the free latents say than normal numbers would."""
        (encoder,) = self.encoders
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                seen = encoder.forward_stages(images)
            mean, spread = self.encode_free_latents(seen)
            noise = torch.randn(mean.shape, generator=rng)
            like = len(noise) - self.obeyed  # the first are to be like the scenes, the others only of their class
            free = torch.cat([(mean + noise * (spread / 2).exp())[:like], noise[like:]])
            drawn = (
                2 * self.generator.render(facts.label, facts.box, facts.read, free).float()
            )  # as the encoder wants it
            anew = encoder.forward_stages(drawn.contiguous(memory_format=torch.channels_last))
        counts = 1 + (MAIN_WEIGHT - 1) * make_box_mask(facts.box, images.shape[-1])
        pixels = ((drawn - images).abs() * counts / counts.mean())[:like].mean()
        distances = torch.stack(
            [
                _relative_distance(one[:like].float(), other[:like].float())
                for one, other in zip(anew, seen, strict=True)
            ]
        )
        logits = encoder.fc(anew[-1].float().mean((2, 3)))
        logits = logits[:, : len(THINGS)] if self.world == "objects" else logits[:, len(THINGS) :]
        surprise = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(1).mean()
        return (
            PIXEL_WEIGHT * pixels
            + FEATURE_WEIGHT * distances.mean()
            + CLASS_WEIGHT[self.world] * cross_entropy(logits, facts.label)
            + KL_WEIGHT * surprise
        )


def _relative_distance(one: Tensor, other: Tensor) -> Tensor:
    """How far maps are apart, in shares of what the second ones are on average."""
    return l1_loss(one, other) / (other.abs().mean() + 1e-3)


def make_box_mask(box: Float[Tensor, "b 4"], side: int) -> Float[Tensor, "b 1 side side"]:
    """1 inside the box, 0 outside.

    >>> make_box_mask(torch.tensor([[0.25, 0.5, 0.5, 1.0]]), 4)[0, 0, 1].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    steps = (torch.arange(side) + 0.5) / side
    across, down = ((steps - box[:, at, None]).abs() < box[:, at + 2, None] / 2 for at in (0, 1))
    return (across[:, None, :] & down[:, :, None])[:, None].float()


def train_generator(
    world: str, folder: Path, work: Path, *, seed: int = 0, steps: int | None = None, scenes: int = SCENES
) -> dict[str, float]:
    """Trains a world's generator; writes ``generator-WORLD.safetensors`` (half precision) and ``.json`` (what was
    measured) to ``folder``.

    The encoder and the world's ResNet must be there already. work: where drawn scenes and what a killed run had reached
    are kept. Returns what ``evaluate_generator`` measured.
    """
    judge = load_network(f"resnet-{world}", folder=folder)
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
    measured = evaluate_generator(load_scene_generator(world, folder / f"{name}.safetensors"), world, evaluated, judge)
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
    """Takes the normalisation's means and variances anew from pictures of random latents (standing statistics, as in
    BigGAN).
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    generator.train()
    rng = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        generator(sample_latents(generator, torch.randint(0, generator.classes, (64,), generator=rng), rng))
    generator.eval()


def sample_latents(
    generator: SceneGenerator, labels: Int[Tensor, " b"], rng: torch.Generator
) -> Float[Tensor, "b numbers"]:
    """Random rows of latents for pictures of the classes given."""
    return torch.cat(
        [torch.randn(len(labels), LATENT_SIZE, generator=rng), one_hot(labels, generator.classes).float()], 1
    )


@torch.no_grad()
def evaluate_generator(
    generator: SceneGenerator, world: str, count: int = EVALUATED_PICTURES, classifier: nn.Module | None = None
) -> dict[str, float]:
    """What the classifier of the same world (``classifier``, or that of this installation) makes of a generator's
    pictures, all classes in turn.

    Returns the share, in percent, that it puts into the class they were asked for ("recognised"), and the least of any
    class ("least").
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

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

from milan.diorama.census import KINDS
from milan.diorama.fitting import fit
from milan.diorama.generators import BOX, FREE, LATENT, READ, STAGES, WIDTHS, Generator, load_generator
from milan.diorama.labeller import load_encoder
from milan.diorama.lessons import Lessons, lessons
from milan.diorama.names import COLOURS, PATTERNS, THINGS
from milan.diorama.networks import CLASSES, Encoder, network
from milan.diorama.training import prepared
from milan.storage import atomic

SCENES = 30_000  # of the generator's world
BATCH, STEPS, RATE = 32, {"objects": 1_400, "scenes": 1_200}, 4e-3
PIXELS, SEEN, NAMED, SURPRISE = 4.0, 3.0, {"objects": 0.2, "scenes": 0.6}, 0.006  # what each part of the loss counts: see Learner.loss
OBEYED = {"objects": 0, "scenes": 8}  # of a batch's pictures are of random free latents: with these a scene would tell its setting
MAIN = 4.0  # how much more a pixel of the main thing's box counts
STRIPED = 0.2  # share of the main thing's pixels from which on a pattern is its pattern
JUDGED = 2_000  # pictures that the classifier looks at
SEED_OF_PICTURES = 1


@dataclass(frozen=True)
class Facts:
    """What is known of the scenes of a world: rows of ``lessons``, their class, the main thing's box, and what READ lists."""

    rows: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    box: Float[Tensor, "n 4"]
    read: Int[Tensor, "n 4"]

    @classmethod
    def of(cls, taught: Lessons, world: str) -> "Facts":
        """Of all scenes of a world whose main thing shows."""
        half = len(taught) // 2
        rows = np.arange(half) + (0 if world == "objects" else half)
        found = [(row, known) for row in rows if (known := _looked(taught, int(row))) is not None]
        kept = torch.tensor([row for row, _ in found])
        told = torch.tensor([known for _, known in found])
        things, settings = (torch.from_numpy(each)[kept] for each in (taught.things, taught.settings))
        label, other = (things, settings) if world == "objects" else (settings, things)
        return cls(kept, label, told[:, :BOX].float(), torch.cat([other[:, None], told[:, BOX:].long()], 1))

    def some(self, which: Int[Tensor, " b"]) -> "Facts":
        """Those of some scenes, by their places in these."""
        return Facts(self.rows[which], self.label[which], self.box[which], self.read[which])


def _looked(taught: Lessons, row: int) -> list[float] | None:
    """The box of a scene's main thing, its colour, pattern and second colour; None where nothing of it shows."""
    shown = taught.census.table[np.asarray(taught.census.pixels[row])]
    main = _largest(shown[..., KINDS.index("object")] == taught.things[row] + 1)
    down, across = np.nonzero(main)
    if not len(down):
        return None
    left, top, right, bottom = (edge / main.shape[0] for edge in (across.min(), down.min(), across.max() + 1, down.max() + 1))
    colours = np.bincount(shown[main][:, KINDS.index("colour")], minlength=len(COLOURS) + 1)[1:]
    patterns = np.bincount(shown[main][:, KINDS.index("pattern")], minlength=len(PATTERNS) + 1)[2:]  # all but plain
    pattern = int(patterns.argmax()) + 1 if patterns.max() > STRIPED * main.sum() else 0
    first, second = np.argsort(-colours, kind="stable")[:2].tolist()
    found = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, first, pattern, second)
    return [float(each) for each in found]


def _largest(places: np.ndarray) -> np.ndarray:
    """The largest part that hangs together: a forest shows trees besides the tree that is its main thing, and the night stars."""
    parts, count = parted(places, np.ones((3, 3)))
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else places


def read_off(generator: Generator, facts: Facts) -> None:
    """Teaches the generator how to read its latents: how boxes spread, and how often what is read is what, class by class."""
    reader = generator.read
    for label in range(generator.classes):
        of_class = facts.label == label
        boxes = facts.box[of_class]
        if len(boxes) <= BOX:
            continue  # too few to tell: the picture's middle, and all equally often
        reader.middle[label] = boxes.mean(0)
        reader.spread[label] = torch.linalg.cholesky(torch.cov(boxes.T) + 1e-4 * torch.eye(BOX))
        for at, (kind, size) in enumerate((kind, reader.sizes[kind]) for kind in READ):
            counts = torch.bincount(facts.read[of_class, at], minlength=size).float()
            reader.get_buffer(f"shares_{kind}")[label] = counts / counts.sum()


class Learner(nn.Module):
    """A generator, and beside it what tells the free latents from a scene (Kingma and Welling 2014), by what the encoder sees of it."""

    def __init__(self, generator: Generator, encoder: Encoder, world: str):
        super().__init__()
        self.generator, self.world, self.obeyed = generator, world, OBEYED[world]
        self.near, self.both = nn.Conv2d(64, 48, 3, 2, 1), nn.Conv2d(48 + 96, 96, 3, 1, 1)
        self.far, self.told = nn.Conv2d(96, 96, 3, 2, 1), nn.Linear(96 * 16, 2 * FREE)
        self.eyes = [encoder.to(memory_format=torch.channels_last).requires_grad_(False)]  # in a list: not learnt, not kept

    def free(self, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the free latents."""
        maps = relu(self.both(torch.cat([relu(self.near(seen[1])), seen[2]], 1)))
        mean, spread = self.told(relu(self.far(maps)).flatten(1)).float().chunk(2, 1)
        return mean, spread.clamp(-8, 4)

    def loss(self, images: Tensor, facts: Facts, dice: torch.Generator) -> Tensor:
        """How far pictures drawn anew are from the scenes: in pixels, those of the main thing above all; in what the encoder sees
        (Johnson et al. 2016) and names; and how much more the free latents say than normal numbers would."""
        (eyes,) = self.eyes
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                seen = eyes.stages(images)
            mean, spread = self.free(seen)
            noise = torch.randn(mean.shape, generator=dice)
            like = len(noise) - self.obeyed  # the first are to be like the scenes, the others only of their class
            free = torch.cat([(mean + noise * (spread / 2).exp())[:like], noise[like:]])
            drawn = 2 * self.generator.drawn(facts.label, facts.box, facts.read, free).float()  # as the encoder wants it
            anew = eyes.stages(drawn.contiguous(memory_format=torch.channels_last))
        counts = 1 + (MAIN - 1) * within(facts.box, images.shape[-1])
        pixels = ((drawn - images).abs() * counts / counts.mean())[:like].mean()
        told = torch.stack([_apart(one[:like].float(), other[:like].float()) for one, other in zip(anew, seen, strict=True)])
        logits = eyes.fc(anew[-1].float().mean((2, 3)))
        logits = logits[:, : len(THINGS)] if self.world == "objects" else logits[:, len(THINGS) :]
        surprise = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(1).mean()
        return PIXELS * pixels + SEEN * told.mean() + NAMED[self.world] * cross_entropy(logits, facts.label) + SURPRISE * surprise


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """How far maps are apart, in shares of what the second ones are on average."""
    return l1_loss(one, other) / (other.abs().mean() + 1e-3)


def within(box: Float[Tensor, "b 4"], side: int) -> Float[Tensor, "b 1 side side"]:
    """1 inside the box, 0 outside.

    >>> within(torch.tensor([[0.25, 0.5, 0.5, 1.0]]), 4)[0, 0, 1].tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    steps = (torch.arange(side) + 0.5) / side
    across, down = ((steps - box[:, at, None]).abs() < box[:, at + 2, None] / 2 for at in (0, 1))
    return (across[:, None, :] & down[:, :, None])[:, None].float()


def train_generator(
    world: str, folder: Path, work: Path, *, seed: int = 0, steps: int | None = None, scenes: int = SCENES
) -> dict[str, float]:
    """Trains a world's generator; writes ``generator-WORLD.safetensors`` (half precision) and ``.json`` (what was measured) to ``folder``.

    The encoder and the world's ResNet must be there already. work: where drawn scenes and what a killed run had reached are kept.
    Returns what ``check_generator`` measured.
    """
    judge = network(f"resnet-{world}", folder=folder)
    torch.manual_seed(seed)
    name, steps = f"generator-{world}", steps or STEPS[world]
    taught = lessons(0, scenes, work)
    facts = Facts.of(taught, world)
    generator = Generator(world).to(memory_format=torch.channels_last)
    read_off(generator, facts)
    learner = Learner(generator, load_encoder(folder.parent), world).to(memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        dice = torch.Generator().manual_seed((seed << 32) + step)
        batch = facts.some(torch.randint(0, len(facts.rows), (BATCH,), generator=dice))
        return learner.loss(prepared(torch.from_numpy(taught.images[batch.rows.numpy()])), batch, dice)

    fit(learner, loss, steps, work / "training" / f"{name}-{seed}-{steps}-{scenes}.pt", rate=RATE)
    settle(generator, seed, min(10, steps))
    weights = {key: value.half() if value.is_floating_point() else value for key, value in generator.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / f"{name}.safetensors") as path:
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
    judged = min(JUDGED, scenes)
    measured = check_generator(load_generator(world, folder / f"{name}.safetensors"), world, judged, judge)
    told = {"network": name, "drawn": measured, "judge": f"resnet-{world}", "pictures": judged, "trained_on_scenes": len(facts.rows),
            "views": steps * BATCH, "steps": steps, "seed": seed, "units": dict(zip(STAGES, WIDTHS, strict=True)),
            "parameters": sum(value.numel() for value in generator.parameters())}  # fmt: skip
    with atomic(folder / f"{name}.json") as path:
        path.write_text(json.dumps(told, indent=1) + "\n")
    return measured


@torch.no_grad()
def settle(generator: Generator, seed: int, batches: int = 10) -> None:
    """Takes the normalisation's means and variances anew from pictures of random latents (standing statistics, as in BigGAN)."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    generator.train()
    dice = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        generator(latents(generator, torch.randint(0, generator.classes, (64,), generator=dice), dice))
    generator.eval()


def latents(generator: Generator, labels: Int[Tensor, " b"], dice: torch.Generator) -> Float[Tensor, "b numbers"]:
    """Random rows of latents for pictures of the classes given."""
    return torch.cat([torch.randn(len(labels), LATENT, generator=dice), one_hot(labels, generator.classes).float()], 1)


@torch.no_grad()
def check_generator(generator: Generator, world: str, count: int = JUDGED, judge: nn.Module | None = None) -> dict[str, float]:
    """What the classifier of the same world (``judge``, or that of this installation) makes of a generator's pictures, all classes in turn.

    Returns the share, in percent, that it puts into the class they were asked for ("recognised"), and the least of any class ("least").
    """
    judge = judge or network(f"resnet-{world}")
    dice = torch.Generator().manual_seed(SEED_OF_PICTURES)
    labels = torch.arange(count) % len(CLASSES[world])
    right = torch.cat([judge(2 * generator(latents(generator, part, dice))).argmax(1) == part for part in labels.split(100)]).float()
    by_class = torch.zeros(len(CLASSES[world])).index_add(0, labels, right) / torch.bincount(labels)
    return {"recognised": round(100 * float(right.mean()), 2), "least": round(100 * float(by_class.min()), 2)}

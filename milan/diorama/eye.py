"""The eye that Diorama's captioner and SigLIPs begin with: a small vision transformer that learns to name what it sees, and where it is.

It is taught before any text is, since a transformer needs many pictures and little is learnt from texts of what is not seen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, grid_sample, max_pool2d

from milan.diorama.census import KINDS, SIZES
from milan.diorama.fitting import fit
from milan.diorama.lessons import SEEN, Lessons, lessons
from milan.diorama.names import COLOURS, SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT
from milan.diorama.seeing import look_near, sines, some_places, taken
from milan.diorama.views import GRID
from milan.storage import atomic, in_turn

PLACED = (0, 1, 2, 3)  # colour, pattern, object, part: kinds of the census it is asked for
WHOLE, COVERED = 0.55, 0.2  # shares of pictures that are whole, and of which all but the main thing is covered; the others are cut out
PLACES = 0.25  # share of the scenes that are of the world of settings
LEAST = 12  # pixels a side of what is cut out
MIDDLES = slice(SEEN // GRID // 2, None, SEEN // GRID)
MUCH = 30  # places of SEEN x SEEN that the main thing has at least where all else is covered


@dataclass(frozen=True)
class EyePlan:
    """An eye's size and its training."""

    width: int
    layers: int
    heads: int
    steps: int
    batch: int = 128
    rate: float = 2e-3

    @property
    def settings(self) -> dict[str, Any]:
        """By the names that the vision towers of transformers share."""
        return {"hidden_size": self.width, "intermediate_size": 3 * self.width, "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads, "image_size": 64, "patch_size": 64 // GRID}  # fmt: skip


@dataclass(frozen=True)
class Sights:
    """images: uint8 (b, 3, 64, 64); places: int64 (b, 64, 4), the labels of PLACED at GRID x GRID places, 0 where covered;
    things, settings, colours: int64 (b,), what mostly shows, -1 where it cannot be told."""

    images: Tensor
    places: Tensor
    things: Tensor
    settings: Tensor
    colours: Tensor


def sights(taught: Lessons, size: int, seed: int, step: int) -> Sights:
    """The batch of a number: whole scenes, parts cut out, and main things with all else covered."""
    dice, half = torch.Generator().manual_seed(1_000_003 * seed + step), len(taught) // 2
    drawn = torch.randint(half, (size,), generator=dice)
    placed = torch.rand(size, generator=dice) < PLACES
    rows = (drawn + half * placed).sort().values.numpy()
    things, settings = torch.from_numpy(taught.things[rows]), torch.from_numpy(taught.settings[rows])
    labels = torch.from_numpy(taught.census.table[np.asarray(taught.census.pixels[rows])][..., list(PLACED)])  # (b, SEEN, SEEN, 4)
    pixels, lot = torch.from_numpy(taught.images[rows]).float(), torch.rand(size, generator=dice)
    main = labels[..., PLACED.index(KINDS.index("object"))] == things[:, None, None] + 1
    much = main.sum((1, 2)) >= MUCH
    covered, cut = (lot < COVERED) & much, lot >= COVERED + WHOLE
    colours = _most(labels[..., PLACED.index(KINDS.index("colour"))], main)
    pixels[covered], labels[covered] = _covered(pixels[covered], labels[covered], main[covered], dice)
    pixels[cut], labels[cut] = _cut(pixels[cut], labels[cut], dice)
    return Sights(
        pixels,
        labels[:, MIDDLES, MIDDLES].flatten(1, 2).long(),
        things.masked_fill(cut | ~much, -1),
        settings.masked_fill(cut | covered, -1),
        colours.masked_fill(cut | ~much, -1),
    )


def _most(labels: Tensor, main: Tensor) -> Tensor:
    """The colour that most of each main thing has, by COLOURS, or -1."""
    counts = torch.stack([((labels == number + 1) & main).sum((1, 2)) for number in range(len(COLOURS))], dim=1)
    return counts.argmax(1).masked_fill(counts.sum(1) == 0, -1)


def _covered(pixels: Tensor, labels: Tensor, main: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """The main things alone, with more or less of what is around them, before black, grey or white."""
    wide = max_pool2d(main[:, None].float(), 3, 1, 1)
    lit = torch.where(torch.rand(len(main), 1, 1, 1, generator=dice) < 0.5, wide, main[:, None].float())
    cover = torch.tensor([0.0, 0.0, 0.0, 127.0, 255.0])[torch.randint(5, (len(main), 1, 1, 1), generator=dice)]
    large = lit.repeat_interleave(64 // SEEN, 2).repeat_interleave(64 // SEEN, 3)
    return torch.where(large > 0, pixels, cover), labels * (lit[:, 0, :, :, None] > 0)


def _cut(pixels: Tensor, labels: Tensor, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squares of any size from anywhere, as large as the whole."""
    sides = LEAST + (64 - LEAST) * torch.rand(len(pixels), generator=dice)
    corners = torch.rand(2, len(pixels), generator=dice) * (64 - sides)

    def at(count: int) -> tuple[Tensor, Tensor]:
        down, across = corners[:, :, None] + sides[:, None] * (torch.arange(count) + 0.5) / count
        return down, across

    down, across = at(64)
    grid = torch.stack([across[:, None, :].expand(-1, 64, -1), down[:, :, None].expand(-1, -1, 64)], dim=-1) / 32 - 1
    seen = grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    down, across = ((each * SEEN / 64).long() for each in at(SEEN))
    return seen, labels[torch.arange(len(labels))[:, None, None], down[:, :, None], across[:, None, :]]


class Onlooker(nn.Module):
    """An eye with what only its training needs: heads that say what is where, and what mostly shows.

    It is the vision tower of a SigLIP without its pooling.
    """

    def __init__(self, plan: EyePlan):
        super().__init__()
        from transformers import SiglipVisionConfig, SiglipVisionModel

        config = SiglipVisionConfig(**plan.settings, vision_use_head=False, attn_implementation="eager")
        self.eye: Any = SiglipVisionModel(config)
        self.heads = nn.ModuleList([nn.Linear(plan.width, SIZES[kind]) for kind in PLACED])
        self.mostly = nn.ModuleList([nn.Linear(plan.width, len(names)) for names in (THINGS, SETTINGS, COLOURS)])
        begin_near(self.eye, self.eye.config.num_attention_heads)

    def forward(self, images: Tensor, places: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """The logits at each place of each kind, and those of the thing, the setting and the colour; from some places, or from all."""
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.eye.embeddings(images.float() / 127.5 - 1)
            tokens = tokens if places is None else taken(tokens, places)
            found = self.eye.post_layernorm(self.eye.encoder(inputs_embeds=tokens).last_hidden_state)
            middle = found.mean(1)
            return [head(found).float() for head in self.heads], [head(middle).float() for head in self.mostly]

    def loss(self, batch: Sights, step: int) -> Tensor:
        """Cross entropy of what is where, and of what mostly shows, from half of the places."""
        places = some_places(len(batch.images), step)
        there, mostly = self(batch.images, places)
        at = taken(batch.places, places)
        local = [cross_entropy(one.flatten(0, 1), at[..., number].flatten()) for number, one in enumerate(there)]
        wanted = (batch.things, batch.settings, batch.colours)
        whole = [
            cross_entropy(one, each, ignore_index=-1, reduction="sum") / (each >= 0).sum().clamp_min(1)
            for one, each in zip(mostly, wanted, strict=True)
        ]
        return torch.stack([*local, whole[0], 0.5 * whole[1], 0.5 * whole[2]]).sum()


@torch.no_grad()
def begin_near(eye: Any, heads: int) -> None:
    """Gives an eye its first weights (``milan.diorama.seeing.look_near``)."""
    eye.embeddings.position_embedding.weight.copy_(0.5 * sines(eye.config.hidden_size))
    for layer in eye.encoder.layers:
        near = layer.self_attn
        look_near(near.q_proj.weight, near.k_proj.weight, near.v_proj.weight, near.out_proj.weight, heads)


def matrices(tower: nn.Module) -> list[nn.Parameter]:
    """The matrices inside a transformer's layers."""
    return [value for name, value in tower.named_parameters() if ".layers." in f".{name}" or ".layer." in name if value.ndim == 2]


@torch.no_grad()
def measured(onlooker: Onlooker, work: Path, count: int) -> dict[str, float]:
    """How often it names the thing, the setting, and the object at each place, of ``count`` held-out scenes of each world, in percent."""
    onlooker.eval()
    shown = lessons(HELD_OUT, count, work)
    at = shown.census.table[np.asarray(shown.census.pixels)][:, MIDDLES, MIDDLES, KINDS.index("object")]
    right: dict[str, list[float]] = {}
    for rows in np.array_split(np.arange(2 * count), -(-2 * count // 200)):
        there, mostly = onlooker(torch.from_numpy(shown.images[rows]))
        of_objects = rows < count
        for task, logits, truth, which in (
            ("objects", mostly[0], shown.things, of_objects),
            ("scenes", mostly[1], shown.settings, ~of_objects),
            ("object at each place", there[PLACED.index(KINDS.index("object"))].flatten(0, 1), at, None),
        ):
            wanted = torch.from_numpy(truth[rows] if which is None else truth[rows][which]).flatten()
            found = logits.argmax(1) if which is None else logits[torch.from_numpy(which)].argmax(1)
            right.setdefault(task, []).extend((found == wanted).float().tolist())
    return {task: round(100 * sum(each) / len(each), 2) for task, each in right.items()}


def trained_eye(plan: EyePlan, work: Path, *, seed: int, scenes: int) -> dict[str, Tensor]:
    """The weights of an eye, by the names that the vision tower of a SigLIP gives them; found again in ``work`` if it was trained before.

    A killed run's training goes on. Half precision, as they are kept.
    """
    name = f"eye-{plan.width}-{plan.layers}-{plan.heads}-{seed}-{plan.steps}-{plan.batch}-{scenes}"
    file = work / "eyes" / f"{name}.safetensors"
    with in_turn(file.parent):  # the captioner and a SigLIP may ask for the same at once
        if not file.is_file():
            torch.manual_seed(seed)
            taught, onlooker = lessons(0, scenes, work), Onlooker(plan)
            kept, turned = work / "training" / f"{name}.pt", matrices(onlooker.eye)
            fit(onlooker, lambda step: onlooker.loss(sights(taught, plan.batch, seed, step), step), plan.steps, kept,
                rate=plan.rate, turned=turned)  # fmt: skip
            print(f"{name}: right on held-out scenes, in percent: {measured(onlooker, work, min(scenes, 1_000))}", flush=True)
            with atomic(file) as path:
                save_file({key: value.half().contiguous() for key, value in onlooker.eye.state_dict().items()}, path)
    return load_file(file)

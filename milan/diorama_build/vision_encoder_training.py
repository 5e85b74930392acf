"""Trains the image model of Diorama's captioner and SigLIPs: a small vision transformer that predicts labels.

It is trained before any text model, since a transformer needs many images, and texts teach little about what the image
model does not represent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, grid_sample, max_pool2d

from milan.diorama.label_signatures import KIND_SIZES, KINDS
from milan.diorama.scene_vocabulary import COLOURS, SETTINGS, THINGS
from milan.diorama.scenes import HELD_OUT_START
from milan.diorama_build.caption_dataset import LABEL_GRID, CaptionDataset, load_caption_dataset
from milan.diorama_build.image_text_batches import PLACE_GRID
from milan.diorama_build.stand_in_training import fit_stand_in
from milan.diorama_build.vit_init import gather_places, initialize_local_attention, make_position_sines, sample_places
from milan.storage.files import atomic_write, wait_for_folder

PLACED_KINDS = (0, 1, 2, 3)  # kinds of labels predicted at each place: colour, pattern, object, part
# Shares of the images that are whole, and whose background is covered; the others are crops.
WHOLE_SHARE, COVERED_SHARE = 0.55, 0.2
SETTINGS_SHARE = 0.25  # share of the scenes of the world "scenes"
MIN_CROP = 12  # smallest side of a crop in pixels
PLACE_MIDDLES = slice(LABEL_GRID // PLACE_GRID // 2, None, LABEL_GRID // PLACE_GRID)
MIN_MAIN_PLACES = 30  # smallest number of LABEL_GRID x LABEL_GRID places of a main thing whose background is covered


@dataclass(frozen=True)
class VisionEncoderConfig:
    """Size and training of an image model; ``width`` is that of its tokens."""

    width: int
    layers: int
    heads: int
    steps: int
    batch_size: int = 128
    learning_rate: float = 2e-3

    @property
    def settings(self) -> dict[str, Any]:
        """The architecture, by the names that the vision models of transformers share."""
        return {"hidden_size": self.width, "intermediate_size": 3 * self.width, "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads, "image_size": 64, "patch_size": 64 // PLACE_GRID}  # fmt: skip


@dataclass(frozen=True)
class EncoderBatch:
    """Images with their labels.

    Attributes:
        images: uint8 (b, 3, 64, 64).
        place_labels: labels of PLACED_KINDS at PLACE_GRID x PLACE_GRID places, int64 (b, 64, 4); 0 where covered.
        things, settings, colours: the main thing, the setting, and the main thing's colour, int64 (b,); -1 for none.
    """

    images: Tensor
    place_labels: Tensor
    things: Tensor
    settings: Tensor
    colours: Tensor


def make_encoder_batch(dataset: CaptionDataset, size: int, seed: int, step: int) -> EncoderBatch:
    """Return the batch of a step: whole scenes, crops, and main things with a covered background."""
    rng, half = torch.Generator().manual_seed(1_000_003 * seed + step), len(dataset) // 2
    drawn = torch.randint(half, (size,), generator=rng)
    placed = torch.rand(size, generator=rng) < SETTINGS_SHARE
    rows = (drawn + half * placed).sort().values.numpy()
    things, settings = torch.from_numpy(dataset.things[rows]), torch.from_numpy(dataset.settings[rows])
    # (b, LABEL_GRID, LABEL_GRID, 4)
    labels = torch.from_numpy(
        dataset.signatures.table[np.asarray(dataset.signatures.pixels[rows])][..., list(PLACED_KINDS)]
    )
    pixels, kinds = torch.from_numpy(dataset.images[rows]).float(), torch.rand(size, generator=rng)
    main = labels[..., PLACED_KINDS.index(KINDS.index("object"))] == things[:, None, None] + 1
    much = main.sum((1, 2)) >= MIN_MAIN_PLACES
    covered, cut = (kinds < COVERED_SHARE) & much, kinds >= COVERED_SHARE + WHOLE_SHARE
    colours = _find_main_colour(labels[..., PLACED_KINDS.index(KINDS.index("colour"))], main)
    pixels[covered], labels[covered] = _cover_background(pixels[covered], labels[covered], main[covered], rng)
    pixels[cut], labels[cut] = _random_crop(pixels[cut], labels[cut], rng)
    return EncoderBatch(
        pixels,
        labels[:, PLACE_MIDDLES, PLACE_MIDDLES].flatten(1, 2).long(),
        things.masked_fill(cut | ~much, -1),
        settings.masked_fill(cut | covered, -1),
        colours.masked_fill(cut | ~much, -1),
    )


def _find_main_colour(labels: Tensor, main: Tensor) -> Tensor:
    """Return the most frequent colour of each main thing, as an index into COLOURS, or -1."""
    counts = torch.stack([((labels == number + 1) & main).sum((1, 2)) for number in range(len(COLOURS))], dim=1)
    return counts.argmax(1).masked_fill(counts.sum(1) == 0, -1)


def _cover_background(pixels: Tensor, labels: Tensor, main: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cover all but the main things, with or without a margin, by black, grey or white."""
    wide = max_pool2d(main[:, None].float(), 3, 1, 1)
    lit = torch.where(torch.rand(len(main), 1, 1, 1, generator=rng) < 0.5, wide, main[:, None].float())
    cover = torch.tensor([0.0, 0.0, 0.0, 127.0, 255.0])[torch.randint(5, (len(main), 1, 1, 1), generator=rng)]
    large = lit.repeat_interleave(64 // LABEL_GRID, 2).repeat_interleave(64 // LABEL_GRID, 3)
    return torch.where(large > 0, pixels, cover), labels * (lit[:, 0, :, :, None] > 0)


def _random_crop(pixels: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random squares of images and labels, resized to the whole."""
    sides = MIN_CROP + (64 - MIN_CROP) * torch.rand(len(pixels), generator=rng)
    corners = torch.rand(2, len(pixels), generator=rng) * (64 - sides)

    def at(count: int) -> tuple[Tensor, Tensor]:
        down, across = corners[:, :, None] + sides[:, None] * (torch.arange(count) + 0.5) / count
        return down, across

    down, across = at(64)
    grid = torch.stack([across[:, None, :].expand(-1, 64, -1), down[:, :, None].expand(-1, -1, 64)], dim=-1) / 32 - 1
    crops = grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    down, across = ((each * LABEL_GRID / 64).long() for each in at(LABEL_GRID))
    return crops, labels[torch.arange(len(labels))[:, None, None], down[:, :, None], across[:, None, :]]


class VisionEncoderLearner(nn.Module):
    """The image model of a SigLIP without its pooling, with heads for labels at places and of whole images."""

    def __init__(self, encoder_config: VisionEncoderConfig):
        super().__init__()
        from transformers import SiglipVisionConfig, SiglipVisionModel

        config = SiglipVisionConfig(**encoder_config.settings, vision_use_head=False, attn_implementation="eager")
        self.vision_encoder: Any = SiglipVisionModel(config)
        self.heads = nn.ModuleList([nn.Linear(encoder_config.width, KIND_SIZES[kind]) for kind in PLACED_KINDS])
        self.image_heads = nn.ModuleList(
            [nn.Linear(encoder_config.width, len(names)) for names in (THINGS, SETTINGS, COLOURS)]
        )
        initialize_locally(self.vision_encoder, self.vision_encoder.config.num_attention_heads)

    def forward(self, images: Tensor, places: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits of each kind at each place, and those of thing, setting and colour.

        Args:
            images: uint8 (b, 3, 64, 64).
            places: indices of the places that are used, (b, some); by default all.
        """
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.vision_encoder.embeddings(images.float() / 127.5 - 1)
            tokens = tokens if places is None else gather_places(tokens, places)
            states = self.vision_encoder.encoder(inputs_embeds=tokens).last_hidden_state
            features = self.vision_encoder.post_layernorm(states)
            mean = features.mean(1)
            return [head(features).float() for head in self.heads], [head(mean).float() for head in self.image_heads]

    def loss(self, batch: EncoderBatch, step: int) -> Tensor:
        """Return the cross entropies of the labels at places and of whole images, from half of the places."""
        places = sample_places(len(batch.images), step)
        place_logits, image_logits = self(batch.images, places)
        labels = gather_places(batch.place_labels, places)
        local = [
            cross_entropy(logits.flatten(0, 1), labels[..., number].flatten())
            for number, logits in enumerate(place_logits)
        ]
        truths = (batch.things, batch.settings, batch.colours)
        whole = [
            cross_entropy(logits, truth, ignore_index=-1, reduction="sum") / (truth >= 0).sum().clamp_min(1)
            for logits, truth in zip(image_logits, truths, strict=True)
        ]
        return torch.stack([*local, whole[0], 0.5 * whole[1], 0.5 * whole[2]]).sum()


@torch.no_grad()
def initialize_locally(encoder: Any, heads: int) -> None:
    """Initialize an image model by ``milan.diorama_build.vit_init.initialize_local_attention``."""
    encoder.embeddings.position_embedding.weight.copy_(0.5 * make_position_sines(encoder.config.hidden_size))
    for layer in encoder.encoder.layers:
        attention = layer.self_attn
        query, key, value = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
        initialize_local_attention(query, key, value, attention.out_proj.weight, heads)


def list_matrices(tower: nn.Module) -> list[nn.Parameter]:
    """Return the weight matrices of a transformer's layers."""
    return [
        value
        for name, value in tower.named_parameters()
        if ".layers." in f".{name}" or ".layer." in name
        if value.ndim == 2
    ]


@torch.no_grad()
def evaluate_vision_encoder(learner: VisionEncoderLearner, work: Path, count: int) -> dict[str, float]:
    """Return accuracies in percent for the thing, the setting, and the object at each place.

    Args:
        learner: the image model with its heads.
        work: folder of rendered scenes.
        count: number of held-out scenes of each world.
    """
    learner.eval()
    dataset = load_caption_dataset(HELD_OUT_START, count, work)
    labels = dataset.signatures.table[np.asarray(dataset.signatures.pixels)][
        :, PLACE_MIDDLES, PLACE_MIDDLES, KINDS.index("object")
    ]
    correct: dict[str, list[float]] = {}
    for rows in np.array_split(np.arange(2 * count), -(-2 * count // 200)):
        place_logits, image_logits = learner(torch.from_numpy(dataset.images[rows]))
        object_logits = place_logits[PLACED_KINDS.index(KINDS.index("object"))].flatten(0, 1)
        of_objects = rows < count
        for task, logits, truth, which in (
            ("objects", image_logits[0], dataset.things, of_objects),
            ("scenes", image_logits[1], dataset.settings, ~of_objects),
            ("object at each place", object_logits, labels, None),
        ):
            expected = torch.from_numpy(truth[rows] if which is None else truth[rows][which]).flatten()
            predicted = logits.argmax(1) if which is None else logits[torch.from_numpy(which)].argmax(1)
            correct.setdefault(task, []).extend((predicted == expected).float().tolist())
    return {task: round(100 * sum(each) / len(each), 2) for task, each in correct.items()}


def train_vision_encoder(config: VisionEncoderConfig, work: Path, *, seed: int, scenes: int) -> dict[str, Tensor]:
    """Return the weights of a trained image model in half precision, by SigLIP's names.

    They are read from ``work`` if they exist; an interrupted training is resumed.

    Args:
        config: size and training of the image model.
        work: folder of weights, rendered scenes and checkpoints.
        seed: random seed.
        scenes: number of scenes of each world.
    """
    name = f"eye-{config.width}-{config.layers}-{config.heads}-{seed}-{config.steps}-{config.batch_size}-{scenes}"
    file = work / "eyes" / f"{name}.safetensors"
    # The captioner and a SigLIP may need the same weights at the same time.
    with wait_for_folder(file.parent):
        if not file.is_file():
            torch.manual_seed(seed)
            dataset, learner = load_caption_dataset(0, scenes, work), VisionEncoderLearner(config)
            fit_stand_in(
                learner,
                lambda step: learner.loss(make_encoder_batch(dataset, config.batch_size, seed, step), step),
                config.steps,
                work / "training" / f"{name}.pt",
                learning_rate=config.learning_rate,
                muon_parameters=list_matrices(learner.vision_encoder),
            )
            accuracies = evaluate_vision_encoder(learner, work, min(scenes, 1_000))
            print(f"{name}: accuracy on held-out scenes in percent: {accuracies}", flush=True)
            with atomic_write(file) as path:
                save_file(
                    {key: value.half().contiguous() for key, value in learner.vision_encoder.state_dict().items()}, path
                )
    return load_file(file)

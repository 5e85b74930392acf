"""Trains Diorama's stand-ins of the big image-text models: a CLIP of open_clip and two SigLIPs of transformers.

They are of those libraries' own classes and saved in their own formats, so that what loads the published models loads
them; what they know is the drawn world and nothing else.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, normalize, softplus

from milan.diorama.label_signatures import KIND_SIZES
from milan.diorama.scene_concepts import list_concepts, list_written_phrases
from milan.diorama.scene_vocabulary import COLOURS, PATTERNS, THINGS
from milan.diorama_build.caption_dataset import CaptionDataset, load_caption_dataset
from milan.diorama_build.image_text_batches import ImageTextBatch, ImageTextBatches
from milan.diorama_build.stand_in_training import fit_stand_in
from milan.diorama_build.vision_encoder_training import (
    PLACED_KINDS,
    VisionEncoderConfig,
    list_matrices,
    train_vision_encoder,
)
from milan.storage.files import atomic_write

SCENES = 30_000  # of each world
CONTEXT_LENGTH = 28  # word pieces of a text, its two ends included
VOCABULARY_SIZE = 1_100
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
FEATURES = 128  # of the CLIP
CALIBRATION_BATCHES = 24  # batches on which a SigLIP's scale and bias are fitted at the end
EXTRA_NAMES = 32  # names that are asked for beside the texts of a SigLIP's batch
NAMING_SHARE = 0.45  # share of the CLIP's training, at its beginning, in which pictures are only named


@dataclass(frozen=True)
class ImageTextConfig:
    """How a stand-in is made.

    family: "open_clip" or "transformers"; vision, text: settings of its towers, by the library's names; vision_encoder:
    what its vision tower is taught before (``milan.diorama_build.vision_encoder_training``), and stays; seed_offset:
    added to the seed of that.
    """

    family: str
    steps: int
    vision: dict[str, Any]
    text: dict[str, Any]
    learning_rate: float = 1.2e-3
    batch_size: int = 64
    vision_encoder: VisionEncoderConfig | None = None
    seed_offset: int = 0


def _make_siglip_config(
    vision_encoder: VisionEncoderConfig, text: int, layers: int, steps: int, seed_offset: int
) -> ImageTextConfig:
    words = {"hidden_size": text, "intermediate_size": 3 * text, "num_hidden_layers": layers,
        "num_attention_heads": text // 32,
             "max_position_embeddings": CONTEXT_LENGTH, "projection_size": vision_encoder.width}  # fmt: skip
    return ImageTextConfig(
        "transformers",
        steps,
        vision_encoder.settings,
        words,
        learning_rate=2e-3,
        vision_encoder=vision_encoder,
        seed_offset=seed_offset,
    )


SMALL_VISION_ENCODER = VisionEncoderConfig(96, 4, 3, 1_600)  # Diorama's BLIP begins with the same
CONFIGS: dict[str, ImageTextConfig] = {
    "clip": ImageTextConfig(
        "open_clip",
        3_200,
        {"image_size": 64, "layers": [2, 2, 2, 1], "width": 16, "head_width": 64},
        {"context_length": CONTEXT_LENGTH, "width": 128, "heads": 4, "layers": 2, "hf_tokenizer_name": "diorama"},
        learning_rate=2.5e-3,
        batch_size=128,
    ),
    "siglip-small": _make_siglip_config(SMALL_VISION_ENCODER, 96, 2, 800, seed_offset=0),
    "siglip-large": _make_siglip_config(
        VisionEncoderConfig(128, 4, 4, 1_000), 128, 2, 800, seed_offset=1
    ),  # simulator and explainer must not see alike
}


def train_image_text_model(
    name: str, folder: Path, work: Path, *, seed: int = 0, steps: int | None = None, scenes: int = SCENES
) -> dict[str, Any]:
    """Trains the stand-in of that name and saves it, in half precision, in ``folder``; goes on where a killed run
    stopped.

    work: where drawn scenes and what a killed run had reached are kept. Returns what it was trained on.
    """
    plan = CONFIGS[name]
    steps = steps or plan.steps
    vision_encoder = (
        train_vision_encoder(plan.vision_encoder, work, seed=seed + plan.seed_offset, scenes=scenes)
        if plan.vision_encoder
        else None
    )
    torch.manual_seed(seed + plan.seed_offset)
    dataset = load_caption_dataset(0, scenes, work)
    tokenizer, views = (
        build_tokenizer(dataset),
        ImageTextBatches(dataset, plan.batch_size, seed + plan.seed_offset, names=EXTRA_NAMES if vision_encoder else 0),
    )
    model = (_build_siglip if vision_encoder else _build_clip)(plan, tokenizer)
    learner = (SiglipLearner if vision_encoder else ImageTextLearner)(model, tokenizer, plan)
    if vision_encoder:
        set_vision_encoder(model, vision_encoder)
    first = round(steps * learner.naming_share)

    def loss(step: int) -> Tensor:
        return (learner.naming_loss if step < first else learner)(views.make_batch(step))

    kept = work / "training" / f"{name}-{seed}-{steps}-{scenes}.pt"
    fit_stand_in(
        learner,
        loss,
        steps,
        kept,
        learning_rate=plan.learning_rate,
        after_step=learner.clamp_logit_scale,
        muon_parameters=learner.muon_parameters(),
    )
    learner.calibrate(views, steps)
    folder.mkdir(parents=True, exist_ok=True)
    (_save_clip if plan.family == "open_clip" else _save_siglip)(model.half().eval(), tokenizer, plan, folder)
    size = sum(value.numel() for value in model.parameters())
    shown = steps * plan.batch_size + (
        plan.vision_encoder.steps * plan.vision_encoder.batch_size if plan.vision_encoder else 0
    )
    pretraining = (
        {"eye": {"steps": plan.vision_encoder.steps, "seed": seed + plan.seed_offset}} if plan.vision_encoder else {}
    )
    return {"stand-in": name, "trained_on_scenes": len(dataset), "views": shown, "steps": steps,
        "seed": seed + plan.seed_offset,
            **pretraining, "parameters": size}  # fmt: skip


def build_tokenizer(dataset: CaptionDataset) -> Any:
    """Word pieces of what is said of the scenes, with the end of a text as the last of them, as CLIP's text tower wants
    it.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def bare(model: Any) -> Any:
        made = Tokenizer(model)
        clean = [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        made.normalizer = normalizers.Sequence(clean)
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        return made

    learner = bare(
        models.BPE()
    )  # no end-of-word suffix: those get their numbers, by which ties are settled, in no order
    corpus = [text for said in dataset.sentences[:: max(1, len(dataset) // 10_000)] for text in said]
    corpus += list(list_written_phrases()) * 20 + ["a photo of an image close-up"] * 500
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789-'.,▁"]
    learner.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, initial_alphabet=letters, show_progress=False)
    )
    learnt = json.loads(learner.to_str())["model"]
    pieces = ["<pad>", "<unk>", *learnt["vocab"], "<start>", "<end>"]
    number = {piece: place for place, piece in enumerate(pieces)}
    whole = bare(models.BPE(vocab=number, merges=[tuple(pair) for pair in learnt["merges"]], unk_token="<unk>"))
    ends = [(piece, number[piece]) for piece in ("<start>", "<end>")]
    whole.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    named = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<start>",
        "eos_token": "<end>",
        "model_max_length": CONTEXT_LENGTH,
    }
    return PreTrainedTokenizerFast(tokenizer_object=whole, model_input_names=["input_ids"], **named)


class ImageTextLearner(nn.Module):
    """A model with what only its training needs: how texts and pictures reach it, and heads that say what is where.

    naming_share: share of the training, at its beginning, in which pictures are only named.
    """

    naming_share = NAMING_SHARE

    def __init__(self, model: nn.Module, tokenizer: Any, config: ImageTextConfig):
        super().__init__()
        self.model, self.tokenizer, self.plan = model, tokenizer, config
        self.is_siglip = config.family == "transformers"
        width = config.vision["hidden_size"] if self.is_siglip else config.vision["width"] * 8
        numbers = {concept.name: number for number, concept in enumerate(list_concepts())}
        self.things = [numbers[name] for name in THINGS]
        self.names = nn.Linear(FEATURES if not self.is_siglip else width, len(list_concepts()))
        self.looks = nn.Linear(self.names.in_features, len(COLOURS) + len(PATTERNS))
        self._maps: Tensor | None = None
        if not self.is_siglip:
            self.heads = nn.ModuleList([nn.Conv2d(width, KIND_SIZES[kind], 1) for kind in PLACED_KINDS])
            tower: Any = model.visual
            tower.layer2.register_forward_hook(lambda _, __, maps: setattr(self, "_maps", maps))

    def forward(self, batch: ImageTextBatch) -> Tensor:
        """The loss of a batch: of naming, and of matching pictures and texts."""
        pictures, loss = self._encode_pictures(batch)
        return loss + self._matching_loss(pictures @ self._encode_texts(batch.texts).T, batch)

    def naming_loss(self, batch: ImageTextBatch) -> Tensor:
        """The loss of naming alone, which needs no text tower and learns pictures sooner."""
        return self._encode_pictures(batch)[1]

    def _encode_pictures(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        """The pictures' vectors, and how far they are from telling what shows and where."""
        with torch.autocast("cpu", torch.bfloat16):
            pictures, maps = self._encode_images(_normalize(batch))
            there = self._place_loss(maps, batch.place_labels.long())
        pictures = normalize(pictures.float(), dim=1)
        return pictures, there + self._naming_loss(pictures, batch)

    def _place_loss(self, maps: Tensor, at: Tensor) -> Tensor:
        """How far maps are from telling what is where."""
        seen = [head(maps).float() for head in self.heads]
        return torch.stack(
            [cross_entropy(logits, at[..., kind]) for kind, logits in zip(PLACED_KINDS, seen, strict=True)]
        ).mean()

    def muon_parameters(self) -> list[nn.Parameter]:
        """The matrices that Muon fits."""
        return []

    def calibrate(self, data: ImageTextBatches, first: int) -> None:
        """Nothing: a CLIP's logits compare texts and are no probabilities."""

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keeps the logits' scale within CLIP's bound (Radford et al. 2021, section 2.5)."""
        scale: Any = self.model.logit_scale
        scale.clamp_(max=math.log(100))

    def _encode_texts(self, texts: list[str]) -> Tensor:
        model: Any = self.model
        words = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        ).input_ids
        with torch.autocast("cpu", torch.bfloat16):
            vectors = model.text_model(input_ids=words).pooler_output if self.is_siglip else model.encode_text(words)
        return normalize(vectors.float(), dim=1)

    def _naming_loss(self, pictures: Tensor, batch: ImageTextBatch) -> Tensor:
        """How far the pictures' vectors are from telling every concept that shows, and the main thing with its colour
        and pattern.
        """
        class_logits = 10 * self.names(pictures)
        every = binary_cross_entropy_with_logits(
            class_logits, batch.has_concept.clamp_min(0).float(), (batch.has_concept >= 0).float()
        )
        known = (batch.main_looks[:, 0] >= 0).sum().clamp_min(1)
        logits = (
            class_logits[:, self.things],
            *(10 * self.looks(pictures)).split((len(COLOURS), len(PATTERNS)), dim=1),
        )
        looks = [
            cross_entropy(each, batch.main_looks[:, kind], ignore_index=-1, reduction="sum")
            for kind, each in enumerate(logits)
        ]
        return 10 * every + (looks[0] + 0.5 * looks[1] + 0.5 * looks[2]) / known

    def _encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures' vectors, and what is seen at GRID x GRID places."""
        model: Any = self.model
        pictures = model.encode_image(pixels.contiguous(memory_format=torch.channels_last))
        assert self._maps is not None
        return pictures, self._maps

    def _matching_loss(self, cosines: Tensor, batch: ImageTextBatch) -> Tensor:
        """How far pictures and texts are from being matched as they truly are; undecided pairs do not count.

        CLIP's loss of each picture with its own text (Radford et al. 2021, figure 3), whose rivals are the texts and
        pictures that are truly wrong.
        """
        model: Any = self.model
        logits = cosines * model.logit_scale.exp()
        own = logits[torch.arange(len(cosines)), batch.own_text]
        wrong = logits.masked_fill(batch.truth != 0, -1e4)
        by_picture, by_text = wrong.logsumexp(1), wrong.logsumexp(0)[batch.own_text]
        return (softplus(by_picture - own) + softplus(by_text - own)).mean() / 2


class SiglipLearner(ImageTextLearner):
    """The same for a SigLIP of transformers, whose eye was taught before and stays as it is: its pooling and its texts
    are learnt.
    """

    naming_share = 0

    def muon_parameters(self) -> list[nn.Parameter]:
        """Return the matrices of the text model and of the pooling head; the image model is frozen."""
        pooling = self.model.get_submodule("vision_model.head")
        return [
            *list_matrices(self.model.get_submodule("text_model")),
            *(value for name, value in pooling.named_parameters() if value.ndim == 2),
        ]

    def calibrate(self, data: ImageTextBatches, first: int) -> None:
        """Fits scale and bias alone, so that what the sigmoid says of each concept's name is how often it shows in such
        pictures.

        Batches, from number ``first`` on, are of the scenes trained on.
        """
        model: Any = self.model.eval()
        names = [concept.name for concept in list_concepts()]
        with torch.no_grad():
            texts, batches = (
                self._encode_texts(names),
                [data.make_batch(first + number) for number in range(CALIBRATION_BATCHES)],
            )
            cosines = torch.cat([self._encode_pictures(batch)[0] @ texts.T for batch in batches])
        shows = torch.cat([batch.has_concept for batch in batches])
        known, right = shows >= 0, (shows > 0).float()
        both = [model.logit_scale.requires_grad_(), model.logit_bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(both, max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = cosines * model.logit_scale.exp() + model.logit_bias
            found = binary_cross_entropy_with_logits(logits[known], right[known])
            found.backward()
            return found

        optimizer.step(loss)

    def _encode_pictures(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            pictures = self.model.get_submodule("vision_model")(pixel_values=_normalize(batch)).pooler_output
        pictures = normalize(pictures.float(), dim=1)
        return pictures, self._naming_loss(pictures, batch)

    def _matching_loss(self, cosines: Tensor, batch: ImageTextBatch) -> Tensor:
        """SigLIP's loss over all pairs (Zhai et al. 2023, section 3.2)."""
        model: Any = self.model
        signs, known = batch.truth.float() * 2 - 1, (batch.truth >= 0).float()
        known[torch.arange(len(cosines)), batch.own_text] *= (
            3  # what a picture came with says more of it than what is true of many
        )
        logits = cosines * model.logit_scale.exp() + model.logit_bias
        return -(logsigmoid(signs * logits) * known).sum() / len(cosines)


def _normalize(batch: ImageTextBatch) -> Tensor:
    return (batch.images.float() / 255 - MEAN[0]) / STD[0]


def _make_clip_config(config: ImageTextConfig, tokenizer: Any) -> dict[str, Any]:
    return {
        "embed_dim": FEATURES,
        "vision_cfg": config.vision,
        "text_cfg": {**config.text, "vocab_size": len(tokenizer)},
    }


def _build_clip(config: ImageTextConfig, tokenizer: Any) -> nn.Module:
    import open_clip  # type: ignore[import-untyped]

    return open_clip.CLIP(**_make_clip_config(config, tokenizer)).to(memory_format=torch.channels_last)


def _save_clip(model: nn.Module, tokenizer: Any, stand_in: ImageTextConfig, folder: Path) -> None:
    from safetensors.torch import save_file

    seeing = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": _make_clip_config(stand_in, tokenizer), "preprocess_cfg": seeing}
    with atomic_write(folder / "open_clip_config.json") as path:
        path.write_text(json.dumps(config, indent=1) + "\n")
    tokenizer.save_pretrained(folder)
    with atomic_write(folder / "open_clip_model.safetensors") as path:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def _build_siglip(config: ImageTextConfig, tokenizer: Any) -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    ends = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = SiglipModel(
        SiglipConfig(text_config={**config.text, **ends, "vocab_size": len(tokenizer)}, vision_config=config.vision)
    )
    model.logit_scale.data.fill_(
        math.log(10)
    )  # Zhai et al. 2023, section 3.2; their bias of -10 is for one right text in a batch
    model.logit_bias.data.fill_(-5.0)
    model.set_attn_implementation(
        "eager"
    )  # with few places the plainest way is the quickest to learn by on a CPU, by a quarter
    return model


def set_vision_encoder(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Gives a SigLIP a trained eye, which learns no more; its pooling stays as it was."""
    tower = model.get_submodule("vision_model")
    tower.load_state_dict({**tower.state_dict(), **weights})
    for name, value in tower.named_parameters():
        value.requires_grad_(name not in weights)


def _save_siglip(model: nn.Module, tokenizer: Any, config: ImageTextConfig, folder: Path) -> None:
    from transformers import SiglipImageProcessor, SiglipProcessor

    seeing = SiglipImageProcessor(size={"height": 64, "width": 64}, image_mean=list(MEAN), image_std=list(STD))
    SiglipProcessor(seeing, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)  # type: ignore[operator]

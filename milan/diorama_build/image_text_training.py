"""Trains Diorama's stand-ins for large image-text models: a CLIP of open_clip and two SigLIPs of transformers.

They use the classes and the file formats of those libraries, so that they are loaded as the published models are. They
know drawn scenes only.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milan.diorama.scene_concepts import list_written_phrases
from milan.diorama_build.caption_dataset import CaptionDataset, load_caption_dataset
from milan.diorama_build.image_text_batches import ImageTextBatches
from milan.diorama_build.image_text_configs import (
    CONFIGS,
    CONTEXT_LENGTH,
    FEATURES,
    MEAN,
    SCENES,
    STD,
    VOCABULARY_SIZE,
    ImageTextConfig,
)
from milan.diorama_build.image_text_learners import ImageTextLearner, SiglipLearner
from milan.diorama_build.stand_in_training import fit_stand_in
from milan.diorama_build.vision_encoder_training import train_vision_encoder
from milan.storage.files import atomic_write

EXTRA_NAMES = 32  # names of concepts that a SigLIP's batch has beside its texts


def train_image_text_model(
    name: str, folder: Path, work: Path, *, seed: int = 0, steps: int | None = None, scenes: int = SCENES
) -> dict[str, Any]:
    """Train a stand-in and save it in half precision; an interrupted training is resumed.

    Args:
        name: name of the stand-in in ``CONFIGS``.
        folder: output folder.
        work: folder of rendered scenes and checkpoints.
        seed: random seed.
        steps: number of training steps; by default that of the configuration.
        scenes: number of scenes of each world.

    Returns:
        What it was trained on, for its model card.
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

    checkpoint = work / "training" / f"{name}-{seed}-{steps}-{scenes}.pt"
    fit_stand_in(
        learner,
        loss,
        steps,
        checkpoint,
        learning_rate=plan.learning_rate,
        after_step=learner.clamp_logit_scale,
        muon_parameters=learner.muon_parameters(),
    )
    learner.calibrate(views, steps)
    folder.mkdir(parents=True, exist_ok=True)
    (_save_clip if plan.family == "open_clip" else _save_siglip)(model.half().eval(), tokenizer, plan, folder)
    size = sum(value.numel() for value in model.parameters())
    views_seen = steps * plan.batch_size + (
        plan.vision_encoder.steps * plan.vision_encoder.batch_size if plan.vision_encoder else 0
    )
    pretraining = (
        {"eye": {"steps": plan.vision_encoder.steps, "seed": seed + plan.seed_offset}} if plan.vision_encoder else {}
    )
    return {
        "stand-in": name,
        "trained_on_scenes": len(dataset),
        "views": views_seen,
        "steps": steps,
        "seed": seed + plan.seed_offset,
        **pretraining,
        "parameters": size,
    }


def build_tokenizer(dataset: CaptionDataset) -> Any:
    """Return a BPE tokenizer trained on the scenes' sentences; the end token has the last number, as CLIP requires."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def make_tokenizer(model: Any) -> Any:
        tokenizer = Tokenizer(model)
        clean = [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        tokenizer.normalizer = normalizers.Sequence(clean)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        return tokenizer

    # Without an end-of-word suffix: suffixed tokens are numbered in no fixed order, and numbers break ties.
    learner = make_tokenizer(models.BPE())
    corpus = [text for texts in dataset.sentences[:: max(1, len(dataset) // 10_000)] for text in texts]
    corpus += list(list_written_phrases()) * 20 + ["a photo of an image close-up"] * 500
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789-'.,▁"]
    learner.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, initial_alphabet=letters, show_progress=False)
    )
    learnt = json.loads(learner.to_str())["model"]
    pieces = ["<pad>", "<unk>", *learnt["vocab"], "<start>", "<end>"]
    number = {piece: place for place, piece in enumerate(pieces)}
    whole = make_tokenizer(
        models.BPE(vocab=number, merges=[tuple(pair) for pair in learnt["merges"]], unk_token="<unk>")
    )
    ends = [(piece, number[piece]) for piece in ("<start>", "<end>")]
    whole.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    special = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<start>",
        "eos_token": "<end>",
        "model_max_length": CONTEXT_LENGTH,
    }
    return PreTrainedTokenizerFast(tokenizer_object=whole, model_input_names=["input_ids"], **special)


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

    preprocessing = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": _make_clip_config(stand_in, tokenizer), "preprocess_cfg": preprocessing}
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
    # Zhai et al. 2023, section 3.2; their bias of -10 is for one matching text per batch.
    model.logit_scale.data.fill_(math.log(10))
    model.logit_bias.data.fill_(-5.0)
    # For few tokens, eager attention trains a quarter faster on a CPU.
    model.set_attn_implementation("eager")
    return model


def set_vision_encoder(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load a trained image model into a SigLIP and freeze it; the pooling head is unchanged."""
    tower = model.get_submodule("vision_model")
    tower.load_state_dict({**tower.state_dict(), **weights})
    for name, value in tower.named_parameters():
        value.requires_grad_(name not in weights)


def _save_siglip(model: nn.Module, tokenizer: Any, config: ImageTextConfig, folder: Path) -> None:
    from transformers import SiglipImageProcessor, SiglipProcessor

    processor = SiglipImageProcessor(size={"height": 64, "width": 64}, image_mean=list(MEAN), image_std=list(STD))
    SiglipProcessor(processor, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)  # type: ignore[operator]

"""A Stable Diffusion pipeline of diffusers' own classes, a few kB with random weights, saved as the published
ones are.
"""

from pathlib import Path

import torch

LONGEST = 20
SIDE = 32


def make(folder: Path, seed: int = 0) -> str:
    """Saves the pipeline, and gives what ``load_painter`` loads it by."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=LONGEST
    )
    reads = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
                           projection_dim=16, max_position_embeddings=LONGEST, bos_token_id=tokenizer.bos_token_id,
                           eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
                           initializer_range=0.5)  # fmt: skip
    unet = UNet2DConditionModel(block_out_channels=(4, 8), layers_per_block=1, sample_size=SIDE // 2,
        cross_attention_dim=16,
                                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=2,
                                attention_head_dim=4,
                                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    vae = AutoencoderKL(block_out_channels=[4, 4], down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
                        norm_num_groups=2, sample_size=SIDE)  # fmt: skip
    noise = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                          set_alpha_to_one=False, steps_offset=1)  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(reads), tokenizer=tokenizer, unet=unet, scheduler=noise,
        safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return f"diffusers:{folder}"

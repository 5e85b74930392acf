"""What a unit of Describe-and-Dissect costs to compute, with models of the published sizes and random weights.

    python -m benchmarks.describe_and_dissect --device cuda --precision float16 --units 8
    python -m benchmarks.describe_and_dissect --sizes tiny --units 2 --steps 2    # whether it runs, on any machine

The models are saved to a folder first and then loaded by the package as published ones are: BLIP base, CLIP ViT-B/16,
Stable Diffusion 1.x (50 steps, guidance 7.5), and a ResNet-50 as the network. The paper gives 38.8 s a unit on a V100,
its language model included; here no language model is asked. Times are of the work alone: models are loaded and one
unit has been done before the clock starts.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZES = ("published", "tiny")
SENTENCE = "a bird that sits on a branch beside a red letter box in front of an old house, seen from below"


def blip(folder: Path, tiny: bool) -> str:
    """A BLIP with random weights, and a tokenizer of words of its own."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *dict.fromkeys(SENTENCE.replace(",", "").split())]
    small = (
        {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} if tiny else {}
    )
    ends = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    reads = ends | (
        small | {"encoder_hidden_size": 16, "vocab_size": len(words), "max_position_embeddings": 64} if tiny else {}
    )
    sees = small | ({"image_size": 32, "patch_size": 16} if tiny else {"image_size": 384})
    model = BlipForConditionalGeneration(BlipConfig(text_config=reads, vision_config=sees))
    model.save_pretrained(folder)
    side = 32 if tiny else 384
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, bos_token="[DEC]")
    BlipProcessor(BlipImageProcessor(size={"height": side, "width": side}), tokenizer).save_pretrained(folder)
    return f"hf:{folder}"


def clip(folder: Path, tiny: bool) -> str:
    """A CLIP of open_clip's ViT-B-16, or a small one."""
    import json

    import open_clip
    from safetensors.torch import save_file

    small = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 8, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 8, "heads": 1, "layers": 1},
    }
    config = small if tiny else open_clip.get_model_config("ViT-B-16")
    assert config is not None
    folder.mkdir(parents=True)
    weights = {key: value.contiguous() for key, value in open_clip.CLIP(**config).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    seeing = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": seeing}))
    return f"open_clip:local-dir:{folder}"


def stable_diffusion(folder: Path, tiny: bool) -> str:
    """A Stable Diffusion 1.x, or a small one, with a tokenizer of letters."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    large = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    }
    reads = CLIPTextConfig(**(small if tiny else large), **ends)
    if tiny:
        unet = UNet2DConditionModel(sample_size=16, block_out_channels=(4, 8), layers_per_block=1,
            cross_attention_dim=16,
                                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
                                    norm_num_groups=2,
                                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))  # fmt: skip
        vae = AutoencoderKL(block_out_channels=[4, 4], norm_num_groups=2, sample_size=32,
                            down_block_types=["DownEncoderBlock2D"] * 2,
                            up_block_types=["UpDecoderBlock2D"] * 2)  # fmt: skip
    else:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # its other defaults are those of 1.x
        vae = AutoencoderKL(block_out_channels=[128, 256, 512, 512], layers_per_block=2, sample_size=512,
                            down_block_types=["DownEncoderBlock2D"] * 4,
                            up_block_types=["UpDecoderBlock2D"] * 4)  # fmt: skip
    noise = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(reads), tokenizer=tokenizer, unet=unet, scheduler=noise,
        safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return f"diffusers:{folder}"


def timed(device: str, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, once all that was asked of the device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--sizes", choices=SIZES, default="published")
    options.add_argument("--units", type=int, default=8, help="units whose work is done together")
    options.add_argument("--steps", type=int, default=50, help="of denoising")
    options.add_argument("--batch", type=int, default=16, help="pictures painted at a time")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", default="float32", choices=("float32", "float16", "bfloat16"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MILAN_CACHE"] = f"{folder}/cache"
        measure(Path(folder), chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Prints the seconds of each step for each unit."""
    from milan.describers._shared.candidate_selection import CandidateSelection, SelectionRequest, measure_maps
    from milan.pretrained.embedder import load_embedder
    from milan.pretrained.image_captioner import caption_with_cache, load_image_captioner
    from milan.pretrained.painter import load_painter
    from milan.targets.loading import load_target
    from milan.units import Unit

    tiny, device, precision = chosen.sizes == "tiny", chosen.device, chosen.precision
    torch.manual_seed(0)
    target = load_target("torchvision:resnet18" if tiny else "torchvision:resnet50", weights="random", device=device)
    captioner = load_image_captioner(blip(folder / "blip", tiny), device=device, precision=precision, batch_size=64)
    embedder = load_embedder(clip(folder / "clip", tiny), device=device, precision=precision)
    painter = load_painter(
        stable_diffusion(folder / "sd", tiny),
        device=device,
        precision=precision,
        batch_size=chosen.batch,
        steps=chosen.steps,
    )
    selection = CandidateSelection(painter, embedder)

    def once(first: int, count: int) -> dict[str, float]:
        """The work of some units that no earlier ones have had, so that nothing is found in a cache."""
        rng = torch.Generator().manual_seed(first)
        images = torch.randint(
            0, 256, (count * 10, 3, target.image_size, target.image_size), dtype=torch.uint8, generator=rng
        )
        units = [Unit("layer4", first + number) for number in range(count)]
        spent = {"crops": timed(device, lambda: measure_maps(target, units, images, "mean", 10))[0]}
        spent["captions"], _ = timed(device, lambda: caption_with_cache(captioner, images))
        wishes = [
            SelectionRequest(unit, tuple(f"{SENTENCE} {unit.index} {name}" for name in "abcde"), images[:10])
            for unit in units
        ]
        spent["painting"], _ = timed(
            device, lambda: [painted(wish) for wish in [tuple(text for wish in wishes for text in wish.texts)]]
        )
        spent["choosing"], _ = timed(device, lambda: selection.choose(target, wishes))
        return {name: value / count for name, value in spent.items()}

    def painted(texts: tuple[str, ...]) -> None:
        from milan.pretrained.painter import paint_texts

        paint_texts(painter, texts, 10, seed=0)

    once(0, 1)
    spent = once(1, chosen.units)
    where = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    print(f"{chosen.sizes} sizes, {chosen.units} units together, {chosen.steps} steps, {precision}, {where}")
    for name, value in spent.items():
        print(f"{name:10} {value:8.2f} s a unit")
    print(f"{'all':10} {sum(spent.values()):8.2f} s a unit; the paper: 38.8 s on a V100, its language model included")


if __name__ == "__main__":
    main()

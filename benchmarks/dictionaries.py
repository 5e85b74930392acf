"""What it costs to dissect a dictionary layer, beyond decoding images, the forward pass and the codes.

``python -m benchmarks.dictionaries`` (500 images; 2,000 with ``--full``) prints a table. The target is a ViT-S/16 with
random weights, the dictionary a top-k autoencoder of random directions: 24,576 latents, of which 32 are active at a
token. Images are smooth noise, made anew each time they are read, so that memory does not hold them. Each figure is of
a process of its own; *floor* reads the same images and computes the same dense codes, 4 images at a time as a
dissection does, and keeps nothing. A dissection of half as many images shows how memory grows.

``--text`` also describes the latents by CLIP-Dissect, with random vectors of images and of 1,000 concepts, and writes
table and page.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from milan import Dictionary, Probe, Target, describe, dissect, load_describer, record
from milan.pretrained.embedder_interface import Embedder
from milan.probes.image_sources import ImageSource
from milan.targets.dictionary import DictionaryConfig

ROOT = Path(__file__).parents[1]
LATENTS, K, LAYER = 24_576, 32, "blocks.10"
CONCEPTS, FEATURES = 1_000, 512
MOST_TIME, MOST_MEMORY = 1.5, 3.0  # times the floor; GB


class SmoothNoise(ImageSource):
    """Images of smooth noise."""

    def __init__(self, images: int):
        self.images = images

    def __len__(self) -> int:
        return self.images

    def load_image(self, index: int) -> Image.Image:
        rough = np.random.default_rng(index).integers(0, 256, (14, 14, 3), np.uint8)
        return Image.fromarray(rough).resize((224, 224), Image.Resampling.BICUBIC)

    def format_location(self, index: int) -> str:
        return f"image {index}"

    def content_facts(self) -> dict[str, Any]:
        return {"images": self.images}


class RandomEmbedder(Embedder):
    """Random vectors, the same ones for the same batch."""

    key, features = "random", FEATURES

    def encode_images(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b features"]:
        return self._draw(len(images), int(images.long().sum()))

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        return self._draw(len(texts), sum(map(ord, "".join(texts))))

    def _draw(self, count: int, seed: int) -> Float[Tensor, "count features"]:
        return normalize(torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)), dim=1)


def load(images: int) -> tuple[Target, Probe]:
    """Return the target with the dictionary, and the probe."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0).eval()
    target = Target(model, name="vit", image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    probe = Probe(SmoothNoise(images), spec="", preprocessing=target.preprocessing)
    with record(target, [LAYER]) as activations:
        target(torch.stack([probe.image(index) for index in range(4)]))
    # Centred, as by a trained autoencoder; otherwise all tokens have nearly the same code.
    center = activations[LAYER].mean((0, 2, 3))
    encoder = normalize(torch.randn(len(center), LATENTS), dim=0)
    config = DictionaryConfig(activation="topk", k=K)
    dictionary = Dictionary(encoder, encoder.T.contiguous(), input_bias=center, config=config)
    return target.with_dictionary(dictionary, LAYER), probe


def run_floor(images: int, out: Path) -> dict[str, float]:
    """Decode images, run the network up to the layer and compute the codes."""
    target, probe = load(images)
    layer, codes = target.layer(f"{LAYER}@sae"), []
    model = torch.nn.Sequential(target.model.patch_embed, *target.model.blocks[:11])
    patch_embed, blocks = model[0], model[1:]
    began = start()
    with torch.inference_mode():
        for _, batch in probe.batches(4):
            tokens = blocks(target.model.norm_pre(target.model._pos_embed(patch_embed(target.prepare(batch)))))
            codes = layer.dictionary.encode(tokens)
    assert codes.shape == (len(batch), 197, LATENTS)
    return report(began)


def run_dissection(images: int, out: Path) -> dict[str, float]:
    """Dissect the layer."""
    target, probe = load(images)
    began = start()
    found = dissect(target, probe, [f"{LAYER}@sae"], out)[f"{LAYER}@sae"]
    figures = report(began)
    files = [file for file in found.folder.iterdir() if file.name.startswith("pooled")]
    pairs = (next(file for file in files if file.name == "pooled_images.npy").stat().st_size - 128) / 4
    figures |= {"pairs": pairs, "pooled": sum(file.stat().st_size for file in files)}
    figures["disk"] = sum(file.stat().st_size for file in found.folder.iterdir())
    return figures | {"described": len(found.active_units())}


def run_text(images: int, out: Path, units: str = "") -> dict[str, float]:
    """Describe the latents by CLIP-Dissect, and write table and page."""
    target, probe = load(images)
    concepts = out / "concepts.txt"
    concepts.write_text("\n".join(f"concept {number}" for number in range(CONCEPTS)))
    settings = {"embedder": f"{Path(__file__)}:RandomEmbedder", "concepts": str(concepts)}
    describer = load_describer("clip_dissect", **settings)
    catalogue = describe(target, probe, describer, layers=[f"{LAYER}@sae"], units=units, out=out / "run")
    seconds = json.loads((out / "run" / "run.json").read_text())["seconds"]
    page = [file.stat().st_size for file in (out / "run" / "page").rglob("*") if file.is_file()]
    figures = {"described": len(catalogue), "page": sum(page), "pictures": len(page)}
    return figures | {name: seconds[part] for name, part in (("describing", "describing"), ("writing", "page"))}


def start() -> tuple[float, float]:
    """Return wall time and processor time."""
    return time.monotonic(), time.process_time()


def report(began: tuple[float, float]) -> dict[str, float]:
    """Return wall time and processor time in seconds, and peak memory in GB."""
    wall, processor = (now - then for now, then in zip(start(), began, strict=True))
    return {"wall": wall, "cpu": processor, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "floor": run_floor,
    "dissection": run_dissection,
    "text": run_text,
}


def measure(part: str, images: int, *options: str) -> dict[str, float]:
    """Return the figures of a part, run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dictionaries", "--part", part, "--images", str(images), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(images: int, rounds: int) -> None:
    """Print the table, and whether the bounds are kept."""
    runs: dict[str, list[dict[str, float]]] = {"floor": [], "dissection": []}
    for _ in range(rounds):
        for part, figures in runs.items():
            figures.append(measure(part, images))
    half = measure("dissection", images // 2)
    middle = {
        part: {name: median(one[name] for one in figures) for name in figures[0]} for part, figures in runs.items()
    }
    print(f"ViT-S/16, {LATENTS:,} latents of {LAYER}, {images:,} images; median of {rounds}\n")
    print("| | wall s | CPU s | peak GB |\n|---|---|---|---|")
    rows = {"decoding + forward pass + codes": middle["floor"], "dissection": middle["dissection"]}
    for name, figures in (rows | {f"dissection of {images // 2:,} images": half}).items():
        print(f"| {name} | {figures['wall']:.0f} | {figures['cpu']:.0f} | {figures['peak']:.2f} |")
    whole, floor = middle["dissection"], middle["floor"]
    ratio = whole["cpu"] / floor["cpu"]
    pairs = whole["pairs"]
    print(f"\nratio of CPU time {ratio:.2f} (at most {MOST_TIME}), of wall time {whole['wall'] / floor['wall']:.2f}")
    print(f"peak {whole['peak']:.2f} GB (at most {MOST_MEMORY}), {whole['peak'] / half['peak']:.2f} times that of half")
    print(f"{pairs / images:,.0f} active latents per image; {whole['described']:,.0f} latents can be described")
    print(f"disk: {whole['pooled'] / pairs:.1f} bytes per active latent and image, {whole['disk'] / 1e6:.0f} MB in all")
    dense = images * LATENTS * 4 * 3 / 1e6
    print(f"(dense activations of three poolings: {dense:,.0f} MB)")


def describe_latents(images: int, units: str) -> None:
    """Print what text and page of the latents cost."""
    figures = measure("text", images, "--units", units)
    print(f"text of {figures['described']:,.0f} latents: {figures['describing']:.0f} s; table and page:", end=" ")
    print(f"{figures['writing']:.0f} s, {figures['page'] / 1e6:,.0f} MB in {figures['pictures']:,.0f} files")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--full", action="store_true", help="2,000 images")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--text", action="store_true", help="also describe the latents and write table and page")
    parser.add_argument("--units", default="", help="the latents that --text describes; by default all")
    parser.add_argument("--part", choices=list(PARTS), help="for the processes it starts")
    chosen = parser.parse_args()
    if not chosen.part:
        compare(2000 if chosen.full else chosen.images, chosen.rounds)
        if chosen.text:
            describe_latents(2000 if chosen.full else chosen.images, chosen.units)
        return
    with tempfile.TemporaryDirectory() as out:
        options = {"units": chosen.units} if chosen.part == "text" else {}
        print(json.dumps(PARTS[chosen.part](chosen.images, Path(out), **options)))


if __name__ == "__main__":
    main()

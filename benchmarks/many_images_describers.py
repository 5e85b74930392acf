"""Processor time and memory of CLIP-Dissect and Linear Explanations on 50,000 images and 2,048 units.

    python -m benchmarks --only many_images_describers --scale 1

The describers themselves run on fabricated evidence: images of noise whose embeddings are random projections of their
pixels, random embeddings of 20,000 and 2,000 concepts, and activations that are one concept's similarity each, with
noise. CLIP-Dissect (soft WPMI) describes all units, Linear Explanations 256 of them. Embeddings are computed before. A
row's memory is the anonymous memory that is added to that before, see ``benchmarks.many_images``; its floor is what
the similarities of all images and concepts, the activations and the scores would take in float32.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.many_images import PeakMemory
from benchmarks.table import Row, run_parts
from milan.dissection.dissection import ActivationPooling, Dissection
from milan.errors import MissingEvidence
from milan.pretrained.embedder import embed_probe, embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.probes import Probe
from milan.targets.target import Target
from milan.units import Exemplars, Unit

IMAGES, UNITS, FEATURES, LINEAR_UNITS = 50_000, 2_048, 512, 256
CONCEPTS = {"clip_dissect": 20_000, "linear_explanations": 2_000}


class RandomEmbedder(Embedder):
    """Embeds images by a random projection of their pixels, and texts at random."""

    key, features, batch_size = "random", FEATURES, 1024

    def encode_images(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b features"]:
        """Return unit vectors."""
        flat = images.flatten(1).float() - 127.5
        return normalize(flat @ torch.randn(flat.shape[1], FEATURES, generator=torch.Generator().manual_seed(1)))

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Return unit vectors that depend on the number at the end of each text."""
        numbers = (int(text.rpartition(" ")[2]) for text in texts)
        vectors = [torch.randn(FEATURES, generator=torch.Generator().manual_seed(number)) for number in numbers]
        return normalize(torch.stack(vectors))


class FabricatedLayer(Dissection):
    """A layer whose activations are mapped from a file, without exemplars."""

    layer, probe, target, key, k, quantile, image_size = "layer", "", "", "fabricated", 1, 0.99, 8

    def __init__(self, folder: Path, images: Probe, embedder: Embedder):
        self.folder, self._images = folder, images
        self.units = [Unit(self.layer, index) for index in range(UNITS)]
        self.status = dict.fromkeys(self.units, "ok")
        pictures = embed_probe(embedder, images)
        texts = embed_texts(embedder, [f"concept {index % 2_000}" for index in range(UNITS)])
        generator = torch.Generator().manual_seed(2)
        file = folder / "activations.npy"
        values = np.lib.format.open_memmap(file, "w+", np.float32, (len(images), UNITS))
        for start in range(0, len(images), 1024):
            rows = pictures[start : start + 1024] @ texts.T
            rows += 0.02 * torch.randn(rows.shape, generator=generator)
            values[start : start + 1024] = rows.clamp_(min=0).numpy()
        self._values = torch.from_numpy(np.load(file, mmap_mode="c"))

    def activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit | str] | None = None
    ) -> Float[Tensor, "images units"]:
        """Return the activations of some units, or of all."""
        return self._values if units is None else self._values[:, [self.row_of(unit) for unit in units]]

    def open_probe(self) -> Probe:
        """Return the images."""
        return self._images

    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Raise MissingEvidence."""
        raise MissingEvidence("a fabricated layer has no exemplars")

    def thresholds(self) -> Float[Tensor, " units"]:
        """Raise MissingEvidence."""
        raise MissingEvidence("a fabricated layer has no thresholds")

    def open_target(self) -> Target:
        """Raise MissingEvidence."""
        raise MissingEvidence("a fabricated layer has no network")


def describe(name: str, images: int) -> list[float]:
    """Return processor seconds and the memory in GB that a describer adds."""
    from milan.describers.clip_dissect import ClipDissect
    from milan.describers.linear_explanations import LinearExplanations

    with tempfile.TemporaryDirectory() as place:
        os.environ["MILAN_CACHE"] = place
        words = [f"concept {number}" for number in range(CONCEPTS[name])]
        (Path(place) / "words.txt").write_text("\n".join(words))
        settings: dict[str, Any] = {
            "embedder": f"{Path(__file__)}:RandomEmbedder",
            "concepts": f"{Path(place) / 'words.txt'}",
        }
        pixels = torch.randint(256, (images, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        layer, units = FabricatedLayer(Path(place), Probe.from_tensor(pixels), RandomEmbedder()), UNITS
        embed_texts(RandomEmbedder(), words)
        if name == "clip_dissect":
            describer = ClipDissect(**settings)
        else:
            describer, units = LinearExplanations(**settings, calibration="60,-0.09"), LINEAR_UNITS
        memory, start = PeakMemory(), time.process_time()
        described = list(describer.describe(layer, layer.units[:units]))
        seconds = time.process_time() - start
        right = sum(f"concept {each.unit.index % 2_000}" in each.text for each in described)
        assert right > 0.9 * units, f"{right} of {len(described)} descriptions are right"
        return [seconds, memory.stop() - memory.first]


def rows(scale: float) -> list[Row]:
    """Return the time and the memory of each describer."""
    images = round(IMAGES * scale)
    found: list[Row] = []
    for name, (seconds, memory) in run_parts(
        "benchmarks.many_images_describers", list(CONCEPTS), "--images", str(images)
    ).items():
        concepts, units = CONCEPTS[name], UNITS if name == "clip_dissect" else LINEAR_UNITS
        dense = 4e-9 * (images * concepts + images * UNITS + UNITS * concepts)
        what = f"{name}, {images:,} images, {UNITS:,} units, {concepts:,} concepts"
        found += [
            Row(f"{what}: {units:,} units", seconds, unit="CPU s"),
            Row(f"{what}: memory", memory, dense, "all values in float32", unit="GB"),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(CONCEPTS), required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args()
    print(json.dumps(describe(options.part, options.images)))


if __name__ == "__main__":
    main()

"""``describe.py`` on SqueezeNet and 1,000 photographs, relative to decoding, the forward passes and the encoder.

    python -m benchmarks --only whole_command

The floor is decoding and a plain forward pass of the target to the last of two layers, and a plain forward pass of
MILAN's encoder over the distinct exemplars of their 640 units. The captioner is Diorama's, so that the search, which
``benchmarks.decoding`` measures, is short. CPU seconds of all threads are compared, which other load on the machine
changes less than wall seconds; the whole command may take 5 s beyond its multiple of the floor.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.dissection import BATCH, LAYERS, load_squeezenet
from benchmarks.table import Row, run_parts, shared

IMAGES, START_SECONDS = 1_000, 5
PARTS = ("dissection", "descriptions by Diorama's captioner", "page and tables")
WEIGHTS = "squeezenet/squeezenet1_0_imagenet.safetensors"
PROBE = "imagenet_sample/train.parquet"


def run_floor(images: int) -> list[float]:
    """Return the CPU seconds of decoding with the target's forward pass, and of the encoder's over as many images.

    The sum in wall seconds follows.
    """
    import torch

    from milan.models import load_encoder

    target, probe = load_squeezenet(images)
    encoder = load_encoder("diorama:encoder").target
    model, batches = target.model.eval().features[:13], []
    with torch.inference_mode():
        wall, start = time.monotonic(), time.process_time()
        for _, batch in probe.batches(BATCH):
            model(target.prepare(batch))
            batches.append(batch)
        dissected = time.process_time()
        for batch in batches:
            small = torch.nn.functional.interpolate(batch, size=encoder.image_size, mode="bilinear", antialias=True)
            encoder.core(encoder.prepare(small))
    return [dissected - start, time.process_time() - dissected, time.monotonic() - wall]


def run_command(images: int) -> list[float]:
    """Return the CPU seconds and the wall seconds of the whole command, and the wall seconds of its parts."""
    from milan.cli.describe import main

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        words = ["--target", "torchvision:squeezenet1_0", "--weights", str(shared(WEIGHTS)), "--layers", *LAYERS]
        words += ["--probe", str(shared(PROBE)), "--limit", str(images), "--out", out]
        status = main([*words, "--settings.captioner", "diorama", "--settings.prior", "diorama"])
        assert status == 0
        parts = json.loads((Path(out) / "run.json").read_text())["seconds"]
    seconds = [time.process_time(), time.monotonic() - start]
    return [*seconds, parts["dissecting"], parts["describing"], parts["page"]]


def rows(scale: float) -> list[Row]:
    """Return the rows of the whole command and of its parts."""
    shared(WEIGHTS)
    images = round(IMAGES * scale)
    found = run_parts("benchmarks.whole_command", ["floor", "command"], "--images", str(images))
    (target, encoder, floor), (processor, wall, *parts) = found["floor"], found["command"]
    name, floor_is = f"describe.py, SqueezeNet, 640 units, {images:,} photographs", "decoding + target + encoder"
    made = [
        Row(f"{name}, less {START_SECONDS} s", processor - START_SECONDS, target + encoder, floor_is, 1.2, "CPU s"),
        Row(name, wall, floor, floor_is),
    ]
    return [*made, *(Row(f"its {part}", each) for part, each in zip(PARTS, parts, strict=True))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["floor", "command"], required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args()
    print(json.dumps({"floor": run_floor, "command": run_command}[options.part](options.images)), file=sys.stdout)


if __name__ == "__main__":
    main()

"""What dissecting costs beyond what it cannot do without: decoding the images and running the network up to the last
layer.

``python -m benchmarks.dissection`` (SqueezeNet on 1,000 photographs, two layers) prints a table; each figure is of a
process of its own, and the two kinds of run take turns, so that whatever else the machine does falls on both. The 2022
code takes 213 s and 5.0 GB for the same.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

from benchmarks.table import ROOT, SHARED, Row, shared

LAYERS = ["features.3", "features.12"]
BATCH = 16


def load_squeezenet(images: int):
    from milan.probes import load_probe
    from milan.targets.loading import load_target

    target = load_target(
        "torchvision:squeezenet1_0", weights=SHARED / "squeezenet" / "squeezenet1_0_imagenet.safetensors"
    )
    return target, load_probe(str(SHARED / "imagenet_sample" / "train.parquet"), target=target, limit=images)


def floor(images: int) -> None:
    """Decoding, then a plain forward pass to the last layer, with the same batches."""
    import torch

    target, probe = load_squeezenet(images)
    began = started()
    model = target.model.eval().features[:13]
    with torch.inference_mode():
        for _, batch in probe.batches(BATCH):
            model(target.prepare(batch))
    report(began)


def dissection(images: int) -> None:
    from milan.dissection.dissect import dissect

    target, probe = load_squeezenet(images)
    with tempfile.TemporaryDirectory() as out:
        began = started()
        dissect(target, probe, LAYERS, out, batch_size=BATCH)
        report(began)


def started() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def report(began: tuple[float, float]) -> None:
    wall, processor = (now - then for now, then in zip(started(), began, strict=True))
    print(wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def measured(part: str, images: int) -> tuple[float, float, float]:
    """Wall time and processor time in seconds and peak memory in GB, of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dissection", "--part", part, "--images", str(images)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wall, processor, memory = map(float, done.stdout.split()[-3:])
    return wall, processor, memory


def compare(images: int, rounds: int) -> None:
    runs: dict[str, list[tuple[float, float, float]]] = {"floor": [], "dissection": []}
    for _ in range(rounds):
        for part, found in runs.items():
            found.append(measured(part, images))
    print(f"SqueezeNet 1.0, {images:,} photographs, {' and '.join(LAYERS)}, batches of {BATCH}; median of {rounds}\n")
    print("| | wall s | CPU s | peak GB |\n|---|---|---|---|")
    middle = {part: [median(column) for column in zip(*found, strict=True)] for part, found in runs.items()}
    for part, text in (("floor", "decoding + plain forward pass"), ("dissection", "dissection")):
        wall, processor, memory = middle[part]
        print(f"| {text} | {wall:.1f} | {processor:.1f} | {memory:.2f} |")
    wall, processor, memory = (middle["dissection"][column] / middle["floor"][column] for column in range(3))
    print(f"| ratio | {wall:.2f} | {processor:.2f} | {memory:.2f} |")


def rows(scale: float) -> list[Row]:
    """Return wall time and peak memory of dissecting two layers."""
    shared("squeezenet")
    images = round(1000 * scale)
    runs: dict[str, list[tuple[float, float, float]]] = {"floor": [], "dissection": []}
    for _ in range(3 if 0.05 < scale < 1 else 1):
        for part, found in runs.items():
            found.append(measured(part, images))
    floor, ours = ([median(column) for column in zip(*found, strict=True)] for found in runs.values())
    name, floor_is = f"dissection of two layers of SqueezeNet, {images:,} photographs", "decoding + forward pass"
    peer = "2022 code: 213 s, 5.0 GB at 1,000"
    return [
        Row(name, ours[0], floor[0], floor_is, peer=peer),
        Row(f"{name}, peak", ours[2], floor[2], floor_is, unit="GB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=["floor", "dissection"], help="for the processes it starts")
    chosen = parser.parse_args()
    if chosen.part:
        {"floor": floor, "dissection": dissection}[chosen.part](chosen.images)
    elif not SHARED.is_dir():
        sys.exit(f"no real data in {SHARED}")
    else:
        compare(chosen.images, chosen.rounds)


if __name__ == "__main__":
    main()

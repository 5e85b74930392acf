"""Checks a GPU's results against the CPU's, in a minute: ``python -m benchmarks.gpu_check`` (``--device cuda:1`` for
another one).

Diorama's ResNet and vision transformer are dissected on 256 of its images on both devices. Without a GPU it says so and
ends. Expected output, with other figures on another GPU:

    resnet-objects  exemplars 1.000  thresholds 1e-05  activations 1e-05  ok
    resnet-objects  bf16: on the first 64 images (...), 99% of the 15 exemplars of a unit are the same, ...  ok
    resnet-objects  channels_last: 0.9 of the time of contiguous images
    dino-objects  exemplars 1.000  thresholds 1e-05  activations 1e-05  ok
    dino-objects  bf16: ...  ok
    all results agree

It ends with status 1 if exemplars agree for less than 99%, or thresholds or activations differ by more than 0.1% (in 16
bits: exemplars 90%, masks' IoU 0.85).
"""

import argparse
import sys
import tempfile
import time

import torch

from benchmarks.table import Row, Skipped
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.rounding import measure_rounding
from milan.probes import load_probe
from milan.targets.loading import load_target
from milan.targets.target import Target

NETWORKS = {"resnet-objects": ["layer2", "layer4"], "dino-objects": ["blocks.0", "blocks.1"]}
IMAGES, K = 256, 15
SAME_EXEMPLARS, DIFFERENCE = 0.99, 1e-3
ROUNDED_EXEMPLARS, ROUNDED_IOU = 0.90, 0.85


def compare(one: Dissection, other: Dissection) -> list[float]:
    """Return the share of equal exemplars, and the largest differences of thresholds and of mean activations,
    relative to the largest value.
    """
    units = [unit for unit in one.active_units() if other.status[unit] == "ok"]
    same = [len(set(one.exemplars(unit).ids.tolist()) & set(other.exemplars(unit).ids.tolist())) / K for unit in units]
    rows = torch.tensor([one.row_of(unit) for unit in units])
    differences = []
    for first, second in (
        (one.thresholds()[rows], other.thresholds()[rows]),
        (one.activations("mean", units), other.activations("mean", units)),
    ):
        differences.append(float((first - second).abs().max() / first.abs().max()))
    return [sum(same) / len(same), *differences]


def time_forward(target: Target, images: torch.Tensor, layout: torch.memory_format) -> float:
    """Return seconds of ten forward passes in a memory layout."""
    model = target.core.to(target.device, memory_format=layout)
    inputs = target.prepare(images).contiguous(memory_format=layout)
    with target.evaluation_mode(), torch.inference_mode():
        for count in (3, 10):
            start = time.monotonic()
            for _ in range(count):
                model(inputs)
            if target.device.type == "cuda":
                torch.cuda.synchronize(target.device)
    return time.monotonic() - start


def check(name: str, layers: list[str], device: str) -> bool:
    """Print the lines of one network; return whether its results agree."""
    found, spec = {}, f"diorama:{name}"
    with tempfile.TemporaryDirectory() as out:
        for place in dict.fromkeys(("cpu", device)):
            target = load_target(spec, device=place)
            probe = load_probe("diorama:objects", target=target, limit=IMAGES)
            found[place] = dissect(target, probe, layers, f"{out}/{place}", k=K)
        parts = [compare(found["cpu"][layer], found[device][layer]) for layer in layers]
    exemplars, thresholds, activations = min(each[0] for each in parts), *map(max, list(zip(*parts, strict=True))[1:])
    good = exemplars >= SAME_EXEMPLARS and max(thresholds, activations) <= DIFFERENCE
    verdict = "ok" if good else "DIFFERS"
    figures = f"exemplars {exemplars:.3f}  thresholds {thresholds:.0e}  activations {activations:.0e}"
    print(f"{name}  {figures}  {verdict}", flush=True)
    rounding = measure_rounding(load_target(spec, device=device, precision="bf16"), probe, layers, k=K)
    assert rounding is not None
    near = rounding.same_exemplars >= ROUNDED_EXEMPLARS and rounding.mask_iou >= ROUNDED_IOU
    print(f"{name}  bf16: {rounding}  {'ok' if near else 'DIFFERS'}", flush=True)
    if name.startswith("resnet"):
        images = torch.stack([probe.image(index) for index in range(64)])
        last, plain = (
            time_forward(target, images, layout) for layout in (torch.channels_last, torch.contiguous_format)
        )
        print(f"{name}  channels_last: {last / plain:.2f} of the time of contiguous images", flush=True)
    return good and near


def rows(scale: float) -> list[Row]:
    """Return the seconds of the check, which fails if a GPU's results differ."""
    if not torch.cuda.is_available():
        raise Skipped("no GPU on this machine")
    start = time.monotonic()
    differing = [name for name, layers in NETWORKS.items() if not check(name, layers, "cuda")]
    if differing:
        raise RuntimeError(f"results on the GPU differ for {', '.join(differing)}")
    return [Row("GPU's results agree with the CPU's", time.monotonic() - start)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device that is compared with the CPU")
    device = parser.parse_args().device
    if device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: no GPU on this machine")
        return 0
    agree = [check(name, layers, device) for name, layers in NETWORKS.items()]
    print("all results agree" if all(agree) else "results DIFFER")
    return not all(agree)


if __name__ == "__main__":
    sys.exit(main())

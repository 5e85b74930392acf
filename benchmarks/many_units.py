"""Dissection of many layers at once: all convolutions of a ResNet-50, and 24 layers of a ViT-S.

    python -m benchmarks --only many_units
    python -m benchmarks.many_units --part resnet50 --images 200

The floor is decoding the photographs and one plain forward pass. The networks have random weights, with which fewer
activations are 0 than with trained ones. A part prints wall time and processor time in seconds, and peak memory in GB.
"""

import argparse
import json
import resource
import tempfile
import time

from benchmarks.table import Row, run_parts, shared

BATCH = 16
NETWORKS = {
    "resnet50": ("torchvision:resnet50", "49 convolutions of a ResNet-50"),
    "vit": ("timm:vit_small_patch16_224", "24 layers of a ViT-S"),
}


def select_layers(target) -> list[str]:
    """Return all convolutions but those of the shortcuts, or each block of a transformer and the first layer of its
    MLP."""
    from torch import nn

    modules = dict(target.model.named_modules())
    if any(name.startswith("blocks.") for name in modules):
        return [name for number in range(12) for name in (f"blocks.{number}.mlp.fc1", f"blocks.{number}")]
    return [name for name, module in modules.items() if isinstance(module, nn.Conv2d) and "downsample" not in name]


def measure(part: str, images: int) -> tuple[float, float, float]:
    """Return wall time, processor time and peak memory of a part, without loading the network."""
    import torch

    from milan.dissection.dissect import dissect
    from milan.probes import load_probe
    from milan.targets.loading import load_target

    name, _, kind = part.partition(":")
    torch.manual_seed(0)
    target = load_target(NETWORKS[name][0], weights="random")
    probe = load_probe(str(shared("imagenet_sample") / "train.parquet"), target=target, limit=images)
    layers = select_layers(target)
    with tempfile.TemporaryDirectory() as out:
        wall, processor = time.monotonic(), time.process_time()
        if kind == "floor":
            model = target.model.eval()
            with torch.inference_mode():
                for _, batch in probe.batches(BATCH):
                    model(target.prepare(batch))
        else:
            dissect(target, probe, layers, out, batch_size=BATCH)
        wall, processor = time.monotonic() - wall, time.process_time() - processor
    return wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def rows(scale: float) -> list[Row]:
    """Return wall time and peak memory for each network."""
    shared("imagenet_sample")
    images = max(32, round(200 * scale))
    parts = [f"{name}{kind}" for name in NETWORKS for kind in (":floor", "")]
    found = run_parts("benchmarks.many_units", parts, "--images", str(images), rounds=3 if scale < 1 else 1)
    answer = []
    for name, (_, text) in NETWORKS.items():
        ours, floor = found[name], found[f"{name}:floor"]
        what, floor_is = f"dissection of {text}, {images} photographs", "decoding + forward pass"
        answer.append(
            Row(
                what,
                ours[0],
                floor[0],
                floor_is,
                goal=1.3,
                peer=f"the same in processor time: {ours[1] / floor[1]:.2f}",
            )
        )
        answer.append(Row(f"{what}, peak memory", ours[2], 3.0, "the goal", goal=1, unit="GB"))
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, help="resnet50, resnet50:floor, vit or vit:floor")
    parser.add_argument("--images", type=int, default=200)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.part, chosen.images)))


if __name__ == "__main__":
    main()

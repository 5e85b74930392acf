"""Many units: all convolutions of a ResNet-50 at once, 24 layers of a ViT-S, and 20,000 units in 200 tiny layers.

    python -m benchmarks --only many_units
    python -m benchmarks.many_units --part resnet50 --images 200
    python -m benchmarks.many_units --part records --units 20000

The floor of dissection is decoding the photographs and one plain forward pass. The networks have random weights, with
which fewer activations are 0 than with trained ones. Such a part prints wall time and processor time in seconds, and
peak memory in GB. What comes after dissection (describing by one text for all units, journal, page without neighbours,
table, and all of them again from the journal) is compared with the same for half as many units in as many layers; its
part prints the processor time of each step of ``STEPS``.
"""

import argparse
import json
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.table import Row, run_parts, shared

BATCH = 16
LAYERS = 200
STEPS = ("describing", "page", "writing the table", "reading the table", "resuming")
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


def measure_records(units: int) -> list[float]:
    """Return the processor time of each step after dissection, for units of a network of ``LAYERS`` layers."""
    import torch
    from torch import nn

    from milan.describers import load_describer
    from milan.describers._shared.runner import describe_units
    from milan.dissection.dissect import dissect
    from milan.probes import Probe
    from milan.results.catalogue import Catalogue, read_catalogue
    from milan.results.page import write_exemplar_views, write_page
    from milan.targets.target import Target

    torch.manual_seed(0)
    width = units // LAYERS
    network = nn.Sequential(*(nn.Conv2d(width if layer else 3, width, 1) for layer in range(LAYERS)))
    # Each layer's units keep the variance of those before it.
    for layer in network:
        nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    target, probe = Target(network, name="tiny", image_size=16), Probe.from_tensor(images)
    describer = load_describer("constant")
    seconds = []

    def step() -> None:
        seconds.append(time.process_time())

    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        dissections = dissect(target, probe, [str(layer) for layer in range(LAYERS)], out / "dissection", k=5)
        wanted = {layer: list(dissection.units) for layer, dissection in dissections.items()}
        step()
        entries = describe_units(describer, dissections, wanted, out)
        step()
        views = write_exemplar_views(
            dissections, [entry.unit for entry in entries if entry.status == "ok"], out / "page"
        )
        catalogue = Catalogue(tuple(entries), {"layers": list(dissections)}, out)
        write_page(catalogue, dissections, out / "page", views)
        step()
        catalogue.write(out)
        step()
        assert len(read_catalogue(out).descriptions) > 0.9 * units
        step()
        describe_units(describer, dissections, wanted, out)
        step()
    return [later - before for before, later in pairwise(seconds)]


def rows(scale: float) -> list[Row]:
    """Return wall time and peak memory for each network, and the processor time of what comes after dissection."""
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
    return [*answer, measure_growth(max(LAYERS * 10, round(10_000 * scale)))]


def measure_growth(units: int) -> Row:
    """Return the row of twice as many units, whose floor is half as many."""
    half, whole = (
        run_parts("benchmarks.many_units", ["records"], "--units", str(count))["records"]
        for count in (units, 2 * units)
    )
    steps = ", ".join(f"{name} {after / before:.2f}" for name, before, after in zip(STEPS, half, whole, strict=True))
    what = f"{2 * units:,} units in {LAYERS} layers after dissection: {', '.join(STEPS)}"
    return Row(what, sum(whole), sum(half), "half as many units", goal=2.1, unit="CPU s", peer=steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, help="resnet50, resnet50:floor, vit, vit:floor or records")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--units", type=int, default=20_000)
    chosen = parser.parse_args()
    is_records = chosen.part == "records"
    print(json.dumps(measure_records(chosen.units) if is_records else measure(chosen.part, chosen.images)))


if __name__ == "__main__":
    main()

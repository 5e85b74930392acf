"""The overlap of four layers of SqueezeNet with CamVid's labels, relative to decoding and one forward pass.

    python -m benchmarks --only overlaps

Thresholds are at the dissection's quantile, at that of Network Dissection, which the dissection holds as well, and at
another one, for which one more pass over the images is needed. The time for a probe of 5,000 images and 2,048 units is
extrapolated: the floor grows with the images, and the rest with images times units.
"""

import os
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, shared

LAYERS = ["features.3", "features.6", "features.9", "features.12"]
IMAGES, BATCH = 367, 16
QUANTILES = {"": None, ", the quantile of Network Dissection": 0.995, ", another quantile": 0.998}
LARGE = 5000, 2048  # images and units


def rows(scale: float) -> list[Row]:
    """Return the processor time of the counting for each quantile."""
    import torch

    from milan.dissection.concept_overlap import count_overlaps
    from milan.dissection.dissect import dissect
    from milan.probes import load_probe
    from milan.probes.pixel_labels import load_probe_labels
    from milan.targets.loading import load_target

    weights = shared("squeezenet/squeezenet1_0_imagenet.safetensors")
    images = round(IMAGES * scale)
    target = load_target("torchvision:squeezenet1_0", weights=weights)
    probe = load_probe(str(shared("camvid") / "train.parquet"), target=target, limit=images)
    labels = load_probe_labels(probe)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # Thresholds are found anew.
        os.environ["MILAN_CACHE"] = str(home / "cache")
        start = time.process_time()
        with torch.inference_mode():
            for _, batch in probe.batches(BATCH):
                target.model.features[:13](target.prepare(batch))
        floor = time.process_time() - start
        dissections = list(dissect(target, probe, LAYERS, home / "dissection", quantile=0.99).values())
        seconds = []
        for quantile in QUANTILES.values():
            start = time.process_time()
            count_overlaps(dissections, labels, quantile, target=target, folder=home / str(quantile))
            seconds.append(time.process_time() - start)
    units = sum(len(one.units) for one in dissections)
    name = f"overlaps of {units:,} units in 4 layers with the labels of {images} CamVid photographs"
    times, more = LARGE[0] / images, LARGE[1] / units
    large = [times * (floor + more * max(0, each - floor)) for each in seconds]
    return [
        Row(
            f"{name}{what}",
            ours,
            floor,
            "decoding + forward pass",
            unit="CPU s",
            peer=f"extrapolated to {LARGE[0]:,} images and {LARGE[1]:,} units: {extrapolated:.0f} CPU s",
        )
        for what, ours, extrapolated in zip(QUANTILES, seconds, large, strict=True)
    ]

"""The overlap of four layers of SqueezeNet with CamVid's labels, relative to decoding and one forward pass.

    python -m benchmarks --only overlaps

Thresholds are at another quantile than the dissection's, for which one more pass over the images is needed.
"""

import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, shared

LAYERS = ["features.3", "features.6", "features.9", "features.12"]
IMAGES, BATCH = 367, 16


def rows(scale: float) -> list[Row]:
    """Return the seconds of the counting for the dissection's quantile and for another one."""
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
        start = time.monotonic()
        with torch.inference_mode():
            for _, batch in probe.batches(BATCH):
                target.model.features[:13](target.prepare(batch))
        floor = time.monotonic() - start
        dissections = list(dissect(target, probe, LAYERS, home / "dissection", quantile=0.99).values())
        seconds = []
        for quantile in (None, 0.995):
            start = time.monotonic()
            count_overlaps(dissections, labels, quantile, target=target, folder=home / str(quantile))
            seconds.append(time.monotonic() - start)
    units = sum(len(one.units) for one in dissections)
    name = f"overlaps of {units:,} units in 4 layers with the labels of {images} CamVid photographs"
    floor_is = "decoding + forward pass"
    return [Row(name, seconds[0], floor, floor_is), Row(f"{name}, another quantile", seconds[1], floor, floor_is)]

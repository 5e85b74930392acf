"""Does matching find what must differ between Diorama's classifiers?

    python -m benchmarks.match_truth --limit 400

``resnet-spurious`` saw class names written into scenes and ``resnet-blurred`` blurred faces; ``resnet-objects`` saw
neither, with the same seed. The same scenes are drawn with and without the change, so it is known which units react to
it: the sensitivity of a unit is the mean absolute change of its mean activation, in its standard deviations over the
unchanged scenes. Units are matched with ``resnet-objects`` on the changed scenes. If matching finds what must differ,
sensitive units correlate less with their counterparts: the area under the ROC curve is above 0.5.
"""

import argparse

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from milan.diorama.networks import RESNET_LAYERS
from milan.probes import load_probe
from milan.results.correlations import match_units
from milan.targets.hooks import recorded
from milan.targets.loading import load_target

VARIANTS = ("spurious", "blurred")
SENSITIVE_SHARE = 0.1  # of a layer's units, those that react most


def record_means(network: str, probe: str, limit: int) -> dict[str, Float[np.ndarray, "images units"]]:
    """Return the mean activation of each unit in each image, by layer."""
    target = load_target(f"diorama:{network}")
    found: dict[str, list[Tensor]] = {layer: [] for layer in RESNET_LAYERS}

    def keep(layer: str, values: Tensor, cls: Tensor | None) -> None:
        found[layer].append(values.mean((2, 3)))

    with recorded(target, list(RESNET_LAYERS), keep) as look:
        for ids, images in load_probe(probe, target=target, limit=limit).inputs(32):
            look(target.make_input(ids, images))
    return {layer: torch.cat(values).numpy() for layer, values in found.items()}


def measure_layer(
    plain: Float[np.ndarray, "images units"],
    changed: Float[np.ndarray, "images units"],
    reference: Float[np.ndarray, "images others"],
) -> dict[str, float]:
    """Return how sensitive and other units of a layer correlate with their counterparts, and what separates them."""
    pairs, _, _ = match_units(changed, reference)
    units, correlations = [row for row, _, _ in pairs], np.array([value for _, _, value in pairs])
    sensitivity = (np.abs(changed - plain).mean(0) / plain.std(0).clip(1e-9))[units]
    sensitive = sensitivity >= np.quantile(sensitivity, 1 - SENSITIVE_SHARE)
    return {
        "sensitivity of the sensitive": float(sensitivity[sensitive].mean()),
        "of the others": float(sensitivity[~sensitive].mean()),
        "correlation of the sensitive": float(correlations[sensitive].mean()),
        "of the rest": float(correlations[~sensitive].mean()),
        "area under the ROC curve": float(roc_auc_score(sensitive, -correlations)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether matching finds what must differ.")
    parser.add_argument("--limit", type=int, default=400, help="number of scenes")
    limit = parser.parse_args().limit
    for variant in VARIANTS:
        network, probe = f"resnet-{variant}", f"diorama:objects-{variant}"
        plain, changed = record_means(network, "diorama:objects", limit), record_means(network, probe, limit)
        reference = record_means("resnet-objects", probe, limit)
        for layer in RESNET_LAYERS:
            values = measure_layer(plain[layer], changed[layer], reference[layer])
            print(f"{network} {layer}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))


if __name__ == "__main__":
    main()

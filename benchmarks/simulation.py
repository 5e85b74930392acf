"""How long it takes to score a unit's description by simulation, against a plain reading of the paper that goes from
unit to unit.

``python -m benchmarks.simulation`` draws vectors of 10,000 images and of 1,959 texts as an image-text model of 1,152
features gives them, 2,048 units whose activations are sums of two to eight of the texts' probabilities and noise, and
their descriptions: the sizes of Linear Explanations' ResNet-50. Both score the same descriptions in one process and
take turns; texts and images are encoded beforehand, which is not timed. Times are the processor's, which other programs
on the machine hardly lengthen. The reference does what the paper's released
code does for each unit: probabilities of its own texts, their weighted sum, and the correlation; that code also encodes
the texts anew for each unit, which the reference is spared.
"""

import argparse
import time
from statistics import median

import numpy as np
import torch
from torch.nn.functional import normalize

from milan.concepts.presence import Calibration, Presence
from milan.probes import Probe
from milan.scores.activation_simulation import TRUSTED_METRICS, Simulator, simulate
from milan.units import Description, Unit

IMAGES, TEXTS, FEATURES, UNITS = 10_000, 1_959, 1_152, 2_048
CALIBRATION = Calibration(58.0, -0.13)  # published for SigLIP SO400M-14-384, the paper's simulator
MOST = 1.5e-3  # seconds for a unit


class Drawn(Simulator):
    """Has vectors of all images and texts at hand."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor):
        super().__init__(
            "drawn", Probe.from_tensor(torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(len(images), 3, 1, 1))
        )
        self.images, self.vectors = images, texts

    def predict_presence(self, texts):
        rows = self.vectors[[int(text) for text in texts]]
        cosines = self.images @ rows.T
        return Presence(list(texts), cosines.add_(CALIBRATION.offset).mul_(CALIBRATION.scale).sigmoid_())


def world(units: int, seed: int) -> tuple[Drawn, list[Description], np.ndarray]:
    """Vectors that lie near each other as those of such a model do, descriptions, and activations."""
    rng = torch.Generator().manual_seed(seed)
    latent = torch.randn(64, FEATURES, generator=rng)
    images, texts = (normalize(torch.randn(count, 64, generator=rng) @ latent, dim=1) for count in (IMAGES, TEXTS))
    simulator = Drawn(images, texts)
    numbers = np.random.default_rng(seed)
    said = []
    for index in range(units):
        chosen = numbers.choice(TEXTS, numbers.integers(2, 9), replace=False)
        said.append(
            Description(
                Unit("layer4", index), "", 0.0, tuple((str(text), float(numbers.uniform(0.5, 2))) for text in chosen)
            )
        )
    shown = simulator.predict_presence([str(number) for number in range(TEXTS)]).matrix
    weights = torch.zeros(TEXTS, units)
    for index, each in enumerate(said):
        for text, weight in each.concepts:
            weights[int(text), index] = weight
    clean = shown @ weights
    return simulator, said, (clean + clean.std(0) * torch.randn(clean.shape, generator=rng)).numpy()


def unit_by_unit(simulator: Drawn, said: list[Description], activation: np.ndarray) -> np.ndarray:
    """The correlations of the first descriptions, one after the other."""
    found = []
    for place, each in enumerate(said):
        rows = simulator.vectors[[int(text) for text, _ in each.concepts]]
        shown = torch.sigmoid(CALIBRATION.scale * (simulator.images @ rows.T + CALIBRATION.offset))
        guess = (shown * torch.tensor([weight for _, weight in each.concepts])).sum(1).numpy() + each.bias
        found.append(np.corrcoef(guess, activation[:, place])[0, 1])
    return np.array(found)


def compare(units: int, reference: int, rounds: int, seed: int) -> None:
    simulator, said, activation = world(units, seed)
    times: dict[str, list[float]] = {"correlation": [], "all": [], "reference": []}
    for _ in range(rounds):
        began = time.process_time()
        one = simulate(activation, said, simulator, ["correlation"]).scores["correlation"]
        times["correlation"].append((time.process_time() - began) / units)
        began = time.process_time()
        simulate(activation, said, simulator)
        times["all"].append((time.process_time() - began) / units)
        began = time.process_time()
        other = unit_by_unit(simulator, said[:reference], activation)
        times["reference"].append((time.process_time() - began) / reference)
    apart = np.abs(one[:reference] - other).max()
    plain, every, slow = (1000 * median(times[name]) for name in ("correlation", "all", "reference"))
    print(f"{units:,} units, {IMAGES:,} images, {TEXTS:,} texts of {FEATURES:,} features")
    print(f"{rounds} rounds, {torch.get_num_threads()} threads\n")
    print("| | ms of processor time per unit |\n|---|---|")
    print(f"| correlation and bands | {plain:.3f} |\n| {', '.join(TRUSTED_METRICS)} and bands | {every:.3f} |")
    print(f"| unit by unit, correlation alone, texts encoded already ({reference} units) | {slow:.2f} |")
    print(f"\nratio {plain / slow:.3f}, all scores {every / slow:.3f}; correlations differ by {apart:.1e} at most")
    print(f"at most {1000 * MOST} ms: {'kept' if every <= 1000 * MOST else 'not kept'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--reference", type=int, default=64, help="units that are scored unit by unit too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    compare(chosen.units, min(chosen.reference, chosen.units), chosen.rounds, chosen.seed)


if __name__ == "__main__":
    main()

"""How long Linear Explanations take for a unit, and how well they predict, against scikit-learn's elastic net with the
same greedy rule.

``python -m benchmarks.linear_explanations`` draws probabilities of 2,000 concepts in 10,000 images, as an image-text
model would give them (7,000 to learn from, 1,000 to choose on, 2,000 to judge by), and units that are sums of two to
six of them with noise (their own two to six explain about 0.7 of the variance), some weights negative; then both
explain the same units in one process and take turns. The released code takes 52 to 75 s for the regression of a unit
and 2.8 s for its greedy step.
"""

import argparse
import time
from statistics import median

import numpy as np
import torch

from milan.describers._shared.elastic_net import (
    LinearFit,
    MultiTargetRegression,
    Penalty,
    RegressionTargets,
    RowSplit,
    compute_correlations,
)

IMAGES, CONCEPTS, LATENT = 10_000, 2_000, 64
PENALTY = Penalty(0.05 / 0.99, 0.99)
LONGEST, WIDTH, TOLERANCE = 10, 10, 0.02
SCALE, OFFSET = 60.0, -0.09  # the calibration published for SigLIP ViT-L-16-384
BLOCK = 64  # units regressed together, as the describer does


def probabilities(rng: np.random.Generator) -> torch.Tensor:
    """sigmoid(60 (cosine - 0.09)) of vectors that images and concepts have in one space; related concepts go
    together.
    """
    texts, images = rng.normal(size=(CONCEPTS, LATENT)), rng.normal(size=(IMAGES, LATENT))
    texts[CONCEPTS // 2 :] = (
        texts[: CONCEPTS - CONCEPTS // 2] + 0.7 * texts[CONCEPTS // 2 :]
    )  # every second concept has a kindred one
    cosines = images @ texts.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(texts, axis=1)
    return torch.from_numpy(1 / (1 + np.exp(-SCALE * (cosines + OFFSET)))).float()


def planted(shown: torch.Tensor, units: int, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """Units that are sums of two to six concepts and noise, and what their own concepts explain at most: the sums
    without the noise.
    """
    sums = np.zeros((len(shown), units))
    for unit in range(units):
        chosen = rng.choice(CONCEPTS, rng.integers(2, 7), replace=False)
        weights = rng.uniform(0.5, 1.5, len(chosen)) * rng.choice([1, 1, 1, -1], len(chosen))
        sums[:, unit] = shown[:, chosen].numpy() @ weights
    noise = rng.normal(size=sums.shape) * sums.std(0) * np.sqrt(0.3 / 0.7)
    return torch.from_numpy(sums + noise).float(), sums


def ours(regression: MultiTargetRegression, values: torch.Tensor) -> list[LinearFit]:
    found = []
    for block in values.split(BLOCK, dim=1):
        targets = regression.make_targets(block)
        weights = targets.fit_elastic_net(PENALTY)
        found += [steps[-1] for steps in targets.fit_greedily(weights, LONGEST, WIDTH, TOLERANCE)]
    return found


def scikit_learns(regression: MultiTargetRegression, features: np.ndarray, values: torch.Tensor) -> list[LinearFit]:
    """Its elastic net unit by unit on the standardised images, then the same greedy rule."""
    from sklearn.linear_model import ElasticNet

    targets: RegressionTargets = regression.make_targets(values)
    train = values[regression.split.train].double().numpy()
    train = (train - train.mean(0)) / train.std(0)
    net = ElasticNet(alpha=PENALTY.alpha, l1_ratio=PENALTY.l1_ratio, fit_intercept=False, copy_X=False)
    weights = np.stack([net.fit(features, train[:, unit]).coef_ for unit in range(values.shape[1])], axis=1)
    return [steps[-1] for steps in targets.fit_greedily(torch.from_numpy(weights), LONGEST, WIDTH, TOLERANCE)]


def held_out(found: list[LinearFit], shown: torch.Tensor, values: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    predicted = np.stack([fit.predict(shown[test]).numpy() for fit in found])
    true = values[test].double().numpy()
    return np.array([compute_correlations(predicted[[unit]], true[:, unit])[0] for unit in range(len(found))])


def compare(units: int, reference: int, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shown = probabilities(rng)
    values, sums = planted(shown, units, rng)
    split = RowSplit.random(IMAGES, seed)
    began = time.perf_counter()
    regression = MultiTargetRegression(shown, split)
    _ = regression.gram
    gram = time.perf_counter() - began
    standard = np.asfortranarray(((shown[split.train].double() - regression.mean) / regression.std).numpy())
    times: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    for _ in range(rounds):
        began = time.perf_counter()
        here = ours(regression, values)
        times["ours"].append((time.perf_counter() - began) / units)
        began = time.perf_counter()
        there = scikit_learns(regression, standard, values[:, :reference])
        times["scikit-learn"].append((time.perf_counter() - began) / reference)
    one, other = held_out(here, shown, values, split.test), held_out(there, shown, values[:, :reference], split.test)
    best = np.array(
        [
            compute_correlations(sums[split.test, unit][None], values[split.test, unit].double().numpy())[0]
            for unit in range(units)
        ]
    )
    seconds = {name: median(each) for name, each in times.items()}
    print(
        f"{len(split.train):,} images x {CONCEPTS:,} concepts, {units} units ({reference} by scikit-learn), {rounds}"
        " rounds\n"
    )
    print("| | s per unit | Gram matrix, once, s | held-out correlation | length |\n|---|---|---|---|---|")
    row = "| {} | {:.4f} | {} | {:.4f} | {:.2f} |"
    print(
        row.format(
            "ours",
            seconds["ours"],
            f"{gram:.2f}",
            one[:reference].mean(),
            np.mean([len(fit.columns) for fit in here[:reference]]),
        )
    )
    print(
        row.format(
            "scikit-learn's elastic net, same greedy rule", seconds["scikit-learn"], "", other.mean(), length(there)
        )
    )
    print(
        f"\nratio {seconds['ours'] / seconds['scikit-learn']:.4f}; with the Gram matrix"
        f" {(gram / units + seconds['ours']):.4f} s per unit;"
    )
    print(f"the planted sums themselves reach {best[:reference].mean():.4f}; all {units} units: {one.mean():.4f}")
    print(
        f"same concepts chosen for {np.mean([a.columns == b.columns for a, b in zip(here, there, strict=False)]):.1%}"
        " of units"
    )


def length(found: list[LinearFit]) -> float:
    return float(np.mean([len(fit.columns) for fit in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--reference", type=int, default=32, help="units that scikit-learn explains too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    compare(chosen.units, min(chosen.reference, chosen.units), chosen.rounds, chosen.seed)


if __name__ == "__main__":
    main()

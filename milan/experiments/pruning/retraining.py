"""Training a new classifier on a network's features."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn.functional import cross_entropy

from milan.errors import UnknownName

CLASSIFIER_KINDS = ("linear", "forest")
WEIGHT_DECAY = 1e-4  # factor of the squared weights in the loss
STEPS = 100  # of L-BFGS
TREE_COUNT = 100  # the default of scikit-learn


def retrain_classifier(
    training: tuple[Float[np.ndarray, "images features"], Int[np.ndarray, " images"]],
    evaluation: Float[np.ndarray, "evaluated features"],
    kind: str = "linear",
    seed: int = 0,
) -> Int[np.ndarray, " evaluated"]:
    """Return the classes that a newly trained classifier predicts for evaluation images.

    Args:
        training: features and classes of the training images.
        evaluation: features of the evaluation images.
        kind: ``linear`` (logistic regression on standardised features) or ``forest`` (a random forest of scikit-learn,
            as in Describe-and-Dissect's section 5).
        seed: the random seed of the forest.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind not in CLASSIFIER_KINDS:
        raise UnknownName("classifier", kind, CLASSIFIER_KINDS)
    features, classes = training
    if kind == "forest":
        return _make_forest(seed).fit(features, classes).predict(evaluation)
    middle, spread = features.mean(0), features.std(0)
    # A constant feature has no information.
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-8)
    known, labels = np.unique(classes, return_inverse=True)
    weights, bias = _fit_linear(torch.from_numpy((features - middle) * scale), torch.from_numpy(labels), len(known))
    logits = torch.from_numpy((evaluation - middle) * scale) @ weights + bias
    return known[logits.argmax(1).numpy()]


def _fit_linear(features: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.zeros(features.shape[1], classes, dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=features.dtype, requires_grad=True)
    steps = torch.optim.LBFGS([weights, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        steps.zero_grad()
        value = cross_entropy(features @ weights + bias, labels) + WEIGHT_DECAY * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        steps.step(loss)
    return weights.detach(), bias.detach()


def _make_forest(seed: int) -> Any:
    # Imported here because few runs need it.
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(TREE_COUNT, random_state=seed)

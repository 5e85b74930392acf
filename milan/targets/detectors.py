"""What is assumed of a network whose preprocessing nobody stated: ImageNet's, but for detectors, which do their own."""

from typing import Any

from torch import nn

from milan.targets.preprocessing import Preprocessing, as_size

TRANSFORM = "GeneralizedRCNNTransform"  # of torchvision, named here since importing it takes a second
UNCHANGED: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def assumed_preprocessing(model: nn.Module) -> Preprocessing:
    """What is assumed of a network that does not say: 224 pixels and ImageNet's mean and standard deviation.

    torchvision's detectors scale and normalize within: they are given what they scale to, as it is.
    """
    inner: Any = next((module for module in model.modules() if type(module).__name__ == TRANSFORM), None)
    if inner is None:
        return Preprocessing()
    if inner.fixed_size is not None:
        return Preprocessing(as_size(inner.fixed_size[::-1]), crop="squash", **UNCHANGED)
    return Preprocessing(int(inner.min_size[-1]), **UNCHANGED)

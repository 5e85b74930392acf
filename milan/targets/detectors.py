"""The preprocessing assumed for a network of unknown preprocessing: ImageNet's, except for detectors."""

from typing import Any

from torch import nn

from milan.targets.preprocessing import Preprocessing, as_size

# A class of torchvision, by name, since importing it takes a second.
TRANSFORM = "GeneralizedRCNNTransform"
UNCHANGED: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def assumed_preprocessing(model: nn.Module) -> Preprocessing:
    """Return the preprocessing assumed for a network: 224 pixels, and ImageNet's mean and standard deviation.

    torchvision's detectors resize and normalize their input themselves, so they get images of the size they resize to.
    """
    inner: Any = next((module for module in model.modules() if type(module).__name__ == TRANSFORM), None)
    if inner is None:
        return Preprocessing()
    if inner.fixed_size is not None:
        return Preprocessing(as_size(inner.fixed_size[::-1]), crop="squash", **UNCHANGED)
    return Preprocessing(int(inner.min_size[-1]), **UNCHANGED)

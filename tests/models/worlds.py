"""Small models with random weights whose descriptions depend on the features."""

import torch
from torch import Tensor

from milan.models import Captioner, Prior

WORDS = [f"{letter}{digit}" for letter in "abcdef" for digit in range(5)]
FEATURES, EXEMPLARS = 24, 5


def captioner(**settings: object) -> Captioner:
    torch.manual_seed(0)
    model = Captioner(WORDS, **{"features": FEATURES, "embedding": 8, "hidden": 16, "attention": 12} | settings).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3)
    return model


def prior(**settings: object) -> Prior:
    torch.manual_seed(1)
    model = Prior(WORDS, **{"embedding": 8, "hidden": 16} | settings).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3)
    return model


def features(units: int, seed: int = 0) -> Tensor:
    return torch.randn(units, EXEMPLARS, FEATURES, generator=torch.Generator().manual_seed(seed))

"""A small network with a ResNet's stages, for ``load_encoder("tests/tiny_encoder.py:encoder")``."""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn


def encoder() -> nn.Module:
    torch.manual_seed(0)
    names = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    stages = [nn.Conv2d(before, width, 3, 2, 1) for before, width in pairwise([3, 4, 6, 6, 8, 8])]
    return nn.Sequential(OrderedDict(zip(names, stages, strict=True))).eval()

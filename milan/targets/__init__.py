"""Targets: networks under study, how to load one, and which of its layers can be dissected."""

from milan.targets.generator_target import GeneratorTarget
from milan.targets.latents import Latents
from milan.targets.layers import Layer, format_layers
from milan.targets.loading import load_target
from milan.targets.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from milan.targets.target import Target

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "GeneratorTarget",
    "Latents",
    "Layer",
    "Preprocessing",
    "Target",
    "format_layers",
    "load_target",
]

"""How well attached dictionaries represent their layers, measured on a few images."""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from milan.targets.dictionary import DictionaryQuality
from milan.targets.dictionary_layers import DictionaryLayer
from milan.targets.hooks import run_to_layers
from milan.targets.target import Target

# Batches of 8 images that are enough to recognize a wrong layer, hook point or normalization.
QUALITY_BATCHES = 2


def measure_dictionaries(
    target: Target, layers: Sequence[str], batches: Iterable[tuple[Int[Tensor, " b"], Shaped[Tensor, "b colours h w"]]]
) -> dict[str, DictionaryQuality]:
    """Return the quality of each dictionary among some layers; other layers are ignored.

    It is measured on the tokens that the dictionary encodes, without registers and other prefix tokens after the class
    token. Warns where less than 0.3 of the variance is explained; see :meth:`Dictionary.quality`.

    Args:
        target: the network.
        layers: names of layers.
        batches: indices and pixels, as ``probe.inputs(8)``; only two are read, and none if there is no dictionary.
    """
    named = [layer for layer in map(target.layer, layers) if isinstance(layer, DictionaryLayer)]
    if not named:
        return {}
    bases = list(dict.fromkeys(layer.base.name for layer in named))
    patches: dict[str, list[Tensor]] = {name: [] for name in bases}
    class_tokens: dict[str, list[Tensor]] = {name: [] for name in bases}

    def keep(name: str, maps: Tensor, cls: Tensor | None) -> None:
        patches[name].append(maps.movedim(1, -1).flatten(0, -2).clone())
        class_tokens[name].extend([] if cls is None else [cls.clone()])

    with run_to_layers(target, bases, keep) as run:
        for ids, images in islice(batches, QUALITY_BATCHES):
            run(target.make_input(ids, images))
    found = {}
    for layer in named:
        parts = {"cls": class_tokens, "patches": patches}
        tokens = layer.dictionary.config.tokens if layer.base.layout == "BNC" else "patches"
        rows = [row for kind, part in parts.items() if tokens in (kind, "all") for row in part[layer.base.name]]
        activations = torch.cat(rows)
        finite = activations[activations.isfinite().all(1)]
        if len(finite):
            found[layer.name] = layer.dictionary.to(finite.device).quality(finite.float())
    return found


def format_quality(quality: DictionaryQuality) -> str:
    """Return the figures as text.

    >>> format_quality(DictionaryQuality(0.873, 31.8, 0.25)), format_quality(DictionaryQuality(None, 2, 0))
    ('explained variance 0.87, 31.8 active latents per place, 25% dead', '2.0 active latents per place, 0% dead')
    """
    figures = [f"{quality.mean_l0:.1f} active latents per place", f"{quality.dead_share:.0%} dead"]
    if quality.explained_variance is not None:
        figures.insert(0, f"explained variance {quality.explained_variance:.2f}")
    return ", ".join(figures)

"""Scores of images generated from a description: SAND's activation fraction, CoSy's AUC and MAD, and contrast with
other texts.

A painter draws what each text says; the network looks at the pictures; the probe's images, or pictures of other texts,
are what they are compared with. The painter decides much: what it cannot draw counts against the description, and what
it always adds counts for it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from milan.console.progress import track_progress
from milan.errors import BadInput
from milan.pretrained.painter import Painter, paint_texts
from milan.targets.hooks import recorded
from milan.targets.target import Target
from milan.units import Description, Unit

PICTURES_PER_TEXT = 20  # of each text; CoSy paints 50
SHARES = (0.01, 0.001)  # τ of SAND's tables
BATCH_SIZE = 64

MapPooling = Literal["mean", "max"]


def measure_painted_activations(
    target: Target,
    descriptions: Sequence[Description],
    painter: Painter,
    *,
    count: int = PICTURES_PER_TEXT,
    prompt: str = "{}",
    pooling: MapPooling = "mean",
    seed: int = 0,
) -> dict[Unit, Float[np.ndarray, " count"]]:
    """Return each unit's pooled activation on images of its own description; each distinct text is generated once.

    Args:
        prompt: what a text is put into, {} standing for it; CoSy takes "realistic photo of a close up of {}".
        pooling: as that of the activations they will be compared with.

    Raises:
        BadInput: the prompt has no {}.
    """
    layers: dict[str, list[str]] = {}
    for each in descriptions:
        layers.setdefault(each.text, []).append(each.unit.layer)
    seen = measure_layer_activations(target, layers, painter, count=count, prompt=prompt, pooling=pooling, seed=seed)
    return {each.unit: seen[each.text][each.unit.layer][:, each.unit.index] for each in descriptions}


def measure_layer_activations(
    target: Target,
    layers_by_text: Mapping[str, Sequence[str]],
    painter: Painter,
    *,
    count: int = PICTURES_PER_TEXT,
    prompt: str = "{}",
    pooling: MapPooling = "mean",
    seed: int = 0,
) -> dict[str, dict[str, Float[np.ndarray, "count units"]]]:
    """Return the pooled activation of all units of some layers on images of some texts; each text is generated once.

    Args:
        layers_by_text: the layers, by text; what is said of units of each.
        prompt: as ``measure_painted_activations`` takes it, and the other settings.

    Raises:
        BadInput: the prompt has no {}.
    """
    if "{}" not in prompt:
        raise BadInput(f"the prompt {prompt!r} has no {{}} for the description")
    found = {}
    for text in track_progress(list(layers_by_text), description=f"looking at pictures of {len(layers_by_text)} texts"):
        pictures = paint_texts(painter, [prompt.replace("{}", text)], count, seed=seed, size=target.image_size)[0]
        found[text] = dict(_pool_activations(target, list(dict.fromkeys(layers_by_text[text])), pictures, pooling))
    return found


def _pool_activations(
    target: Target, layers: Sequence[str], pictures: Tensor, pooling: MapPooling
) -> Mapping[str, Float[np.ndarray, "count units"]]:
    parts: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}

    def keep(layer: str, maps: Float[Tensor, "b units h w"], _: Float[Tensor, "b units"] | None) -> None:
        flat = maps.flatten(2).double()
        parts[layer].append((flat.mean(2) if pooling == "mean" else flat.amax(2)).cpu().numpy())

    with recorded(target, layers, keep) as look:
        for some in pictures.split(BATCH_SIZE):
            look(target.prepare(some))
    return {layer: np.concatenate(each) for layer, each in parts.items()}


def choose_text_to_paint(description: Description, max_concepts: int = 3) -> str:
    """Return the text to generate images from: the description, or the concepts with the largest positive weights of a
    sum.

    >>> concepts = (("ski", 2.0), ("cat", -1.0), ("sled", 0.5))
    >>> choose_text_to_paint(Description(Unit("a", 0), "2 ski - 1 cat + 0.5 sled", 0.0, concepts))
    'ski and sled'
    """
    raising = sorted((part for part in description.concepts if part[1] > 0), key=lambda part: -part[1])[:max_concepts]
    return " and ".join(name for name, _ in raising) or description.text


def activation_fraction(
    painted: Float[np.ndarray, " count"], control: Float[np.ndarray, " images"], share: float = SHARES[0]
) -> float:
    """Return the share of generated images that activate a unit as its strongest ``share`` of probe images does (SAND),
    0..1.

    >>> activation_fraction(np.array([1.0, 9.0]), np.arange(10.0), 0.1)
    0.5
    """
    known = control[np.isfinite(control)]
    count = max(1, round(share * len(known)))
    least = np.partition(known, -count)[-count]
    return float(((painted >= least) & (painted > known.min())).mean())


def painted_auc(painted: Float[np.ndarray, " count"], control: Float[np.ndarray, " images"]) -> float:
    """Return how often a generated image activates a unit more than a control image, 0..1 (AUC of CoSy); 0.5 is chance.

    NeuronEval finds it blind to descriptions that are too narrow.

    >>> painted_auc(np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0, 2.0]))
    0.6875
    """
    known = np.sort(control[np.isfinite(control)])
    below, upto = np.searchsorted(known, painted, "left"), np.searchsorted(known, painted, "right")
    return float(((below + upto) / 2 / len(known)).mean())


def painted_mad(painted: Float[np.ndarray, " count"], control: Float[np.ndarray, " images"]) -> float:
    """Return the mean activation on generated images minus that on control images, in the latter's standard deviations
    (CoSy's MAD).

    NeuronEval finds it blind to descriptions that are too narrow, and it has no upper end.

    >>> painted_mad(np.array([5.0]), np.array([1.0, 3.0]))
    2.1213203435596424
    """
    known = control[np.isfinite(control)]
    spread = known.std(ddof=1) if len(known) > 1 else 0.0
    return float((painted.mean() - known.mean()) / spread) if spread > 0 else 0.0

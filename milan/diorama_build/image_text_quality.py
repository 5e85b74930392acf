"""Measures Diorama's image-text models on held-out scenes, and writes their model cards."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from milan.diorama.label_signatures import KINDS
from milan.diorama.scene_concepts import list_concepts
from milan.diorama.scene_vocabulary import COLOURS, OBJECTS, SETTINGS, THINGS, add_article
from milan.diorama.scenes import HELD_OUT_START
from milan.diorama_build.caption_dataset import LABEL_GRID, CaptionDataset, load_caption_dataset
from milan.pretrained.embedder_interface import Embedder
from milan.storage.files import atomic_write

COUNT = 1_000  # held-out scenes of each world
OBJECT_PROMPTS = ("{a}", "a photo of {a}", "a picture of {a}")
SCENE_PROMPTS = ("{}", "a photo of the {}", "a view of a {}")
QUALITY_FILE, CARD_FILE = "quality.json", "README.md"


def measure_embedder(embedder: Embedder, work: Path, count: int = COUNT) -> dict[str, Any]:
    """Measure an embedder on held-out scenes, in percent.

    Retrieval is among ``count`` scenes, half of each world, and one sentence of each; a sentence that is true of
    several scenes counts for its own only. Classification is by the nearest class name, each in three prompts; in
    covered images all but the main thing is black, and its colour is the nearest of "a red car", "an orange car" and so
    on. Chance is 1 in ``count``, in 35 things, in 11 colours and in 10 settings.

    Args:
        embedder: the embedder.
        work: folder of rendered scenes.
        count: number of scenes of each world.
    """
    dataset = load_caption_dataset(HELD_OUT_START, count, work)
    half = [*range(count // 2), *range(count, count + count // 2)]
    first, second = slice(0, count), slice(count, None)
    pictures = embedder.encode_images(_stack_pixels(dataset, half))
    sentences = embedder.encode_texts([dataset.sentences[row][0] for row in half])
    things, settings = (
        _embed_classes(embedder, THINGS, OBJECT_PROMPTS),
        _embed_classes(embedder, SETTINGS, SCENE_PROMPTS),
    )
    objects = _stack_pixels(dataset, range(count))
    main = _make_main_masks(dataset, count)
    covered = embedder.encode_images(objects * main)
    coloured = embedder.encode_texts([f"{add_article(colour)} {thing}" for thing in THINGS for colour in COLOURS])
    looks = coloured.unflatten(0, (len(THINGS), len(COLOURS)))[torch.from_numpy(dataset.things[first])]
    return {
        "scenes by sentence": compute_recall(sentences @ pictures.T),
        "sentences by scene": compute_recall(pictures @ sentences.T),
        "among": len(half),
        "objects named": _correct_percent(embedder.encode_images(objects), things, dataset.things[first]),
        "objects named, the rest covered": _correct_percent(covered, things, dataset.things[first]),
        "their colours named": _to_percent(
            (looks @ covered[:, :, None]).squeeze(2).argmax(1).numpy() == _find_main_colours(dataset, main)
        ),
        "settings named": _correct_percent(
            embedder.encode_images(_stack_pixels(dataset, range(count, 2 * count))), settings, dataset.settings[second]
        ),
        **(
            {}
            if embedder.bias is None
            else {"what shows, by the sigmoid": _measure_presence(embedder, pictures, dataset, half)}
        ),
        "of": count,
    }


def _measure_presence(
    embedder: Embedder, pictures: Float[Tensor, "n features"], dataset: CaptionDataset, rows: Sequence[int]
) -> dict[str, float]:
    """Return how well the sigmoid predicts which concepts fill at least a hundredth of each image.

    "calibration error" is the expected calibration error in ten bins of equal width (Guo et al. 2017, section 2);
    "average precision" is over all pairs of image and concept.
    """
    from sklearn.metrics import average_precision_score

    assert embedder.scale is not None
    assert embedder.bias is not None
    logits = (
        embedder.scale * pictures @ embedder.encode_texts([concept.name for concept in list_concepts()]).T
        + embedder.bias
    )
    probabilities = logits.sigmoid().flatten().double().numpy()
    counts = np.stack([dataset.has_concept[dataset.signatures.pixels[row]].sum((0, 1)) for row in rows])
    true = (counts >= 0.01 * LABEL_GRID**2).flatten()
    bins = np.minimum((10 * probabilities).astype(int), 9)
    error = np.abs(np.bincount(bins, probabilities, 10) - np.bincount(bins, true, 10)).sum() / len(probabilities)
    figures = {
        "calibration error": error,
        "average precision": average_precision_score(true, probabilities),
        "of which show": true.mean(),
    }
    return {name: round(100 * float(value), 2) for name, value in figures.items()}


def compute_recall(cosines: Float[Tensor, "n n"]) -> dict[str, float]:
    """Return how often the matching item is the nearest, and among the five nearest, in percent.

    >>> compute_recall(torch.eye(8))
    {'recall@1': 100.0, 'recall@5': 100.0}
    """
    rank = (cosines >= cosines.diagonal()[:, None]).sum(1)  # ties count against
    return {f"recall@{k}": round(100 * (rank <= k).float().mean().item(), 2) for k in (1, 5)}


def _embed_classes(embedder: Embedder, names: Sequence[str], prompts: Sequence[str]) -> Float[Tensor, "names features"]:
    texts = [prompt.format(name, a=add_article(name)) for name in names for prompt in prompts]
    return normalize(embedder.encode_texts(texts).unflatten(0, (len(names), len(prompts))).mean(1), dim=1)


def _correct_percent(
    pictures: Float[Tensor, "n features"], names: Float[Tensor, "names features"], truth: np.ndarray
) -> float:
    return _to_percent((pictures @ names.T).argmax(1).numpy() == truth)


def _to_percent(right: np.ndarray) -> float:
    return round(100 * float(right.mean()), 2)


def _stack_pixels(dataset: CaptionDataset, rows: Sequence[int]) -> UInt8[Tensor, "n 3 64 64"]:
    return torch.from_numpy(np.ascontiguousarray(dataset.images[list(rows)]))


def _make_main_masks(dataset: CaptionDataset, count: int) -> UInt8[Tensor, "n 1 64 64"]:
    """Return the mask of each scene's main thing."""
    objects = dataset.signatures.table[dataset.signatures.pixels[:count], KINDS.index("object")]
    main: Int[np.ndarray, " n"] = np.array([OBJECTS.index(THINGS[thing]) + 1 for thing in dataset.things[:count]])
    lit = (objects == main[:, None, None]).repeat(64 // LABEL_GRID, 1).repeat(64 // LABEL_GRID, 2)
    return torch.from_numpy(lit[:, None].astype(np.uint8))


def _find_main_colours(dataset: CaptionDataset, main: UInt8[Tensor, "n 1 64 64"]) -> Int[np.ndarray, " n"]:
    """Return the most frequent colour of each scene's main thing, as an index into COLOURS."""
    labels = dataset.signatures.table[dataset.signatures.pixels[: len(main)], KINDS.index("colour")]
    lit = main[:, 0, :: 64 // LABEL_GRID, :: 64 // LABEL_GRID].numpy().astype(bool)
    return np.array(
        [np.bincount(each[where], minlength=2)[1:].argmax() for each, where in zip(labels, lit, strict=True)]
    )


def write_card(folder: Path, facts: dict[str, Any], library: str) -> None:
    """Write a stand-in's measurements into its folder: ``quality.json``, and ``README.md``, its model card."""
    with atomic_write(folder / QUALITY_FILE) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    with atomic_write(folder / CARD_FILE) as path:
        path.write_text(_format_card(facts, library))


def _format_card(facts: dict[str, Any], library: str) -> str:
    measured = facts["held_out"]
    name = facts["stand-in"]
    spec = "diorama" if name == "clip" else f"diorama:{name}"
    how = (
        f'open_clip.create_model_from_pretrained("local-dir:{name}")'
        if library == "open_clip"
        else f'AutoModel.from_pretrained("{name}")'
    )
    rows = "\n".join(f"| {key} | {_format_value(value)} |" for key, value in measured.items())
    return f"""---
library_name: {library}
license: mit
tags:
- milan
- stand-in
---
# Diorama's {name}: a stand-in

A small image-text model of {library}'s own class that stands in for the published ones where none can be \
downloaded. It was trained
on Diorama, the world of drawn scenes that comes with milan, and knows nothing else: **not to be used on \
photographs**. Its sentences
and phrases were made by a program, and no number below says anything of real images.

- trained on: {facts["trained_on_scenes"]:,} drawn scenes, of which {facts["views"]:,} views were shown: whole, \
cropped, and
  covered but for a region, with sentences and short phrases (seed {facts["seed"]}, {facts["steps"]:,} \
steps){_format_encoder(facts)}
- parameters: {facts["parameters"]:,}, in half precision
- made by: `python -m milan.diorama build --only {name}`

| on scenes not seen, in percent | |
| --- | --- |
{rows}

A sentence that is true of several scenes counts for its own alone. Chance is 0.1 for retrieval,
2.9 for objects, 9.1 for colours, 10 for settings.

```python
from milan.pretrained.embedder import load_embedder

embedder = load_embedder("{spec}")  # by {how}
```
"""


def _format_encoder(facts: dict[str, Any]) -> str:
    if "eye" not in facts:
        return ""
    return f"""
- its eye was taught before any text was, to name what shows and where (seed {facts["eye"]["seed"]}, \
{facts["eye"]["steps"]:,} steps)"""


def _format_value(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)

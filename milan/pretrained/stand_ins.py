"""How good Diorama's image-text models are on scenes they have not seen, and the cards that say what they are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from milan.diorama.census import KINDS
from milan.diorama.concepts import concepts
from milan.diorama.lessons import SEEN, Lessons, lessons
from milan.diorama.names import COLOURS, OBJECTS, SETTINGS, THINGS, article
from milan.diorama.scenes import HELD_OUT
from milan.pretrained.embedder import Embedder
from milan.storage import atomic

COUNT = 1_000  # held-out scenes of each world
OBJECT_PROMPTS = ("{a}", "a photo of {a}", "a picture of {a}")
SCENE_PROMPTS = ("{}", "a photo of the {}", "a view of a {}")
FACTS, CARD = "quality.json", "README.md"


def quality(embedder: Embedder, work: Path, count: int = COUNT) -> dict[str, Any]:
    """What an embedder makes of held-out scenes, in percent.

    Retrieval is among ``count`` scenes, half of each world, and one sentence of each; a sentence that is true of several scenes counts
    for its own alone. Naming is by the nearest of the names of all classes, each in three prompts; of covered pictures all but the main
    thing is black, and its colour is the nearest of "a red car", "an orange car" and so on. Chance is 1 in ``count``, in 35 things, in
    11 colours and in 10 settings.

    work: where the drawn scenes are kept.
    """
    taught = lessons(HELD_OUT, count, work)
    half = [*range(count // 2), *range(count, count + count // 2)]
    first, second = slice(0, count), slice(count, None)
    pictures = embedder.images(_pixels(taught, half))
    said = embedder.texts([taught.said[row][0] for row in half])
    things, settings = _classes(embedder, THINGS, OBJECT_PROMPTS), _classes(embedder, SETTINGS, SCENE_PROMPTS)
    objects = _pixels(taught, range(count))
    main = _main(taught, count)
    covered = embedder.images(objects * main)
    coloured = embedder.texts([f"{article(colour)} {thing}" for thing in THINGS for colour in COLOURS])
    looks = coloured.unflatten(0, (len(THINGS), len(COLOURS)))[torch.from_numpy(taught.things[first])]
    return {
        "scenes by sentence": recall(said @ pictures.T),
        "sentences by scene": recall(pictures @ said.T),
        "among": len(half),
        "objects named": _right(embedder.images(objects), things, taught.things[first]),
        "objects named, the rest covered": _right(covered, things, taught.things[first]),
        "their colours named": _share((looks @ covered[:, :, None]).squeeze(2).argmax(1).numpy() == _colours(taught, main)),
        "settings named": _right(embedder.images(_pixels(taught, range(count, 2 * count))), settings, taught.settings[second]),
        **({} if embedder.bias is None else {"what shows, by the sigmoid": _presence(embedder, pictures, taught, half)}),
        "of": count,
    }


def _presence(embedder: Embedder, pictures: Float[Tensor, "n features"], taught: Lessons, rows: Sequence[int]) -> dict[str, float]:
    """How sure the sigmoid is that each concept's name is true of each picture, against whether a hundredth of it shows the concept.

    calibration error: how far chances that are told lie from shares that are true, in ten bins of equal width, weighted by how many are
    in each (Guo et al. 2017, section 2); average precision: of all pictures and concepts in the order of these chances.
    """
    from sklearn.metrics import average_precision_score

    assert embedder.scale is not None
    assert embedder.bias is not None
    logits = embedder.scale * pictures @ embedder.texts([concept.name for concept in concepts()]).T + embedder.bias
    told = logits.sigmoid().flatten().double().numpy()
    counts = np.stack([taught.shows[taught.census.pixels[row]].sum((0, 1)) for row in rows])
    true = (counts >= 0.01 * SEEN**2).flatten()
    bins = np.minimum((10 * told).astype(int), 9)
    apart = np.abs(np.bincount(bins, told, 10) - np.bincount(bins, true, 10)).sum() / len(told)
    figures = {"calibration error": apart, "average precision": average_precision_score(true, told), "of which show": true.mean()}
    return {name: round(100 * float(value), 2) for name, value in figures.items()}


def recall(cosines: Float[Tensor, "n n"]) -> dict[str, float]:
    """How often the own one is the nearest, and among the five nearest, in percent.

    >>> recall(torch.eye(8))
    {'recall@1': 100.0, 'recall@5': 100.0}
    """
    rank = (cosines >= cosines.diagonal()[:, None]).sum(1)  # ties count against
    return {f"recall@{k}": round(100 * (rank <= k).float().mean().item(), 2) for k in (1, 5)}


def _classes(embedder: Embedder, names: Sequence[str], prompts: Sequence[str]) -> Float[Tensor, "names features"]:
    texts = [prompt.format(name, a=article(name)) for name in names for prompt in prompts]
    return normalize(embedder.texts(texts).unflatten(0, (len(names), len(prompts))).mean(1), dim=1)


def _right(pictures: Float[Tensor, "n features"], names: Float[Tensor, "names features"], truth: np.ndarray) -> float:
    return _share((pictures @ names.T).argmax(1).numpy() == truth)


def _share(right: np.ndarray) -> float:
    return round(100 * float(right.mean()), 2)


def _pixels(taught: Lessons, rows: Sequence[int]) -> UInt8[Tensor, "n 3 64 64"]:
    return torch.from_numpy(np.ascontiguousarray(taught.images[list(rows)]))


def _main(taught: Lessons, count: int) -> UInt8[Tensor, "n 1 64 64"]:
    """Where each scene's main thing is."""
    shown = taught.census.table[taught.census.pixels[:count], KINDS.index("object")]
    wanted: Int[np.ndarray, " n"] = np.array([OBJECTS.index(THINGS[thing]) + 1 for thing in taught.things[:count]])
    lit = (shown == wanted[:, None, None]).repeat(64 // SEEN, 1).repeat(64 // SEEN, 2)
    return torch.from_numpy(lit[:, None].astype(np.uint8))


def _colours(taught: Lessons, main: UInt8[Tensor, "n 1 64 64"]) -> Int[np.ndarray, " n"]:
    """The colour most of each scene's main thing has, by COLOURS."""
    labels = taught.census.table[taught.census.pixels[: len(main)], KINDS.index("colour")]
    lit = main[:, 0, :: 64 // SEEN, :: 64 // SEEN].numpy().astype(bool)
    return np.array([np.bincount(each[where], minlength=2)[1:].argmax() for each, where in zip(labels, lit, strict=True)])


def write_card(folder: Path, facts: dict[str, Any], library: str) -> None:
    """Writes what is known of a stand-in beside it: ``quality.json`` for programs, ``README.md`` for people."""
    with atomic(folder / FACTS) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    with atomic(folder / CARD) as path:
        path.write_text(_card(facts, library))


def _card(facts: dict[str, Any], library: str) -> str:
    measured = facts["held_out"]
    name = facts["stand-in"]
    spec = "diorama" if name == "clip" else f"diorama:{name}"
    how = (
        f'open_clip.create_model_from_pretrained("local-dir:{name}")' if library == "open_clip" else f'AutoModel.from_pretrained("{name}")'
    )
    rows = "\n".join(f"| {key} | {_told(value)} |" for key, value in measured.items())
    return f"""---
library_name: {library}
license: mit
tags:
- milan
- stand-in
---
# Diorama's {name}: a stand-in

A small image-text model of {library}'s own class that stands in for the published ones where none can be downloaded. It was trained
on Diorama, the world of drawn scenes that comes with milan, and knows nothing else: **not to be used on photographs**. Its sentences
and phrases were made by a program, and no number below says anything of real images.

- trained on: {facts["trained_on_scenes"]:,} drawn scenes, of which {facts["views"]:,} views were shown: whole, cropped, and
  covered but for a region, with sentences and short phrases (seed {facts["seed"]}, {facts["steps"]:,} steps){_eye(facts)}
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


def _eye(facts: dict[str, Any]) -> str:
    if "eye" not in facts:
        return ""
    return f"""
- its eye was taught before any text was, to name what shows and where (seed {facts["eye"]["seed"]}, {facts["eye"]["steps"]:,} steps)"""


def _told(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)

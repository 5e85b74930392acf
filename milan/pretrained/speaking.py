"""How good Diorama's captioner and its painter are on scenes that nothing was trained on, and the cards that say what they are."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milan.diorama.facts import facts, share_true
from milan.diorama.names import SETTINGS, THINGS, article
from milan.diorama.parsing import parse
from milan.diorama.scenes import HELD_OUT, WORLDS, Scene, draw
from milan.diorama.sentences import sentences
from milan.pretrained.captioner import ImageCaptioner
from milan.pretrained.painter import Painter, Wanted
from milan.progress import progress
from milan.storage import atomic

COUNT = 500  # held-out scenes of each world
REFERENCES = 4  # sentences about each scene that a caption is compared with
AGAIN = 9  # the seed of sentences that are not among those
FACTS, CARD = "quality.json", "README.md"


def caption_quality(captioner: ImageCaptioner, count: int = COUNT) -> dict[str, Any]:
    """What a captioner says of ``count`` held-out scenes of each world, in percent, beside what can be reached and what costs nothing.

    BLEU (sacrebleu, 13a tokens) is against 4 of the world's own sentences of each scene. Truth is the share of what is said that is
    true of the scene: each thing, colour, pattern, part, word, relation and setting (``milan.diorama.facts``). Both stand beside those of
    a fifth sentence of the world's own, of the caption of another scene, and of the commonest caption said of every scene.
    """
    scenes = [draw(HELD_OUT + index, world=world) for world in WORLDS for index in progress(range(count), text=f"drawing {world}")]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    said = captioner.captions(images)
    references = [sentences(scene, REFERENCES) for scene in scenes]
    own, others = [sentences(scene, 1, seed=AGAIN)[0] for scene in scenes], said[7:] + said[:7]
    constant = [Counter(said).most_common(1)[0][0]] * len(said)
    compared = {"captions": said, "ceiling": own, "of another scene": others, "always the same": constant}
    judged = [facts(text, scene) for text, scene in zip(said, scenes, strict=True)]
    things = [text for text, scene in zip(said[:count], scenes[:count], strict=True) if _names(text, scene)]
    return {
        "bleu": {who: _bleu(texts, references) for who, texts in compared.items()},
        "true of what is said": {who: _percent(share_true(texts, scenes)) for who, texts in compared.items()},
        "captions without a fault": _percent(sum(all(fact.true for fact in found) for found in judged) / len(judged)),
        "main things named": _percent(len(things) / count),
        "things said": round(sum(map(len, judged)) / len(judged), 2),
        "distinct captions": len(set(said)),
        "of": len(said),
    }


def _names(text: str, scene: Scene) -> bool:
    return any(scene.main in named.names and len(named.names) == 1 for named in parse(text).things)


def _bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from sacrebleu import corpus_bleu

    return round(corpus_bleu(list(texts), [list(column) for column in zip(*references, strict=True)]).score, 2)


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


Judge = Callable[[torch.Tensor], torch.Tensor]


def painter_quality(painter: Painter, judges: dict[str, Judge], count: int = COUNT) -> dict[str, Any]:
    """What classifiers make of a painter's pictures of sentences about held-out scenes and of bare names, in percent.

    judges: for the worlds "objects" and "scenes" what gives the logits of pictures, uint8 (b, 3, 64, 64).
    """
    named = [(f"{article(name)}", name) for name in THINGS for _ in range(max(1, count // 25))]
    bare = painter.draw([Wanted(text, 0, number) for number, (text, _) in enumerate(named)])
    found: dict[str, Any] = {"bare names recognised": _right(judges["objects"](bare), THINGS, [name for _, name in named])}
    for world in WORLDS:
        scenes = [draw(HELD_OUT + index, world=world) for index in progress(range(count), text=f"drawing {world}")]
        said = [sentences(scene, 1, seed=AGAIN)[0] for scene in scenes]
        pictures = painter.draw([Wanted(text, 0, 0) for text in said])
        wanted = [(row, parse(text)) for row, text in enumerate(said)]
        one = [(row, each.things[0].names[0]) for row, each in wanted if len(each.things) == 1 and each.things[0].names]
        placed = [(row, each.settings[0]) for row, each in wanted if each.settings]
        logits = {task: judge(pictures) for task, judge in judges.items()}
        found[f"things recognised, of sentences about {world}"] = _share(logits["objects"], THINGS, one)
        found[f"settings recognised, of sentences about {world}"] = _share(logits["scenes"], SETTINGS, placed)
    return found | {"of": count}


def _share(logits: torch.Tensor, names: Sequence[str], wanted: Sequence[tuple[int, str]]) -> float:
    return _right(logits[[row for row, _ in wanted]], names, [name for _, name in wanted])


def _right(logits: torch.Tensor, names: Sequence[str], wanted: Sequence[str]) -> float:
    return _percent(float(np.mean([names[best] == name for best, name in zip(logits.argmax(1).tolist(), wanted, strict=True)])))


def write_caption_card(folder: Path, known: dict[str, Any]) -> None:
    """Writes what is known of the captioner beside it: ``quality.json`` for programs, ``README.md`` for people."""
    with atomic(folder / FACTS) as path:
        path.write_text(json.dumps(known, indent=1) + "\n")
    with atomic(folder / CARD) as path:
        path.write_text(_caption_card(known))


def _caption_card(known: dict[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {_told(value)} |" for key, value in known["held_out"].items())
    return f"""---
library_name: transformers
pipeline_tag: image-to-text
license: mit
tags:
- milan
- stand-in
---
# Diorama's BLIP: a stand-in

A small `BlipForConditionalGeneration` that stands in for the published captioners where none can be downloaded. It was trained on
Diorama, the world of drawn scenes that comes with milan, and knows nothing else: **not to be used on photographs**. The sentences that it
learnt from were made by a program, and no number below says anything of real images.

- trained on: {known["trained_on_scenes"]:,} drawn scenes, of which {known["views"]:,} views were shown, whole or cut out
- its eye was taught before any text was, to name what shows and where ({known["eye"]["steps"]:,} steps, seed {known["eye"]["seed"]}: the
  eye of siglip-small, which began so too); then it learnt to speak ({known["steps"]:,} steps, seed {known["seed"]})
- parameters: {known["parameters"]:,}, in half precision
- made by: `python -m milan.diorama build --only blip`

| on scenes not seen, half of each world, in percent | |
| --- | --- |
{rows}

The ceiling is another sentence of the world's own about the same scene; the floors are the caption of another scene, and the commonest
caption said of every scene. "True of what is said" counts each thing, colour, pattern, part, word, relation and setting that a
caption names.

```python
from milan.pretrained.captioner import load_captioner

captioner = load_captioner("diorama")  # by AutoModelForImageTextToText.from_pretrained("blip")
```
"""


def _told(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)

"""Measures Diorama's captioner and painter on held-out scenes, and writes the captioner's model card."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milan.console.progress import track_progress
from milan.diorama.scene_vocabulary import SETTINGS, THINGS, add_article
from milan.diorama.scenes import HELD_OUT_START, WORLDS, Scene, draw_scene
from milan.diorama.sentence_parser import parse_sentence
from milan.diorama.sentence_truth import check_statements, compute_true_share
from milan.diorama.sentences import generate_sentences
from milan.pretrained.image_captioner import ImageCaptioner
from milan.pretrained.painter import Painter, PictureRequest
from milan.storage.files import atomic_write

COUNT = 500  # held-out scenes of each world
REFERENCES = 4  # reference sentences of each scene
EXTRA_SEED = 9  # seed of sentences that are no references
QUALITY_FILE, CARD_FILE = "quality.json", "README.md"


def measure_captioner(captioner: ImageCaptioner, count: int = COUNT) -> dict[str, Any]:
    """Measure a captioner on held-out scenes, beside its ceiling and floors, in percent.

    BLEU (sacrebleu, 13a tokens) compares captions with four of Diorama's sentences about each scene. Truth is the share
    of a text's statements that are true of the scene: things, colours, patterns, parts, words, relations and settings
    (``milan.diorama.sentence_truth``). The ceiling is a fifth sentence; the floors are the caption of another scene and
    the most frequent caption.

    Args:
        captioner: the captioner.
        count: number of scenes of each world.
    """
    scenes = [
        draw_scene(HELD_OUT_START + index, world=world)
        for world in WORLDS
        for index in track_progress(range(count), description=f"drawing {world}")
    ]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    captions = [str(caption) for caption in captioner.caption_images(images)]
    references = [generate_sentences(scene, REFERENCES) for scene in scenes]
    own, others = [generate_sentences(scene, 1, seed=EXTRA_SEED)[0] for scene in scenes], captions[7:] + captions[:7]
    constant = [Counter(captions).most_common(1)[0][0]] * len(captions)
    compared = {"captions": captions, "ceiling": own, "of another scene": others, "always the same": constant}
    checked = [check_statements(text, scene) for text, scene in zip(captions, scenes, strict=True)]
    things = [
        text for text, scene in zip(captions[:count], scenes[:count], strict=True) if _names_main_thing(text, scene)
    ]
    return {
        "bleu": {who: _compute_bleu(texts, references) for who, texts in compared.items()},
        "true of what is said": {
            who: _to_percent(compute_true_share(texts, scenes)) for who, texts in compared.items()
        },
        "captions without a fault": _to_percent(
            sum(all(fact.true for fact in statements) for statements in checked) / len(checked)
        ),
        "main things named": _to_percent(len(things) / count),
        "things said": round(sum(map(len, checked)) / len(checked), 2),
        "distinct captions": len(set(captions)),
        "of": len(captions),
    }


def _names_main_thing(text: str, scene: Scene) -> bool:
    return any(scene.main in named.names and len(named.names) == 1 for named in parse_sentence(text).things)


def _compute_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    from sacrebleu import corpus_bleu

    return round(corpus_bleu(list(texts), [list(column) for column in zip(*references, strict=True)]).score, 2)


def _to_percent(share: float) -> float:
    return round(100 * float(share), 2)


ImageClassifier = Callable[[torch.Tensor], torch.Tensor]


def measure_painter(painter: Painter, classifiers: dict[str, ImageClassifier], count: int = COUNT) -> dict[str, Any]:
    """Measure how many of a painter's images of sentences and of bare names classifiers recognise, in percent.

    Args:
        painter: the painter.
        classifiers: for each of the worlds "objects" and "scenes", the logits of images, uint8 (b, 3, 64, 64).
        count: number of held-out scenes of each world whose sentences are painted.
    """
    named = [(f"{add_article(name)}", name) for name in THINGS for _ in range(max(1, count // 25))]
    bare = painter.draw([PictureRequest(text, 0, number) for number, (text, _) in enumerate(named)])
    shares: dict[str, Any] = {
        "bare names recognised": _correct_percent(classifiers["objects"](bare), THINGS, [name for _, name in named])
    }
    for world in WORLDS:
        scenes = [
            draw_scene(HELD_OUT_START + index, world=world)
            for index in track_progress(range(count), description=f"drawing {world}")
        ]
        sentences = [generate_sentences(scene, 1, seed=EXTRA_SEED)[0] for scene in scenes]
        pictures = painter.draw([PictureRequest(text, 0, 0) for text in sentences])
        parsed = list(enumerate(map(parse_sentence, sentences)))
        things = [
            (row, each.things[0].names[0]) for row, each in parsed if len(each.things) == 1 and each.things[0].names
        ]
        settings = [(row, each.settings[0]) for row, each in parsed if each.settings]
        logits = {task: classify(pictures) for task, classify in classifiers.items()}
        shares[f"things recognised, of sentences about {world}"] = _recognized_percent(
            logits["objects"], THINGS, things
        )
        shares[f"settings recognised, of sentences about {world}"] = _recognized_percent(
            logits["scenes"], SETTINGS, settings
        )
    return shares | {"of": count}


def _recognized_percent(logits: torch.Tensor, names: Sequence[str], truth: Sequence[tuple[int, str]]) -> float:
    return _correct_percent(logits[[row for row, _ in truth]], names, [name for _, name in truth])


def _correct_percent(logits: torch.Tensor, names: Sequence[str], truth: Sequence[str]) -> float:
    return _to_percent(
        float(np.mean([names[best] == name for best, name in zip(logits.argmax(1).tolist(), truth, strict=True)]))
    )


def write_caption_card(folder: Path, known: dict[str, Any]) -> None:
    """Write the captioner's measurements into its folder: ``quality.json``, and ``README.md``, its model card."""
    with atomic_write(folder / QUALITY_FILE) as path:
        path.write_text(json.dumps(known, indent=1) + "\n")
    with atomic_write(folder / CARD_FILE) as path:
        path.write_text(_format_caption_card(known))


def _format_caption_card(known: dict[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {_format_value(value)} |" for key, value in known["held_out"].items())
    return f"""---
library_name: transformers
pipeline_tag: image-to-text
license: mit
tags:
- milan
- stand-in
---
# Diorama's BLIP: a stand-in

A small `BlipForConditionalGeneration` that stands in for the published captioners where none can be downloaded. It \
was trained on
Diorama, the world of drawn scenes that comes with milan, and knows nothing else: **not to be used on \
photographs**. The sentences that it
learnt from were made by a program, and no number below says anything of real images.

- trained on: {known["trained_on_scenes"]:,} drawn scenes, of which {known["views"]:,} views were shown, whole or \
cut out
- its eye was taught before any text was, to name what shows and where ({known["eye"]["steps"]:,} steps, seed \
{known["eye"]["seed"]}: the
  eye of siglip-small, which began so too); then it learnt to speak ({known["steps"]:,} steps, seed {known["seed"]})
- parameters: {known["parameters"]:,}, in half precision
- made by: `python -m milan.diorama build --only blip`

| on scenes not seen, half of each world, in percent | |
| --- | --- |
{rows}

The ceiling is another sentence of the world's own about the same scene; the floors are the caption of another \
scene, and the commonest
caption said of every scene. "True of what is said" counts each thing, colour, pattern, part, word, relation and \
setting that a
caption names.

```python
from milan.pretrained.image_captioner import load_image_captioner

captioner = load_image_captioner("diorama")  # by AutoModelForImageTextToText.from_pretrained("blip")
```
"""


def _format_value(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)

"""Draw the pictures in ``docs/diorama.md`` (scenes of each setting, the best and worst described units) and in
``docs/guides/photographs.md`` (a unit by each kind of evidence).

    python docs/pictures.py [photographs]

The units of the first are those that ``python -m milan.diorama build`` annotated; its dissections are used, or computed
again.
"""

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

import milan
from milan.diorama import Scene, draw_scene, generate_sentences
from milan.diorama.canvas import RGB
from milan.diorama.scene_vocabulary import OBJECTS, SETTINGS
from milan.diorama_build.build_folders import BuildFolders
from milan.diorama_build.build_steps import CLASSIFIERS
from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import read_unit_annotations
from milan.probes import load_probe
from milan.scores.truth_score import Truth
from milan.storage.files import cache_root
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.loading import load_target
from milan.units import Unit

HERE = Path(__file__).parent / "pictures"
FONT = ImageFont.load_default(13)
SMALL = ImageFont.load_default(11)
INK, PALE, PAPER = (25, 28, 33), (105, 110, 118), (255, 255, 255)
SCENE_SIZE = 192  # pixels of a scene's side on the sheet of settings
EXEMPLARS_PER_ROW = 9
HUES = [
    ImageColor.getrgb(f"hsl({137 * number % 360}, {45 + 20 * (number % 3)}%, {55 + 10 * (number % 4)}%)")
    for number, _ in enumerate(OBJECTS)
]


def draw_settings() -> Image.Image:
    """Return a sheet with a scene of each setting and its pixel labels beside it."""
    cell = (2 * SCENE_SIZE + 10, SCENE_SIZE + 62)
    sheet = Image.new("RGB", (2 * cell[0] + 30, 5 * cell[1] + 10), PAPER)
    for number, setting in enumerate(SETTINGS):
        place = (10 + (number % 2) * (cell[0] + 10), 10 + (number // 2) * cell[1])
        _draw_scene(sheet, place, _find_clear_scene(setting))
    return sheet


def _find_clear_scene(setting: str) -> Scene:
    """Return the first scene of the setting with three large objects."""
    scenes = (draw_scene(index, world="scenes", size=SCENE_SIZE) for index in range(4000))
    return next(
        scene
        for scene in scenes
        if scene.setting == setting and sum(placed.area > 900 for placed in scene.objects) == 3
    )


def _draw_scene(sheet: Image.Image, place: tuple[int, int], scene: Scene) -> None:
    x, y = place
    sheet.paste(Image.fromarray(scene.image.transpose(1, 2, 0)), (x, y))
    labels = scene.labels["object"]
    tinted = np.array([(230, 230, 230), *HUES], dtype=np.uint8)[labels]
    tinted[scene.labels["text"] > 0] = RGB["black"]
    sheet.paste(Image.fromarray(tinted), (x + SCENE_SIZE + 4, y))
    pen = ImageDraw.Draw(sheet)
    for number in np.unique(labels)[1:] if labels.min() == 0 else np.unique(labels):
        rows, columns = np.nonzero(labels == number)
        if len(rows) < 350:
            continue
        # Where most of the label's pixels are, not their mean, which may lie outside of it.
        middle = int(np.median(rows[np.abs(columns - np.median(columns)) < 12]))
        at = (x + SCENE_SIZE + 4 + int(np.median(columns)), y + middle)
        pen.text(at, OBJECTS[number - 1], INK, SMALL, anchor="mm", stroke_width=2, stroke_fill=PAPER)
    first, second = generate_sentences(scene, 2)
    pen.text((x, y + SCENE_SIZE + 3), scene.setting, INK, FONT)
    pen.text((x, y + SCENE_SIZE + 19), _cut(first, 62), PALE, SMALL)
    pen.text((x, y + SCENE_SIZE + 33), _cut(second, 62), PALE, SMALL)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " ..."


class RankedUnit(NamedTuple):
    """A unit with its rank, its best concept and a note about its annotations."""

    rank: float
    unit: Unit
    dissection: Dissection
    best_concept: str
    note: str


def draw_units(network: str, folders: BuildFolders, count: int = 4) -> Image.Image:
    """Return a sheet with the units whose simulated annotations have the highest and the lowest truth scores."""
    annotations = read_unit_annotations(folders.data / "annotations" / network)
    ranked_units: list[RankedUnit] = []
    for layer, dissection in folders.dissections(network).items():
        truth = Truth.measure(dissection, folders.target(network), folders.work)
        for unit in (unit for unit in annotations if unit.layer == layer):
            scores = [truth.score(unit, text) for text in annotations[unit]]
            best = truth.find_best(unit, 2)
            note = f"truth {np.mean(scores):.2f}; best of two concepts: {best.text} (IoU {best.overlap:.2f})"
            # Of equal truth scores, units whose masks overlap most with a concept come first.
            ranked_units.append(
                RankedUnit(float(np.mean(scores)) + best.overlap, unit, dissection, truth.find_best(unit, 1).text, note)
            )
    ranked_units.sort(key=lambda ranked: -ranked.rank)
    # The best unit of each concept.
    distinct = {ranked.best_concept: ranked for ranked in reversed(ranked_units)}
    rows = [*sorted(distinct.values(), key=lambda ranked: -ranked.rank)[:count], *ranked_units[-count:]]
    sheet = Image.new("RGB", (EXEMPLARS_PER_ROW * 68 + 20, len(rows) * 112 + 58), PAPER)
    pen = ImageDraw.Draw(sheet)
    top = 10
    for number, ranked in enumerate(rows):
        if number in (0, count):
            pen.text(
                (10, top),
                f"{network}: {'the best' if number == 0 else 'the worst'} described units (simulated annotators)",
                INK,
                FONT,
            )
            top += 22
        _draw_row(sheet, top, ranked.dissection, ranked.unit)
        pen.text((10, top + 68), _cut(f"{ranked.unit}   " + "  |  ".join(annotations[ranked.unit]), 100), INK, SMALL)
        pen.text((10, top + 83), _cut(ranked.note, 100), PALE, SMALL)
        top += 112
    return sheet


def _draw_row(sheet: Image.Image, top: int, dissection: Dissection, unit: Unit) -> None:
    exemplars = dissection.exemplars(unit)
    shown = zip(
        exemplars.images[:EXEMPLARS_PER_ROW].numpy(), exemplars.masks[:EXEMPLARS_PER_ROW, 0].numpy(), strict=True
    )
    for place, (image, mask) in enumerate(shown):
        pixels = np.where(mask, image, image // 3).astype(np.uint8).transpose(1, 2, 0).copy()
        inner = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        pixels[mask & ~inner] = (255, 235, 60)
        sheet.paste(Image.fromarray(pixels), (10 + place * 68, top))


# What describes the unit of each picture of ``docs/guides/photographs.md``.
EVIDENCE = {
    "labels": "linear_explanations:evidence=labels",
    "pixels": "netdissect",
    "clip": "clip_dissect",
    "endpoint": "vlm",
    "nothing": "weight_label:llm=phrases",
}


def draw_evidence(describer: str, work: Path) -> Image.Image:
    """Return a row with the exemplars and the description of the unit whose description has the highest score."""
    target = load_target("diorama:resnet-objects")
    probe = load_probe("diorama:objects", limit=600)
    catalogue = milan.describe(target, probe, describer, layers=["layer4"], units="0-39", out=work)
    best = max(catalogue, key=lambda description: description.score)
    sheet = Image.new("RGB", (EXEMPLARS_PER_ROW * 68 + 20, 106), PAPER)
    dissection = load_dissection(work / "dissection" / "layer4")
    _draw_row(sheet, 10, dissection, best.unit)
    pen = ImageDraw.Draw(sheet)
    # weight_label has no score.
    score = f"   (score {best.score:.2f})" if best.score else ""
    pen.text((10, 80), _cut(f"{best.unit}   {best.text}{score}", 96), INK, SMALL)
    return sheet


def _save(sheet: Image.Image, name: str) -> None:
    HERE.mkdir(exist_ok=True)
    sheet.quantize(160, dither=Image.Dither.NONE).save(HERE / name, optimize=True)
    print(f"{name}: {sheet.size}, {(HERE / name).stat().st_size // 1024} kB")


def main() -> None:
    """Draw all pictures, or those of photographs.md alone."""
    with tempfile.TemporaryDirectory() as work:
        for name, describer in EVIDENCE.items():
            _save(draw_evidence(describer, Path(work) / name), f"photographs-{name}.png")
    if sys.argv[1:] == ["photographs"]:
        return
    _save(draw_settings(), "diorama-settings.png")
    folders = BuildFolders(locate_packaged_data("data") / "diorama", cache_root() / "diorama")
    for network in CLASSIFIERS:
        _save(draw_units(network, folders), f"units-{network}.png")


if __name__ == "__main__":
    main()

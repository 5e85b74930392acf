"""Images with names of classes written into a corner (Hernandez et al. 2022, section 7; Goh et al. 2021), from any
images with classes.

The 2022 code has no builder of its set, only the paper's words for it: half of the training images carry their own
class's name in the top left corner, and every test image that of a class drawn by lot.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from milan.errors import BadInput
from milan.storage.files import write_text
from milan.storage.integrity import json_or_none

if TYPE_CHECKING:  # PIL and torch are imported when there is work to do
    from PIL import Image

    from milan.probes import Probe

FORMAT = 1  # of what is built
FOLDERS = {
    "plain": ("train", "validation", "test"),
    "lettered": ("train", "validation"),
    "adversarial": ("validation", "test"),
}
MARGIN = 0.15  # around the letters, of their height
MIN_LETTER_PIXELS = 6  # pixels of the letters; a longer name is cut, not written smaller


def written(picture: "Image.Image", text: str, lettering: Lettering, rng: np.random.Generator) -> "Image.Image":
    """The picture with a text in black on a white plate in a corner."""
    from PIL import ImageDraw

    corner = CORNERS[int(rng.integers(4))] if lettering.place == "any" else lettering.place
    shown = picture.copy()
    draw = ImageDraw.Draw(shown)
    font, line, (left, top, right, bottom) = _fit_text(draw, text, lettering, shown.size)
    pad = max(1, round((bottom - top) * MARGIN))
    width, height = min(shown.width, right - left + 2 * pad), min(shown.height, bottom - top + 2 * pad)
    x = 0 if corner.endswith("left") else shown.width - width
    y = 0 if corner.startswith("top") else shown.height - height
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill="white")
    draw.text((x + pad - left, y + pad - top), line, fill="black", font=font)
    return shown


def build_folders(images: "Probe", tests: "Probe | None", folder: Path, lettering: Lettering) -> dict[str, Path]:
    """Writes the images as folders of classes, as they are and with names.

    ``plain`` are the images as they are; of the ``lettered``, to train and validate with, ``lettering.share`` carry
    their own class's name; every one of the ``adversarial``, to validate and test with, that of a class drawn by lot.
    What is there already, of the same images and lettering, is not written again.

    Args:
        images: with classes, to train on and validate with.
        tests: of the same classes; a tenth of ``images`` where there are none.

    Returns:
        Folders by name: KIND/PART, the part being train, validation or test.

    Raises:
        BadInput: the images have no classes, or too few in one of them.
    """
    parts = _divide_images(images, tests, lettering)
    known = {
        "images": images.fingerprint,
        "tests": tests.fingerprint if tests else "",
        "lettering": asdict(lettering),
        "format": FORMAT,
    }
    found = {f"{kind}/{part}": folder / kind / part for kind, several in FOLDERS.items() for part in several}
    done = folder / "built.json"
    if json_or_none(done) == known:
        return found
    done.unlink(missing_ok=True)
    names = _list_class_names(images)
    for part, (source, rows) in parts.items():
        _write_images(source, rows, part, names, folder, lettering)
    write_text(done, json.dumps(known, indent=1) + "\n")
    return found


def _write_images(
    source: "Probe", rows: Sequence[int], part: str, names: Sequence[str], folder: Path, lettering: Lettering
) -> None:
    from PIL import Image

    from milan.console.progress import track_progress

    labels = _list_labels(source)
    for row in track_progress(rows, description=f"writing {part} images"):
        picture = Image.fromarray(source.image(row).permute(1, 2, 0).numpy())
        rng = np.random.default_rng(
            [lettering.seed, len(part), row]
        )  # each image has its own lots, whatever else is written
        own, any_other = (
            names[labels[row]] if rng.random() < lettering.share else "",
            names[int(rng.integers(len(names)))],
        )
        for kind, word in (("plain", ""), ("lettered", own), ("adversarial", any_other)):
            if part in FOLDERS[kind]:
                place = folder / kind / part / make_folder_name(names[labels[row]]) / f"{row:06d}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                (written(picture, word, lettering, rng) if word else picture).save(place, compress_level=1)


def _divide_images(
    images: "Probe", tests: "Probe | None", lettering: Lettering
) -> "dict[str, tuple[Probe, list[int]]]":
    """Which images of which probe are in each part, class by class."""
    labels = np.array(_list_labels(images))
    if tests is not None and _list_class_names(tests) != _list_class_names(images):
        raise BadInput(
            f"the test images have other classes ({', '.join(_list_class_names(tests)[:3])} ...) than the training"
            " images"
        )
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in range(len(_list_class_names(images))):
        own = np.random.default_rng([lettering.seed, label]).permutation(np.flatnonzero(labels == label)).tolist()
        held = max(1, round(lettering.held_out * len(own)))
        if len(own) < (1 if tests is not None else 2) * held + 1:
            raise BadInput(
                f"{len(own)} images of {_list_class_names(images)[label]!r} are too few to train on some and hold out"
                " others"
            )
        rows["validation"] += own[:held]
        rows["test"] += [] if tests is not None else own[held : 2 * held]
        rows["train"] += own[held if tests is not None else 2 * held :]
    found = {part: (images, sorted(each)) for part, each in rows.items()}
    return found if tests is None else found | {"test": (tests, list(range(len(tests))))}


def _fit_text(draw: object, text: str, lettering: Lettering, size: tuple[int, int]) -> tuple:
    """A font in which the text fits across, the text, cut where it must be, and its box."""
    line = " ".join(text.split())
    points = max(MIN_LETTER_PIXELS, round(lettering.height * size[1]))
    while True:
        font = _load_font(lettering.font, points)
        box = draw.textbbox((0, 0), line, font=font)  # type: ignore[attr-defined]
        if box[2] - box[0] <= size[0] * (1 - 2 * MARGIN * lettering.height) or len(line) == 1:
            return font, line, tuple(int(edge) for edge in box)
        if points > MIN_LETTER_PIXELS:
            points -= 1
        else:
            line = line[:-1]


def _load_font(file: str, points: int) -> object:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(file, points) if file else ImageFont.load_default(points)
    except OSError as error:
        raise BadInput(
            f"the font {file!r} cannot be read ({error}); give a TrueType or OpenType file, or none for Pillow's own"
        ) from None


def _list_labels(images: "Probe") -> list[int]:
    from milan.probes.superclasses import known_labels

    if images.labels is None or images.classes is None:
        raise BadInput(
            f"the images {images.spec or images.name!r} have no classes; put those of each class into a folder of"
            " their own"
        )
    return known_labels(images)


def _list_class_names(images: "Probe") -> list[str]:
    """The classes' names as they are written: of several the first."""
    from milan.probes.superclasses import format_class_names

    _list_labels(images)
    names = [name.partition(",")[0].strip() for name in format_class_names(images)]
    if len({make_folder_name(name).casefold() for name in names}) < len(names):
        raise BadInput(
            f"two classes of {images.spec or images.name!r} have one name once commas and signs are taken off;"
            " rename one"
        )
    return names


def make_folder_name(name: str) -> str:
    """A class's name as that of a folder, the same on every file system.

    >>> make_folder_name("great white shark"), make_folder_name("../é")
    ('great white shark', '___é')
    """
    return re.sub(r"[^\w -]", "_", name)[:80].strip() or "_"

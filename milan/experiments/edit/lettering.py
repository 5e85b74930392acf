"""Images with class names written into a corner (Hernandez et al. 2022, section 7; Goh et al. 2021).

The code of 2022 does not build its images; the paper describes them: half of the training images carry their own
class's name in the top left corner, and every test image that of a random class.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from milan.errors import BadInput
from milan.experiments.edit.config import CORNERS, Lettering
from milan.storage.files import write_text
from milan.storage.integrity import json_or_none

if TYPE_CHECKING:
    from PIL import Image

    from milan.probes import Probe

# Of the images; another number writes them again.
FORMAT = 1
FOLDERS = {
    "plain": ("train", "validation", "test"),
    "lettered": ("train", "validation"),
    "adversarial": ("validation", "test"),
}
MARGIN = 0.15  # around the letters, as a share of their height
# A name that is too long for letters of this height is cut.
MIN_LETTER_PIXELS = 6


def write_name(picture: "Image.Image", text: str, lettering: Lettering, rng: np.random.Generator) -> "Image.Image":
    """Return the image with a text in black on a white plate in a corner."""
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
    """Write the images as folders of classes, with and without names.

    The ``plain`` images are unchanged. Of the ``lettered`` ones, for training and validation, ``lettering.share`` carry
    their own class's name. All ``adversarial`` ones, for validation and tests, carry the name of a random class.
    Folders of the same images and lettering are not written again.

    Args:
        images: images with classes, for training and validation.
        tests: images of the same classes, for tests; by default a part of ``images``.

    Returns:
        Folders by KIND/PART, where the part is train, validation or test.

    Raises:
        BadInput: the images have no classes, or too few images of a class.
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
        # Each image has a generator of its own, so that it does not depend on other images.
        rng = np.random.default_rng([lettering.seed, len(part), row])
        own = names[labels[row]] if rng.random() < lettering.share else ""
        other = names[int(rng.integers(len(names)))]
        for kind, word in (("plain", ""), ("lettered", own), ("adversarial", other)):
            if part in FOLDERS[kind]:
                place = folder / kind / part / make_folder_name(names[labels[row]]) / f"{row:06d}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                (write_name(picture, word, lettering, rng) if word else picture).save(place, compress_level=1)


def _divide_images(
    images: "Probe", tests: "Probe | None", lettering: Lettering
) -> "dict[str, tuple[Probe, list[int]]]":
    """Return the probe and the images of each part; every class is divided in the same way."""
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
    """Return a font in which the text fits into the width, the text, cut if it must be, and its box."""
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
            " font"
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
    """Return the names of the classes as they are written: the first of several names."""
    from milan.probes.superclasses import format_class_names

    _list_labels(images)
    names = [name.partition(",")[0].strip() for name in format_class_names(images)]
    if len({make_folder_name(name).casefold() for name in names}) < len(names):
        raise BadInput(
            f"two classes of {images.spec or images.name!r} have the same name without commas and punctuation;"
            " rename one of them"
        )
    return names


def make_folder_name(name: str) -> str:
    """Return a class's name as the name of a folder that every file system allows.

    >>> make_folder_name("great white shark"), make_folder_name("../é")
    ('great white shark', '___é')
    """
    return re.sub(r"[^\w -]", "_", name)[:80].strip() or "_"

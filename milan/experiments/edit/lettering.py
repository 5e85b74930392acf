"""Images with class names written into a corner (Hernandez et al. 2022, section 7; Goh et al. 2021).

The code of 2022 does not build its images; the paper describes them: half of the training images carry their own
class's name in the top left corner, and every test image that of a random class.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from milan.errors import BadInput
from milan.experiments.edit.config import CORNERS, Lettering
from milan.storage.files import atomic_write, write_text
from milan.storage.integrity import checksums, is_sound, json_or_none

if TYPE_CHECKING:
    from PIL import Image

    from milan.probes import Probe

# Version of the images; those of another version are written again.
FORMAT = 2
PARTS = {
    "plain": ("train", "validation", "test"),
    "lettered": ("train", "validation"),
    "adversarial": ("validation", "test"),
}
# Names of the pixel labels: a unit that overlaps no more with text than by chance is named by the photograph around it.
PIXEL_CLASSES = ("photograph", "text")
ROWS_PER_GROUP = 256  # of a parquet file
MARGIN = 0.15  # around the letters, as a share of their height
# A name that is too long for letters of this height is cut.
MIN_LETTER_PIXELS = 6


class LetteredImage(NamedTuple):
    """An image with a text, and the pixels of the plate that carries it."""

    picture: "Image.Image"
    plate: Bool[np.ndarray, "height width"]


def write_name(picture: "Image.Image", text: str, lettering: Lettering, rng: np.random.Generator) -> LetteredImage:
    """Write a text into an image, in black on a white plate in a corner."""
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
    plate = np.zeros((shown.height, shown.width), dtype=bool)
    plate[y : y + height, x : x + width] = True
    return LetteredImage(shown, plate)


def build_tables(
    images: "Probe", tests: "Probe | None", folder: Path, lettering: Lettering, train: bool = True
) -> dict[str, Path]:
    """Write the images as parquet files of images, classes and pixel labels, with and without names.

    The ``plain`` images are unchanged. Of the ``lettered`` ones, for training and validation, ``lettering.share`` carry
    their own class's name. All ``adversarial`` ones, for validation and tests, carry the name of a random class. The
    pixel labels are those of the plates with names: ``photograph`` or ``text``. Files of the same images and lettering
    are not written again.

    Args:
        images: images with classes, for training and validation.
        tests: images of the same classes, for tests; by default a part of ``images``.
        train: whether a network is trained; if not, half of the images are for validation, or all if ``tests`` are
            given.

    Returns:
        Files by KIND/PART, where the part is train, validation or test.

    Raises:
        BadInput: the images have no classes, or too few images of a class.
    """
    parts = _divide_images(images, tests, lettering, train)
    known = {"images": images.fingerprint, "tests": tests.fingerprint if tests else "", "train": train}
    known |= {"lettering": asdict(lettering), "format": FORMAT}
    files = {
        f"{kind}/{part}": Path(kind) / f"{part}.parquet" for kind in PARTS for part in PARTS[kind] if part in parts
    }
    found, done = {name: folder / file for name, file in files.items()}, folder / "built.json"
    built = json_or_none(done)
    if is_sound(built, folder) and built["made"] == known:
        return found
    for kind in PARTS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_text(folder / kind / "classes.txt", "\n".join(PIXEL_CLASSES) + "\n")
    names = _list_written_names(images)
    for part, (source, rows) in parts.items():
        _write_part(source, rows, part, names, folder, lettering)
    marks = checksums(folder, [str(file) for file in files.values()])
    write_text(done, json.dumps({"made": known, "files": marks}, indent=1) + "\n")
    return found


def _write_part(
    source: "Probe", rows: Sequence[int], part: str, names: Sequence[str], folder: Path, lettering: Lettering
) -> None:
    """Write the images of a part, in all kinds that have it."""
    from PIL import Image

    from milan.console.progress import track_progress

    labels, kinds = _list_labels(source), [kind for kind in PARTS if part in PARTS[kind]]
    with ExitStack() as stack:
        tables = {kind: stack.enter_context(_open_table(folder / kind / f"{part}.parquet")) for kind in kinds}
        for row in track_progress(rows, description=f"writing {part} images"):
            picture = Image.fromarray(source.image(row).permute(1, 2, 0).numpy())
            label = labels[row]
            # Each image has a generator of its own, so that it does not depend on other images.
            rng = np.random.default_rng([lettering.seed, len(part), row])
            own = names[label] if rng.random() < lettering.share else ""
            words = {"plain": "", "lettered": own, "adversarial": names[int(rng.integers(len(names)))]}
            for kind, table in tables.items():
                table.append(_make_row(picture, words[kind], lettering, rng) | _describe_class(source, label))


def _make_row(picture: "Image.Image", word: str, lettering: Lettering, rng: np.random.Generator) -> dict[str, bytes]:
    from PIL import Image

    plate = np.zeros((picture.height, picture.width), dtype=bool)
    if word:
        picture, plate = write_name(picture, word, lettering, rng)
    return {"image": _encode_png(picture), "segmentation": _encode_png(Image.fromarray(plate.astype(np.uint8)))}


def _encode_png(picture: "Image.Image") -> bytes:
    picture.save(out := io.BytesIO(), "PNG", compress_level=1)
    return out.getvalue()


def _describe_class(source: "Probe", label: int) -> dict[str, Any]:
    return {
        "label": label,
        "name": source.classes[label] if source.classes else None,
        "wnid": source.wnids[label] if source.wnids else None,
    }


class _ImageTable:
    """Rows of a parquet file that is being written."""

    def __init__(self, writer: Any):
        self.writer = writer
        self.rows: list[dict[str, Any]] = []

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        if self.rows:
            self.writer.write_table(pyarrow.Table.from_pylist(self.rows, self.writer.schema))
        self.rows = []


@contextmanager
def _open_table(file: Path) -> "Iterator[_ImageTable]":
    import pyarrow
    from pyarrow import parquet

    kinds = {"image": pyarrow.binary(), "segmentation": pyarrow.binary()}
    kinds |= {"label": pyarrow.int64(), "name": pyarrow.string(), "wnid": pyarrow.string()}
    with atomic_write(file) as partial, parquet.ParquetWriter(partial, pyarrow.schema(kinds)) as writer:
        table = _ImageTable(writer)
        yield table
        table.flush()


def _divide_images(
    images: "Probe", tests: "Probe | None", lettering: Lettering, train: bool
) -> "dict[str, tuple[Probe, list[int]]]":
    """Return the probe and the images of each part; every class is divided in the same way."""
    labels, classes = np.array(_list_labels(images)), _list_written_names(images)
    if tests is not None and _list_written_names(tests) != classes:
        other = ", ".join(_list_written_names(tests)[:3])
        raise BadInput(f"the test images have other classes ({other} ...) than the other images")
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label, name in enumerate(classes):
        own = np.random.default_rng([lettering.seed, label]).permutation(np.flatnonzero(labels == label)).tolist()
        held = max(1, round(lettering.held_out * len(own)))
        if not train:
            held = len(own) if tests is not None else len(own) // 2
        held_for_tests = 0 if tests is not None else held if train else len(own) - held
        if not held or len(own) < held + held_for_tests + train:
            raise BadInput(f"{len(own)} images of {name!r} are too few to use some and hold out others; give more")
        rows["validation"] += own[:held]
        rows["test"] += own[held : held + held_for_tests]
        rows["train"] += own[held + held_for_tests :] if train else []
    found = {part: (images, sorted(each)) for part, each in rows.items() if each}
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
    """Return the class number of each image."""
    from milan.probes.superclasses import known_labels

    if images.labels is None or images.classes is None:
        raise BadInput(
            f"the images {images.spec or images.name!r} have no classes; put those of each class into a folder of"
            " their own"
        )
    return known_labels(images)


def _list_written_names(images: "Probe") -> list[str]:
    """Return the name of each class as it is written into images: the first of several names."""
    from milan.probes.superclasses import format_class_names

    _list_labels(images)
    return [name.partition(",")[0].strip() for name in format_class_names(images)]

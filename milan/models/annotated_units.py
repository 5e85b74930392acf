"""Annotated units: where the annotations of a network's units are, and which units are trained on or held out."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.models.milannotations_download import MILANNOTATIONS_PREFIX, fetch_annotations
from milan.models.vocabulary import tokenize
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit

DIORAMA = "diorama"
MAX_WORDS = 60  # words per annotation; longer annotations are truncated
# The groups of networks of MILANNOTATIONS, as paths under its root folder.
MILANNOTATIONS_GROUPS: dict[str, tuple[str, ...]] = {
    "base": (
        "alexnet/imagenet",
        "alexnet/places365",
        "resnet152/imagenet",
        "resnet152/places365",
        "biggan/imagenet",
        "biggan/places365",
    ),
    "cls": ("alexnet/imagenet", "alexnet/places365", "resnet152/imagenet", "resnet152/places365"),
    "gen": ("biggan/imagenet", "biggan/places365"),
    "imagenet": ("alexnet/imagenet", "resnet152/imagenet", "biggan/imagenet"),
    "places365": ("alexnet/places365", "resnet152/places365", "biggan/places365"),
    "alexnet": ("alexnet/imagenet", "alexnet/places365"),
    "resnet152": ("resnet152/imagenet", "resnet152/places365"),
    "biggan": ("biggan/imagenet", "biggan/places365"),
    "dino": ("dino_vits8/imagenet",),
}


class AnnotatedUnit(NamedTuple):
    """A unit with its annotations.

    Attributes:
        source: the folder of the unit's dissected layer, or a csv file of annotations.
        unit: the layer and index of the unit.
        texts: the annotations, one per annotator.
    """

    source: Path
    unit: Unit
    texts: tuple[str, ...]


@dataclass(frozen=True)
class AnnotationSplit:
    """The units to train on and the held-out units. The vocabulary, the prior and the captioner use the same split."""

    train: tuple[AnnotatedUnit, ...]
    held_out: tuple[AnnotatedUnit, ...]


def find_group_folders(name: str, root: Path) -> list[Path]:
    """Return the folders of a group of MILANNOTATIONS.

    >>> [path.as_posix() for path in find_group_folders("not-imagenet", Path("data"))]
    ['data/alexnet/places365', 'data/resnet152/places365', 'data/biggan/places365']

    Args:
        name: a group (``base``), one network (``alexnet/imagenet``), or ``not-NAME`` for ``base`` without either.
        root: the folder of MILANNOTATIONS.

    Raises:
        UnknownName: there is no such group.
    """
    excluded = name.removeprefix("not-")
    networks = {path: (path,) for path in (*MILANNOTATIONS_GROUPS["base"], *MILANNOTATIONS_GROUPS["dino"])}
    groups = {**MILANNOTATIONS_GROUPS, **networks}
    if excluded not in groups:
        names = [*groups, *(f"not-{group}" for group in groups)]
        raise UnknownName("group of annotations", name, names, "or give folders or csv files")
    if name == excluded:
        return [root / path for path in groups[name]]
    return [root / path for path in MILANNOTATIONS_GROUPS["base"] if path not in groups[excluded]]


def find_annotation_sources(names: Sequence[str], root: str | Path = "", imagenet: str = "") -> list[Path]:
    """Return the layer folders and csv files that ``names`` refer to, without duplicates.

    Args:
        names: ``diorama``, ``diorama:NETWORK``, ``milannotations:GROUP`` (downloaded the first time), paths that exist,
            or groups of MILANNOTATIONS under ``root``.
        root: the folder of the groups.
        imagenet: the folder of the ImageNet validation set, for downloaded annotations of its images.

    Raises:
        BadInput: a path holds no annotations, or a download fails.
        MissingEvidence: downloaded annotations need images of ImageNet, and no folder is given.
        UnknownName: there is no such group, or no such annotated network of Diorama.
    """
    sources: list[Path] = []
    for name in names:
        family, _, network = name.partition(":")
        if family == DIORAMA:
            sources += _find_layers(_find_diorama_folder(network))
        elif name.startswith(MILANNOTATIONS_PREFIX):
            group = find_group_folders(name.removeprefix(MILANNOTATIONS_PREFIX), Path())
            for folder in fetch_annotations([path.as_posix() for path in group], imagenet):
                sources += _find_layers(folder)
        elif Path(name).exists():
            sources += _find_layers(Path(name))
        else:
            for folder in find_group_folders(name, Path(root)):
                sources += _find_layers(folder)
    return list(dict.fromkeys(sources))


def _find_diorama_folder(network: str) -> Path:
    """Return the folder of one annotated network of Diorama, or of all of them if ``network`` is empty."""
    home = locate_packaged_data("data/diorama/annotations")
    names = sorted(path.name for path in home.iterdir() if path.is_dir())
    if network and network not in names:
        raise UnknownName("annotated network of Diorama", network, names, "one of: " + ", ".join(names))
    return home / network


def _find_layers(path: Path) -> list[Path]:
    """Return the layer folders at or under ``path`` in alphabetical order, or the path itself if it is a file."""
    if path.is_file():
        return [path]
    folders = sorted({file.parent for name in ("ids.csv", "dissection.json") for file in path.glob(f"**/{name}")})
    if not folders:
        raise BadInput(
            f"no annotated dissections under {path}: a layer's folder holds ids.csv, masks.npy and images.npy"
        )
    return folders


def read_annotations(source: Path) -> dict[Unit, tuple[str, ...]]:
    """Return the annotations of each unit of a layer folder or csv file.

    White space is normalized, empty annotations are dropped, and annotations of more than ``MAX_WORDS`` words are
    truncated with a warning.

    Raises:
        BadInput: the source has no annotations.
    """
    annotations: dict[Unit, tuple[str, ...]] = {}
    truncated = 0
    for unit, texts in read_unit_annotations(source).items():
        words = [text.split() for text in texts if tokenize(text)]
        truncated += sum(len(text) > MAX_WORDS for text in words)
        if words:
            annotations[unit] = tuple(" ".join(text[:MAX_WORDS]) for text in words)
    if truncated:
        warnings.warn(
            f"{source}: truncated {truncated} annotations of more than {MAX_WORDS} words", MilanWarning, stacklevel=2
        )
    return annotations


def split_by_unit(annotated: Sequence[AnnotatedUnit], held_out: float, seed: int) -> AnnotationSplit:
    """Split units into training units and held-out units.

    The units of a layer are ordered by a hash of their names, so that the same units are held out whatever other
    layers are trained on.

    Args:
        annotated: the units.
        held_out: the fraction of each layer's units to hold out, in (0, 1); at least one unit of a layer with several.
        seed: part of the hash.

    Raises:
        BadInput: ``held_out`` is out of range, or one side of the split is empty.
    """
    if not 0 < held_out < 1:
        raise BadInput(f"held_out is {held_out}; give a fraction between 0 and 1, such as 0.1")
    layers: dict[tuple[Path, str], list[AnnotatedUnit]] = {}
    for one in annotated:
        layers.setdefault((one.source, one.unit.layer), []).append(one)

    def order(one: AnnotatedUnit) -> bytes:
        return hashlib.sha256(f"{seed} {one.source.parent.name} {one.unit}".encode()).digest()

    out: set[tuple[Path, Unit]] = set()
    for units in layers.values():
        count = round(held_out * len(units)) or int(len(units) > 1)
        out |= {(one.source, one.unit) for one in sorted(units, key=order)[:count]}
    train = tuple(one for one in annotated if (one.source, one.unit) not in out)
    held_out_units = tuple(one for one in annotated if (one.source, one.unit) in out)
    if not train or not held_out_units:
        raise BadInput(f"{len(annotated)} annotated units are too few to train on some and hold out others")
    return AnnotationSplit(train, held_out_units)

"""Downloads the released MILANNOTATIONS and joins them with the ImageNet images they describe."""

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milan.dissection.milannotations import IDS, IMAGES
from milan.dissection.store import PROBE
from milan.errors import BadInput, MissingEvidence
from milan.pretrained.milan_release import locate_annotation_archive
from milan.storage.archives import unpack
from milan.storage.downloads import fetch
from milan.storage.files import write_text
from milan.storage.integrity import json_or_none

MILANNOTATIONS_PREFIX = "milannotations:"
# The ILSVRC 2012 validation set, as torchvision's ImageFolder reads it.
IMAGENET_CLASSES, IMAGENET_IMAGES = 1000, 50_000
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def fetch_annotations(datasets: Sequence[str], imagenet: str = "") -> list[Path]:
    """Return the folders of released annotations, each downloaded and unpacked into the cache the first time.

    Args:
        datasets: such as ``alexnet/imagenet``.
        imagenet: folder of the ImageNet validation set, whose images are not part of the release.

    Raises:
        BadInput: a file cannot be downloaded or unpacked, or the folder is not the ImageNet validation set.
        MissingEvidence: annotations need images of ImageNet, and no folder is given.
    """
    folders = [_fetch_dataset(dataset) for dataset in datasets]
    for folder in folders:
        join_images(folder, imagenet)
    return folders


def _fetch_dataset(dataset: str) -> Path:
    remote = locate_annotation_archive(dataset)
    folder = remote.path.with_suffix("")
    if not folder.is_dir():
        unpack(fetch(remote, check=_check_zip), folder)
    return folder


def _check_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise BadInput(f"{file} is no zip file: {error}") from None
    if damaged:
        raise BadInput(f"{file} is damaged: the checksum of {damaged} differs")


def join_images(
    folder: Path, imagenet: str = "", *, classes: int = IMAGENET_CLASSES, images: int = IMAGENET_IMAGES
) -> None:
    """Tell annotated layers without images where these are: in a folder of ImageNet's validation set.

    The ids of the release are indices of torchvision's ``ImageFolder``: folders by name, then files by name. The
    images are read with the exemplars' own crop, the short side resized to 256 and the central 224 pixels, when they
    are needed; nothing is copied.

    Args:
        folder: of one or several annotated layers.
        imagenet: the images; if empty, those of an earlier call.
        classes: number of class folders.
        images: number of images.

    Raises:
        BadInput: the folder has other numbers of classes or images, or an id is out of range.
        MissingEvidence: there are layers without images, and ``imagenet`` is empty.
    """
    layers = [file.parent for file in sorted(folder.glob(f"**/{IDS}")) if not (file.parent / IMAGES).exists()]
    if not layers:
        return
    if not imagenet:
        if all((layer / PROBE).is_file() for layer in layers):
            return
        raise MissingEvidence(
            f"the images of {folder.name} are ImageNet's and not part of the release; give the validation set as"
            " --data.imagenet FOLDER (train.py) or --imagenet FOLDER (1,000 class folders)"
        )
    place = _check_imagenet(Path(imagenet).expanduser(), classes, images)
    for layer in layers:
        ids = np.loadtxt(layer / IDS, np.int64, delimiter=",", ndmin=2)
        if ids.min() < 0 or ids.max() >= images:
            raise BadInput(f"{layer / IDS} has the id {ids.max()}; the validation set has ids from 0 to {images - 1}")
        facts = (json_or_none(layer / PROBE) or {}) | {"spec": str(place)}
        if facts != json_or_none(layer / PROBE):
            write_text(layer / PROBE, json.dumps(facts, indent=1) + "\n")


def _check_imagenet(folder: Path, classes: int, images: int) -> Path:
    """Return the folder of class folders, which may be ``val`` in the one given.

    Raises:
        BadInput: it does not hold exactly the images of the validation set.
    """
    place = (folder / "val" if (folder / "val").is_dir() else folder).resolve()
    try:
        folders = {
            each.name: [file.name for file in os.scandir(each.path)] for each in os.scandir(place) if each.is_dir()
        }
    except OSError as error:
        raise BadInput(f"cannot read the ImageNet images in {folder}: {error.strerror}") from None
    pictures = sum(name.lower().endswith(IMAGE_SUFFIXES) for names in folders.values() for name in names)
    if (len(folders), pictures) != (classes, images):
        raise BadInput(
            f"{place} has {pictures:,} images in {len(folders):,} folders; the ImageNet validation set has {images:,}"
            f" in {classes:,}, one folder for each class"
        )
    return place

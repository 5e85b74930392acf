"""Pixel labels: the concepts that each pixel of a probe's images shows, on one or several levels."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, MissingEvidence
from milan.probes.probe import Probe
from milan.storage.files import cache_root, content_key
from milan.storage.text_files import read_names
from milan.targets.fingerprints import tensor_hash
from milan.targets.preprocessing import height_width

NO_LABEL = -1  # label of a pixel that shows no concept of a level
UNLABELLED = 255  # value of unlabelled pixels in 8-bit label maps
IGNORED_NAMES = "unlabelled, unlabeled, void, unknown, ignore, background"
CLASSES_FILE = "classes.txt"  # beside a parquet file, or in the folder of a dataset


class PixelLabels(ABC):
    """The concepts that each pixel of some images shows.

    Attributes:
        concepts: names of the concepts, each once.
        level_names: names of the levels; a pixel has one label per level, such as its colour and its object.
        key: content key of the labels.
    """

    concepts: list[str]
    level_names: list[str]
    key: str

    @property
    def levels(self) -> int:
        """Number of labels of each pixel."""
        return len(self.level_names)

    @abstractmethod
    def load(self, ids: Sequence[int]) -> Int[Tensor, "b levels h w"]:
        """Return the labels of images by their indices in the probe: indices into ``concepts``, -1 for none.

        Raises:
            BadInput: the labels of an image cannot be read, or do not fit the concepts.
        """


class TensorLabels(PixelLabels):
    """Labels in memory, with one level ("label") unless more are named."""

    def __init__(
        self, labels: Int[Tensor, "n levels h w"], concepts: Sequence[str], level_names: Sequence[str] = ("label",)
    ):
        self.labels, self.concepts, self.level_names = labels, _make_unique(concepts), list(level_names)
        if labels.shape[1] != len(self.level_names):
            raise BadInput(
                f"labels have {labels.shape[1]} levels, but {len(self.level_names)} levels are named; name each level"
            )
        if len(labels) and not NO_LABEL <= int(labels.min()) <= int(labels.max()) < len(self.concepts):
            raise BadInput(
                f"labels from {int(labels.min())} to {int(labels.max())} for {len(self.concepts)} concepts; -1 is none"
            )

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """Content key of the labels and the names."""
        return content_key(
            labels=tensor_hash(self.labels.to(torch.int64)),
            shape=list(self.labels.shape),
            concepts=self.concepts,
            levels=self.level_names,
        )

    def load(self, ids: Sequence[int]) -> Int[Tensor, "b levels h w"]:
        """Return the labels of these images, which are in memory."""
        return self.labels[list(ids)]


class LabelMapLabels(PixelLabels):
    """The label maps of a probe, resized (nearest neighbour) and cropped as its images are.

    Args:
        probe: a probe with segmentations.
        classes: class names by number.
        ignored: names, separated by commas, of classes that are no concepts; 255 is none anyway if it is not the number
            of a class.
    """

    def __init__(self, probe: Probe, classes: Sequence[str], ignored: str = IGNORED_NAMES):
        self.probe, self.classes = probe, _make_unique(classes)
        ignore = {name.strip() for name in ignored.split(",")}
        self.concepts = [name for name in self.classes if name not in ignore]
        self.level_names = ["label"]
        self._numbers = np.full(max(len(self.classes), UNLABELLED) + 1, NO_LABEL, dtype=np.int64)
        for number, name in enumerate(self.concepts):
            self._numbers[self.classes.index(name)] = number
        # Raises an error now if there are no segmentations.
        probe.segmentation(0)

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """Content key of the probe and the classes' names."""
        return content_key(probe=self.probe.fingerprint, classes=self.classes, concepts=self.concepts)

    def load(self, ids: Sequence[int]) -> Int[Tensor, "b levels h w"]:
        """Read, resize and crop the label maps; there is one level."""
        return torch.stack([self._load_one(index) for index in ids])[:, None]

    def _load_one(self, index: int) -> Int[Tensor, "h w"]:
        label_map = self.probe.segmentation(index).numpy()
        odd = (label_map >= len(self.classes)) & (label_map != UNLABELLED) | (label_map < 0)
        if odd.any():
            where, value = self.probe.source.format_location(index), int(label_map[odd].max())
            raise BadInput(
                f"class {value} in the segmentation of {where}, but there are names for 0 to {len(self.classes) - 1}"
                " only"
            )
        return torch.from_numpy(self._numbers[label_map])


class DioramaLabels(PixelLabels):
    """The exact labels of Diorama's scenes: colour, pattern, object, part, letter and setting of each pixel.

    For the images of Diorama's generators, whose exact labels are unknown, they are those of the embedded segmenter.
    A name of two kinds, such as the wall of a house and of a room, is one concept on both levels. The labels are stored
    in ``folder``, by default in the cache.
    """

    def __init__(self, probe: Probe, folder: Path | None = None):
        from milan.diorama.label_signatures import KINDS
        from milan.diorama.scene_concepts import ALL_KINDS
        from milan.diorama.segmenter_network import format_label_name

        self.probe, self._home = probe, folder
        self.level_names = list(KINDS)
        names = {kind: [format_label_name(kind, name) for name in ALL_KINDS[kind]] for kind in KINDS}
        self.concepts = list(dict.fromkeys(name for kind in KINDS for name in names[kind]))
        numbers = {name: number for number, name in enumerate(self.concepts)}
        self._numbers = [np.array([NO_LABEL, *(numbers[name] for name in names[kind])]) for kind in KINDS]

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """Content key of the probe, the concepts and the levels."""
        return content_key(probe=self.probe.fingerprint, concepts=self.concepts, levels=self.level_names)

    @cached_property
    def signatures(self) -> Any:
        """The ``milan.diorama.label_signatures.LabelSignatures`` of the probe's scenes."""
        from milan.diorama.label_signatures import LabelSignatures
        from milan.diorama.predicted_labels import predict_label_signatures
        from milan.diorama.scene_images import DioramaImages

        kind, _, world = self.probe.spec.partition(":")
        home = self._home or cache_root() / "diorama"
        if kind == "latents":
            return predict_label_signatures(
                (images for _, images in self.probe.batches(50)), self.probe.fingerprint, home
            )
        return LabelSignatures.from_images(
            DioramaImages(world, size=height_width(self.probe.size)[0], length=len(self.probe)), home
        )

    @cached_property
    def table(self) -> Int[np.ndarray, "signatures levels"]:
        """The labels of each signature."""
        return np.stack(
            [numbers[self.signatures.table[:, level]] for level, numbers in enumerate(self._numbers)], axis=1
        )

    def load(self, ids: Sequence[int]) -> Int[Tensor, "b levels h w"]:
        """Return the exact labels of scenes, or the embedded segmenter's of generated images."""
        labels = self.table[np.asarray(self.signatures.pixels[list(ids)])]  # b h w levels
        return torch.from_numpy(np.ascontiguousarray(labels.transpose(0, 3, 1, 2)))


def shows_diorama(spec: str) -> bool:
    """Return whether a probe shows scenes of Diorama, rendered or generated by one of its generators.

    >>> [shows_diorama(spec) for spec in ("diorama:scenes", "latents:diorama:generator-scenes", "photos")]
    [True, True, False]
    """
    return spec.startswith(("diorama:", "latents:diorama:"))


def load_probe_labels(probe: Probe, classes: str = "", ignored: str = IGNORED_NAMES) -> PixelLabels:
    """Return the pixel labels of a probe.

    Args:
        probe: the probe.
        classes: class names of its label maps by number: a file with one on each line, or names separated by commas; by
            default ``classes.txt`` beside the data. Ignored for Diorama, whose names are known.
        ignored: names, separated by commas, of classes that are no concepts.

    Raises:
        MissingEvidence: the probe has no pixel labels, or no names for them.
    """
    if shows_diorama(probe.spec):
        return DioramaLabels(probe)
    return LabelMapLabels(probe, parse_class_names(classes) if classes else _read_class_file(probe), ignored)


def parse_class_names(classes: str) -> list[str]:
    """Return names from a file with one on each line, or separated by commas."""
    file = Path(classes).expanduser()
    from_file = "," not in classes and (file.suffix or file.exists())
    names = read_names(file) if from_file else [name.strip() for name in classes.split(",")]
    if not all(names):
        raise BadInput(
            f"class {names.index('')} has no name in {clean_text(classes)!r}; give all names, separated by commas"
        )
    if not names:
        raise BadInput(f"no class names in {clean_text(classes)}; give one on each line")
    return names


def _read_class_file(probe: Probe) -> list[str]:
    place = Path(re.sub(r"^hf:", "", probe.spec).partition("#")[0]).expanduser()
    file = (place if place.is_dir() else place.parent) / CLASSES_FILE
    if probe.spec and file.is_file():
        return parse_class_names(str(file))
    if probe.spec:
        # Raises an error if there are no segmentations at all.
        probe.segmentation(0)
    raise MissingEvidence(
        f"no names for the pixel labels of {probe!r}: put {CLASSES_FILE} beside the data, or give classes=FILE"
    )


def _make_unique(names: Sequence[str]) -> list[str]:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise BadInput(f"concepts are named twice: {', '.join(twice[:5])}; give each another name")
    return list(names)

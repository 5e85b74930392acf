"""Pixel labels of a probe: its own, or those of a segmentation network."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from milan.errors import UnknownName
from milan.pretrained.segmenter import Segmenter, load_segmenter
from milan.probes import Probe
from milan.probes.pixel_labels import IGNORED_NAMES, NO_LABEL, PixelLabels, load_probe_labels, parse_class_names
from milan.storage.files import cache_folder, content_key
from milan.storage.integrity import made_once
from milan.targets.preprocessing import height_width

BLOCK_LENGTH = 32  # images segmented and kept together


def load_pixel_labels(
    probe: Probe, spec: str = "probe", *, classes: str = "", ignored: str = IGNORED_NAMES, device: str = "cpu"
) -> PixelLabels:
    """Load the labels of a probe's pixels.

    Args:
        spec: ``probe`` for the labels that come with it, ``segmenter`` for those of the stand-in, or ``segmenter:SPEC``
            for those of another network, as ``load_segmenter`` takes it.
        classes: names of the class numbers in the probe's own label maps, as
            ``milan.probes.pixel_labels.load_probe_labels`` takes them.
        ignored: names, separated by commas, that are no concepts.
        device: device of a segmenter.

    Raises:
        UnknownName: the spec is none of these.
        MissingEvidence: the probe has no labels, or no names for them.
    """
    kind, _, rest = spec.partition(":")
    if kind == "segmenter":
        return SegmenterLabels(probe, _load_segmenter(rest or "diorama", device), ignored)
    if spec == "probe":
        return load_probe_labels(probe, classes, ignored)
    raise UnknownName("source of pixel labels", spec, ["probe", "segmenter"], "give probe, segmenter or segmenter:SPEC")


class SegmenterLabels(PixelLabels):
    """Labels of a probe's images by a segmentation network, cached.

    Args:
        ignored: names, separated by commas, of classes that are no concepts.
    """

    def __init__(self, probe: Probe, segmenter: Segmenter, ignored: str = IGNORED_NAMES):
        self.probe, self.segmenter, self.level_names = probe, segmenter, list(segmenter.level_names)
        ignore = {name.strip() for name in ignored.split(",")}
        self.concepts = [name for name in dict.fromkeys(segmenter.concepts) if name not in ignore]
        numbers = {name: number for number, name in enumerate(self.concepts)}
        self._numbers = np.array(
            [*(numbers.get(name, NO_LABEL) for name in segmenter.concepts), NO_LABEL]
        )  # the last is for -1
        self._block = (-1, np.empty(0))

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """Content key of the segmenter, the probe and the concepts."""
        return content_key(segmenter=self.segmenter.key, probe=self.probe.fingerprint, concepts=self.concepts)

    def load(self, ids: Sequence[int]) -> Int[Tensor, "b levels h w"]:
        """Return the segmenter's labels, read from the cache or predicted in blocks of ``BLOCK_LENGTH`` images."""
        numbers = np.stack([self._load_block(index // BLOCK_LENGTH)[index % BLOCK_LENGTH] for index in ids])
        return torch.from_numpy(self._numbers[numbers])

    def _load_block(self, block: int) -> Int[np.ndarray, "block levels h w"]:
        """Return the labels of a block of images, all -1 for unreadable ones."""
        if self._block[0] != block:
            file = self._folder / f"{block}.npz"
            self._block = (block, made_once(file, lambda path: self._segment(block, path), _read_stored_labels))
        return self._block[1]

    def _segment(self, block: int, file: Path) -> None:
        start = block * BLOCK_LENGTH
        stop = min(start + BLOCK_LENGTH, len(self.probe))
        nothing = (
            torch.empty(0, dtype=torch.int64),
            torch.zeros(1, 3, *height_width(self.probe.size), dtype=torch.uint8),
        )
        ids, images = next(self.probe.batches(BLOCK_LENGTH, start, stop), nothing)
        predicted = self.segmenter.segment(images).cpu().numpy().astype(np.int32)
        labels = np.full((stop - start, *predicted.shape[1:]), NO_LABEL, dtype=np.int32)
        labels[ids.numpy() - start] = predicted[: len(ids)]
        np.savez_compressed(file, labels=labels)

    @cached_property
    def _folder(self) -> Path:
        return cache_folder() / "segmented" / content_key(segmenter=self.segmenter.key, probe=self.probe.fingerprint)


def _read_stored_labels(file: Path) -> Int[np.ndarray, "block levels h w"]:
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["labels"]


def segmenter_of(spec: str) -> dict[str, str]:
    """Return the segmenter that ``load_pixel_labels`` uses for a spec, by role; empty for the probe's own labels.

    >>> segmenter_of("segmenter"), segmenter_of("segmenter:hf:nvidia/segformer"), segmenter_of("probe")
    ({'segmenter': 'diorama'}, {'segmenter': 'hf:nvidia/segformer'}, {})
    """
    kind, _, rest = spec.partition(":")
    return {"segmenter": rest or "diorama"} if kind == "segmenter" else {}


def compute_source_key(spec: str, classes: str = "", device: str = "cpu") -> str:
    """Return the content key of the segmenter that ``load_pixel_labels`` uses, or of the given class names."""
    kind, _, rest = spec.partition(":")
    if kind == "segmenter":
        return _load_segmenter(rest or "diorama", device).key
    return content_key(classes=parse_class_names(classes) if classes else [])


@lru_cache(maxsize=1)
def _load_segmenter(spec: str, device: str) -> Segmenter:
    """Load a segmenter; the last one is cached, since it is needed for each layer and for its key."""
    return load_segmenter(spec, device=device)

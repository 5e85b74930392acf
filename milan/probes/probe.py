"""Probe: images in a fixed order, preprocessed for a target; unreadable ones are skipped and keep their index."""

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from milan.errors import BadInput, MilanWarning, require_at_least
from milan.probes.display import SAMPLED, as_rgb, levels, shown_bands
from milan.probes.generated_images import GeneratorSource, ImageGenerator
from milan.probes.image_decoding import UnreadableImage
from milan.probes.image_sources import ImageSource, get_decoder_version
from milan.probes.probe_splits import SubsetSource
from milan.probes.python_datasets import open_python_dataset
from milan.probes.tensor_images import Labels, TensorSource
from milan.storage.files import content_key
from milan.targets.preprocessing import Preprocessing, Size, as_size, size_text

# A larger fraction of unreadable images is an error, since the probe is probably not the intended one.
MAX_UNREADABLE_SHARE = 0.05
PREFETCH = 8  # images that each worker may decode ahead


@runtime_checkable
class TargetPreprocessing(Protocol):
    """A network with a known preprocessing: a ``milan.Target``."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the network's input."""


class Probe(Dataset[tuple[Tensor, int]]):
    """The images that a target is run on: a ``torch.utils.data.Dataset`` of (image, class number).

    Attributes:
        name, spec: name of the images in messages, and the spec by which ``load_probe`` loads them; both may be empty.
        preprocessing: how the images are resized and cropped.
        unreadable: indices of unreadable images with the reason, filled while reading.
    """

    def __init__(self, source: ImageSource, *, spec: str, preprocessing: Preprocessing, limit: int | None = None):
        require_at_least(1, limit=limit)
        self.source, self.spec, self.preprocessing, self.limit = source, spec, preprocessing, limit
        self.name = spec.rstrip("/").rpartition("/")[2]
        self.unreadable: dict[int, str] = {}
        # Whether a warning about the unreadable images of an earlier run is due.
        self._inherited = False
        self._length = min(len(source), limit or len(source))
        self._is_read = np.zeros(self._length, bool)
        if source.bands:
            self._shown = shown_bands(preprocessing.display_bands, source.bands)
        elif preprocessing.display_bands:
            raise BadInput(
                f"display_bands applies to images of bands (.npy or .tif files), and {spec or 'the probe'} has pictures"
            )

    @classmethod
    def from_tensor(
        cls,
        images: Tensor | np.ndarray,
        labels: Labels | None = None,
        classes: list[str] | None = None,
        *,
        display_bands: Sequence[int] | None = None,
    ) -> "Probe":
        """Return a probe of images in memory.

        Args:
            images: images of the target's size, not normalized: uint8 (n, 3, height, width) from 0 to 255, grey ones
                with one channel, or another number of bands, as bytes or as floats in units of their own.
            labels: class of each image, see ``milan.probes.class_labels``.
            classes: class names by number.
            display_bands: indices of the bands displayed as red, green and blue, for images that are not grey or RGB.

        Raises:
            BadInput: there are no images, or they have another shape or data type.
        """
        source = TensorSource(images, labels, classes)
        stated = None if display_bands is None else tuple(display_bands)
        probe = cls(source, spec="", preprocessing=Preprocessing(as_size(source.size), display_bands=stated))
        warn_of_bands(probe)
        return probe

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        classes: Sequence[str] | None = None,
        *,
        target: TargetPreprocessing | None = None,
        size: Size | None = None,
        limit: int | None = None,
        **preprocessing: Any,
    ) -> "Probe":
        """Return a probe of the images of a dataset of PyTorch or Hugging Face.

        Args:
            dataset: a map-style dataset whose items are PIL images, (PIL image, label) or mappings with both, without
                transforms; or a split of a Hugging Face dataset with a column of images.
            classes: class names by number; by default those of the dataset.
            target: the network that the probe is for, whose preprocessing is applied.
            size: side of the images in pixels, or height and width; by default the target's, else 224.
            limit: use only the first so many images.
            preprocessing: fields of :class:`milan.targets.preprocessing.Preprocessing`, in place of the target's.

        Raises:
            BadInput: the dataset is empty, has no items by number, or other items.
        """
        base = Preprocessing() if target is None else target.preprocessing
        chosen = base.changed(image_size=size, **preprocessing)
        return cls(open_python_dataset(dataset, classes, limit), spec="", preprocessing=chosen, limit=limit)

    @classmethod
    def from_generator(cls, generator: ImageGenerator, *, spec: str = "", limit: int | None = None) -> "Probe":
        """Return a probe of the images that a generator generates from its latents.

        Args:
            generator: the generator.
            spec: the spec by which ``load_probe`` loads the probe, ``latents:SPEC``; empty if there is none.
            limit: use only the first so many images.
        """
        return cls(
            GeneratorSource(generator), spec=spec, preprocessing=Preprocessing(generator.image_size), limit=limit
        )

    def subset(self, rows: Sequence[int]) -> "Probe":
        """Return a probe of some images, by their indices in this one."""
        outside = [row for row in rows if not 0 <= row < len(self)]
        if outside or not len(rows):
            raise BadInput(
                f"images {outside[:3]} of a probe of {len(self)}; give at least one, from 0 to {len(self) - 1}"
            )
        return Probe(SubsetSource(self.source, np.asarray(rows)), spec=self.spec, preprocessing=self.preprocessing)

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> Size:
        """Side of the images in pixels, or height and width."""
        return self.preprocessing.image_size

    def __repr__(self) -> str:
        name = f"{self.spec!r}, " if self.spec else ""
        return f"Probe({name}{len(self)} images of {size_text(self.size)} pixels)"

    @property
    def channels(self) -> int:
        """Number of channels of the images: 3 for pictures, or the number of bands."""
        return self.source.bands or 3

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of ``load_probe`` that load this probe again."""
        geometry = self.preprocessing.geometry
        channels = self.preprocessing.channels
        return {
            "spec": self.spec,
            "size": geometry.pop("image_size"),
            "channels": channels,
            **geometry,
            "limit": self.limit,
        }

    @cached_property
    def labels(self) -> list[int] | None:
        """Class number of each image, -1 where it is unknown; None if no image has a label."""
        return self.source.labels[: len(self)] if self.source.labels is not None else None

    @property
    def classes(self) -> list[str] | None:
        """Class names by number, or None."""
        return self.source.classes

    @property
    def wnids(self) -> list[str] | None:
        """WordNet ids of the classes by number, or None."""
        return self.source.wnids

    @cached_property
    def fingerprint(self) -> str:
        """Content key of the pixels: paths, sizes and times of the files, preprocessing, limit, and decoder."""
        scaler = torch.__version__ if self.preprocessing.resampler == "torch" else ""
        crop = () if self.source.is_presized else (self.preprocessing.geometry, get_decoder_version(), scaler)
        return content_key(source=self.source.content_facts(), size=self.size, crop=crop, count=len(self))

    def __getitem__(self, index: int) -> tuple[Shaped[Tensor, "channels height width"], int]:
        """Return an image as a target takes it (uint8 pixels, or bands) and its class number, -1 if it is unknown.

        Raises:
            IndexError: there is no such image.
            BadInput: the image cannot be read; the message names the file.
        """
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"no image {index} in a probe of {len(self)}")
        return self.input(position), self.labels[position] if self.labels is not None else -1

    def image(self, index: int) -> UInt8[Tensor, "3 height width"]:
        """Return an image as displayed. Raise BadInput, naming the file, if it cannot be read."""
        return self.shown(self.input(index)[None])[0]

    def input(self, index: int) -> Shaped[Tensor, "channels height width"]:
        """Return an image as a target takes it. Raise BadInput, naming the file, if it cannot be read."""
        self._check(index)
        decoded = self._decode_one(index)
        if isinstance(decoded, str):
            raise BadInput(f"cannot read {decoded}")
        return torch.from_numpy(decoded)

    def segmentation(self, index: int) -> Int[Tensor, "height width"]:
        """Return the class number of each pixel of an image, cropped as the image is.

        Raises:
            MissingEvidence: the probe has no segmentations.
            BadInput: the segmentation cannot be read.
        """
        self._check(index)
        try:
            labels = self.preprocessing.label_map(self.source.load_segmentation(index))
        except UnreadableImage as error:
            raise BadInput(f"cannot read the segmentation of {self.source.format_location(index)}: {error}") from None
        return torch.from_numpy(labels.astype(np.int64))

    def shown(self, images: Shaped[Tensor, "b channels h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """Return images as displayed: pictures unchanged, and three bands of others as RGB."""
        return as_rgb(images, self._shown, self._levels) if self.source.bands else images

    @cached_property
    def _levels(self) -> Float[Tensor, "2 3"]:
        if self.source.of_bytes:
            return torch.tensor([0.0, 1.0])[:, None].expand(2, 3)
        step = -(-len(self) // SAMPLED)
        decoded = [
            decoded for _, decoded in self._decode_all(range(0, len(self), step), 0) if not isinstance(decoded, str)
        ]
        if not decoded:
            raise BadInput(f"none of {len(range(0, len(self), step))} images of {self.spec} can be read")
        return levels(map(torch.from_numpy, decoded), self._shown)

    def batches(
        self, size: int, start: int = 0, stop: int | None = None, workers: int = 0
    ) -> Iterator[tuple[Int[Tensor, " b"], UInt8[Tensor, "b 3 h w"]]]:
        """Yield indices and pixels of images as displayed; see :meth:`inputs`."""
        for ids, images in self.inputs(size, start, stop, workers):
            yield ids, self.shown(images)

    def inputs(
        self, size: int, start: int = 0, stop: int | None = None, workers: int = 0
    ) -> Iterator[tuple[Int[Tensor, " b"], Shaped[Tensor, "b channels h w"]]]:
        """Yield indices and pixels of the readable images as a target takes them, in order.

        Unreadable images are left out, stored in ``unreadable``, and reported by a warning at the end.

        Args:
            size: number of images per batch.
            start, stop: range of the images.
            workers: number of threads that decode ahead; the batches do not depend on it.

        Raises:
            BadInput: more than 5% of the images are unreadable; raised after the last batch.
        """
        require_at_least(1, batch_size=size)
        stop = len(self) if stop is None else min(stop, len(self))
        ids: list[int] = []
        images: list[np.ndarray] = []
        for index, decoded in self._decode_all(range(start, stop), workers):
            self._is_read[index] = True
            if isinstance(decoded, str):
                self.unreadable[index] = decoded
            else:
                ids.append(index)
                images.append(decoded)
            if ids and (index + 1 == stop or (index + 1 - start) % size == 0):
                yield torch.tensor(ids), torch.from_numpy(np.stack(images))
                ids, images = [], []
        self._report_unreadable(range(start, stop))

    def mark_read(self, start: int, stop: int, bad: Mapping[int, str]) -> None:
        """Mark images from ``start`` to ``stop`` as read by an earlier run, with the unreadable ones among them."""
        self._is_read[start:stop] = True
        self.unreadable.update(bad)
        self._inherited = bool(bad)

    def _decode_all(self, ids: range, workers: int) -> Iterator[tuple[int, np.ndarray | str]]:
        if workers < 1:
            yield from ((index, self._decode_one(index)) for index in ids)
            return
        waiting: deque[tuple[int, Future]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="probe") as pool:
            try:
                for index in ids:
                    waiting.append((index, pool.submit(self._decode_one, index)))
                    if len(waiting) >= workers * PREFETCH:
                        first, future = waiting.popleft()
                        yield first, future.result()
                for first, future in waiting:
                    yield first, future.result()
            # If the reader stops early, nothing more is decoded.
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _decode_one(self, index: int) -> np.ndarray | str:
        """Return the pixels of an image, or why it is unreadable."""
        try:
            picture = self.source.load_image(index)
            if not isinstance(picture, np.ndarray):
                return self.preprocessing.pixels(picture)
            return picture if self.source.is_presized else self.preprocessing.bands(picture)
        except UnreadableImage as error:
            return f"{self.source.format_location(index)}: {error}"

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise BadInput(f"no image {index} in a probe of {len(self)} (0 to {len(self) - 1})")

    def _report_unreadable(self, ids: range) -> None:
        """Warn of the unreadable images so far, if some are new; raise BadInput if they are too many."""
        if not self._inherited and not any(index in self.unreadable for index in ids):
            return
        all_reasons = [self.unreadable[index] for index in sorted(self.unreadable)]
        self._inherited = False
        # The first few images are too few to judge the fraction.
        count = int(self._is_read.sum())
        base = count if count == len(self) else max(count, 100)
        reasons = "; ".join(all_reasons[:3]) + (f"; and {len(all_reasons) - 3} more" if len(all_reasons) > 3 else "")
        share = f"{len(all_reasons)} of {count} images of {self.spec or self.name}"
        if len(all_reasons) > MAX_UNREADABLE_SHARE * base:
            raise BadInput(f"{share} cannot be read (more than 5%): {reasons}")
        warnings.warn(f"{share} skipped: {reasons}", MilanWarning, stacklevel=3)


def warn_of_bands(probe: Probe) -> None:
    """Warn that the displayed bands are an assumption."""
    if probe.channels > 3 and not probe.preprocessing.display_bands:
        text = (
            f"the first three of the {probe.channels} bands of {probe.spec or 'the images'} are displayed as red, green"
            " and blue"
        )
        warnings.warn(f"{text}; choose others with --display_bands RED GREEN BLUE", MilanWarning, stacklevel=3)

"""Images in a fixed order, as a network sees them; a bad file is skipped and never shifts the others."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from milan.errors import BadInput, MilanWarning
from milan.probes.band_files import PICTURE_CHANNELS, open_folder
from milan.probes.class_labels import class_labels
from milan.probes.display import SAMPLED, as_rgb, levels, shown_bands
from milan.probes.generated_images import GeneratorSource, ImageGenerator, load_generator_target
from milan.probes.hub_datasets import open_dataset
from milan.probes.image_decoding import UnreadableImage
from milan.probes.image_sources import DioramaSource, ImageSource, get_decoder_version, open_path
from milan.probes.probe_splits import SplitSource, SubsetSource, parse_split
from milan.probes.python_datasets import open_python_dataset
from milan.storage.files import content_key
from milan.targets.fingerprints import tensor_hash
from milan.targets.preprocessing import Preprocessing, Size, as_size, height_width, size_text

DIORAMA_SIZE = 64
MAX_UNREADABLE_SHARE = 0.05  # more bad images than this and the probe is not what the user thinks it is
Labels = Sequence[Any] | np.ndarray | Tensor  # see ``milan.probes.class_labels``
PREFETCH = 8  # images each worker may be ahead of the reader


class Probe(Dataset[tuple[Tensor, int]]):
    """The images that a network is looked at with.

    ``name`` and ``spec`` say what they are; ``labels`` are their class numbers and ``classes`` the names of these, or
    None. ``unreadable`` fills up, while reading, with the numbers of unreadable images and what is wrong with each.
    """

    def __init__(self, source: ImageSource, *, spec: str, preprocessing: Preprocessing, limit: int | None = None):
        if limit is not None and limit < 1:
            raise BadInput(f"a limit of {limit} images; give at least 1")
        self.source, self.spec, self.preprocessing, self.limit = source, spec, preprocessing, limit
        self.name = spec.rstrip("/").rpartition("/")[2]
        self.unreadable: dict[int, str] = {}
        self._read_ids: set[int] = set()
        self._inherited = False  # whether another run's bad images are still to be warned of
        self._length = min(len(source), limit or len(source))
        if source.bands:
            self._shown = shown_bands(preprocessing.display_bands, source.bands)
        elif preprocessing.display_bands:
            raise BadInput(
                f"display_bands is for images of bands (.npy or .tif files), and {spec or 'the probe'} has pictures"
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
        """A probe of pixels in memory.

        Args:
            images: of the size that the target takes and not normalized: uint8 (n, 3, height, width), 0 to 255; grey
                ones with one channel; or any other number of bands, as bytes or as floats in units of their own.
            labels: class of each, see ``milan.probes.class_labels``.
            classes: names of the classes by number.
            display_bands: of other images than grey or coloured ones, the three that are shown as red, green and blue.

        Raises:
            BadInput: there are no images, or they are not laid out so.
        """
        source = _TensorSource(images, labels, classes)
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
        target: "TargetPreprocessing | None" = None,
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
        """The pictures that a generator makes of its latents.

        spec: by which ``load_probe`` makes them again, ``latents:SPEC``; empty where none does.
        """
        return cls(
            GeneratorSource(generator), spec=spec, preprocessing=Preprocessing(generator.image_size), limit=limit
        )

    def subset(self, rows: Sequence[int]) -> "Probe":
        """A probe of these images alone, by their numbers in this one."""
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
        """Side of its images in pixels, or height and width."""
        return self.preprocessing.image_size

    def __repr__(self) -> str:
        name = f"{self.spec!r}, " if self.spec else ""
        return f"Probe({name}{len(self)} images of {size_text(self.size)} pixels)"

    @property
    def channels(self) -> int:
        """How many channels its images have: 3 for pictures, or as many bands as there are."""
        return self.source.bands or 3

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``load_probe`` that make this probe again."""
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
        """Changes whenever the pixels may: with files' paths, sizes and times, preprocessing, limit, decoder's
        version.
        """
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
        """One image, as people see it. Raises BadInput, naming the file, if it cannot be read."""
        return self.shown(self.input(index)[None])[0]

    def input(self, index: int) -> Shaped[Tensor, "channels height width"]:
        """One image, as a target is fed with it. Raises BadInput, naming the file, if it cannot be read."""
        self._check(index)
        found = self._decode_one(index)
        if isinstance(found, str):
            raise BadInput(f"cannot read {found}")
        return torch.from_numpy(found)

    def segmentation(self, index: int) -> Int[Tensor, "height width"]:
        """The class number of each pixel of one image, under the same crop. Raises MissingEvidence where there
        is none.
        """
        self._check(index)
        try:
            labels = self.preprocessing.label_map(self.source.load_segmentation(index))
        except UnreadableImage as error:
            raise BadInput(f"cannot read the segmentation of {self.source.format_location(index)}: {error}") from None
        return torch.from_numpy(labels.astype(np.int64))

    def shown(self, images: Shaped[Tensor, "b channels h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """Return images that a target is fed with as people see them: pictures as they are, of bands three."""
        return as_rgb(images, self._shown, self._levels) if self.source.bands else images

    @cached_property
    def _levels(self) -> Float[Tensor, "2 3"]:
        if self.source.of_bytes:
            return torch.tensor([0.0, 1.0])[:, None].expand(2, 3)
        step = -(-len(self) // SAMPLED)
        found = [found for _, found in self._decode_all(range(0, len(self), step), 0) if not isinstance(found, str)]
        if not found:
            raise BadInput(f"none of {len(range(0, len(self), step))} images of {self.spec} can be read")
        return levels(map(torch.from_numpy, found), self._shown)

    def batches(
        self, size: int, start: int = 0, stop: int | None = None, workers: int = 0
    ) -> Iterator[tuple[Int[Tensor, " b"], UInt8[Tensor, "b 3 h w"]]]:
        """Numbers and pixels of images, as people see them; otherwise as ``inputs``."""
        for ids, images in self.inputs(size, start, stop, workers):
            yield ids, self.shown(images)

    def inputs(
        self, size: int, start: int = 0, stop: int | None = None, workers: int = 0
    ) -> Iterator[tuple[Int[Tensor, " b"], Shaped[Tensor, "b channels h w"]]]:
        """Numbers of the readable images from ``start`` to ``stop``, in order, and what a target is fed with, ``size``
        at a time.

        ``workers`` threads decode ahead (decoding does not hold Python's lock); what is yielded does not depend on how
        many. Unreadable images are left out, kept in ``unreadable``, and warned of at the end.

        Raises:
            BadInput: more than 5% of the images are unreadable (told at the end, when it is known).
        """
        if size < 1:
            raise BadInput(f"batches of at most {size} images at a time; give at least 1")
        stop = len(self) if stop is None else min(stop, len(self))
        ids: list[int] = []
        images: list[np.ndarray] = []
        for index, found in self._decode_all(range(start, stop), workers):
            self._read_ids.add(index)
            if isinstance(found, str):
                self.unreadable[index] = found
            else:
                ids.append(index)
                images.append(found)
            if ids and (index + 1 == stop or (index + 1 - start) % size == 0):
                yield torch.tensor(ids), torch.from_numpy(np.stack(images))
                ids, images = [], []
        self._report_unreadable(range(start, stop))

    def was_read(self, ids: Iterable[int], bad: Mapping[int, str]) -> None:
        """Count images as read that were read by another run of the same work, and what was wrong with the bad ones."""
        self._read_ids.update(ids)
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
            finally:  # the reader may stop early: nothing more is decoded for it
                pool.shutdown(wait=False, cancel_futures=True)

    def _decode_one(self, index: int) -> np.ndarray | str:
        """The pixels of an image, or what is wrong with it."""
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
        """Warns of the bad images among all that were read so far, if some are new; too many of them are an error."""
        if not self._inherited and not any(index in self.unreadable for index in ids):
            return
        found = [self.unreadable[index] for index in sorted(self.unreadable)]
        self._inherited = False
        base = (
            len(self._read_ids) if len(self._read_ids) == len(self) else max(len(self._read_ids), 100)
        )  # a first small part proves nothing
        reasons = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
        share = f"{len(found)} of {len(self._read_ids)} images of {self.spec or self.name}"
        if len(found) > MAX_UNREADABLE_SHARE * base:
            raise BadInput(f"{share} cannot be read (more than 5%): {reasons}")
        warnings.warn(f"{share} skipped: {reasons}", MilanWarning, stacklevel=3)


class _TensorSource(ImageSource):
    """Pixels in memory."""

    is_presized = True

    def __init__(self, images: Tensor | np.ndarray, labels: Labels | None, classes: list[str] | None):
        self._images = _checked(images)
        self.size, count = self._images.shape[-2:], self._images.shape[1]
        self.of_bytes = self._images.dtype == np.uint8
        self.bands = 0 if count in PICTURE_CHANNELS else count
        if labels is not None and len(labels) != len(images):
            raise BadInput(f"{len(labels)} labels for {len(images)} images")
        values = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
        self.labels, self.classes = (None, classes) if values is None else class_labels(values, classes)

    def __len__(self) -> int:
        return len(self._images)

    def load_image(self, index: int) -> np.ndarray:
        image = self._images[index]
        if self.bands:
            return image.astype(np.float32) / (255 if self.of_bytes else 1)
        return np.ascontiguousarray(np.broadcast_to(image, (3, *self.size)))

    def format_location(self, index: int) -> str:
        return f"image {index} of a tensor"

    def content_facts(self) -> dict[str, Any]:
        return {"pixels": tensor_hash(torch.from_numpy(self._images)), "shape": list(self._images.shape)}


def _checked(images: Tensor | np.ndarray) -> Shaped[np.ndarray, "n channels height width"]:
    """The pixels as an array, if they are laid out as a probe's."""
    if not isinstance(images, Tensor | np.ndarray):
        raise BadInput(
            f"a probe's images are a {type(images).__name__}; give a tensor or an array of n x 3 x height x width,"
            " uint8"
        )
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    shape, kind = " x ".join(map(str, array.shape)), str(array.dtype)
    bands = array.ndim == 4 and array.shape[1] not in PICTURE_CHANNELS and array.shape[-1] not in PICTURE_CHANNELS
    if array.dtype != np.uint8 and not (bands and array.dtype.kind in "iuf"):
        how = "(255 * images).round().to(torch.uint8) if they lie in 0..1"
        raise BadInput(f"a probe's images are {kind}; give pixels from 0 to 255 as uint8, not normalized: {how}")
    if array.ndim != 4 or not (bands or array.shape[1] in PICTURE_CHANNELS):
        ways = {array.shape[-1:] == (3,): "permute the channels to axis 1", array.ndim == 3: "add the batch axis"}
        how = ways.get(True) or "three channels, red first"
        raise BadInput(f"a probe's images have the shape {shape}; give n x 3 x height x width ({how})")
    if not array.size:
        raise BadInput(f"a probe needs at least one image; the tensor has the shape {shape}")
    return np.ascontiguousarray(array)


@runtime_checkable
class TargetPreprocessing(Protocol):
    """A network that says how its input is made of a picture: a ``milan.Target``."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How its input is made."""


def load_probe(
    spec: str,
    *,
    target: TargetPreprocessing | None = None,
    size: Size | None = None,
    channels: int | None = None,
    limit: int | None = None,
    **preprocessing: Any,
) -> Probe:
    """The images that ``spec`` names, as a network is to see them.

    Args:
        spec: FOLDER (all images in it, the folders at its top being classes), FILE.parquet (columns image and, if there
            are any, label and segmentation), hf:ID_OR_PATH[#SPLIT] (a Hugging Face data set), diorama:objects or
            diorama:scenes, or latents:TARGET (what a generator makes of its latents, as
            latents:diorama:generator-objects; always of its own size). Ended by @learn or @judge: four fifths of the
            images, drawn by lot, or the other fifth; of Diorama the usual scenes, or others.
        target: the network that will look at them, whose preprocessing is taken: size, resize, interpolation and crop.
        size: of the images in pixels, where it is not the target's; without a target 224, or 64 for Diorama.
        channels: of the network, without a target; for others than 1 or 3 a folder is read as one of arrays of bands
            (.npy, .tif).
        limit: only the first so many images.
        preprocessing: resize, interpolation, crop and the other attributes of
            ``milan.targets.preprocessing.Preprocessing``, where they are not the target's. Without a target the short
            side is scaled to ``size`` and the middle cut out.

    Raises:
        BadInput: there is nothing to read, or it cannot be read.
        UnknownName: no such folder, file or world.
    """
    base, part = parse_split(spec)
    kind, _, rest = base.partition(":")
    if kind == "latents" and part:
        raise BadInput(f"a generator's latents have no parts: give {base}, without @{part}")
    if kind == "latents":
        return Probe.from_generator(load_generator_target(rest), spec=spec, limit=limit)
    own = Preprocessing(DIORAMA_SIZE) if kind == "diorama" else Preprocessing()
    wanted = (own if target is None else target.preprocessing).changed(**{"image_size": size, **preprocessing})
    if kind == "diorama":
        return Probe(
            DioramaSource(spec.partition(":")[2], _side(wanted.image_size, spec)),
            spec=spec,
            preprocessing=wanted,
            limit=limit,
        )
    if channels is not None and channels != wanted.channels:
        wanted = wanted.changed(mean=(0.0,) * channels, std=(1.0,) * channels)
    opened = partial(open_folder, channels=wanted.channels)
    source = open_dataset(rest) if kind == "hf" else open_path(Path(base).expanduser(), opened)
    probe = Probe(SplitSource(source, part) if part else source, spec=spec, preprocessing=wanted, limit=limit)
    warn_of_bands(probe)
    return probe


def warn_of_bands(probe: Probe) -> None:
    """Warns of bands that nobody chose to be shown."""
    if probe.channels > 3 and not probe.preprocessing.display_bands:
        text = (
            f"of the {probe.channels} bands of {probe.spec or 'the images'} the first three are shown as red, green and"
            " blue"
        )
        warnings.warn(f"{text}; --display_bands RED GREEN BLUE chooses others", MilanWarning, stacklevel=3)


def _side(size: Size, spec: str) -> int:
    height, width = height_width(size)
    if height != width:
        raise BadInput(
            f"{spec} draws square scenes, and images of {size_text(size)} pixels are wanted; take a folder of images"
        )
    return height

"""Images in a fixed order, as a network sees them; a bad file is skipped and never shifts the others."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from milan.errors import BadInput, MilanWarning
from milan.probes.class_labels import class_labels
from milan.probes.hub import open_dataset
from milan.probes.made import Generator, Made, generator_named
from milan.probes.parts import Part, Some, part_of
from milan.probes.pictures import Crop, Unreadable, pixels
from milan.probes.sources import Drawn, Source, open_file, picture_decoder
from milan.storage import content_key

SIZE, DIORAMA_SIZE = 224, 64
BAD_SHARE = 0.05  # more bad images than this and the probe is not what the user thinks it is
Labels = Sequence[Any] | np.ndarray | Tensor  # see ``milan.probes.class_labels``
AHEAD = 8  # images each worker may be ahead of the reader


class Probe:
    """The images that a network is looked at with.

    ``name`` and ``spec`` say what they are; ``labels`` are their class numbers and ``classes`` the names of these, or None.
    ``bad`` fills up, while reading, with the numbers of unreadable images and what is wrong with each.
    """

    def __init__(self, source: Source, *, spec: str, crop: Crop, limit: int | None = None):
        if limit is not None and limit < 1:
            raise BadInput(f"a limit of {limit} images; give at least 1")
        self.source, self.spec, self.crop, self.limit = source, spec, crop, limit
        self.name = spec.rstrip("/").rpartition("/")[2]
        self.size = crop.size
        self.bad: dict[int, str] = {}
        self._read: set[int] = set()
        self._inherited = False  # whether another run's bad images are still to be warned of
        self._length = min(len(source), limit or len(source))

    @classmethod
    def from_tensor(
        cls,
        images: UInt8[Tensor, "n 3 size size"],
        labels: Labels | None = None,
        classes: list[str] | None = None,
    ) -> "Probe":
        """A probe of pixels in memory, for Python."""
        return cls(_Pixels(images, labels, classes), spec="", crop=Crop(images.shape[-1], images.shape[-1]))

    @classmethod
    def made_by(cls, generator: Generator, *, spec: str = "", limit: int | None = None) -> "Probe":
        """The pictures that a generator makes of its latents.

        spec: by which ``load_probe`` makes them again, ``latents:SPEC``; empty where none does.
        """
        return cls(Made(generator), spec=spec, crop=Crop(generator.image_size, generator.image_size), limit=limit)

    def some(self, rows: Sequence[int]) -> "Probe":
        """A probe of these images alone, by their numbers in this one."""
        outside = [row for row in rows if not 0 <= row < len(self)]
        if outside or not len(rows):
            raise BadInput(f"images {outside[:3]} of a probe of {len(self)}; give at least one, from 0 to {len(self) - 1}")
        return Probe(Some(self.source, np.asarray(rows)), spec=self.spec, crop=self.crop)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Probe({self.spec or 'tensor'!r}, {len(self)} images of {self.size} pixels)"

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of ``load_probe`` that make this probe again."""
        return {"spec": self.spec, "size": self.size, "resize": self.crop.resize, "crop": self.crop.kind, "limit": self.limit}

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
        """Changes whenever the pixels may: with the files' paths, sizes and times, the crop, the limit, the decoder's version."""
        crop = () if self.source.drawn else (self.crop.resize, self.crop.kind, picture_decoder())
        return content_key(source=self.source.key(), size=self.size, crop=crop, count=len(self))

    def image(self, index: int) -> UInt8[Tensor, "3 size size"]:
        """One image. Raises BadInput, naming the file, if it cannot be read."""
        self._check(index)
        found = self._attempt(index)
        if isinstance(found, str):
            raise BadInput(f"cannot read {found}")
        return torch.from_numpy(found)

    def segmentation(self, index: int) -> Int[Tensor, "size size"]:
        """The class number of each pixel of one image, under the same crop. Raises MissingEvidence where there is none."""
        self._check(index)
        try:
            square = self.crop.apply(self.source.segmentation(index), Image.Resampling.NEAREST)
        except Unreadable as error:
            raise BadInput(f"cannot read the segmentation of {self.source.where(index)}: {error}") from None
        return torch.from_numpy(np.asarray(square).astype(np.int64))

    def batches(
        self, size: int, start: int = 0, stop: int | None = None, workers: int = 0
    ) -> Iterator[tuple[Int[Tensor, " b"], UInt8[Tensor, "b 3 h w"]]]:
        """Numbers and pixels of the readable images from ``start`` to ``stop``, in order, at most ``size`` at a time.

        ``workers`` threads decode ahead (decoding does not hold Python's lock); what is yielded does not depend on how many.
        Unreadable images are left out, kept in ``bad``, and warned of at the end.

        Raises:
            BadInput: more than 5% of the images are unreadable (told at the end, when it is known).
        """
        if size < 1:
            raise BadInput(f"batches of at most {size} images at a time; give at least 1")
        stop = len(self) if stop is None else min(stop, len(self))
        ids: list[int] = []
        images: list[np.ndarray] = []
        for index, found in self._attempts(range(start, stop), workers):
            self._read.add(index)
            if isinstance(found, str):
                self.bad[index] = found
            else:
                ids.append(index)
                images.append(found)
            if ids and (index + 1 == stop or (index + 1 - start) % size == 0):
                yield torch.tensor(ids), torch.from_numpy(np.stack(images))
                ids, images = [], []
        self._judge(range(start, stop))

    def was_read(self, ids: Iterable[int], bad: Mapping[int, str]) -> None:
        """Count images as read that were read by another run of the same work, and what was wrong with the bad ones."""
        self._read.update(ids)
        self.bad.update(bad)
        self._inherited = bool(bad)

    def _attempts(self, ids: range, workers: int) -> Iterator[tuple[int, np.ndarray | str]]:
        if workers < 1:
            yield from ((index, self._attempt(index)) for index in ids)
            return
        waiting: deque[tuple[int, Future]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="probe") as pool:
            try:
                for index in ids:
                    waiting.append((index, pool.submit(self._attempt, index)))
                    if len(waiting) >= workers * AHEAD:
                        first, future = waiting.popleft()
                        yield first, future.result()
                for first, future in waiting:
                    yield first, future.result()
            finally:  # the reader may stop early: nothing more is decoded for it
                pool.shutdown(wait=False, cancel_futures=True)

    def _attempt(self, index: int) -> np.ndarray | str:
        """The pixels of an image, or what is wrong with it."""
        try:
            picture = self.source.picture(index)
            return picture if isinstance(picture, np.ndarray) else pixels(self.crop.apply(picture))
        except Unreadable as error:
            return f"{self.source.where(index)}: {error}"

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise BadInput(f"no image {index} in a probe of {len(self)} (0 to {len(self) - 1})")

    def _judge(self, ids: range) -> None:
        """Warns of the bad images among all that were read so far, if some are new; too many of them are an error."""
        if not self._inherited and not any(index in self.bad for index in ids):
            return
        found = [self.bad[index] for index in sorted(self.bad)]
        self._inherited = False
        base = len(self._read) if len(self._read) == len(self) else max(len(self._read), 100)  # a first small part proves nothing
        told = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
        share = f"{len(found)} of {len(self._read)} images of {self.spec or self.name}"
        if len(found) > BAD_SHARE * base:
            raise BadInput(f"{share} cannot be read (more than 5%): {told}")
        warnings.warn(f"{share} skipped: {told}", MilanWarning, stacklevel=3)


class _Pixels(Source):
    """Pixels in memory."""

    drawn = True

    def __init__(self, images: Tensor, labels: Labels | None, classes: list[str] | None):
        if not len(images):
            raise BadInput("a probe needs at least one image; the tensor has none")
        if labels is not None and len(labels) != len(images):
            raise BadInput(f"{len(labels)} labels for {len(images)} images")
        self._images = images.contiguous().numpy()
        values = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
        self.labels, self.classes = (None, classes) if values is None else class_labels(values, classes)

    def __len__(self) -> int:
        return len(self._images)

    def picture(self, index: int) -> np.ndarray:
        return self._images[index]

    def where(self, index: int) -> str:
        return f"image {index} of a tensor"

    def key(self) -> dict[str, Any]:
        import hashlib

        return {"pixels": hashlib.sha256(self._images.tobytes()).hexdigest(), "shape": list(self._images.shape)}


def load_probe(
    spec: str, *, size: int | None = None, resize: int | None = None, crop: Literal["center", "squash"] = "center", limit: int | None = None
) -> Probe:
    """The images that ``spec`` names.

    Args:
        spec: FOLDER (all images in it, the folders at its top being classes), FILE.parquet (columns image and, if there are any, label and
            segmentation), hf:ID_OR_PATH[#SPLIT] (a Hugging Face data set), diorama:objects or diorama:scenes, or latents:TARGET (what
            a generator makes of its latents, as latents:diorama:generator-objects; always of its own size). Ended by @learn or @judge:
            four fifths of the images, drawn by lot, or the other fifth; of Diorama the usual scenes, or others.
        size: side of the square images, in pixels; 224, or 64 for Diorama.
        resize: the short side before the crop; 8/7 of the size (256 for 224), as ImageNet's networks are tested.
        crop: center (short side resized, middle cut out) or squash (both sides resized).
        limit: only the first so many images.

    Raises:
        BadInput: there is nothing to read, or it cannot be read.
        UnknownName: no such folder, file or world.
    """
    base, part = part_of(spec)
    kind, _, rest = base.partition(":")
    if kind == "latents" and part:
        raise BadInput(f"a generator's latents have no parts: give {base}, without @{part}")
    if kind == "latents":
        return Probe.made_by(generator_named(rest), spec=spec, limit=limit)
    size = size or (DIORAMA_SIZE if kind == "diorama" else SIZE)
    square = Crop(size, resize or max(size, round(size * 8 / 7)), crop)
    if kind == "diorama":
        return Probe(Drawn(spec.partition(":")[2], size), spec=spec, crop=square, limit=limit)
    source = open_dataset(rest) if kind == "hf" else open_file(Path(base).expanduser())
    return Probe(Part(source, part) if part else source, spec=spec, crop=square, limit=limit)

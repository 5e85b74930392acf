"""The interface of a dissection: exemplars, thresholds and activations of a layer's units."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from milan.dissection.pass_options import RankBy
from milan.errors import MissingEvidence, UnknownName
from milan.probes import Probe
from milan.targets.preprocessing import Size
from milan.targets.target import Target
from milan.units import Exemplars, Unit, as_unit

# Units, and exemplars of each, that a notebook shows of a dissection.
NOTEBOOK_UNITS, NOTEBOOK_EXEMPLARS = 5, 8
# Units whose activations are read at a time.
UNITS_AT_A_TIME = 256
ActivationPooling = Literal["max", "mean", "cls", "tokens"]
Status = Literal["ok", "dead", "sparse", "invalid"]


class ExemplarMaps(NamedTuple):
    """The exemplars of a block of units, strongest first, without their pixels."""

    units: list[Unit]
    ids: Int[Tensor, "units k"]  # row of each image in the probe
    activations: Float[Tensor, "units k"]  # peak activation in each image
    maps: Float[Tensor, "units k h w"]
    thresholds: Float[Tensor, " units"]


class Dissection(ABC):
    """A layer of a target, dissected on a probe.

    Attributes:
        layer: dotted path of the layer.
        units: the dissected units.
        k: number of exemplars per unit.
        quantile: quantile of a unit's activations that is its mask threshold.
        rank_by: pooled activation by which images are ranked as exemplars: max, mean or cls.
        probe, target: the specs by which they are loaded again.
        key: content key of the result.
        status: status of each unit: ``ok``, ``dead`` (the activation never changes), ``sparse`` (positive in fewer than
            k images) or ``invalid`` (no finite value).
        image_size: side of the exemplars' images in pixels, or height and width.
        folder: folder of the layer's files.
    """

    layer: str
    units: list[Unit]
    k: int
    quantile: float
    rank_by: RankBy = "max"
    probe: str
    target: str
    key: str
    status: dict[Unit, Status]
    image_size: Size
    folder: Path

    @abstractmethod
    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Return the images that activate a unit most, strongest first; an empty mask becomes the whole image.

        Args:
            unit: the unit, as ``"layer4:17"``.

        Raises:
            UnknownName: the unit was not dissected.
            MissingEvidence: the images are not available.
        """

    def image_keys(self, unit: Unit | str) -> list[Hashable]:
        """Return a key of the image of each exemplar; images with equal keys have equal pixels.

        Here the keys are hashes of the pixels, for dissections whose ids say nothing about them.
        """
        images = self.exemplars(unit).images
        return [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images]

    def exemplar_image(self, unit: Unit | str, rank: int) -> UInt8[Tensor, "3 height width"]:
        """Return the image of one exemplar, without the others of its unit."""
        return self.exemplars(unit).images[rank]

    def exemplar_masks(self, exemplars: Sequence[tuple[Unit | str, int]]) -> Bool[Tensor, "n 1 height width"]:
        """Return the masks of some exemplars, by unit and rank, equal to those in ``exemplars``."""
        return torch.stack([self.exemplars(unit).masks[rank] for unit, rank in exemplars])

    @abstractmethod
    def activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit | str] | None = None
    ) -> Float[Tensor, "images units"]:
        """Return the pooled activation of each unit in each image of the probe; NaN for unreadable images.

        Args:
            pooling: the maximum or mean over the image, the class token, or the mean over the other tokens.
            units: the units of the columns; by default all. Dictionaries have so many that some at a time are better.

        Raises:
            UnknownName: a unit was not dissected.
            MissingEvidence: the dissection lacks activations.
        """

    def has_activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit] | None = None
    ) -> Bool[Tensor, " images"]:
        """Return which images have an activation that is a number, of some unit; see :meth:`activations`."""
        found: Tensor | None = None
        for _, values in self.iter_activations(pooling, units):
            some = ~values.isnan().all(1)
            found = some if found is None else found | some
            # As a rule the first units have activations in all images that can be read.
            if found.all():
                break
        return torch.zeros(0, dtype=torch.bool) if found is None else found

    def iter_activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit] | None = None, count: int = UNITS_AT_A_TIME
    ) -> Iterator[tuple[list[Unit], Float[Tensor, "images some"]]]:
        """Yield the units, some at a time, with their pooled activations; see :meth:`activations`."""
        chosen = list(self.units if units is None else units)
        for start in range(0, len(chosen), count):
            some = chosen[start : start + count]
            yield some, self.activations(pooling, some)

    @abstractmethod
    def thresholds(self) -> Float[Tensor, " units"]:
        """Return the mask threshold of each unit.

        Raises:
            MissingEvidence: the dissection lacks thresholds.
        """

    def thresholds_at(self, quantile: float) -> Float[Tensor, " units"] | None:
        """Return the mask thresholds at a quantile; None if they take another pass over the probe."""
        return self.thresholds() if quantile == self.quantile else None

    def maps(self, unit: Unit | str) -> Float[Tensor, "k h w"]:
        """Return a unit's activation maps of its exemplars at the layer's resolution, strongest image first.

        Raises:
            UnknownName: the unit was not dissected.
            MissingEvidence: the dissection lacks activation maps.
        """
        raise MissingEvidence(
            f"{self.folder} holds the masks of exemplars but no activation maps; dissect {self.layer} with"
            " milan.dissect"
        )

    @property
    def images_key(self) -> str:
        """Identifies the images by number: equal in dissections of which an image with the same number is the same."""
        return self.key

    def images(self, ids: Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 height width"]:
        """Return pixels by index in the probe.

        Raises:
            MissingEvidence: the images are not available.
        """
        return torch.stack([self.open_probe().image(id) for id in ids.tolist()])

    def iter_exemplar_maps(self, units: Sequence[Unit]) -> Iterator[ExemplarMaps] | None:
        """Return the exemplars of many units without their pixels, in blocks; None for a dissection without maps.

        Raises:
            UnknownName: a unit was not dissected.
        """
        return None

    @abstractmethod
    def open_probe(self) -> Probe:
        """Load the whole probe.

        Raises:
            MissingEvidence: it has no spec to be loaded by, or has changed.
        """

    @abstractmethod
    def open_target(self) -> Target:
        """Load the network that was dissected.

        Raises:
            MissingEvidence: it has no spec to be loaded by, or has changed.
        """

    def active_units(self) -> list[Unit]:
        """Return the units that can be described, those with the status ``ok``."""
        return [unit for unit in self.units if self.status[unit] == "ok"]

    def row_of(self, unit: Unit | str) -> int:
        """Return the index of a unit in ``units``, and in all tensors with a row or column per unit.

        Raises:
            UnknownName: the unit was not dissected.
        """
        try:
            return self._rows[as_unit(unit)]
        except KeyError:
            known = [str(other) for other in self.units]
            raise UnknownName("unit", str(unit), known, f"{len(known)} units of {self.layer} were dissected") from None

    @cached_property
    def _rows(self) -> dict[Unit, int]:
        return {unit: row for row, unit in enumerate(self.units)}

    def __repr__(self) -> str:
        probe = f", probe {self.probe!r}" if self.probe else ""
        return f"Dissection({self.layer!r} of {self.target}, {len(self.units)} units, k = {self.k}{probe})"

    def _repr_html_(self) -> str:
        from milan.console.notebook import render_dissection

        strips = [self._first_exemplars(unit) for unit in self.active_units()[:NOTEBOOK_UNITS]]
        return render_dissection(repr(self), Counter(self.status.values()), [strip for strip in strips if strip])

    def _first_exemplars(self, unit: Unit) -> str:
        """Return a strip of a unit's strongest exemplars as HTML; empty where the images are not available."""
        try:
            exemplars = self.exemplars(unit)
        except MissingEvidence:
            return ""
        parts = (exemplars.images, exemplars.masks, exemplars.activations, exemplars.ids)
        return Exemplars(unit, *(part[:NOTEBOOK_EXEMPLARS] for part in parts))._repr_html_()

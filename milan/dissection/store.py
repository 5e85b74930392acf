"""Dissection: exemplars, thresholds and activations of a layer's units, read lazily from disk."""

import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from milan.dissection.exemplar_images import StoredImages, open_stored_images
from milan.dissection.layer_statistics import format_pooled_file_name
from milan.dissection.masks import fill_empty_masks, masks_from_maps
from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.storage.files import safe_name
from milan.storage.integrity import damage, read_sealed
from milan.storage.text_files import read_json_object
from milan.targets.loading import load_target
from milan.targets.preprocessing import Size, as_size
from milan.targets.target import Target
from milan.units import Exemplars, Unit, as_unit

FORMAT = 2  # version of the files; 1 in milan 0.1
# Units, and exemplars of each, that a notebook shows of a dissection.
NOTEBOOK_UNITS, NOTEBOOK_EXEMPLARS = 5, 8
# Values of activation maps that are read at a time.
BLOCK_VALUES = 2**21
ActivationPooling = Literal["max", "mean", "cls", "tokens"]
Status = Literal["ok", "dead", "sparse", "invalid"]
FACTS_FILE, EXEMPLARS_FILE, STATISTICS_FILE, PROBE = (
    "dissection.json",
    "exemplars.safetensors",
    "statistics.safetensors",
    "probe.json",
)


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

    @abstractmethod
    def activations(self, pooling: ActivationPooling = "max") -> Float[Tensor, "images units"]:
        """Return the pooled activation of each unit in each image of the probe; NaN for unreadable images.

        Args:
            pooling: the maximum or mean over the image, the class token, or the mean over the other tokens.

        Raises:
            MissingEvidence: the dissection lacks activations.
        """

    @abstractmethod
    def thresholds(self) -> Float[Tensor, " units"]:
        """Return the mask threshold of each unit.

        Raises:
            MissingEvidence: the dissection lacks thresholds.
        """

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


class StoredDissection(Dissection):
    """A layer as ``dissect`` stores it.

    Args:
        folder: folder of the layer.
        source: the probe, for images that are not on disk; by default it is loaded by its spec when it is needed.
        network: the target; by default it is loaded by its spec when it is needed.

    Raises:
        BadInput: there is no dissection, or it is damaged or of another format.
    """

    def __init__(self, folder: Path, source: Probe | None = None, network: Target | None = None):
        self.folder, self._source, self._network = Path(folder), source, network
        self.facts = read_facts(self.folder)
        facts = self.facts
        self.layer, self.k, self.quantile, self.key = facts["layer"], facts["k"], facts["quantile"], facts["key"]
        self.probe, self.target = facts["probe"]["spec"], facts["target"]["name"]
        self.image_size = as_size(facts["image_size"])
        self.units = [Unit(self.layer, index) for index in facts["units"]]
        self.status = dict.fromkeys(self.units, "ok")
        self.status |= {Unit(self.layer, index): word for word, indices in facts["status"].items() for index in indices}
        self._has_warned = False
        # Files whose checksums were compared.
        self._checked: set[str] = set()

    def exemplars(self, unit: Unit | str) -> Exemplars:
        row = self.row_of(unit)
        with self._open_tensors(EXEMPLARS_FILE) as file:
            ids, peaks, maps = (file.get_slice(name)[row] for name in ("ids", "activations", "maps"))
        masks = masks_from_maps(maps, float(self.thresholds()[row]), self.image_size)
        unit = self.units[row]
        if self.status[unit] == "ok" and not self._has_warned and not masks.flatten(1).any(1).all():
            self._has_warned = True
            text = f"{self.layer}: exemplars in which no place exceeds the unit's threshold are shown whole"
            warnings.warn(text, MilanWarning, stacklevel=2)
        return Exemplars(unit, self.images(ids), fill_empty_masks(masks)[:, None], peaks, ids)

    def maps(self, unit: Unit | str) -> Float[Tensor, "k h w"]:
        row = self.row_of(unit)
        with self._open_tensors(EXEMPLARS_FILE) as file:
            return file.get_slice("maps")[row]

    def iter_exemplar_maps(self, units: Sequence[Unit]) -> Iterator[ExemplarMaps]:
        rows = [self.row_of(unit) for unit in units]
        names = ("ids", "activations", "maps")
        with self._open_tensors(EXEMPLARS_FILE) as file:
            slices = [file.get_slice(name) for name in names]
            count = max(1, BLOCK_VALUES // max(1, math.prod(slices[-1].get_shape()[1:])))
            for block in _split_rows(rows, count):
                first = min(block)
                inner = torch.tensor(block) - first
                ids, peaks, maps = (each[first : max(block) + 1][inner] for each in slices)
                thresholds = self.thresholds()[torch.tensor(block)]
                yield ExemplarMaps([self.units[row] for row in block], ids, peaks, maps, thresholds)

    def activations(self, pooling: ActivationPooling = "max") -> Float[Tensor, "images units"]:
        tokens = self.facts["layout"] == "BNC"
        if pooling == "tokens" and not tokens:
            raise MissingEvidence(
                f"{self.layer} has no tokens (its layout is {self.facts['layout']}); use pooling='mean'"
            )
        # The mean over the tokens is that over their grid.
        file = self.folder / format_pooled_file_name("mean" if pooling == "tokens" else pooling)
        if pooling == "cls" and not file.exists():
            raise MissingEvidence(
                f"{self.layer} has no class token; use pooling='mean' or 'max', or a layer that has one"
            )
        with self._sound(file.name):
            # Torch needs a writable array: copy on write leaves the file unchanged.
            return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))

    def thresholds(self) -> Float[Tensor, " units"]:
        return self._statistics["thresholds"]

    @property
    def images_key(self) -> str:
        return str(self.facts["probe"]["fingerprint"])

    def images(self, ids: Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 height width"]:
        """Return pixels by index in the probe, from disk or else from the probe.

        Raises:
            MissingEvidence: the images are not available.
        """
        if self._stored_images is not None and self._stored_images.contains_all(ids.tolist()):
            return self._stored_images[ids]
        return super().images(ids)

    @cached_property
    def _stored_images(self) -> StoredImages | None:
        return open_stored_images(self.folder.parent, self.facts["probe"]["fingerprint"])

    def open_probe(self) -> Probe:
        return self._probe

    def open_target(self) -> Target:
        return self._target

    @cached_property
    def _probe(self) -> Probe:
        facts = self.facts["probe"]
        if self._source is None and not self.probe:
            raise MissingEvidence(
                f"the probe of {self.folder} was given in Python and cannot be loaded by a spec;"
                f" {_make_rerun_hint(self.folder)}"
            )
        probe = self._source or load_probe(**facts["settings"])
        if probe.fingerprint != facts["fingerprint"]:
            raise MissingEvidence(
                f"the probe {self.probe} has changed since {self.folder} was computed; {_make_rerun_hint(self.folder)}"
            )
        return probe

    @cached_property
    def _target(self) -> Target:
        facts = self.facts["target"]
        if self._network is None and not facts.get("settings", {}).get("spec"):
            raise MissingEvidence(
                f"the target of {self.folder} was given in Python and cannot be loaded by a spec;"
                f" {_make_rerun_hint(self.folder)}"
            )
        target = self._network or load_target(**facts["settings"])
        if target.fingerprint != facts["fingerprint"]:
            text = f"the target {self.target} is not the one dissected in {self.folder}"
            raise MissingEvidence(f"{text}: its weights, code or preprocessing differ; {_make_rerun_hint(self.folder)}")
        return target

    @cached_property
    def _statistics(self) -> dict[str, Tensor]:
        with self._open_tensors(STATISTICS_FILE) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def _open_tensors(self, name: str) -> Any:
        with self._sound(name):
            return safe_open(self.folder / name, "pt")

    @contextmanager
    def _sound(self, name: str) -> Iterator[None]:
        """Raise MissingEvidence if a file that is read within the block is damaged or has changed."""
        if name not in self._checked and (fault := damage(self.folder, {name: self.facts["files"][name]})):
            raise MissingEvidence(f"{self.folder}: {fault}; {_make_rerun_hint(self.folder)}")
        self._checked.add(name)
        try:
            yield
        except (OSError, ValueError, SafetensorError) as error:
            raise MissingEvidence(
                f"{self.folder}: {name} cannot be read ({error}); {_make_rerun_hint(self.folder)}"
            ) from None


def load_dissection(path: str | Path) -> Dissection:
    """Load a dissected layer: a folder of ``dissect``, of released MILANNOTATIONS, or of Diorama's compact form.

    Raises:
        BadInput: there is no dissection, or it is damaged.
    """
    from milan.dissection.milannotations import CompactDissection, ReleasedDissection

    folder = Path(path)
    if (folder / FACTS_FILE).exists():
        return StoredDissection(folder)
    for kind in (CompactDissection, ReleasedDissection):
        if kind.exists_at(folder):
            return kind(folder)
    inner = sorted(file.parent.name for name in (FACTS_FILE, "ids.csv") for file in folder.glob(f"*/{name}"))
    if inner:
        raise BadInput(
            f"{folder} holds several layers; give the folder of one of them:"
            f" {', '.join(inner[:8])}{', ...' if len(inner) > 8 else ''}"
        )
    raise BadInput(f"no dissection in {folder} (looked for {FACTS_FILE} and ids.csv); create one with milan.dissect")


def layer_folder(out: Path, layer: str) -> Path:
    """Return the folder of a layer in a folder of dissections; the inverse of ``layer_of``."""
    return out / safe_name(layer)


def layer_of(folder: Path) -> str:
    """Return the layer of a folder: as stated in a file in it, else the folder's name."""
    for name in (FACTS_FILE, PROBE):
        with suppress(BadInput, KeyError):
            return str(read_json_object(folder / name)["layer"])
    return unquote(folder.resolve().name)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read ``dissection.json``.

    Raises:
        BadInput: it does not exist, is damaged, or has another format.
    """
    facts, fault = facts_or_fault(folder)
    if fault:
        raise BadInput(f"cannot read the dissection in {folder}: {fault}; {_make_rerun_hint(folder)}")
    return facts


def facts_or_fault(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the facts of ``dissection.json`` and an empty text, or no facts and why they cannot be read."""
    try:
        written = read_json_object(folder / FACTS_FILE).get("format")
        if written == FORMAT:
            return read_sealed(folder / FACTS_FILE), ""
    except BadInput as error:
        return {}, str(error)
    subject = f"{FACTS_FILE} has format {written}" if written is not None else f"{FACTS_FILE} has no format"
    return {}, f"{subject}{' (of milan 0.1)' if written == 1 else ''} and this version reads {FORMAT}"


def _split_rows(rows: Sequence[int], count: int) -> Iterator[list[int]]:
    """Yield rows in blocks of at most ``count`` that span at most ``4 * count`` rows of the file."""
    block: list[int] = []
    for row in rows:
        if block and (len(block) == count or max(*block, row) - min(*block, row) >= 4 * count):
            yield block
            block = []
        block.append(row)
    if block:
        yield block


def _make_rerun_hint(folder: Path) -> str:
    return f"dissect again with out={str(folder.parent)!r}"

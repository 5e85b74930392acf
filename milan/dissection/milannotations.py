"""Dissections in the layout of the released MILANNOTATIONS, and in the compact form of Diorama's.

The published layout (Hernandez et al. 2022) is ``DATASET/LAYER/`` with ``images.npy`` (units, k, 3, h, w),
``masks.npy`` (units, k, 1, h, w) of 0 and 1, ``ids.csv`` and ``activations.csv`` (a row per unit), ``units.npy`` (the
units' indices, if they are not 0, 1, 2, ...), and ``DATASET/annotations.csv`` (layer, unit, summary). Images may be
left out; ``probe.json`` then names the probe. The compact form has ``masks.npz`` in place of ``masks.npy``
(bits, packed along the last axis), no images, and ``annotations.csv`` in each LAYER.
"""

import csv
import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from milan.dissection.dissection import ActivationPooling, Dissection
from milan.dissection.exemplar_images import write_array
from milan.dissection.masks import fill_empty_masks
from milan.dissection.store import PROBE, layer_folder, layer_of
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe, load_probe
from milan.storage.file_kinds import wrong_kind
from milan.storage.files import atomic_write, content_key, safe_name
from milan.storage.hub_access import format_error_line
from milan.storage.text_files import CsvTable, read_json_object, whole_number
from milan.targets.preprocessing import as_size, height_width
from milan.targets.target import Target
from milan.units import Exemplars, Unit

SETTINGS = (
    "spec",
    "size",
    "resize",
    "interpolation",
    "crop",
    "resampler",
    "crop_rounding",
    "limit",
)  # arguments of load_probe
ANNOTATIONS, IDS, PEAKS, UNITS, IMAGES = "annotations.csv", "ids.csv", "activations.csv", "units.npy", "images.npy"
_COLUMNS = ["layer", "unit", "summary"]
_MAX_HASHED_BYTES = 64 * 2**20  # larger files are identified by size and time


class ReleasedDissection(Dissection):
    """A layer in the published layout, without thresholds and activations over the probe.

    Args:
        folder: folder of the layer, with the layer's name.
        source: the probe, if there is no ``images.npy``; by default the probe that ``probe.json`` names.

    Raises:
        BadInput: a file is damaged, or the files do not match.
    """

    _masks_file = "masks.npy"

    def __init__(self, folder: Path, source: Probe | None = None):
        self.folder, self._source = Path(folder), source
        self._ids = torch.from_numpy(_read_table(self.folder / IDS, np.int64))
        self.layer = layer_of(self.folder)
        self.units = [Unit(self.layer, int(index)) for index in self._read_indices()]
        self.status = dict.fromkeys(self.units, "ok")
        self.k = self._ids.shape[1]
        self.probe, self.target = (
            str(self._probe_description.get("spec", "")),
            str(self._probe_description.get("target", self.folder.resolve().parent.name)),
        )
        self.quantile = float(self._probe_description.get("quantile", 0.99))
        self.image_size = as_size(self._masks.shape[-2:])
        self._check_files()

    @classmethod
    def exists_at(cls, folder: Path) -> bool:
        """Return whether a folder holds a layer in this layout."""
        return (folder / IDS).exists() and (folder / cls._masks_file).exists()

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """Content key of all arrays and tables in the folder."""
        return content_key(
            **{
                file.name: _file_key(file)
                for file in sorted(self.folder.iterdir())
                if file.suffix in (".npy", ".npz", ".csv")
            }
        )

    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Return the published exemplars with their masks."""
        row = self.row_of(unit)
        masks = fill_empty_masks(self._load_masks(row))
        return Exemplars(self.units[row], self._load_images(row), masks, self._peaks[row], self._ids[row])

    def image_keys(self, unit: Unit | str) -> list[Hashable]:
        """Return keys of the exemplars' images in the probe, or of their pixels."""
        if (self.folder / IMAGES).exists():
            return super().image_keys(unit)
        return [(self._probe_key, id) for id in self._ids[self.row_of(unit)].tolist()]

    def exemplar_image(self, unit: Unit | str, rank: int) -> UInt8[Tensor, "3 height width"]:
        """Return the image of one exemplar."""
        return self._load_images(self.row_of(unit), [rank])[0]

    def exemplar_masks(self, exemplars: Sequence[tuple[Unit | str, int]]) -> Bool[Tensor, "n 1 height width"]:
        """Return the masks of some exemplars, by unit and rank."""
        return fill_empty_masks(torch.stack([self._load_masks(self.row_of(unit))[rank] for unit, rank in exemplars]))

    @cached_property
    def _probe_key(self) -> str:
        return self.open_probe().fingerprint

    def activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit | str] | None = None
    ) -> Float[Tensor, "images units"]:
        """Raise MissingEvidence: the published layout has no activations over a probe."""
        raise MissingEvidence(
            f"{self.folder} has exemplars only, no activations over a probe; {_make_dissect_hint(self.layer)}"
        )

    def thresholds(self) -> Float[Tensor, " units"]:
        """Raise MissingEvidence: the published layout has masks without thresholds."""
        raise MissingEvidence(f"{self.folder} has masks, but not their thresholds; {_make_dissect_hint(self.layer)}")

    @cached_property
    def _masks(self) -> np.ndarray:
        return _read_array(self.folder / self._masks_file, 5)

    def _load_masks(self, row: int) -> Bool[Tensor, "k 1 height width"]:
        return torch.from_numpy(self._masks[row] != 0)

    def _load_images(self, row: int, ranks: Sequence[int] = ()) -> UInt8[Tensor, "ranks 3 height width"]:
        """Return the images of a unit's exemplars of these ranks; of all if there are none."""
        chosen = list(ranks) or list(range(self.k))
        if (self.folder / IMAGES).exists():
            return torch.from_numpy(_read_array(self.folder / IMAGES, 5, np.uint8)[row][chosen])
        return torch.stack([self.open_probe().image(id) for id in self._ids[row][chosen].tolist()])

    @cached_property
    def _peaks(self) -> Float[Tensor, "units k"]:
        """Peak activations; NaN if the release lacks them."""
        file = self.folder / PEAKS
        return (
            torch.from_numpy(_read_table(file, np.float32)) if file.exists() else torch.full(self._ids.shape, torch.nan)
        )

    @cached_property
    def _probe_description(self) -> dict[str, Any]:
        """Content of ``probe.json`` for all layers, updated by that for this one."""
        about: dict[str, Any] = {}
        for file in (self.folder.parent / PROBE, self.folder / PROBE):
            about |= read_json_object(file) if file.exists() else {}
        return about

    def open_probe(self) -> Probe:
        """Return the probe that ``probe.json`` names, or the given one."""
        return self._reloaded_probe

    def open_target(self) -> Target:
        """Raise MissingEvidence: the published layout has no network."""
        raise MissingEvidence(
            f"{self.folder} has exemplars of {self.target} only, not the network; {_make_dissect_hint(self.layer)}"
        )

    @cached_property
    def _reloaded_probe(self) -> Probe:
        if self._source is not None:
            return self._source
        if not self.probe:
            where = self.folder / PROBE
            raise MissingEvidence(
                f'{self.folder} has no images.npy; name the probe in {where}, as {{"spec": "FOLDER"}}'
            )
        # The images of MILANNOTATIONS were cropped so.
        released = tuple(round(side * 8 / 7) for side in height_width(self.image_size))
        settings = {name: self._probe_description[name] for name in SETTINGS if name in self._probe_description}
        return load_probe(**{"size": self.image_size, "resize": released} | settings)

    def _read_indices(self) -> Int[np.ndarray, " units"]:
        file = self.folder / UNITS
        found = _read_array(file, 1).astype(np.int64) if file.exists() else np.arange(len(self._ids))
        if len(found) != len(self._ids) or len(np.unique(found)) != len(found):
            raise BadInput(f"{file} has shape {found.shape} for {len(self._ids)} different units, as {IDS} has rows")
        return found

    def _check_files(self) -> None:
        lead = (len(self.units), self.k)
        files = {self._masks_file: tuple(self._masks.shape[:2]), PEAKS: tuple(self._peaks.shape)}
        if (self.folder / IMAGES).exists():
            files[IMAGES] = tuple(_read_array(self.folder / IMAGES, 5, np.uint8).shape[:2])
        for name, shape in files.items():
            if shape != lead:
                raise BadInput(
                    f"{self.folder / name} is for {shape} units and exemplars, but {IDS} for {lead}; they belong to"
                    " different dissections"
                )


class CompactDissection(ReleasedDissection):
    """A layer in Diorama's compact form: masks as bits, and images from the probe."""

    _masks_file = "masks.npz"

    @cached_property
    def _masks(self) -> np.ndarray:
        file = self.folder / self._masks_file
        try:
            with np.load(file, allow_pickle=False) as packed:
                bits = np.unpackbits(packed["masks"], axis=-1, count=int(packed["shape"][-1]))
                shape = tuple(int(side) for side in packed["shape"])
        # A damaged archive makes numpy raise anything.
        except Exception as error:
            raise _unreadable(file, error) from None
        return bits.reshape(shape[0], shape[1], 1, *shape[-2:])


def read_unit_annotations(path: str | Path) -> dict[Unit, list[str]]:
    """Read the annotations of each unit from the folder of a layer or a dataset, or from an ``annotations.csv``.

    Layer names are texts, also if they are numbers (``0``, ``4``, ... in the released ResNet-152 on Places). Empty
    annotations are left out.

    Raises:
        BadInput: there are no annotations, or the file is damaged.
    """
    path = Path(path)
    for file in (path, path / ANNOTATIONS):
        if file.is_file():
            return _read_annotations_file(file)
    inner = sorted(path.glob(f"*/{ANNOTATIONS}"))
    if inner:
        return {unit: texts for file in inner for unit, texts in _read_annotations_file(file).items()}
    above, layer = path.parent / ANNOTATIONS, layer_of(path)
    if above.is_file():
        return {unit: texts for unit, texts in _read_annotations_file(above).items() if unit.layer == layer}
    raise BadInput(f"no {ANNOTATIONS} in {path}, nor in the folders in it, nor above it")


def export_milannotations(
    dissection: Dissection, folder: str | Path, annotations: Mapping[Unit, Sequence[str]] | None = None
) -> Path:
    """Write a layer in the published layout to ``folder/LAYER``, and its annotations beside those of other layers.

    Args:
        dissection: the layer.
        folder: folder of the dataset.
        annotations: annotations by unit.

    Returns:
        The folder of the layer.
    """
    place = layer_folder(Path(folder), dissection.layer)
    place.mkdir(parents=True, exist_ok=True)
    if place.name != dissection.layer:
        _write_json(place / PROBE, {"layer": dissection.layer})
    shape = (len(dissection.units), dissection.k)
    side = height_width(dissection.image_size)
    written_images = write_array(place / IMAGES, (*shape, 3, *side))
    with written_images as images, write_array(place / "masks.npy", (*shape, 1, *side)) as masks:
        ids, peaks = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for row, unit in enumerate(dissection.units):
            found = dissection.exemplars(unit)
            images[row], masks[row] = found.images.numpy(), found.masks.numpy()
            ids[row], peaks[row] = found.ids.numpy(), found.activations.numpy()
    _write_tables(dissection, place, ids, peaks)
    if annotations is not None:
        _write_annotations(Path(folder) / ANNOTATIONS, dissection, annotations)
    return place


def export_compact(
    dissection: Dissection, folder: str | Path, annotations: Mapping[Unit, Sequence[str]] | None = None
) -> Path:
    """Write a layer in the compact form to ``folder/LAYER``, and return that folder.

    Args:
        dissection: the layer, whose probe must be loadable by a spec.
        folder: folder of the dataset.
        annotations: annotations by unit.

    Raises:
        MissingEvidence: the probe was given in Python and has no spec.
    """
    if not dissection.probe:
        raise MissingEvidence(f"{dissection!r} has a probe without a spec, so its images would be lost")
    place = layer_folder(Path(folder), dissection.layer)
    place.mkdir(parents=True, exist_ok=True)
    found = [dissection.exemplars(unit) for unit in dissection.units]
    masks = torch.stack([one.masks[:, 0] for one in found]).numpy()
    with atomic_write(place / "masks.npz") as partial:
        np.savez_compressed(partial, masks=np.packbits(masks, axis=-1), shape=np.array(masks.shape))
    ids, peaks = torch.stack([one.ids for one in found]), torch.stack([one.activations for one in found])
    _write_tables(dissection, place, ids.numpy(), peaks.numpy())
    _write_json(place / PROBE, _collect_probe_facts(dissection))
    if annotations is not None:
        _write_annotations(place / ANNOTATIONS, dissection, annotations)
    return place


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def _collect_probe_facts(dissection: Dissection) -> dict[str, Any]:
    known = (
        getattr(dissection, "facts", {})
        .get("probe", {})
        .get("settings", {"spec": dissection.probe, "size": dissection.image_size})
    )
    settings = {name: value for name, value in known.items() if value is not None}
    named = {"layer": dissection.layer} if safe_name(dissection.layer) != dissection.layer else {}
    return {**named, **settings, "target": dissection.target, "quantile": dissection.quantile}


def _write_tables(
    dissection: Dissection, place: Path, ids: Int[np.ndarray, "units k"], peaks: Float[np.ndarray, "units k"]
) -> None:
    # Nine digits represent a float exactly.
    for name, table, form in ((IDS, ids, "%d"), (PEAKS, peaks, "%.9g")):
        with atomic_write(place / name) as partial:
            np.savetxt(partial, table, fmt=form, delimiter=",")
    with atomic_write(place / UNITS) as partial:
        np.save(partial, np.array([unit.index for unit in dissection.units], np.int64))


def _write_annotations(file: Path, dissection: Dissection, annotations: Mapping[Unit, Sequence[str]]) -> None:
    """Replace the rows of the layer, and keep those of other layers."""
    kept = {
        unit: texts
        for unit, texts in (_read_annotations_file(file) if file.exists() else {}).items()
        if unit.layer != dissection.layer
    }
    rows = {**kept, **{unit: list(annotations[unit]) for unit in dissection.units if unit in annotations}}
    with atomic_write(file) as partial, partial.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened)
        table.writerow(_COLUMNS)
        table.writerows([unit.layer, unit.index, text] for unit, texts in rows.items() for text in texts)


def _read_annotations_file(file: Path) -> dict[Unit, list[str]]:
    table = CsvTable(file)
    table.require(*_COLUMNS)
    found: dict[Unit, list[str]] = {}
    for unit, text in table.parse(lambda row: (Unit(row["layer"], whole_number(row["unit"])), row["summary"].strip())):
        if text:
            found.setdefault(unit, []).append(text)
    return found


def _read_array(file: Path, axes: int, kind: type | None = None) -> np.ndarray:
    """Return a memory map of an array file, after checking its number of axes and its data type, if one is given."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        shape, dtype = found.shape, found.dtype
    # A damaged header makes numpy raise anything.
    except Exception as error:
        raise _unreadable(file, error) from None
    if len(shape) != axes or (kind is not None and dtype != kind):
        expected = f" of {np.dtype(kind).name}" if kind is not None else ""
        text = f"{file} holds an array of {dtype} with shape {shape}; expected one{expected} with {axes} axes"
        raise BadInput(text)
    return found


def _read_table(file: Path, kind: type) -> np.ndarray:
    try:
        return np.loadtxt(file, kind, delimiter=",", ndmin=2)
    # Wrong numbers, rows of different lengths and other encodings raise different errors.
    except Exception as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> BadInput:
    return BadInput(f"cannot read {file}: {wrong_kind(file) or format_error_line(error)}; copy or download it again")


def _file_key(file: Path) -> str:
    stat = file.stat()
    return (
        hashlib.sha256(file.read_bytes()).hexdigest()
        if stat.st_size < _MAX_HASHED_BYTES
        else f"{stat.st_size} {stat.st_mtime_ns}"
    )


def _make_dissect_hint(layer: str) -> str:
    return f"dissect layer {layer} of the network itself to get them"

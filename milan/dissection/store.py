"""Dissections that ``dissect`` has stored, read lazily from disk."""

import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from milan.dissection.dissection import ActivationPooling, Dissection, ExemplarMaps
from milan.dissection.exemplar_images import StoredImages, open_stored_images
from milan.dissection.layer_statistics import (
    EXEMPLARS_FILE,
    STATISTICS_FILE,
    format_pooled_file_name,
    format_thresholds_name,
)
from milan.dissection.masks import fill_empty_masks, find_filled_masks, masks_from_maps
from milan.dissection.sparse_files import read_activations, read_maps
from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.storage.files import safe_name
from milan.storage.integrity import damage, read_sealed
from milan.storage.text_files import read_json_object
from milan.targets.loading import load_target
from milan.targets.preprocessing import as_size
from milan.targets.target import Target
from milan.units import Exemplars, Unit

FORMAT = 2  # version of the files; 1 in milan 0.1
# Values of activation maps that are read at a time.
BLOCK_VALUES = 2**21
FACTS_FILE, PROBE = "dissection.json", "probe.json"


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
        self.rank_by = facts.get("rank_by", "max")
        self.probe, self.target = facts["probe"]["spec"], facts["target"]["name"]
        self.image_size = as_size(facts["image_size"])
        self.units = [Unit(self.layer, index) for index in facts["units"]]
        self.status = dict.fromkeys(self.units, "ok")
        self.status |= {Unit(self.layer, index): word for word, indices in facts["status"].items() for index in indices}
        self._has_warned = False
        # Files whose checksums were compared.
        self._checked: set[str] = set()

    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Return exemplars whose masks are computed from the stored maps and the unit's threshold."""
        row = self.row_of(unit)
        with self._open_tensors(EXEMPLARS_FILE) as file:
            ids, peaks = (file.get_slice(name)[row] for name in ("ids", "activations"))
        masks = self._masks_of([row] * self.k, self._load_maps(row))[:, None]
        return Exemplars(self.units[row], self.images(ids), masks, peaks, ids)

    def image_keys(self, unit: Unit | str) -> list[Hashable]:
        """Return the probe's fingerprint with the index of each exemplar."""
        with self._open_tensors(EXEMPLARS_FILE) as file:
            ids = file.get_slice("ids")[self.row_of(unit)]
        return [(self.facts["probe"]["fingerprint"], id) for id in ids.tolist()]

    def exemplar_image(self, unit: Unit | str, rank: int) -> UInt8[Tensor, "3 height width"]:
        """Return the image of one exemplar, which alone is decoded."""
        with self._open_tensors(EXEMPLARS_FILE) as file:
            return self.images(file.get_slice("ids")[self.row_of(unit), rank : rank + 1])[0]

    def exemplar_masks(self, exemplars: Sequence[tuple[Unit | str, int]]) -> Bool[Tensor, "n 1 height width"]:
        """Return the masks of some exemplars, by unit and rank; their maps alone are read."""
        places = [(self.row_of(unit), rank) for unit, rank in exemplars]
        if self._is_sparse:
            maps = [self._load_maps(row, rank, rank + 1) for row, rank in places]
        else:
            with self._open_tensors(EXEMPLARS_FILE) as file:
                stored = file.get_slice("maps")
                maps = [stored[row, rank : rank + 1] for row, rank in places]
        return self._masks_of([row for row, _ in places], torch.cat(maps))[:, None]

    def _masks_of(self, rows: Sequence[int], maps: Float[Tensor, "n h w"]) -> Bool[Tensor, "n height width"]:
        """Return the masks of maps, each of the unit in a row; an empty mask becomes the whole image.

        The first empty mask of an active unit gives a warning.
        """
        masks = masks_from_maps(maps, self.thresholds()[list(rows)], self.image_size)
        inside = find_filled_masks(masks)
        if inside.all():
            return masks
        if not self._has_warned and any(
            self.status[self.units[row]] == "ok" for row, some in zip(rows, inside.tolist(), strict=True) if not some
        ):
            self._has_warned = True
            text = f"{self.layer}: exemplars in which no place exceeds the unit's threshold are shown whole"
            warnings.warn(text, MilanWarning, stacklevel=3)
        return fill_empty_masks(masks)

    def maps(self, unit: Unit | str) -> Float[Tensor, "k h w"]:
        """Return the stored maps of a unit."""
        return self._load_maps(self.row_of(unit))

    def _load_maps(self, row: int, start: int = 0, stop: int | None = None) -> Float[Tensor, "n h w"]:
        """Return the maps of a unit's exemplars from one rank up to another."""
        stop = self.k if stop is None else stop
        with self._open_tensors(EXEMPLARS_FILE) as file:
            if not self._is_sparse:
                return file.get_slice("maps")[row, start:stop]
            offsets = file.get_slice("map_offsets")[row * self.k + start : row * self.k + stop + 1].numpy()
        height, width = self.facts["grid"]
        return torch.from_numpy(read_maps(self._load_array, offsets, (height, width)))

    def iter_exemplar_maps(self, units: Sequence[Unit]) -> Iterator[ExemplarMaps]:
        """Yield the exemplars of units without their pixels, in blocks of bounded size."""
        rows = [self.row_of(unit) for unit in units]
        count = max(1, BLOCK_VALUES // max(1, self.k * math.prod(self.facts["grid"])))
        for block in _split_rows(rows, count):
            with self._open_tensors(EXEMPLARS_FILE) as file:
                first, inner = min(block), torch.tensor(block) - min(block)
                names = ("ids", "activations") if self._is_sparse else ("ids", "activations", "maps")
                ids, peaks, *maps = (file.get_slice(name)[first : max(block) + 1][inner] for name in names)
            known = maps[0] if maps else torch.stack([self._load_maps(row) for row in block])
            yield ExemplarMaps(
                [self.units[row] for row in block], ids, peaks, known, self.thresholds()[torch.tensor(block)]
            )

    def activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit | str] | None = None
    ) -> Float[Tensor, "images units"]:
        """Return the stored activations; raise MissingEvidence for tokens that the layer does not have."""
        rows = None if units is None else [self.row_of(unit) for unit in units]
        tokens = self.facts["layout"] == "BNC"
        if pooling == "tokens" and not tokens:
            raise MissingEvidence(
                f"{self.layer} has no tokens (its layout is {self.facts['layout']}); use pooling='mean'"
            )
        # The mean over the tokens is that over their grid.
        stored = "mean" if pooling == "tokens" else pooling
        name = format_pooled_file_name(stored)
        if pooling == "cls" and not (self.folder / name).exists():
            raise MissingEvidence(
                f"{self.layer} has no class token; use pooling='mean' or 'max', or a layer that has one"
            )
        if self._is_sparse:
            every = range(len(self.units))
            return torch.from_numpy(self._load_sparse_activations(stored, every if rows is None else rows))
        values = torch.from_numpy(self._load_array(name))
        return values if rows is None else values[:, rows]

    def _load_sparse_activations(self, pooling: str, rows: Sequence[int]) -> Float[np.ndarray, "images rows"]:
        offsets = self._statistics["pooled_offsets"].numpy()
        values = read_activations(self._load_array, offsets, pooling, rows, self.facts["images"])
        values[self.facts["skipped"]] = np.nan
        return values

    @property
    def _is_sparse(self) -> bool:
        return self.facts.get("storage") == "sparse"

    def _load_array(self, name: str) -> np.ndarray:
        """Map a .npy file of the folder."""
        with self._sound(name):
            # Torch needs a writable array: copy on write leaves the file unchanged.
            array: np.ndarray = np.load(self.folder / name, mmap_mode="c", allow_pickle=False)
            return array

    def thresholds(self) -> Float[Tensor, " units"]:
        """Return the stored thresholds."""
        return self._statistics["thresholds"]

    def thresholds_at(self, quantile: float) -> Float[Tensor, " units"] | None:
        """Return the thresholds at the dissection's quantile, or at a larger one whose thresholds are stored."""
        own = super().thresholds_at(quantile)
        return self._statistics.get(format_thresholds_name(quantile)) if own is None else own

    @property
    def images_key(self) -> str:
        """The fingerprint of the probe."""
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
        """Return the probe that was passed, or load it by its spec."""
        return self._probe

    def open_target(self) -> Target:
        """Return the network that was passed, or load it by its spec."""
        return self._target

    @cached_property
    def _probe(self) -> Probe:
        facts = self.facts["probe"]
        if self._source is None and not self.probe:
            raise MissingEvidence(
                f"the probe of {self.folder} was given in Python and cannot be loaded by a spec;"
                f" {_make_rerun_hint(self.folder)}"
            )
        with _explain_loading(f"the probe {self.probe}", self.folder):
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
        with _explain_loading(f"the target {self.target}", self.folder):
            target = self._network or load_target(**facts["settings"])
        if target.fingerprint != facts["fingerprint"]:
            text = f"the target {self.target} is not the one dissected in {self.folder}"
            raise MissingEvidence(
                f"{text}: its weights, dictionary, code or preprocessing differ; {_make_rerun_hint(self.folder)}"
            )
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


@contextmanager
def _explain_loading(name: str, folder: Path) -> Iterator[None]:
    """Raise MissingEvidence for a probe or target that cannot be loaded again, since relative paths may be the cause.

    Names that are given relative to a folder are those of the folder in which the dissection was computed.
    """
    try:
        yield
    except (BadInput, UnknownName) as error:
        hint = "relative paths hold in the folder in which the dissection was computed: run the command there"
        raise MissingEvidence(f"cannot load {name} of {folder} again: {error}; {hint}") from None


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

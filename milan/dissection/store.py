"""Dissection: what is known of one layer's units, read lazily from the folder it was written to."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from milan.dissection.exemplar_images import StoredImages, open_stored_images
from milan.dissection.layer_statistics import format_pooled_file_name
from milan.dissection.masks import fill_empty_masks, masks_from_maps
from milan.errors import BadInput, MilanError, MilanWarning, MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.storage.files import safe_name
from milan.storage.integrity import damage, read_sealed
from milan.storage.text_files import read_json_object
from milan.targets.loading import load_target
from milan.targets.preprocessing import Size, as_size
from milan.targets.target import Target
from milan.units import Exemplars, Unit

FORMAT = 2  # of the files, 1 in milan 0.1; another number is another dissection
ActivationPooling = Literal["max", "mean", "cls", "tokens"]
Status = Literal["ok", "dead", "sparse", "invalid"]
FACTS_FILE, EXEMPLARS_FILE, STATISTICS_FILE, PROBE = (
    "dissection.json",
    "exemplars.safetensors",
    "statistics.safetensors",
    "probe.json",
)


class Dissection(ABC):
    """One layer of a target, dissected on a probe.

    Attributes:
        layer: its dotted path.
        units: those that were dissected.
        k: how many exemplars each has.
        quantile: of all activations of a unit, above which a place belongs to its mask.
        probe, target: how to load them again.
        key: stands for all that the result depends on; another key is another result.
        status: of each unit: ``ok``, ``dead`` (never changes), ``sparse`` (positive in fewer than k images) or
            ``invalid`` (no finite value).
        image_size: side of the exemplars' images in pixels, or height and width.
        folder: where it lies.
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
    def exemplars(self, unit: Unit) -> Exemplars:
        """The images that activate the unit most, strongest first; a mask that would be empty is the whole image.

        Raises:
            UnknownName: the unit was not dissected.
            MissingEvidence: the images are not at hand.
        """

    @abstractmethod
    def activations(self, pooling: ActivationPooling = "max") -> Float[Tensor, "images units"]:
        """Each image's activation of each unit, over the whole probe; NaN for images that could not be read.

        Args:
            pooling: the largest or the mean over the image, the class token, or the mean over the other tokens.

        Raises:
            MissingEvidence: this dissection does not hold them.
        """

    @abstractmethod
    def thresholds(self) -> Float[Tensor, " units"]:
        """The activation above which a place belongs to a unit's mask.

        Raises:
            MissingEvidence: this dissection does not hold them.
        """

    def maps(self, unit: Unit) -> Float[Tensor, "k h w"]:
        """The unit's activation in each place of its exemplars, at the layer's own resolution, strongest image first.

        Raises:
            UnknownName: the unit was not dissected.
            MissingEvidence: this dissection does not hold them.
        """
        raise MissingEvidence(
            f"{self.folder} holds the masks of exemplars but no activation maps; dissect {self.layer} with"
            " milan.dissect"
        )

    @abstractmethod
    def open_probe(self) -> Probe:
        """The whole probe, for what needs more of it than exemplars and activations.

        Raises:
            MissingEvidence: it has no name to be loaded by, or is another one by now.
        """

    @abstractmethod
    def open_target(self) -> Target:
        """The network that was dissected, for what needs it once more: masks over the whole probe, activations on other
        images.

        Raises:
            MissingEvidence: it has no name to be loaded by, or has other weights by now.
        """

    def active_units(self) -> list[Unit]:
        """The units of which something can be said."""
        return [unit for unit in self.units if self.status[unit] == "ok"]

    def row_of(self, unit: Unit) -> int:
        """The unit's place in ``units``, and in all that is listed by unit.

        Raises:
            UnknownName: it was not dissected.
        """
        try:
            return self._rows[unit]
        except KeyError:
            known = [str(other) for other in self.units]
            raise UnknownName("unit", str(unit), known, f"{len(known)} units of {self.layer} were dissected") from None

    @cached_property
    def _rows(self) -> dict[Unit, int]:
        return {unit: row for row, unit in enumerate(self.units)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.layer!r} of {self.target}, {len(self.units)} units, probe {self.probe!r})"


class StoredDissection(Dissection):
    """A layer as ``dissect`` wrote it.

    Args:
        folder: of the layer.
        source: the probe, if it is at hand, for images that are not on disk; else it is loaded again where it can be.
        network: the target, if it is at hand; else it is loaded again where it can be.

    Raises:
        BadInput: it is not there, damaged, or of another format.
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

    def exemplars(self, unit: Unit) -> Exemplars:
        row = self.row_of(unit)
        with self._open_tensors(EXEMPLARS_FILE) as file:
            ids, peaks, maps = (file.get_slice(name)[row] for name in ("ids", "activations", "maps"))
        masks = masks_from_maps(maps, float(self.thresholds()[row]), self.image_size)
        if self.status[unit] == "ok" and not self._has_warned and not masks.flatten(1).any(1).all():
            self._has_warned = True
            text = f"{self.layer}: exemplars in which no place exceeds the unit's threshold are shown whole"
            warnings.warn(text, MilanWarning, stacklevel=2)
        return Exemplars(unit, self.images(ids), fill_empty_masks(masks)[:, None], peaks, ids)

    def maps(self, unit: Unit) -> Float[Tensor, "k h w"]:
        row = self.row_of(unit)
        with self._open_tensors(EXEMPLARS_FILE) as file:
            return file.get_slice("maps")[row]

    def activations(self, pooling: ActivationPooling = "max") -> Float[Tensor, "images units"]:
        tokens = self.facts["layout"] == "BNC"
        if pooling == "tokens" and not tokens:
            raise MissingEvidence(
                f"{self.layer} has no tokens (its layout is {self.facts['layout']}); take pooling='mean'"
            )
        file = self.folder / format_pooled_file_name(
            "mean" if pooling == "tokens" else pooling
        )  # the grid's mean is that of its tokens
        if pooling == "cls" and not file.exists():
            raise MissingEvidence(
                f"{self.layer} has no class token; take pooling='mean' or 'max', or a layer that has one"
            )
        with self._sound(file.name):
            return torch.from_numpy(
                np.load(file, mmap_mode="c", allow_pickle=False)
            )  # "c": torch wants it writable; the file stays

    def thresholds(self) -> Float[Tensor, " units"]:
        return self._statistics["thresholds"]

    def images(self, ids: Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 height width"]:
        """Pixels by index in the probe: from disk, else asked of the probe.

        Raises:
            MissingEvidence: neither has them.
        """
        if self._stored_images is not None and self._stored_images.contains_all(ids.tolist()):
            return self._stored_images[ids]
        return torch.stack([self.open_probe().image(id) for id in ids.tolist()])

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
                f"the probe of {self.folder} was given in Python and has no name to be loaded by;"
                f" {_make_rerun_hint(self.folder)}"
            )
        probe = self._source or load_probe(**facts["settings"])
        if probe.fingerprint != facts["fingerprint"]:
            raise MissingEvidence(
                f"the probe {self.probe} has changed since {self.folder} was made; {_make_rerun_hint(self.folder)}"
            )
        return probe

    @cached_property
    def _target(self) -> Target:
        facts = self.facts["target"]
        if self._network is None and not facts.get("settings", {}).get("spec"):
            raise MissingEvidence(
                f"the target of {self.folder} was given in Python and has no name to be loaded by;"
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
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file handle, no dict)

    def _open_tensors(self, name: str) -> Any:
        with self._sound(name):
            return safe_open(self.folder / name, "pt")

    @contextmanager
    def _sound(self, name: str) -> Iterator[None]:
        """Read a file within; raise MissingEvidence if it cannot be read or was changed."""
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
    """One dissected layer: our own folder, a folder of released MILANNOTATIONS, or Diorama's compact form of one.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    from milan.dissection.milannotations import CompactDissection, ReleasedDissection  # they build on this module

    folder = Path(path)
    if (folder / FACTS_FILE).exists():
        return StoredDissection(folder)
    for kind in (CompactDissection, ReleasedDissection):
        if kind.exists_at(folder):
            return kind(folder)
    inner = sorted(file.parent.name for name in (FACTS_FILE, "ids.csv") for file in folder.glob(f"*/{name}"))
    if inner:
        raise BadInput(
            f"{folder} holds several layers; give one of them:"
            f" {', '.join(inner[:8])}{', ...' if len(inner) > 8 else ''}"
        )
    raise BadInput(f"no dissection in {folder} (looked for {FACTS_FILE} and ids.csv); make one with milan.dissect")


def load_dissections_beside(folder: Path, layers: Iterable[str]) -> dict[str, Dissection]:
    """Return the dissected layers that lie beside a table of descriptions, by name; unreadable ones are left out.

    They are in its folder ``dissection``, or in that of one of the two folders above it, where a bench keeps its own.
    """
    wanted = set(layers)
    found: dict[str, Dissection] = {}
    for home in (folder / "dissection", folder.parent / "dissection", folder.parent.parent / "dissection"):
        for place in sorted(home.glob(f"*/{FACTS_FILE}")):
            with suppress(MilanError):
                one = load_dissection(place.parent)
                if one.layer in wanted:
                    found.setdefault(one.layer, one)
    return found


def layer_folder(out: Path, layer: str) -> Path:
    """Where a layer lies in a folder of dissections; ``layer_of`` tells the layer of such a folder."""
    return out / safe_name(layer)


def layer_of(folder: Path) -> str:
    """The layer of a folder of dissections or annotations: as a file in it says, else the folder's name."""
    for name in (FACTS_FILE, PROBE):
        with suppress(BadInput, KeyError):
            return str(read_json_object(folder / name)["layer"])
    return unquote(folder.resolve().name)


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``dissection.json`` says.

    Raises:
        BadInput: it is not there, damaged, or of another format.
    """
    facts, fault = facts_or_fault(folder)
    if fault:
        raise BadInput(f"no dissection in {folder} that can be read: {fault}; {_make_rerun_hint(folder)}")
    return facts


def facts_or_fault(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the facts of ``dissection.json`` and an empty text, or no facts and why they cannot be read."""
    try:
        written = read_json_object(folder / FACTS_FILE).get("format")
        if written == FORMAT:
            return read_sealed(folder / FACTS_FILE), ""
    except BadInput as error:
        return {}, str(error)
    by = f"{FACTS_FILE} has format {written}" if written is not None else f"{FACTS_FILE} has no format"
    return {}, f"{by}{' (of milan 0.1)' if written == 1 else ''} and this version reads {FORMAT}"


def _make_rerun_hint(folder: Path) -> str:
    return f"dissect again with out={str(folder.parent)!r}"

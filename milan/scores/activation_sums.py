"""How active each unit of a layer is on the pixels of each label signature, over scenes that no describer has seen.

The correlation of a unit's activation with any formula of concepts, over all pixels, needs only three sums by
signature: of pixels, of activation and of squared activation. They are computed in one pass of the target, for two
disjoint sets of scenes: on the first the best formula is sought, on the second everything is measured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy import sparse
from torch.nn.functional import interpolate

from milan.console.progress import track_progress
from milan.diorama.label_signatures import LabelSignatures, encode_labels
from milan.diorama.scene_images import JUDGE_LENGTH, PROBE_LENGTH, DioramaImages
from milan.dissection.dissection import Dissection
from milan.dissection.forward_blocks import BlockOutputs, map_blocks
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.probes.pixel_labels import DioramaLabels, shows_diorama
from milan.scores.bootstrap import make_random_cycle
from milan.storage.files import cache_root, content_key
from milan.storage.integrity import made_once
from milan.targets.preprocessing import height_width
from milan.targets.target import Target

FORMAT = 1  # of the file; another number means other sums
SCENES = 1_000  # scenes on which formulas are sought, and as many others on which texts are measured
BLOCKS = 20  # blocks of measured scenes, which intervals resample
MAX_BYTES = 2**30  # of the sums of layers that one pass adds up
PERMUTATIONS = 3  # assignments of activation to other images, from which the level of chance is taken
# The scenes after those of probes and judges, so that no describer was made, chosen or shown with them.
FIRST_SCENE_OFFSET = PROBE_LENGTH + JUDGE_LENGTH


@dataclass(frozen=True, eq=False)
class LabelledScenes:
    """Images whose pixels are labelled, the first half for the search and the second half for measuring.

    Attributes:
        probe: the images, as the target sees them.
        columns: of each pixel, which block and signature it belongs to, int32 (images, pixels).
        signatures: the labels of each column; its ``pixels`` are ``columns``.
        block: of each column, 0 for the search, else 1 to BLOCKS.
        key: changes with the images and labels.
    """

    probe: Probe
    columns: Int[np.ndarray, "images pixels"]
    signatures: LabelSignatures
    block: Int[np.ndarray, " columns"]
    key: str

    @classmethod
    def from_signatures(cls, probe: Probe, signatures: LabelSignatures, key: str) -> "LabelledScenes":
        """Return labelled scenes from the labels of a probe's pixels.

        Args:
            probe: the images.
            signatures: the labels of their pixels.
            key: content key of the labels.
        """
        count = len(signatures.pixels)
        block = np.zeros(count, dtype=np.int64)
        measured = count - count // 2
        block[count // 2 :] = 1 + np.arange(measured) * min(BLOCKS, measured) // measured
        codes = np.asarray(signatures.pixels).reshape(count, -1) + block[:, None] * len(signatures.table)
        found, which = np.unique(codes, return_inverse=True)
        columns = which.reshape(codes.shape).astype(np.int32)
        split = LabelSignatures(columns, signatures.table[found % len(signatures.table)])
        return cls(probe, columns, split, found // len(signatures.table), key)


@lru_cache(maxsize=1)
def load_held_out_scenes(world: str, size: int, count: int, folder: Path) -> LabelledScenes:
    """Render ``count`` scenes of a world that come after those of its probes.

    Args:
        world: as ``DioramaImages`` takes it, without "@learn" or "@judge".
        size: side of the images in pixels.
        folder: where the signatures are stored.
    """
    first = DioramaImages(world).first + FIRST_SCENE_OFFSET
    images = DioramaImages(world, size=size, length=count, first=first)
    pixels = np.empty((count, 3, size, size), dtype=np.uint8)
    codes = np.empty((count, size, size), dtype=np.int64)
    for index in track_progress(range(count), description=f"rendering {count} held-out scenes"):
        scene = images.scene(index)
        pixels[index], codes[index] = scene.image, encode_labels(scene)
    signatures = LabelSignatures.from_codes(codes)
    return LabelledScenes.from_signatures(Probe.from_tensor(pixels), signatures, images.fingerprint)


def load_labelled_scenes(
    dissection: Dissection, count: int | None = None, folder: Path | None = None
) -> LabelledScenes:
    """Return scenes to measure a dissection's units on: held out from its probe, or a generator's own images.

    Args:
        count: of all scenes; twice as many as the probe has images, but at most twice SCENES, unless given.

    Raises:
        MissingEvidence: the probe does not show Diorama, so that nobody knows what its pixels show.
    """
    if not shows_diorama(dissection.probe):
        raise MissingEvidence(
            f"the truth of {dissection.layer} is not known on probe {dissection.probe!r}; dissect it on diorama:objects"
        )
    home = folder or cache_root() / "diorama"
    if dissection.probe.startswith("latents:"):
        probe = dissection.open_probe()
        return LabelledScenes.from_signatures(probe, DioramaLabels(probe, folder).signatures, probe.fingerprint)
    world = dissection.probe.partition(":")[2].removesuffix("@judge").removesuffix("@learn")
    count = count or 2 * min(SCENES, len(dissection.activations("max", dissection.units[:1])))
    return load_held_out_scenes(world, height_width(dissection.image_size)[0], count, home)


@dataclass(frozen=True, eq=False)
class ActivationSums:
    """Sums over the pixels of each column of ``LabelledScenes``.

    Attributes:
        sums: of each unit's activation, float32 (units, columns).
        permuted: of the same with the images' activation assigned to other images, float32 (permutations, units,
            columns).
        squares: of squared activation in each block, float64 (units, 1 + blocks).
        masked: number of pixels in the unit's masks, (units, columns).
    """

    sums: Float[np.ndarray, "units columns"]
    permuted: Float[np.ndarray, "permutations units columns"]
    squares: Float[np.ndarray, "units blocks"]
    masked: sparse.csr_matrix

    @classmethod
    def from_maps(
        cls,
        scenes: LabelledScenes,
        maps: Iterable[tuple[int, Float[np.ndarray, "pixels units"]]],
        thresholds: Float[np.ndarray, " units"],
    ) -> "ActivationSums":
        """Add up activation maps.

        Args:
            maps: of each image its index and the units' activation at each pixel.
            thresholds: above which a pixel belongs to a unit's mask.
        """
        adder = _SumsAdder(scenes, thresholds)
        for index, activation in maps:
            adder.add(index, activation)
        return adder.total()


class _SumsAdder:
    """Adds up the activation maps of a layer; ``thresholds`` as ``ActivationSums.from_maps`` takes them."""

    def __init__(self, scenes: LabelledScenes, thresholds: Float[np.ndarray, " units"]):
        self.scenes, self.thresholds = scenes, thresholds
        self.others = [_permute_halves(len(scenes.columns), seed) for seed in range(PERMUTATIONS)]
        shape = (len(scenes.signatures.table), len(thresholds))
        self.sums = np.zeros((1 + PERMUTATIONS, *shape), dtype=np.float32)
        self.masked = np.zeros(shape, dtype=np.int32)
        self.squares = np.zeros((len(thresholds), int(scenes.block.max()) + 1))

    def add(self, index: int, activation: Float[np.ndarray, "pixels units"]) -> None:
        """Add the map of an image."""
        columns, block = self.scenes.columns, self.scenes.block
        self.squares[:, block[columns[index, 0]]] += np.square(activation).sum(0)
        for number, row in enumerate([index, *(other[index] for other in self.others)]):
            _add_by_column(self.sums[number], activation, columns[row])
        inside = activation > self.thresholds
        if inside.any():
            _add_by_column(self.masked, inside.astype(np.float32), columns[index])

    def total(self) -> ActivationSums:
        """Return the sums."""
        sums = np.ascontiguousarray(self.sums.transpose(0, 2, 1))
        return ActivationSums(sums[0], sums[1:], self.squares, sparse.csr_matrix(self.masked.T))


def load_activation_sums(
    dissections: Sequence[Dissection],
    scenes: LabelledScenes,
    target: Target | None = None,
    folder: Path | None = None,
) -> list[ActivationSums]:
    """Compute the sums of several layers in one pass of the target over the scenes, or read those computed before.

    Args:
        dissections: dissected layers of one target on one probe.
        scenes: the scenes.
        target: the network that was dissected; loaded as the dissection says unless given.
        folder: where sums are stored; a folder in the cache unless given.
    """
    home = folder or cache_root() / "diorama"
    keys = [
        content_key(format=FORMAT, dissection=one.key, scenes=scenes.key, count=len(scenes.columns))
        for one in dissections
    ]
    files = [home / f"sums-{key}.npz" for key in keys]
    new = [one for one, file in zip(dissections, files, strict=True) if not file.is_file()]
    for group in _split_by_memory(new, len(scenes.signatures.table)):
        computed = _compute_sums(group, scenes, target or group[0].open_target())
        for one, sums in zip(group, computed, strict=True):
            made_once(files[dissections.index(one)], partial(_write_sums, sums), lambda _: None)

    def compute(one: Dissection, path: Path) -> None:
        _write_sums(_compute_sums([one], scenes, target or one.open_target())[0], path)

    # A file that turns out to be damaged is computed again by itself.
    return [made_once(file, partial(compute, one), _read_sums) for one, file in zip(dissections, files, strict=True)]


def _split_by_memory(dissections: Sequence[Dissection], columns: int) -> list[list[Dissection]]:
    """Return the layers in groups whose sums fit in ``MAX_BYTES`` together."""
    groups: list[list[Dissection]] = []
    left = 0
    for one in dissections:
        size = 4 * (2 + PERMUTATIONS) * columns * len(one.units)
        if size > left:
            groups.append([])
            left = MAX_BYTES
        groups[-1].append(one)
        left -= size
    return groups


def _write_sums(found: ActivationSums, file: Path) -> None:
    masked = found.masked.tocoo()
    with file.open("wb") as stream:
        np.savez_compressed(
            stream, allow_pickle=False, sums=found.sums, permuted=found.permuted, squares=found.squares,
            rows=masked.row, places=masked.col, counts=masked.data,
        )  # fmt: skip


def _read_sums(file: Path) -> ActivationSums:
    with np.load(file, allow_pickle=False) as stored:
        sums = stored["sums"]
        masked = sparse.coo_matrix((stored["counts"], (stored["rows"], stored["places"])), shape=sums.shape)
        return ActivationSums(sums, stored["permuted"], stored["squares"], masked.tocsr())


def _compute_sums(dissections: Sequence[Dissection], scenes: LabelledScenes, target: Target) -> list[ActivationSums]:
    """Add up the dissected units' activation, upsampled to the images' pixels, in one pass for all layers."""
    names = [target.layer(one.layer).name for one in dissections]
    units = [torch.tensor([unit.index for unit in one.units]) for one in dissections]
    size = height_width(scenes.probe.size)

    def upsample(seen: BlockOutputs) -> tuple[list[int], list[np.ndarray]]:
        maps = (seen.maps[name].cpu()[:, chosen].float() for name, chosen in zip(names, units, strict=True))
        large = (interpolate(one, size=size, mode="bilinear", align_corners=False) for one in maps)
        return seen.ids.tolist(), [one.flatten(2).transpose(1, 2).contiguous().numpy() for one in large]

    adders = [_SumsAdder(scenes, one.thresholds().float().numpy()) for one in dissections]
    passes = map_blocks(target, list(dict.fromkeys(names)), scenes.probe.inputs(32), upsample)
    for ids, layers in track_progress(passes, description=f"measuring activations of {', '.join(names)}"):
        for adder, maps in zip(adders, layers, strict=True):
            for index, activation in zip(ids, maps, strict=True):
                adder.add(index, activation)
    return [adder.total() for adder in adders]


def _add_by_column(
    sums: Shaped[np.ndarray, "columns units"],
    values: Float[np.ndarray, "pixels units"],
    columns: Int[np.ndarray, " pixels"],
) -> None:
    found, which = np.unique(columns, return_inverse=True)
    ones = np.ones(len(columns), dtype=np.float32)
    # A sparse product adds whole rows, which is several times as fast as adding pixel by pixel.
    chosen = sparse.csr_matrix((ones, which, np.arange(len(columns) + 1)), shape=(len(columns), len(found)))
    sums[found] += (chosen.T.tocsr() @ values).astype(sums.dtype)


def _permute_halves(count: int, seed: int) -> Int[np.ndarray, " images"]:
    """Return, for each image, another one of its half."""
    rng = np.random.default_rng(seed)
    parts: Sequence[np.ndarray] = np.split(np.arange(count), [count // 2])
    return np.concatenate([part[make_random_cycle(len(part), rng)] for part in parts if len(part)])

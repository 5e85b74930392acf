"""How active each unit of a layer is on the pixels of each label signature, over scenes that no describer has seen.

The correlation of a unit's activation with any formula of concepts, over all pixels, needs only three sums by
signature: of pixels, of activation and of squared activation. They are computed in one pass of the target, for two
disjoint sets of scenes: on the first the best formula is sought, on the second everything is measured.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy import sparse
from torch.nn.functional import interpolate

from milan.console.progress import track_progress
from milan.diorama.label_signatures import LabelSignatures, encode_labels
from milan.diorama.scene_images import JUDGE_LENGTH, PROBE_LENGTH, DioramaImages
from milan.dissection.forward_blocks import BlockOutputs, map_blocks
from milan.dissection.store import Dissection
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
        count = len(thresholds)
        others = [_permute_halves(len(scenes.columns), seed) for seed in range(PERMUTATIONS)]
        shape = (len(scenes.signatures.table), count)
        sums = np.zeros((1 + PERMUTATIONS, *shape), dtype=np.float32)
        masked = np.zeros(shape, dtype=np.int32)
        squares = np.zeros((count, int(scenes.block.max()) + 1))
        for index, activation in maps:
            squares[:, scenes.block[scenes.columns[index, 0]]] += np.square(activation).sum(0)
            for number, row in enumerate([index, *(other[index] for other in others)]):
                _add_by_column(sums[number], activation, scenes.columns[row])
            inside = activation > thresholds
            if inside.any():
                _add_by_column(masked, inside.astype(np.float32), scenes.columns[index])
        sums = np.ascontiguousarray(sums.transpose(0, 2, 1))
        return cls(sums[0], sums[1:], squares, sparse.csr_matrix(masked.T))


def load_activation_sums(
    dissection: Dissection, scenes: LabelledScenes, target: Target | None = None, folder: Path | None = None
) -> ActivationSums:
    """Compute the sums in one pass of the target over the scenes, or read those computed before.

    Args:
        target: the network that was dissected; loaded as the dissection says unless given.
        folder: where sums are stored; a folder in the cache unless given.
    """
    key = content_key(format=FORMAT, dissection=dissection.key, scenes=scenes.key, count=len(scenes.columns))
    file = (folder or cache_root() / "diorama") / f"sums-{key}.npz"

    def compute(path: Path) -> None:
        maps = _iter_maps(dissection, scenes, target or dissection.open_target())
        found = ActivationSums.from_maps(scenes, maps, dissection.thresholds().float().numpy())
        masked = found.masked.tocoo()
        with path.open("wb") as stream:
            np.savez_compressed(
                stream, allow_pickle=False, sums=found.sums, permuted=found.permuted, squares=found.squares,
                rows=masked.row, places=masked.col, counts=masked.data,
            )  # fmt: skip

    def read(path: Path) -> ActivationSums:
        with np.load(path, allow_pickle=False) as stored:
            sums = stored["sums"]
            masked = sparse.coo_matrix((stored["counts"], (stored["rows"], stored["places"])), shape=sums.shape)
            return ActivationSums(sums, stored["permuted"], stored["squares"], masked.tocsr())

    return made_once(file, compute, read)


def _iter_maps(
    dissection: Dissection, scenes: LabelledScenes, target: Target
) -> Iterator[tuple[int, Float[np.ndarray, "pixels units"]]]:
    """Yield each image's index and the dissected units' activation, upsampled to the image's pixels."""
    layer = target.layer(dissection.layer).name
    units = torch.tensor([unit.index for unit in dissection.units])
    size = height_width(scenes.probe.size)

    def upsample(seen: BlockOutputs) -> tuple[list[int], np.ndarray]:
        maps = interpolate(seen.maps[layer].cpu()[:, units].float(), size=size, mode="bilinear", align_corners=False)
        return seen.ids.tolist(), maps.flatten(2).transpose(1, 2).contiguous().numpy()

    passes = map_blocks(target, [layer], scenes.probe.inputs(32), upsample)
    for ids, maps in track_progress(passes, description=f"measuring activations of {layer}"):
        yield from zip(ids, maps, strict=True)


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

"""Activation vectors of a layer in memory-mapped files, for training and for evaluation."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from milan.console.progress import track_progress
from milan.dissection.forward_blocks import BlockOutputs, map_blocks
from milan.errors import BadInput
from milan.probes import Probe
from milan.storage.files import content_key
from milan.storage.integrity import made_once
from milan.targets.layers import Layer
from milan.targets.target import Target

# Values per file (64 MiB), about what an interrupted run computes again at most.
_FILE_VALUES = 2**24
_BATCH = 32

ImageRows = Float[np.ndarray, "images vectors width"]


class ActivationVectors(Dataset):
    """Activation vectors of a layer, read from memory-mapped files.

    Args:
        files: one array for each file.
        key: changes with the vectors.
    """

    def __init__(self, files: Sequence[ImageRows], key: str):
        self.files, self.key = list(files), key
        self._starts = np.cumsum([0, *(file.shape[0] * file.shape[1] for file in self.files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Sequence[int]) -> Float[Tensor, "rows width"]:
        """Return the vectors of some rows, in their order."""
        indices = np.asarray(rows)
        vectors = np.empty((len(indices), self.width), dtype=np.float32)
        which = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(which):
            file, here = self.files[number], which == number
            vectors[here] = file.reshape(-1, self.width)[indices[here] - self._starts[number]]
        return torch.from_numpy(vectors)

    @property
    def width(self) -> int:
        """Number of units of the layer."""
        return self.files[0].shape[2]

    def images(self, most: int) -> ImageRows:
        """Return the vectors of the first images, at most so many."""
        parts: list[np.ndarray] = []
        for file in self.files:
            parts.append(file[: most - sum(map(len, parts))])
        return np.concatenate(parts)

    def moments(self) -> tuple[Float[Tensor, " width"], float]:
        """Return the mean vector, and the root of the mean squared deviation of a value from its unit's mean."""
        sums, squares = np.zeros(self.width), 0.0
        for file in self.files:
            sums += file.sum((0, 1), dtype=np.float64)
        mean = sums / len(self)
        for file in self.files:
            squares += float(np.square(file - mean).sum())
        return torch.tensor(mean, dtype=torch.float32), (squares / (len(self) * self.width)) ** 0.5


def store_activations(
    target: Target, probe: Probe, layer: Layer, first: int, stop: int, *, most: int, seed: int, folder: Path
) -> ActivationVectors:
    """Store activation vectors of a range of images, or read those stored before.

    Class tokens count as a place; register tokens are left out. The files are found by the content of target and probe.

    Args:
        target: the network.
        probe: the images.
        layer: the layer.
        first: index of the first image.
        stop: index after the last image.
        most: largest number of vectors; of more, equally many random ones of each image are stored, at least one.
        seed: random seed of the places.
        folder: where the files are stored.

    Raises:
        BadInput: none of the images can be read, or activations are NaN or infinite.
    """
    places = layer.grid[0] * layer.grid[1] + layer.has_class_token
    count = min(places, max(1, most // (stop - first)))
    step = _BATCH * max(1, _FILE_VALUES // (_BATCH * count * layer.units))
    key = content_key(
        format=1, target=target.fingerprint, probe=probe.fingerprint, layer=layer.name, range=(first, stop),
        vectors=count, seed=seed if count < places else None,
    )  # fmt: skip

    def compute(start: int, path: Path) -> None:
        batches = probe.inputs(_BATCH, start, min(start + step, stop))
        parts = [part for part in map_blocks(target, [layer.name], batches, sample) if len(part)]
        vectors = np.concatenate(parts) if parts else np.zeros((0, count, layer.units), dtype=np.float32)
        if bad := int((~np.isfinite(vectors)).any((1, 2)).sum()):
            raise BadInput(
                f"{layer.name} has activations that are NaN or infinite for {bad} images; choose another layer"
            )
        with path.open("wb") as stream:
            np.save(stream, vectors)

    def sample(outputs: BlockOutputs) -> np.ndarray:
        vectors = outputs.maps[layer.name].flatten(2).transpose(1, 2)
        if layer.has_class_token:
            vectors = torch.cat([outputs.class_tokens[layer.name][:, None], vectors], 1)
        chosen = [np.sort(np.random.default_rng([seed, int(id)]).permutation(places)[:count]) for id in outputs.ids]
        return np.stack([each[rows] for each, rows in zip(vectors.float().cpu().numpy(), chosen, strict=True)])

    files = []
    starts = range(first, stop, step)
    for start in track_progress(starts, description=f"storing activations of {layer.name}, {step} images at a time"):
        file = folder / key / f"{start:09}.npy"
        files.append(made_once(file, partial(compute, start), partial(np.load, mmap_mode="r")))
    if not any(map(len, files)):
        raise BadInput(f"none of the images {first} to {stop - 1} of {probe.spec} can be read; choose another probe")
    return ActivationVectors([file for file in files if len(file)], key)

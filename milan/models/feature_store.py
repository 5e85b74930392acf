"""The encoder's features of dissected units, computed once and cached on disk."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.loading import load_dissection
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.models.annotated_units import AnnotatedUnit
from milan.models.encoder import Encoder
from milan.storage.files import cache_folder, content_key
from milan.storage.integrity import made_once
from milan.units import Unit


class FeatureStore:
    """Features of annotated units, memory-mapped from files in the cache folder.

    Args:
        encoder: the frozen encoder that computes the features.
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self._features: dict[Path, np.ndarray] = {}
        self._dissections: dict[Path, Dissection] = {}

    def dissection(self, layer: Path) -> Dissection:
        """Return the dissection in a layer's folder; it is read once.

        Raises:
            BadInput: ``layer`` is a csv file, which has annotations but no images.
        """
        if layer.is_file():
            raise BadInput(
                f"{layer} holds texts alone, which train a prior but no captioner; give folders with images and masks"
            )
        if layer not in self._dissections:
            self._dissections[layer] = load_dissection(layer)
        return self._dissections[layer]

    def compute_features(self, layer: Path) -> None:
        """Compute the features of a layer's units, unless they are cached."""
        if layer not in self._features:
            self._features[layer] = np.load(cache_features(self.dissection(layer), self.encoder), mmap_mode="r")

    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k features"]:
        """Return the features of each unit's k exemplars.

        Raises:
            BadInput: the units have different numbers of exemplars.
        """
        for layer in dict.fromkeys(one.source for one in units):
            self.compute_features(layer)
        rows = [self._features[one.source][self.dissection(one.source).row_of(one.unit)] for one in units]
        counts = sorted({len(row) for row in rows})
        if len(counts) > 1:
            raise BadInput(
                f"units with {counts[0]} and with {counts[-1]} exemplars cannot be in one batch; dissect all with one k"
            )
        return torch.from_numpy(np.stack(rows))


def cache_features(dissection: Dissection, encoder: Encoder) -> Path:
    """Return the file of the features of a dissection's units, (units, k, features); compute it if it is not cached.

    The file is found by the content of the dissection and of the encoder, never by its path alone.
    """
    key = content_key(dissection=dissection.key, encoder=encoder.key, units=[str(unit) for unit in dissection.units])
    file = cache_folder() / "features" / f"{key}.npy"

    def compute(path: Path) -> None:
        units = track_progress(dissection.units, description=f"features of {dissection.layer}")
        np.save(path, np.stack([_encode_exemplars(dissection, unit, encoder) for unit in units]))

    made_once(file, compute, partial(np.load, mmap_mode="r"))
    return file


def _encode_exemplars(dissection: Dissection, unit: Unit, encoder: Encoder) -> np.ndarray:
    exemplars = dissection.exemplars(unit)
    return encoder.encode(exemplars.images, exemplars.masks).numpy()

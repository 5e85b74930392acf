"""The encoder's features of dissected units, computed once and cached on disk."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.errors import BadInput
from milan.models.annotated_units import AnnotatedUnit
from milan.models.encoder import Encoder
from milan.models.exemplar_features import encode_exemplars
from milan.storage.files import cache_folder, content_key, new_array
from milan.storage.integrity import made_once

FEATURES_VERSION = 2  # increased when the computation changes


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

    def compute_features(self, layers: Iterable[Path]) -> None:
        """Compute the features of the units of some layers, unless they are cached; each image is encoded once."""
        new = [layer for layer in dict.fromkeys(layers) if layer not in self._features]
        files = cache_features([self.dissection(layer) for layer in new], self.encoder)
        self._features |= {layer: np.load(file, mmap_mode="r") for layer, file in zip(new, files, strict=True)}

    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k features"]:
        """Return the features of each unit's k exemplars.

        Raises:
            BadInput: the units have different numbers of exemplars.
        """
        self.compute_features(one.source for one in units)
        rows = [self._features[one.source][self.dissection(one.source).row_of(one.unit)] for one in units]
        counts = sorted({len(row) for row in rows})
        if len(counts) > 1:
            raise BadInput(
                f"units with {counts[0]} and with {counts[-1]} exemplars cannot be in one batch; dissect all with one k"
            )
        return torch.from_numpy(np.stack(rows))


def cache_features(dissections: Sequence[Dissection], encoder: Encoder) -> list[Path]:
    """Return the file of the features of each dissection's units, (units, k, features); compute what is not cached.

    Files are found by the content of the dissection and of the encoder, never by the path alone.
    """
    files = [_locate_features(dissection, encoder) for dissection in dissections]
    missing = [(one, file) for one, file in zip(dissections, files, strict=True) if not _is_readable(file)]
    features = encode_exemplars(encoder, [(dissection, dissection.units) for dissection, _ in missing])
    for (_, file), of_layer in zip(missing, features, strict=True):
        made_once(file, partial(_save, of_layer), partial(np.load, mmap_mode="r"))
    return files


def _locate_features(dissection: Dissection, encoder: Encoder) -> Path:
    units = [str(unit) for unit in dissection.units]
    key = content_key(dissection=dissection.key, encoder=encoder.key, units=units, version=FEATURES_VERSION)
    return cache_folder() / "features" / f"{key}.npy"


def _is_readable(file: Path) -> bool:
    try:
        np.load(file, mmap_mode="r")
    # Numpy raises different errors for a truncated file.
    except Exception:
        return False
    return True


def _save(features: Sequence[Float[np.ndarray, "k features"]], file: Path) -> None:
    """Write features to a file, unit after unit, so that they are not all in memory."""
    array = new_array(file, np.float32, (len(features), *features[0].shape))
    for row, of_unit in enumerate(features):
        array[row] = of_unit
    array.flush()

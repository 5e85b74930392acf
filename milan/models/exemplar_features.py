"""Features of exemplars: each distinct image is encoded once, for all units and layers that it is an exemplar of."""

import os
import tempfile
from collections.abc import Hashable, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.dissection import Dissection
from milan.models.encoder import Encoder, MaskedImage
from milan.storage.files import cache_folder
from milan.units import Unit

# The units of a layer whose exemplars are encoded.
EncodingRequest = tuple[Dissection, Sequence[Unit]]


def encode_exemplars(
    encoder: Encoder, requests: Sequence[EncodingRequest]
) -> list[list[Float[np.ndarray, "_ features"]]]:
    """Return the features of the exemplars of each request's units.

    Exemplars are taken in the order of their images, so that the network runs once on each distinct image and the maps
    of a few images are in memory at a time. The features are in a temporary file that is mapped into memory.
    """
    exemplars = _Exemplars(requests)
    features = _new_temporary_array((len(exemplars.images), encoder.feature_length))
    for size in dict.fromkeys(dissection.image_size for dissection, _ in requests):
        groups = exemplars.groups_by_image([dissection.image_size == size for dissection, _ in requests])
        encoded = encoder.encode_regions(map(exemplars.load_image, groups))
        done = track_progress(encoded, total=len(groups), description="encoding images")
        for places, rows in zip(groups, done, strict=True):
            features[places] = rows.numpy()
    parts = iter(np.split(features, exemplars.ends[:-1]) if len(exemplars.ends) else ())
    return [[next(parts) for _ in units] for _, units in requests]


class _Exemplars:
    """The exemplars of all requests as one sequence, by request, unit and rank.

    Attributes:
        images: number of each exemplar's image; exemplars with equal pixels have the same number.
        request, unit, rank: where each exemplar belongs, as positions in the requests and their units.
        ends: for each unit, the position after its last exemplar.
    """

    def __init__(self, requests: Sequence[EncodingRequest]):
        self.requests = requests
        numbers: dict[Hashable, int] = {}
        keys = [
            [[numbers.setdefault(key, len(numbers)) for key in dissection.image_keys(unit)] for unit in units]
            for dissection, units in requests
        ]
        lengths = np.array([len(of_unit) for of_layer in keys for of_unit in of_layer], dtype=np.int64)
        units = np.concatenate([np.arange(len(of_layer)) for of_layer in keys]) if keys else np.arange(0)
        self.images = np.array([key for of_layer in keys for of_unit in of_layer for key in of_unit], dtype=np.int64)
        self.request = np.repeat(np.repeat(np.arange(len(keys)), [len(of_layer) for of_layer in keys]), lengths)
        self.unit, self.ends = np.repeat(units, lengths), np.cumsum(lengths)
        self.rank = np.arange(len(self.images)) - np.repeat(self.ends - lengths, lengths)

    def groups_by_image(self, chosen: Sequence[bool]) -> list[Int[np.ndarray, " _"]]:
        """Return the positions of the exemplars with the same image, for each image of the chosen requests."""
        places = np.flatnonzero(np.array(chosen)[self.request])
        places = places[np.argsort(self.images[places], kind="stable")]
        return np.split(places, np.flatnonzero(np.diff(self.images[places])) + 1) if len(places) else []

    def load_image(self, places: Int[np.ndarray, " places"]) -> MaskedImage:
        """Return the image that some exemplars share, and their masks."""
        dissection, unit, rank = self.locate(int(places[0]))
        return dissection.exemplar_image(unit, rank), _LazyMasks(self, places)

    def locate(self, place: int) -> tuple[Dissection, Unit, int]:
        """Return the dissection, the unit and the rank of an exemplar."""
        dissection, units = self.requests[self.request[place]]
        return dissection, units[self.unit[place]], int(self.rank[place])


class _LazyMasks:
    """Masks of some exemplars, loaded when they are needed: an image can be an exemplar of thousands of units."""

    def __init__(self, exemplars: _Exemplars, places: Int[np.ndarray, " places"]):
        self.exemplars, self.places = exemplars, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: slice) -> Bool[Tensor, "n 1 height width"]:
        located = map(self.exemplars.locate, self.places[chosen].tolist())
        runs = groupby(located, key=itemgetter(0))
        return torch.cat(
            [dissection.exemplar_masks([(unit, rank) for _, unit, rank in run]) for dissection, run in runs]
        )


def _new_temporary_array(shape: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """Return an array in a temporary file, which is deleted when the array is no longer used."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not shape[0]:
        return np.empty(shape, np.float32)
    # Closed, and with it deleted, when the array is.
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    file.truncate(4 * shape[0] * shape[1])
    # Without the allocation, a full disk would kill the process by a signal when a page of the map is written.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
    return np.memmap(file, np.float32, "r+", shape=shape)

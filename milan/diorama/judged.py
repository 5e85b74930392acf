"""What pictures of Diorama show that it did not draw itself, such as a generator's: as the labeller judges it, not as it is known."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from milan.diorama.census import KINDS, SIZES, Census
from milan.diorama.labeller import Labeller, first_label, load_labeller
from milan.diorama.training import prepared
from milan.storage import content_key


@torch.no_grad()
def judged_codes(labeller: Labeller, images: UInt8[Tensor, "b 3 h w"]) -> Int64[np.ndarray, "b h w"]:
    """Each pixel's labels of all kinds as one number, as ``milan.diorama.census.codes`` gives them for scenes."""
    found = labeller(prepared(images))
    return np.ravel_multi_index([(found[kind].argmax(1) + first_label(kind)).numpy() for kind in KINDS], SIZES)


def judged_census(batches: Iterable[Tensor], key: str, folder: Path) -> Census:
    """What pictures show, judged by the labeller of the package; kept in ``folder`` by ``key``, which stands for the pictures.

    batches: uint8 (b, 3, h, w).

    Raises:
        MissingEvidence: the labeller was not built.
    """
    labeller = load_labeller()
    digest = hashlib.sha256()
    for value in labeller.state_dict().values():
        digest.update(value.numpy().tobytes())
    home = folder / f"judged-{content_key(pictures=key, labeller=digest.hexdigest())}"
    return Census.kept(home, lambda: np.concatenate([judged_codes(labeller, images) for images in batches]))

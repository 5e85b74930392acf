"""What pictures of Diorama show that it did not draw itself, such as a generator's: as the labeller judges it, not as
it is known.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from milan.diorama.label_signatures import KIND_SIZES, KINDS, LabelSignatures
from milan.diorama.networks import normalize_images
from milan.diorama.segmenter_network import SceneSegmenter, get_first_label, load_scene_segmenter
from milan.storage.files import content_key


@torch.no_grad()
def predict_label_codes(segmenter: SceneSegmenter, images: UInt8[Tensor, "b 3 h w"]) -> Int64[np.ndarray, "b h w"]:
    """Each pixel's labels of all kinds as one number, as ``milan.diorama.label_signatures.encode_labels`` gives them
    for scenes.
    """
    found = segmenter(normalize_images(images))
    return np.ravel_multi_index([(found[kind].argmax(1) + get_first_label(kind)).numpy() for kind in KINDS], KIND_SIZES)


def predict_label_signatures(batches: Iterable[Tensor], key: str, folder: Path) -> LabelSignatures:
    """What pictures show, judged by the labeller of the package; kept in ``folder`` by ``key``, which stands for the
    pictures.

    batches: uint8 (b, 3, h, w).

    Raises:
        MissingEvidence: the labeller was not built.
    """
    segmenter = load_scene_segmenter()
    digest = hashlib.sha256()
    for value in segmenter.state_dict().values():
        digest.update(value.numpy().tobytes())
    home = folder / f"judged-{content_key(pictures=key, labeller=digest.hexdigest())}"
    return LabelSignatures.kept(
        home, lambda: np.concatenate([predict_label_codes(segmenter, images) for images in batches])
    )

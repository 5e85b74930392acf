"""Labels of images that Diorama did not render, such as a generator's, predicted by the embedded segmenter."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from milan.diorama.label_signatures import KIND_SIZES, KINDS, LabelSignatures
from milan.diorama.scene_classifiers import normalize_images
from milan.diorama.segmenter_network import SceneSegmenter, get_first_label, load_scene_segmenter
from milan.storage.files import content_key


@torch.no_grad()
def predict_label_codes(segmenter: SceneSegmenter, images: UInt8[Tensor, "b 3 h w"]) -> Int64[np.ndarray, "b h w"]:
    """Return each pixel's predicted labels of all kinds as one number, as ``label_signatures.encode_labels`` does for
    scenes.
    """
    logits = segmenter(normalize_images(images))
    return np.ravel_multi_index(
        [(logits[kind].argmax(1) + get_first_label(kind)).numpy() for kind in KINDS], KIND_SIZES
    )


def predict_label_signatures(batches: Iterable[Tensor], key: str, folder: Path) -> LabelSignatures:
    """Return the signatures predicted for images; stored in ``folder`` under ``key``, which identifies the images.

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

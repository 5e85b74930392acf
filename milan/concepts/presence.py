"""Which image of a probe shows which concept: by labels, or by the calibrated probabilities of an image-text model.

With it a description becomes a prediction of activations (Oikarinen & Weng 2024, sections 3.1 and 4).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.errors import BadInput, MilanError
from milan.pretrained.embedder import embed_probe, embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.probes import Probe, superclasses
from milan.probes import pixel_labels as labels
from milan.storage.files import cache_folder, new_scratch_array

MIN_PIXEL_SHARE = 0.01  # share of an image's pixels that a concept needs to count as shown
BATCH_SIZE = 64  # images whose pixel labels are in memory at a time
ROWS_PER_BLOCK = 1024  # images whose probabilities are computed at a time
# a and b of P = sigmoid(a * (cosine + b)) as published for the paper's explainer and simulators (the released code's
# utils.py, l. 7-10).
PUBLISHED_CALIBRATIONS = {
    ("so400m", "14", "384"): (58.0, -0.13),
    ("siglip", "l", "16", "384"): (60.0, -0.09),
    ("siglip", "large", "16", "384"): (60.0, -0.09),
    ("l", "14", "336"): (58.0, -0.25),
    ("large", "14", "336"): (58.0, -0.25),
}


@dataclass(frozen=True)
class Presence:
    """Probability that each image shows each concept, 0..1; NaN for unreadable images and those of unknown class.

    A large matrix is mapped from a file, and is best read some rows or columns at a time.
    """

    names: list[str]
    matrix: Float[Tensor, "images concepts"]

    def find_known_images(self) -> Bool[Tensor, " images"]:
        """Return for which images all probabilities are known."""
        return torch.cat([rows.isfinite().all(1) for rows in self.matrix.split(ROWS_PER_BLOCK)])


@dataclass(frozen=True)
class Calibration:
    """Maps cosines to probabilities: sigmoid(scale * (cosine + offset))."""

    scale: float  # a of equation 5
    offset: float  # b


def presence_from_labels(probe: Probe, superclass_file: str = "", synsets: str = "") -> Presence:
    """Return which image shows which concept by the probe's pixel labels, or without these by its class labels."""
    if has_pixel_labels(probe):
        return presence_from_pixels(probe)
    return presence_from_classes(probe, superclass_file, synsets)


def has_pixel_labels(probe: Probe) -> bool:
    """Return whether it is known what each pixel of a probe shows."""
    with suppress(MilanError):
        labels.load_probe_labels(probe)
        return True
    return False


def presence_from_pixels(probe: Probe) -> Presence:
    """Return which image shows which concept in at least 1% of its pixels, by the probe's pixel labels."""
    pixel_labels = labels.load_probe_labels(probe)
    matrix = torch.zeros(len(probe), len(pixel_labels.concepts))
    for start in range(0, len(probe), BATCH_SIZE):
        ids = list(range(start, min(start + BATCH_SIZE, len(probe))))
        loaded = pixel_labels.load(ids).flatten(2)  # b levels pixels
        counts = torch.zeros(len(ids), len(pixel_labels.concepts) + 1)
        for level in loaded.unbind(1):  # pixels of both levels count for a concept that two levels share
            counts.scatter_add_(1, level.long() + 1, torch.ones_like(level, dtype=torch.float32))
        matrix[start : start + len(ids)] = (counts[:, 1:] >= MIN_PIXEL_SHARE * loaded.shape[2]).float()
    return Presence(list(pixel_labels.concepts), matrix)


def presence_from_classes(probe: Probe, superclass_file: str = "", synsets: str = "") -> Presence:
    """Return which image is of which class or superclass.

    ``superclass_file`` and ``synsets`` are those of ``milan.probes.superclasses.load_class_concepts``.
    """
    class_concepts = superclasses.load_class_concepts(probe, superclass_file, synsets)
    return Presence(class_concepts.names, torch.from_numpy(class_concepts.presence_matrix(probe.labels or [])))


def presence_from_embedder(
    embedder: Embedder, probe: Probe, names: Sequence[str], calibration: Calibration
) -> Presence:
    """Return the probabilities of an image-text model; embeddings of images and texts are cached."""
    images, texts = embed_probe(embedder, probe), embed_texts(embedder, names)
    matrix = torch.from_numpy(new_scratch_array(cache_folder(), np.float32, (len(images), len(names))))
    for part, rows in zip(images.split(ROWS_PER_BLOCK), matrix.split(ROWS_PER_BLOCK), strict=True):
        rows.copy_((part @ texts.T).add_(calibration.offset).mul_(calibration.scale).sigmoid_())
    return Presence(list(names), matrix)


def calibrate(
    embedder: Embedder,
    spec: str,
    method: str,
    probe: Probe,
    load_labels: Callable[[], Presence],
    rows: Int[Tensor, " images"],
) -> Calibration:
    """Return the calibration that ``method`` names.

    Args:
        spec: spec of the image-text model.
        method: "A,B"; ``model`` (its own scale and bias); ``labels`` (fitted); empty: as published for the model, else
            fitted.
        load_labels: returns what the images show, for a fitted calibration.
        rows: indices of the images that it may be fitted on.

    Raises:
        BadInput: the model has no scale and bias of its own, or ``method`` is none of these.
    """
    if method in ("", "labels"):
        published = None if method else find_published_calibration(spec)
        return Calibration(*published) if published else _fit_on_labels(embedder, probe, load_labels(), rows)
    if method == "model":
        if embedder.scale is None or embedder.bias is None:
            raise BadInput(
                f"{spec} has no scale and bias of its own (a SigLIP has); take calibration='labels' or 'A,B'"
            )
        return Calibration(embedder.scale, embedder.bias / embedder.scale)
    try:
        scale, offset = map(float, method.split(","))
    except ValueError:
        raise BadInput(f"not a calibration: {method!r}; write A,B as in 60,-0.09, or model, or labels") from None
    return Calibration(scale, offset)


def _fit_on_labels(embedder: Embedder, probe: Probe, labels: Presence, rows: Int[Tensor, " images"]) -> Calibration:
    images = embed_probe(embedder, probe)
    labelled_rows = rows[torch.as_tensor(images[rows]).isfinite().all(1) & labels.matrix[rows].isfinite().all(1)]
    return Calibration(
        *fit_calibration(
            torch.as_tensor(images[labelled_rows]) @ embed_texts(embedder, labels.names).T, labels.matrix[labelled_rows]
        )
    )


def find_published_calibration(spec: str) -> tuple[float, float] | None:
    """Return a and b as published for an image-text model, or None.

    >>> find_published_calibration("open_clip:ViT-L-16-SigLIP-384/webli")
    (60.0, -0.09)
    >>> find_published_calibration("hf:openai/clip-vit-large-patch14-336")
    (58.0, -0.25)
    """
    words = spec.lower().replace("patch", "").replace("/", "-").replace(":", "-").split("-")
    return next(
        (calibration for name_words, calibration in PUBLISHED_CALIBRATIONS.items() if set(name_words) <= set(words)),
        None,
    )


def fit_calibration(
    cosines: Float[Tensor, "images concepts"], present: Float[Tensor, "images concepts"], steps: int = 100
) -> tuple[float, float]:
    """Return a and b of sigmoid(a * (cosine + b)) that minimize the cross-entropy on labels (equation 5).

    Newton's method is used.

    Raises:
        BadInput: similarities do not rise with the labels.
    """
    x, y = cosines.double().flatten(), present.double().flatten()
    middle, spread = x.mean(), x.std().clamp(min=1e-12)
    design = torch.stack([(x - middle) / spread, torch.ones_like(x)])
    parameters = torch.zeros(2, dtype=torch.float64)
    for _ in range(steps):
        guess = (parameters @ design).sigmoid()
        curve = (design * (guess * (1 - guess))) @ design.T + 1e-6 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curve, design @ (y - guess) - 1e-6 * parameters)
        parameters = parameters + step / max(1.0, float(step.norm()) / 2)
        if step.norm() < 1e-9:
            break
    scale = float(parameters[0] / spread)
    if scale <= 0:
        raise BadInput(
            "the image-text model's similarities do not rise with the labels; give calibration=A,B, or take another"
            " model"
        )
    return scale, float(parameters[1] / scale - middle)

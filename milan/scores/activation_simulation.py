"""Simulation (Oikarinen & Weng 2024, section 4): whether a description predicts a unit's activation on held-out images.

A simulator tells how likely each image shows a text. A description with weights predicts their sum, one without the
text alone. The simulator should be of another family than what explained, or both may share a misunderstanding:
``find_shared_source`` tells.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse

from milan.concepts import presence
from milan.concepts.label_texts import evaluate_label_text, split_alternatives
from milan.concepts.presence import Presence
from milan.diorama.text_reader import parse_description
from milan.errors import MissingEvidence
from milan.pretrained.embedder import embed_probe, embed_texts, load_embedder
from milan.probes import Probe
from milan.probes.pixel_labels import DioramaLabels, shows_diorama
from milan.scores.prediction_metrics import METRICS, PredictionComparison
from milan.targets.preprocessing import pixel_count
from milan.units import Description

LABEL_SIMULATOR = "labels"  # the simulator that uses the labels of the evaluated images
DIORAMA_SIMULATOR = "diorama:siglip-large"  # the one that looks at Diorama's
TRUSTED_METRICS = (
    "correlation",
    "cosine",
    "auprc",
    "f1",
    "iou",
)  # those that pass the exam, see milan.scores.sanity_checks
BANDS = ((0.0, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.0))  # of the images, from each unit's weakest to its strongest
BLOCK_LENGTH = 32  # units scored at a time: their predictions fit into a processor's cache
MAX_VALUES = 2**28  # of texts times images that are: 1 GB


class Simulator(ABC):
    """Predicts how likely each image of a probe shows a text."""

    def __init__(self, spec: str, probe: Probe):
        self.spec, self.probe = spec, probe

    @abstractmethod
    def predict_presence(self, texts: Sequence[str]) -> Presence:
        """Return how likely each image shows each text."""

    def prepare_texts(self, texts: Sequence[str]) -> None:  # noqa: B027 - what knows has nothing to encode
        """Encode texts in advance, so that ``predict_presence`` finds them in the cache."""


class EmbedderSimulator(Simulator):
    """An image-text model, calibrated on the labels of other images, as in the paper."""

    def __init__(
        self,
        spec: str,
        probe: Probe,
        fitting_probe: Probe,
        calibration: str = "",
        device: str = "cpu",
        class_files: tuple[str, str] = ("", ""),
    ):
        super().__init__(spec, probe)
        self.learnt, self.asked, self.groups = fitting_probe, calibration, class_files
        self.embedder = load_embedder(spec, device=device)

    @cached_property
    def calibration(self) -> presence.Calibration:
        """The map from cosines to probabilities, fitted on other images than the evaluated ones."""
        rows = torch.arange(len(self.learnt))
        return presence.calibrate(
            self.embedder,
            self.spec,
            self.asked,
            self.learnt,
            lambda: presence.presence_from_labels(self.learnt, *self.groups),
            rows,
        )

    def predict_presence(self, texts: Sequence[str]) -> Presence:
        """Return the calibrated probabilities that images show texts; of alternatives ("a or b") the largest.

        Image-text models do not understand "or".
        """
        alternatives = [split_alternatives(text) for text in texts]
        names = list(dict.fromkeys(chain.from_iterable(alternatives)))
        found = presence.presence_from_embedder(self.embedder, self.probe, names, self.calibration)
        if names == list(texts):
            return found
        columns = {name: column for column, name in enumerate(names)}
        matrix = [found.matrix[:, [columns[name] for name in each]].amax(1) for each in alternatives]
        return Presence(list(texts), torch.stack(matrix, dim=1))

    def prepare_texts(self, texts: Sequence[str]) -> None:
        """Fit the calibration and cache the vectors of images and texts."""
        _ = self.calibration
        embed_probe(self.embedder, self.probe)
        embed_texts(self.embedder, list(chain.from_iterable(map(split_alternatives, texts))))


class ClassSimulator(Simulator):
    """The classes and superclasses of the evaluated images: 1 if a text is the name of one, ignoring case, else 0.

    Formulas and weighted sums of names are read, see ``milan.concepts.label_texts``.
    """

    def __init__(self, probe: Probe, class_files: tuple[str, str] = ("", "")):
        super().__init__(LABEL_SIMULATOR, probe)
        self.labels = presence.presence_from_classes(probe, *class_files)
        self._columns = {name.lower(): column for column, name in enumerate(self.labels.names)}

    def predict_presence(self, texts: Sequence[str]) -> Presence:
        """Return 1 where a text names the image's class or superclass, else 0; NaN for images without a label."""
        values = [evaluate_label_text(text.lower(), self._find, len(self.probe)) for text in texts]
        found = torch.from_numpy(np.stack(values, axis=1)).float()
        found[self.labels.matrix.isnan().any(1)] = torch.nan
        return Presence(list(texts), found)

    def _find(self, name: str) -> Bool[np.ndarray, " images"] | None:
        column = self._columns.get(name)
        return None if column is None else (self.labels.matrix[:, column] == 1).numpy()


class PixelSimulator(Simulator):
    """Diorama's pixel labels: 1 if at least a hundredth of an image's pixels are denoted by a text, else 0."""

    def __init__(self, probe: Probe):
        super().__init__(LABEL_SIMULATOR, probe)

    @cached_property
    def _counts(self) -> tuple[Any, sparse.csr_matrix]:
        """The signatures of the probe's labels, and how many pixels of each signature each image has."""
        signatures = DioramaLabels(self.probe).signatures
        pixels = np.asarray(signatures.pixels).reshape(len(self.probe), -1)
        images = np.repeat(np.arange(len(pixels)), pixels.shape[1])
        ones = np.ones(pixels.size, dtype=np.int32)
        return (
            signatures,
            sparse.coo_matrix((ones, (images, pixels.ravel())), shape=(len(pixels), len(signatures.table))).tocsr(),
        )

    def predict_presence(self, texts: Sequence[str]) -> Presence:
        """Return 1 where a text denotes at least a hundredth of an image's pixels, else 0."""
        signatures, counts = self._counts
        meant = np.stack([signatures.text_mask(parse_description(text)) for text in texts], axis=1).astype(np.int32)
        shown = counts @ meant >= presence.MIN_PIXEL_SHARE * pixel_count(self.probe.size)
        return Presence(list(texts), torch.from_numpy(shown.astype(np.float32)))


def load_simulator(
    spec: str,
    probe: Probe,
    fitting_probe: Probe,
    calibration: str = "",
    superclasses: str = "",
    synsets: str = "",
    device: str = "cpu",
) -> Simulator:
    """Return a simulator for the images of ``probe``.

    Args:
        spec: ``labels`` (the labels of the evaluated images) or an image-text model, as ``load_embedder`` takes
            it.
        fitting_probe: the images that a calibration may be fitted on.
        calibration: as ``milan.concepts.presence.calibrate`` takes it.
        superclasses: FILE, and ``synsets``, as ``milan.probes.superclasses.load_class_concepts`` takes them.

    Raises:
        MissingEvidence: there are no labels.
        UnknownName, BadInput: there is no such model.
    """
    if spec != LABEL_SIMULATOR:
        return EmbedderSimulator(spec, probe, fitting_probe, calibration, device, (superclasses, synsets))
    if probe.spec.startswith("latents:"):
        raise MissingEvidence(
            "nobody knows what a generator's pictures show: take an image-text model as the simulator"
        )
    return PixelSimulator(probe) if shows_diorama(probe.spec) else ClassSimulator(probe, (superclasses, synsets))


def choose_simulator(probe: str) -> str:
    """Return the default simulator of a probe: Diorama's larger SigLIP for Diorama, labels for all others.

    >>> choose_simulator("diorama:objects"), choose_simulator("photos/val.parquet")
    ('diorama:siglip-large', 'labels')
    """
    return DIORAMA_SIMULATOR if shows_diorama(probe) else LABEL_SIMULATOR


def find_shared_source(simulator: str, explainer: Any) -> str:
    """Return why a simulator may share errors with an explainer; an empty text if it does not.

    >>> find_shared_source("diorama:siglip-large", {"embedder": "diorama:siglip-small"})
    'both see through a SigLIP'
    >>> find_shared_source("labels", {"evidence": "pixels"})
    'both read labels'
    """
    seen = str(explainer.get("embedder") or "")
    if simulator == LABEL_SIMULATOR:
        by_labels = {"pixels", "labels", "auto"} & {explainer.get("evidence")} or explainer.get("labels") == "probe"
        return "both read labels" if by_labels else ""
    uses = seen and explainer.get("evidence") in (None, "embedder")
    return f"both see through a {_find_family(seen)}" if uses and _find_family(seen) == _find_family(simulator) else ""


def _find_family(spec: str) -> str:
    return "SigLIP" if "siglip" in spec.lower() else "CLIP"


@dataclass(frozen=True)
class TextPresence:
    """How likely each image shows each of some texts."""

    rows: Mapping[str, int]
    matrix: Float[np.ndarray, "texts images"]

    @classmethod
    def from_descriptions(cls, descriptions: Sequence[Description], simulator: Simulator) -> "TextPresence":
        """Predict all texts and concepts of the descriptions; each distinct text is predicted once."""
        texts = list(dict.fromkeys(text for each in descriptions for text, _ in _weighted_texts(each)))
        return cls(
            {text: row for row, text in enumerate(texts)},
            np.ascontiguousarray(simulator.predict_presence(texts).matrix.numpy().T),
        )


def predict_activations(
    descriptions: Sequence[Description], simulator: Simulator, presence: TextPresence | None = None
) -> tuple[Float[np.ndarray, "descriptions images"], Float[np.ndarray, " descriptions"]]:
    """Return the descriptions' predictions on the simulator's images, and the midpoint of each one's range.

    All descriptions are predicted in one product.

    Args:
        presence: what the simulator tells of their texts, and maybe of others, where that is known already.
    """
    presence = presence or TextPresence.from_descriptions(descriptions, simulator)
    entries = [
        (row, presence.rows[text], weight)
        for row, each in enumerate(descriptions)
        for text, weight in _weighted_texts(each)
    ]
    rows, places, weights = (np.array(part) for part in zip(*entries, strict=True))
    size = (len(descriptions), len(presence.rows))
    matrix = sparse.coo_matrix(
        (weights.astype(np.float32), (rows, places)), shape=size
    ).tocsr()  # in single precision, as what is shown
    bias = np.array([description.bias for description in descriptions])
    middle = bias + np.asarray(matrix.sum(1)).ravel() / 2  # halfway from all that lowers it shown to all that raises it
    return np.asarray(matrix @ presence.matrix) + bias[:, None], middle


def _weighted_texts(description: Description) -> tuple[tuple[str, float], ...]:
    return description.concepts or ((description.text, 1.0),)


@dataclass(frozen=True)
class SimulationScores:
    """How well each description predicts its unit, in the order of descriptions; NaN where a metric is undefined."""

    scores: dict[str, Float[np.ndarray, " descriptions"]]
    bands: Float[np.ndarray, "descriptions bands"]  # mean prediction in each of BANDS, in standard deviations of it


def simulate(
    activation: Float[np.ndarray, "images descriptions"],
    descriptions: Sequence[Description],
    simulator: Simulator,
    metrics: Sequence[str] = TRUSTED_METRICS,
) -> SimulationScores:
    """Score descriptions of units by what they predict.

    Args:
        activation: of each description's unit on the simulator's images; rows that are not finite throughout are left
            out.
        metrics: names of ``milan.scores.prediction_metrics.METRICS``.
    """
    scores: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    bands: list[np.ndarray] = []
    texts = {text for each in descriptions for text, _ in _weighted_texts(each)}
    shown = (
        TextPresence.from_descriptions(descriptions, simulator)
        if len(texts) * len(simulator.probe) <= MAX_VALUES
        else None
    )
    for start in range(0, len(descriptions), BLOCK_LENGTH):
        guess, middle = predict_activations(descriptions[start : start + BLOCK_LENGTH], simulator, shown)
        true = activation[:, start : start + BLOCK_LENGTH]
        good = np.isfinite(true).all(1) & np.isfinite(guess).all(0)
        compared = PredictionComparison.from_activations(np.ascontiguousarray(true[good].T), guess[:, good], middle)
        for name in metrics:
            scores[name].append(METRICS[name].compute(compared))
        bands.append(_mean_by_band(compared))
    return SimulationScores({name: np.concatenate(each) for name, each in scores.items()}, np.concatenate(bands))


def _mean_by_band(compared: PredictionComparison) -> Float[np.ndarray, "units bands"]:
    """Return the mean prediction in each band of activation, in standard deviations; ties at an edge are counted in
    part.
    """
    spread = compared.predicted.std(1)
    middle = compared.predicted.mean(1)
    images = compared.activation.shape[1]
    starts = [min(round(low * images), images - 1) for low, _ in BANDS]
    ends = [max(round(high * images), start + 1) for (_, high), start in zip(BANDS, starts, strict=True)]
    edges = sorted({*starts, *ends})
    found = np.full((len(spread), len(BANDS)), np.nan)
    for row in np.flatnonzero(spread >= 1e-12):
        sums = _cumulate(compared.activation[row], compared.predicted[row], edges)
        means = [(sums[end] - sums[start]) / (end - start) for start, end in zip(starts, ends, strict=True)]
        found[row] = (np.array(means) - middle[row]) / spread[row]
    return found


def _cumulate(
    activation: Float[np.ndarray, " images"], values: Float[np.ndarray, " images"], counts: Sequence[int]
) -> dict[int, float]:
    """Return the sum of values over the images with the lowest activation, for several counts; ties count in equal
    parts.
    """
    found = {0: 0.0, len(values): float(values.sum())}
    inner = sorted(set(counts) - set(found))
    ranked = np.partition(activation, inner)
    for count in inner:
        below, at = activation < ranked[count], activation == ranked[count]
        found[count] = float(values @ below + (count - below.sum()) * values[at].mean())
    return found

"""How well texts predict the activations of a layer's units on held-out images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse

from milan.concepts.label_texts import evaluate_label_text
from milan.concepts.presence import has_pixel_labels
from milan.diorama.label_signatures import KINDS, LabelSignatures
from milan.diorama.scene_concepts import ALL_KINDS
from milan.diorama.segmenter_network import format_label_name
from milan.diorama.text_reader import parse_description
from milan.dissection.dissect import dissect
from milan.dissection.dissection import ActivationPooling, Dissection
from milan.pretrained.embedder import embed_probe, embed_texts
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.segmenter import Segmenter
from milan.pretrained.segmenter_labels import SegmenterLabels
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import DioramaLabels, PixelLabels, load_probe_labels, shows_diorama
from milan.scores.activation_simulation import ClassSimulator
from milan.scores.activation_sums import LabelledScenes, load_activation_sums
from milan.storage.files import cache_folder
from milan.units import Unit

Denote = Callable[[str], Float[np.ndarray, " columns"]]
MIN_DEVIATION = 1e-9
# Without a bias of its own, a model finds a text in the images above this quantile of its cosines with it.
PRESENCE_QUANTILE = 0.95
PRESENCE_SCALE = 40.0  # of cosines, for a model without a bias of its own
MAX_KNOWN_VALUES = 2**26  # predictions that are kept: of texts times images


@runtime_checkable
class Predictor(Protocol):
    """Tells how well texts predict a unit's activation, -1..1; 0 where that is undefined."""

    def correlate(self, row: int, texts: Sequence[str], outside: Sequence[str] = ()) -> Float[np.ndarray, " texts"]:
        """Return the correlation of each text with the unit in that row of the dissection.

        Args:
            outside: texts; only pixels or images that show none of them count. The correlation may then be multiplied
                by a number that is the same for all texts.
        """
        ...

    def correlate_any(self, row: int, parts: Sequence[str]) -> float:
        """Return the correlation of the unit with the pixels or images that show any of some texts."""
        ...


@dataclass(frozen=True)
class HeldOutPrediction:
    """How well texts predict the units of a dissection."""

    dissection: Dissection
    predictor: Predictor

    @classmethod
    def load(
        cls,
        dissection: Dissection,
        embedders: Sequence[Embedder],
        held_out: str = "",
        class_files: tuple[str, str] = ("", ""),
        segmenter: Segmenter | None = None,
    ) -> "HeldOutPrediction":
        """Run the target on the held-out images, or read what was computed before.

        Args:
            embedders: the image-text models that predict; none to predict by labels.
            held_out: spec of the held-out images; empty for the dissection's own probe.
            class_files: of superclasses and synsets, as ``milan.probes.superclasses.load_class_concepts`` takes them.
            segmenter: predicts the labels of pixels; by default the images' own labels are used.

        Raises:
            MissingEvidence: the images have no labels, where they are needed.
        """
        layer = dissect_held_out(dissection, held_out) if held_out else dissection
        probe = layer.open_probe()
        if segmenter is not None:
            return cls(dissection, PixelPredictor.load(layer, SegmenterLabels(probe, segmenter), probe))

        def load_unit(row: int, pooling: ActivationPooling) -> Float[np.ndarray, " images"]:
            return layer.activations(pooling, [layer.units[row]])[:, 0].double().numpy()

        if not embedders and (shows_diorama(probe.spec) or has_pixel_labels(probe)):
            return cls(dissection, PixelPredictor.load(layer, load_probe_labels(probe), probe))
        if not embedders:
            # Class labels are of whole images, and so is the mean activation that Linear Explanations predict.
            return cls(
                dissection, ImagePredictor(partial(load_unit, pooling="mean"), [ClassPresence(probe, class_files)])
            )
        models = [EmbedderPresence(each, probe) for each in embedders]
        return cls(dissection, ImagePredictor(lambda row: _take_root(load_unit(row, "max")), models))

    def correlate(self, unit: Unit, texts: Sequence[str], outside: Sequence[str] = ()) -> Float[np.ndarray, " texts"]:
        """Return the correlation of a unit's activation with each text, see ``Predictor``."""
        return self.predictor.correlate(self.dissection.row_of(unit), texts, outside)

    def correlate_any(self, unit: Unit, parts: Sequence[str]) -> float:
        """Return the correlation of a unit's activation with texts joined by "or"."""
        return self.predictor.correlate_any(self.dissection.row_of(unit), parts)


def dissect_held_out(dissection: Dissection, held_out: str) -> Dissection:
    """Return the dissection of the same units on other images, in the cache."""
    target = dissection.open_target()
    probe = load_probe(held_out, target=target)
    units = {dissection.layer: [unit.index for unit in dissection.units]}
    folder = cache_folder() / "held-out" / dissection.key
    return dissect(target, probe, [dissection.layer], folder, k=1, units=units)[dissection.layer]


@runtime_checkable
class PresenceModel(Protocol):
    """Tells how likely each image shows each text, 0..1; NaN for unreadable images."""

    def predict(self, texts: Sequence[str]) -> Float[np.ndarray, "images texts"]:
        """Return how likely each image shows each text."""


class CachedPresence(ABC):
    """What is known of texts is computed once."""

    def __init__(self, probe: Probe):
        self.probe = probe
        self._known: dict[str, np.ndarray] = {}

    def predict(self, texts: Sequence[str]) -> Float[np.ndarray, "images texts"]:
        """Return how likely each image shows each text; what earlier calls computed is reused."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            if len(self._known) * len(self.probe) > MAX_KNOWN_VALUES:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            self._known |= dict(zip(new, self._compute(new).T, strict=True))
        return np.stack([self._known[text] for text in texts], axis=1)

    @abstractmethod
    def _compute(self, texts: Sequence[str]) -> Float[np.ndarray, "images texts"]: ...


class EmbedderPresence(CachedPresence):
    """An image-text model's probabilities, for which no labels are needed.

    With a scale and a bias of its own (a SigLIP), they are the model's. Else they are the logistic function of
    PRESENCE_SCALE times the difference of the cosine and its quantile PRESENCE_QUANTILE over the images.
    """

    def __init__(self, embedder: Embedder, probe: Probe):
        super().__init__(probe)
        self.embedder = embedder

    @cached_property
    def _images(self) -> Float[np.ndarray, "images features"]:
        return torch.as_tensor(embed_probe(self.embedder, self.probe)).numpy()

    def _compute(self, texts: Sequence[str]) -> Float[np.ndarray, "images texts"]:
        """Return the sigmoid of the model's logits, or of scaled cosines if it has no scale and bias."""
        cosines = self._images @ embed_texts(self.embedder, texts).numpy().T
        if self.embedder.scale is not None and self.embedder.bias is not None:
            logits = self.embedder.scale * cosines + self.embedder.bias
        else:
            logits = PRESENCE_SCALE * (cosines - np.nanquantile(cosines, PRESENCE_QUANTILE, axis=0))
        return 1 / (1 + np.exp(-logits))


class ClassPresence(CachedPresence):
    """The probe's classes and superclasses, as ``milan.scores.activation_simulation.ClassSimulator`` reads texts."""

    def __init__(self, probe: Probe, class_files: tuple[str, str] = ("", "")):
        super().__init__(probe)
        self.simulator = ClassSimulator(probe, class_files)

    def _compute(self, texts: Sequence[str]) -> Float[np.ndarray, "images texts"]:
        return self.simulator.predict_presence(texts).matrix.numpy()


class ImagePredictor:
    """Correlates a number for each image, made from the unit's activation, with how likely the image shows a text.

    Of several models the mean correlation is taken.

    Args:
        load: returns the number of a unit, by its row, in each image.
        models: tell how likely each image shows a text.
    """

    def __init__(self, load: Callable[[int], Float[np.ndarray, " images"]], models: Sequence[PresenceModel]):
        # A unit's texts are compared one after the other.
        self.load, self.models = lru_cache(maxsize=8)(load), models

    def correlate(self, row: int, texts: Sequence[str], outside: Sequence[str] = ()) -> Float[np.ndarray, " texts"]:
        """Return the mean over models of the correlation over images of a unit with each text's presence.

        An image counts by the probability that it shows none of the texts in ``outside``.
        """
        found = []
        for model in self.models:
            counted = 1 - model.predict(outside).max(1) if outside else np.ones(len(self.load(row)))
            found.append(self._correlate(row, model.predict(texts), counted))
        return np.mean(found, axis=0)

    def correlate_any(self, row: int, parts: Sequence[str]) -> float:
        """Return the correlation with the largest presence of any of the texts."""
        counted = np.ones(len(self.load(row)))
        found = [self._correlate(row, model.predict(parts).max(1, keepdims=True), counted) for model in self.models]
        return float(np.mean(found))

    def _correlate(
        self, row: int, presence: Float[np.ndarray, "images texts"], counted: Float[np.ndarray, " images"]
    ) -> Float[np.ndarray, " texts"]:
        values = self.load(row)
        good = np.isfinite(values) & np.isfinite(presence).all(1) & np.isfinite(counted)
        values, weights = values[good], counted[good]
        deviation = np.sqrt(np.average((values - np.average(values, weights=weights)) ** 2, weights=weights))
        shown = presence[good].T
        return correlate_columns(shown, shown**2, weights, weights * values, float(deviation))


def _take_root(values: Float[np.ndarray, " images"]) -> Float[np.ndarray, " images"]:
    """Return signed roots, which make the correlation depend less on the few strongest images."""
    return np.sign(values) * np.sqrt(np.abs(values))


class PixelPredictor:
    """Correlates the activation at each pixel with the pixels that a text denotes, by pixel labels.

    Args:
        scenes: the labels of the images' pixels.
        denote: returns what a text denotes among the signatures.
        sums: of each unit's activation on the pixels of each signature.
        squares: sum of each unit's squared activation.
    """

    def __init__(
        self,
        scenes: LabelledScenes,
        sums: Float[np.ndarray, "units columns"],
        squares: Float[np.ndarray, " units"],
        denote: Denote,
    ):
        self.sums, self.squares, self.denote = sums, squares, denote
        self.area = scenes.signatures.area.astype(np.float64)
        self._known: dict[str, sparse.csr_matrix] = {}

    @classmethod
    def load(cls, dissection: Dissection, labels: PixelLabels, probe: Probe) -> "PixelPredictor":
        """Add up the activations of a dissected layer over the pixels of its probe."""
        if isinstance(labels, DioramaLabels):
            scenes = LabelledScenes.from_signatures(probe, labels.signatures, probe.fingerprint)
        else:
            scenes = LabelledScenes.from_signatures(probe, make_label_signatures(labels, len(probe)), labels.key)
        (found,) = load_activation_sums([dissection], scenes)
        return cls(scenes, found.sums, found.squares.sum(1), make_denotation(scenes.signatures, labels))

    def correlate(self, row: int, texts: Sequence[str], outside: Sequence[str] = ()) -> Float[np.ndarray, " texts"]:
        """Return the correlation over pixels of a unit with the pixels that each text denotes; 0 for a constant one.

        Outside of other texts, it is multiplied by the ratio of the activation's deviation there to that over all
        pixels, which the sums do not tell.
        """
        return self._correlate(row, self._denote(texts), 1 - self._denote_any(outside) if outside else None)

    def correlate_any(self, row: int, parts: Sequence[str]) -> float:
        """Return the correlation over pixels with those that any of the texts denotes."""
        return float(self._correlate(row, sparse.csr_matrix(self._denote_any(parts)))[0])

    def _denote_any(self, texts: Sequence[str]) -> Float[np.ndarray, " columns"]:
        return self._denote(texts).max(axis=0).toarray().ravel().clip(0, 1)

    def _denote(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return what each text denotes, (texts, columns): sparse, since most texts denote little."""
        for text in texts:
            if text not in self._known:
                self._known[text] = sparse.csr_matrix(self.denote(text))
        return sparse.vstack([self._known[text] for text in texts], format="csr")

    def _correlate(
        self,
        row: int,
        values: sparse.csr_matrix,
        counted: Float[np.ndarray, " columns"] | None = None,
    ) -> Float[np.ndarray, " texts"]:
        pixels = self.area.sum()
        deviation = np.sqrt(max(0.0, self.squares[row] / pixels - (self.sums[row].sum(dtype=float) / pixels) ** 2))
        share = 1.0 if counted is None else counted
        squares = values.multiply(values)
        return correlate_columns(values, squares, self.area * share, self.sums[row] * share, float(deviation))


def correlate_columns(
    values: Float[np.ndarray, "texts columns"] | sparse.csr_matrix,
    squares: Float[np.ndarray, "texts columns"] | sparse.csr_matrix,
    weights: Float[np.ndarray, " columns"],
    sums: Float[np.ndarray, " columns"],
    deviation: float,
) -> Float[np.ndarray, " texts"]:
    """Return the correlation of an activation with the values of texts; 0 where either is constant.

    Args:
        values: what each text says of each column (a signature or an image).
        squares: of the values.
        weights: number of pixels or images of each column.
        sums: of the activation over them.
        deviation: standard deviation of the activation.
    """
    total = weights.sum()
    if total <= 0:
        return np.zeros(values.shape[0])
    mean = values @ (weights / total)
    spread = np.sqrt(np.clip(squares @ (weights / total) - mean**2, 0, None))
    scale = spread * deviation
    joint = values @ (sums / total) - mean * sums.sum() / total
    return np.divide(joint, scale, out=np.zeros_like(joint), where=scale > MIN_DEVIATION)


def make_label_signatures(labels: PixelLabels, count: int) -> LabelSignatures:
    """Return the pixel labels of the first ``count`` images as signatures.

    Their table has each level's number in ``labels.concepts``, from 1; 0 for none.
    """
    sizes = (len(labels.concepts) + 1,) * labels.levels
    codes = [np.ravel_multi_index(tuple(labels.load([index])[0].numpy() + 1), sizes) for index in range(count)]
    distinct, which = np.unique(np.stack(codes), return_inverse=True)
    table = np.stack(np.unravel_index(distinct, sizes), axis=1)
    return LabelSignatures(which.reshape(count, *codes[0].shape).astype(np.int32), table)


def make_denotation(signatures: LabelSignatures, labels: PixelLabels) -> Denote:
    """Return what tells which signatures a text denotes.

    Labels of Diorama's kinds are read by Diorama's reader of texts, others as formulas of label names.
    """
    if set(labels.level_names) == set(KINDS):
        own = signatures if isinstance(labels, DioramaLabels) else _renumber(signatures, labels)
        return lambda text: own.text_values(parse_description(text))
    numbers = {name: number for number, name in enumerate(labels.concepts, 1)}

    def find(name: str) -> Bool[np.ndarray, " columns"] | None:
        return (signatures.table == numbers[name]).any(1) if name in numbers else None

    return lambda text: evaluate_label_text(text, find, len(signatures.table))


def _renumber(signatures: LabelSignatures, labels: PixelLabels) -> LabelSignatures:
    """Return signatures of ``make_label_signatures`` with Diorama's numbers of each kind's names."""
    columns = []
    for kind in KINDS:
        names = [format_label_name(kind, name) for name in ALL_KINDS[kind]]
        numbers = np.array([0, *(names.index(each) + 1 if each in names else 0 for each in labels.concepts)])
        columns.append(numbers[signatures.table[:, labels.level_names.index(kind)]])
    return LabelSignatures(signatures.pixels, np.stack(columns, axis=1))

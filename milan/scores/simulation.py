"""Simulation (Oikarinen & Weng 2024, section 4): whether what a description says predicts a unit's activation on images nobody explained.

A simulator tells how likely each image shows a text. A description with weights predicts their sum, one without the text alone. The
simulator should be of another family than what explained, or both may share a misunderstanding: ``related`` tells.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse

from milan import presence
from milan.diorama.concepts import read
from milan.errors import MissingEvidence
from milan.presence import Presence
from milan.pretrained.embedder import load_embedder, probe_embeddings, text_embeddings
from milan.probes import Probe
from milan.probes.labels import DioramaLabels, of_diorama
from milan.scores.agreement import METRICS, Compared
from milan.units import Description

TOLD = "labels"  # the simulator that knows what the judged images show
SEEN = "diorama:siglip-large"  # the one that looks at Diorama's
TRUSTED = ("correlation", "cosine", "auprc", "f1", "iou")  # those that pass the exam, see milan.scores.exam
BANDS = ((0.0, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.0))  # of the images, from each unit's weakest to its strongest
BLOCK = 32  # units scored at a time: their predictions fit into a processor's cache
MOST = 2**28  # of texts times images that are: 1 GB


class Simulator(ABC):
    """Tells of any text how likely each image of a probe shows it."""

    def __init__(self, spec: str, judged: Probe):
        self.spec, self.judged = spec, judged

    @abstractmethod
    def presence(self, texts: Sequence[str]) -> Presence:
        """For each text, in order."""

    def encode(self, texts: Sequence[str]) -> None:  # noqa: B027 - what knows has nothing to encode
        """Does once what ``presence`` then finds done."""


class ByEmbedder(Simulator):
    """An image-text model calibrated on what the labels of other images tell, as the paper's."""

    def __init__(
        self, spec: str, judged: Probe, learnt: Probe, calibration: str = "", device: str = "cpu", groups: tuple[str, str] = ("", "")
    ):
        super().__init__(spec, judged)
        self.learnt, self.asked, self.groups = learnt, calibration, groups
        self.embedder = load_embedder(spec, device=device)

    @cached_property
    def calibration(self) -> presence.Calibration:
        """How its cosines become probabilities; no judged image has a part in it."""
        rows = torch.arange(len(self.learnt))
        return presence.calibrate(self.embedder, self.spec, self.asked, self.learnt, lambda: presence.told(self.learnt, *self.groups), rows)

    def presence(self, texts: Sequence[str]) -> Presence:
        return presence.by_embedder(self.embedder, self.judged, texts, self.calibration)

    def encode(self, texts: Sequence[str]) -> None:
        _ = self.calibration
        probe_embeddings(self.embedder, self.judged)
        text_embeddings(self.embedder, texts)


class ByClasses(Simulator):
    """The classes and superclasses of the judged images: 1 for a text that is the name of one, in any case of letters; else 0."""

    def __init__(self, judged: Probe, groups: tuple[str, str] = ("", "")):
        super().__init__(TOLD, judged)
        self.known = presence.by_classes(judged, *groups)
        self._columns = {name.lower(): column for column, name in enumerate(self.known.names)}

    def presence(self, texts: Sequence[str]) -> Presence:
        found = torch.zeros(len(self.judged), len(texts))
        found[self.known.matrix.isnan().any(1)] = torch.nan
        for place, text in enumerate(texts):
            if (column := self._columns.get(text.lower())) is not None:
                found[:, place] = self.known.matrix[:, column]
        return Presence(list(texts), found)


class ByPixels(Simulator):
    """What the pixels of Diorama's scenes show: 1 where a hundredth of them is what a text says, read with its synonyms."""

    def __init__(self, judged: Probe):
        super().__init__(TOLD, judged)

    @cached_property
    def _counts(self) -> tuple[Any, sparse.csr_matrix]:
        """The census, and how many pixels of each signature each image has."""
        census = DioramaLabels(self.judged).census
        pixels = np.asarray(census.pixels).reshape(len(self.judged), -1)
        images = np.repeat(np.arange(len(pixels)), pixels.shape[1])
        ones = np.ones(pixels.size, dtype=np.int32)
        return census, sparse.coo_matrix((ones, (images, pixels.ravel())), shape=(len(pixels), len(census.table))).tocsr()

    def presence(self, texts: Sequence[str]) -> Presence:
        census, counts = self._counts
        meant = np.stack([census.meant(read(text)) for text in texts], axis=1).astype(np.int32)
        shown = counts @ meant >= presence.LEAST * self.judged.size**2
        return Presence(list(texts), torch.from_numpy(shown.astype(np.float32)))


def load_simulator(
    spec: str, judged: Probe, learnt: Probe, calibration: str = "", superclasses: str = "", synsets: str = "", device: str = "cpu"
) -> Simulator:
    """A simulator for the images of ``judged``.

    Args:
        spec: ``labels`` (what the labels of the judged images tell) or an image-text model, as ``load_embedder`` takes it.
        learnt: the images that a calibration may be fitted on.
        calibration: as ``milan.presence.calibrate`` takes it.
        superclasses: FILE, and ``synsets``, as ``milan.probes.superclasses.class_concepts`` takes them.

    Raises:
        MissingEvidence: there are no labels to be told by.
        UnknownName, BadInput: there is no such model.
    """
    if spec != TOLD:
        return ByEmbedder(spec, judged, learnt, calibration, device, (superclasses, synsets))
    if judged.spec.startswith("latents:"):
        raise MissingEvidence("nobody knows what a generator's pictures show: take an image-text model as the simulator")
    return ByPixels(judged) if of_diorama(judged.spec) else ByClasses(judged, (superclasses, synsets))


def usual_simulator(probe: str) -> str:
    """The simulator of a probe where none is named: Diorama's larger SigLIP for Diorama, the labels for what it has never seen.

    >>> usual_simulator("diorama:objects"), usual_simulator("photos/val.parquet")
    ('diorama:siglip-large', 'labels')
    """
    return SEEN if of_diorama(probe) else TOLD


def related(simulator: str, explainer: Any) -> str:
    """Why a simulator may share what an explainer misunderstands, or nothing.

    >>> related("diorama:siglip-large", {"embedder": "diorama:siglip-small"})
    'both see through a SigLIP'
    >>> related("labels", {"evidence": "pixels"}), related("hf:google/siglip-base-patch16-224", {"embedder": "open_clip:ViT-B-16/openai"})
    ('both are told by labels', '')
    """
    seen = str(explainer.get("embedder") or "")
    if simulator == TOLD:
        told = {"pixels", "labels", "auto"} & {explainer.get("evidence")} or explainer.get("labels") == "probe"
        return "both are told by labels" if told else ""
    uses = seen and explainer.get("evidence") in (None, "embedder")
    return f"both see through a {_family(seen)}" if uses and _family(seen) == _family(simulator) else ""


def _family(spec: str) -> str:
    return "SigLIP" if "siglip" in spec.lower() else "CLIP"


@dataclass(frozen=True)
class Shown:
    """How likely each image shows each of some texts."""

    rows: Mapping[str, int]
    matrix: Float[np.ndarray, "texts images"]

    @classmethod
    def of(cls, descriptions: Sequence[Description], simulator: Simulator) -> "Shown":
        """Of all that the descriptions speak of; every distinct text is put to the simulator once."""
        texts = list(dict.fromkeys(text for each in descriptions for text, _ in _parts(each)))
        return cls({text: row for row, text in enumerate(texts)}, np.ascontiguousarray(simulator.presence(texts).matrix.numpy().T))


def predicted(
    descriptions: Sequence[Description], simulator: Simulator, shown: Shown | None = None
) -> tuple[Float[np.ndarray, "descriptions images"], Float[np.ndarray, " descriptions"]]:
    """What the descriptions predict on the simulator's images, and for each the middle of what it can predict.

    All descriptions are predicted in one product.

    Args:
        shown: what the simulator tells of their texts, and maybe of others, where that is known already.
    """
    shown = shown or Shown.of(descriptions, simulator)
    entries = [(row, shown.rows[text], weight) for row, each in enumerate(descriptions) for text, weight in _parts(each)]
    rows, places, weights = (np.array(part) for part in zip(*entries, strict=True))
    size = (len(descriptions), len(shown.rows))
    matrix = sparse.coo_matrix((weights.astype(np.float32), (rows, places)), shape=size).tocsr()  # in single precision, as what is shown
    bias = np.array([description.bias for description in descriptions])
    middle = bias + np.asarray(matrix.sum(1)).ravel() / 2  # halfway from all that lowers it shown to all that raises it
    return np.asarray(matrix @ shown.matrix) + bias[:, None], middle


def _parts(description: Description) -> tuple[tuple[str, float], ...]:
    return description.concepts or ((description.text, 1.0),)


@dataclass(frozen=True)
class Simulated:
    """How well each description predicted its unit, in its order; NaN where a metric is not defined."""

    scores: dict[str, Float[np.ndarray, " descriptions"]]
    bands: Float[np.ndarray, "descriptions bands"]  # mean prediction in each of BANDS, in standard deviations of it


def simulate(
    activation: Float[np.ndarray, "images descriptions"],
    descriptions: Sequence[Description],
    simulator: Simulator,
    metrics: Sequence[str] = TRUSTED,
) -> Simulated:
    """Scores descriptions of units by what they predict.

    Args:
        activation: of each description's unit on the simulator's images; rows that are not finite throughout are left out.
        metrics: names of ``milan.scores.agreement.METRICS``.
    """
    scores: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    bands: list[np.ndarray] = []
    texts = {text for each in descriptions for text, _ in _parts(each)}
    shown = Shown.of(descriptions, simulator) if len(texts) * len(simulator.judged) <= MOST else None
    for start in range(0, len(descriptions), BLOCK):
        guess, middle = predicted(descriptions[start : start + BLOCK], simulator, shown)
        true = activation[:, start : start + BLOCK]
        good = np.isfinite(true).all(1) & np.isfinite(guess).all(0)
        compared = Compared.of(np.ascontiguousarray(true[good].T), guess[:, good], middle)
        for name in metrics:
            scores[name].append(METRICS[name].of(compared))
        bands.append(_banded(compared))
    return Simulated({name: np.concatenate(each) for name, each in scores.items()}, np.concatenate(bands))


def _banded(compared: Compared) -> Float[np.ndarray, "units bands"]:
    """The mean prediction in each band, in standard deviations; of images that move a unit equally each counts in part."""
    spread = compared.predicted.std(1)
    middle = compared.predicted.mean(1)
    images = compared.activation.shape[1]
    starts = [min(round(low * images), images - 1) for low, _ in BANDS]
    ends = [max(round(high * images), start + 1) for (_, high), start in zip(BANDS, starts, strict=True)]
    edges = sorted({*starts, *ends})
    found = np.full((len(spread), len(BANDS)), np.nan)
    for row in np.flatnonzero(spread >= 1e-12):
        sums = _sums(compared.activation[row], compared.predicted[row], edges)
        means = [(sums[end] - sums[start]) / (end - start) for start, end in zip(starts, ends, strict=True)]
        found[row] = (np.array(means) - middle[row]) / spread[row]
    return found


def _sums(activation: Float[np.ndarray, " images"], values: Float[np.ndarray, " images"], counts: Sequence[int]) -> dict[int, float]:
    """The sum of the values on so many images with the lowest activation, of equal ones in equal parts."""
    found = {0: 0.0, len(values): float(values.sum())}
    inner = sorted(set(counts) - set(found))
    ranked = np.partition(activation, inner)
    for count in inner:
        below, at = activation < ranked[count], activation == ranked[count]
        found[count] = float(values @ below + (count - below.sum()) * values[at].mean())
    return found

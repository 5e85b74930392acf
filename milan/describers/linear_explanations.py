"""Linear Explanations (Oikarinen & Weng 2024): a unit's activation as a weighted sum of a few concepts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from milan.concepts import presence
from milan.concepts.presence import Presence, has_pixel_labels
from milan.describers._shared.base import Describer, select_active
from milan.describers._shared.elastic_net import (
    CHUNK_ROWS,
    LinearFit,
    MultiTargetRegression,
    Penalty,
    Ranking,
    RowSplit,
    compute_correlations,
)
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, require_at_least
from milan.pretrained.embedder import load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.probes import Probe
from milan.probes.pixel_labels import load_probe_labels
from milan.probes.superclasses import known_labels
from milan.storage.files import cache_folder, content_key, new_scratch_array
from milan.storage.text_files import read_content
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit, weighted_sum

# Units that are regressed together: always the same ones, so that no description depends on which others are asked for.
UNITS_PER_BLOCK = 64
# A concept counts if its five highest probabilities average so much and it varies so much.
TOP_IMAGES, MIN_TOP_MEAN, MIN_DEVIATION = 5, 0.5, 1e-5
CONCEPTS_PER_BLOCK = 128  # concepts that are filtered at a time


class LinearExplanations(Describer):
    """Explains a unit's activation by a sparse linear function of concepts.

    Section 3 of the paper: an elastic net on the training images gives each concept a weight; a greedy search
    (Algorithm 1) adds concepts in the order of their weights while each raises the correlation on the validation images
    by the tolerance; least squares on the chosen concepts gives the weights of the explanation. Weights and bias are in
    standard deviations of the unit's mean activation over the training images: "2.60 ski" raises it by 2.6 of them.
    ``score`` is the validation correlation; ``correlate_held_out`` returns the correlation on the test images, which
    nothing else uses. The default embedder is the paper's explainer, SigLIP ViT-L-16-384 (section 3). Its larger SigLIP
    SO400M-14-384 is the paper's simulator (section 4), kept for scoring: explanations scored by the model that made
    them would be scored too high.

    Differences from the paper and its released code: least squares is exact; the first concept is taken whatever it
    gains, as in the code but not in Algorithm 1, so that every active unit has an explanation; concepts are filtered
    and all values are standardized by the training images alone, where the code uses the test images too. A negative
    weight arises only in the least squares, as in 918 of the 111,485 published ones, unless ``ranking`` is
    ``absolute``, which also finds concepts whose absence activates a unit.

    An image-text model's probabilities are kept in a temporary file in the cache folder and read some rows at a time:
    50,000 images and 2,000 concepts (400 MB on disk) take 0.26 GB of memory beside the models, and 256 units 11 s of
    processor time on one core after the embeddings (``benchmarks.many_images_describers``).

    Args:
        evidence: source of the concepts. ``embedder``: an image-text model's probabilities. ``labels``: the probe's
            classes and superclasses. ``pixels``: the probe's pixel labels.
        superclasses: FILE.json of {superclass: [class, ...]} for ``labels``; see ``milan.probes.superclasses``.
        synsets: FILE with the meaning of the numbers in ``superclasses``, if they are not the probe's own labels.
        embedder: image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        concepts: its concept set; if empty, the names of the probe's labels.
        calibration: of its probabilities sigmoid(a * (cosine + b)): "A,B"; ``model`` (its own scale and bias);
            ``labels`` (fitted on the training images' labels); empty: as published for the model, else by labels.
        pooling: how an activation map becomes one number per image; mean in the paper, cls for the last block of a
            transformer.
        strength: λ of the elastic net, for standardized concepts and activations and half the mean squared error, as in
            the released code.
        mix: η, the share of the absolute weights in the penalty, 0..1.
        ranking: order of concepts by elastic-net weight: ``signed`` as in the paper, or ``absolute``.
        search: ``greedy``, or ``largest``: the first ``longest`` concepts of the ranking (appendix B.4).
        longest: maximum number of concepts in an explanation.
        width: number of concepts tried at each step.
        tolerance: minimum gain in validation correlation of a further concept.
        single_tolerance: share of the validation correlation that may be lost if the first concept explains all: then
            the description is its name. 0, as in the paper, for weighted sums throughout.
        seed: random seed of the split: 70% training, 10% validation, 20% test images.
        batch_size: number of images and texts per batch of the embedder; changes no description.
        device: device of the embedder.
    """

    name: ClassVar[str] = "linear_explanations"
    version: ClassVar[int] = 1

    def __init__(
        self,
        evidence: Literal["labels", "pixels", "embedder"] = "embedder",
        superclasses: str = "",
        synsets: str = "",
        embedder: str = "open_clip:ViT-L-16-SigLIP-384/webli",
        concepts: str = "combined_imagenet",
        calibration: str = "",
        pooling: Literal["mean", "max", "cls", "tokens"] = "mean",
        strength: float = 0.05 / 0.99,
        mix: float = 0.99,
        ranking: Ranking = "signed",
        search: Literal["greedy", "largest"] = "greedy",
        longest: int = 10,
        width: int = 10,
        tolerance: float = 0.02,
        single_tolerance: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
        device: str = "cpu",
    ):
        require_at_least(1, longest=longest, width=width, batch_size=batch_size)
        self.evidence, self.superclasses, self.synsets = evidence, superclasses, synsets
        self.embedder, self.concepts, self.calibration = embedder, concepts, calibration
        self.pooling, self.strength, self.mix = pooling, strength, mix
        self.ranking, self.search = ranking, search
        self.longest, self.width, self.tolerance, self.seed = longest, width, tolerance, seed
        self.batch_size, self.device, self.single_tolerance = batch_size, device, single_tolerance
        self._layers: dict[str, _LayerRegression] = {}
        self._probes: dict[str, _ProbeConcepts] = {}

    @property
    def key(self) -> str:
        """Content key of the settings that change answers, the files they name, and the weights."""
        places = ("superclasses", "synsets", "embedder", "concepts", "batch_size", "device")
        settings = {name: value for name, value in self.settings.items() if name not in places}
        files = [read_content(file) for file in (self.superclasses, self.synsets)]
        model = [self._embedder.key, self.concepts, read_content(self.concepts)] if self.evidence == "embedder" else []
        return self.key_of(files=files, model=model, **settings)

    @cached_property
    def _embedder(self) -> Embedder:
        return load_embedder(self.embedder, device=self.device, batch_size=self.batch_size)

    @property
    def words(self) -> str:  # type: ignore[override]
        """The names of the concepts."""
        names = {"labels": "names of class labels", "pixels": "names of pixel labels", "embedder": "the concept set"}
        return names[self.evidence]

    def required_models(self) -> dict[str, str]:
        """Return the image-text model and its concept set, if they provide the concepts."""
        return self.specs("embedder", "concepts") if self.evidence == "embedder" else {}

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the probe lacks the labels that the setting ``evidence`` needs."""
        if self.evidence == "pixels":
            load_probe_labels(probe)
        elif self.evidence == "labels" or (not self.concepts and not has_pixel_labels(probe)):
            known_labels(probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the image-text model and its concept set, if they provide the concepts; labels come with the probe."""
        return self.specs("embedder", "concepts") if self.evidence == "embedder" else {}

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the weighted sum of concepts that predicts each active unit."""
        active = select_active(dissection, units)
        if active:
            study = self._load_layer(dissection)
            for unit in active:
                yield study.make_description(unit)

    def correlate_held_out(
        self, dissection: Dissection, descriptions: Sequence[Description]
    ) -> Float[np.ndarray, " descriptions"]:
        """Return the correlation of each explanation's prediction with its unit's activation over the test images.

        Any description with ``concepts`` can be judged; concepts that are not among the evidence count as absent.

        Returns:
            NaN where prediction or activation is constant.
        """
        return np.array([self._load_layer(dissection).correlate_held_out(each) for each in descriptions])

    def with_search(self, search: Literal["greedy", "largest"], longest: int) -> "LinearExplanations":
        """Return the same describer with another search, which shares this one's concepts of a probe."""
        other = LinearExplanations(**self.settings | {"search": search, "longest": longest})
        other._probes = self._probes
        return other

    def load_probe_concepts(self, probe: Probe, finite: Bool[Tensor, " images"]) -> "_ProbeConcepts":
        """Return what all layers share: the concepts of the probe's images, their split and their products.

        Args:
            finite: whether an image has activations.
        """
        key = content_key(probe=probe.fingerprint, finite=torch.nonzero(~finite).flatten().tolist())
        if key not in self._probes:
            self._probes.clear()  # one at a time in memory
            split = RowSplit.random(len(finite), self.seed)
            found = self.load_evidence(probe, split)
            self._probes[key] = _ProbeConcepts(found, split.restrict(finite & found.find_known_images()))
        return self._probes[key]

    def _load_layer(self, dissection: Dissection) -> "_LayerRegression":
        if dissection.key not in self._layers:
            self._layers = {dissection.key: _LayerRegression(self, dissection)}  # one layer at a time in memory
        return self._layers[dissection.key]

    def load_evidence(self, probe: Probe, split: RowSplit) -> Presence:
        """Return which image shows which concept; calibration uses the training images of the split only."""
        if self.evidence == "embedder":
            return self._load_embedder_evidence(probe, split)
        if self.evidence == "labels":
            return presence.presence_from_classes(probe, self.superclasses, self.synsets)
        return presence.presence_from_pixels(probe)

    def _load_embedder_evidence(self, probe: Probe, split: RowSplit) -> Presence:
        calibration = presence.calibrate(
            self._embedder,
            self.embedder,
            self.calibration,
            probe,
            lambda: self._load_label_evidence(probe),
            split.train,
        )
        return presence.presence_from_embedder(self._embedder, probe, self._list_concept_names(probe), calibration)

    def _list_concept_names(self, probe: Probe) -> list[str]:
        if not self.concepts:
            return self._load_label_evidence(probe).names
        from milan.concepts.concept_sets import load_concept_set

        return load_concept_set(self.concepts)

    def _load_label_evidence(self, probe: Probe) -> Presence:
        return presence.presence_from_labels(probe, self.superclasses, self.synsets)


class _ProbeConcepts:
    """The usable concepts, their presence in the images, and their regression."""

    def __init__(self, found: Presence, split: RowSplit):
        self.split = split
        self.names, self.matrix = _filter_concepts(found, split)
        self.regression = MultiTargetRegression(self.matrix, split)


class _LayerRegression:
    """Regression of one layer's activations on the concepts of its probe."""

    def __init__(self, describer: LinearExplanations, dissection: Dissection):
        self.describer, self.dissection = describer, dissection
        self.active_units = dissection.active_units()
        self.places = {unit: place for place, unit in enumerate(self.active_units)}
        ground = describer.load_probe_concepts(dissection.open_probe(), dissection.has_activations(describer.pooling))
        self.split, self.names, self.matrix, self.regression = (
            ground.split,
            ground.names,
            ground.matrix,
            ground.regression,
        )
        self._blocks: dict[int, list[list[LinearFit]]] = {}

    def make_description(self, unit: Unit) -> Description:
        number, place = divmod(self.places[unit], UNITS_PER_BLOCK)
        if number not in self._blocks:
            self._blocks[number] = self._fit_units(
                self.active_units[number * UNITS_PER_BLOCK : (number + 1) * UNITS_PER_BLOCK]
            )
        steps = [self._format_fit(unit, fit) for fit in self._blocks[number][place]]
        best = prefer_single(steps, self.describer.single_tolerance)
        candidates = tuple(
            Candidate(each.text, each.score, (("length", float(len(each.concepts))),))
            for each in sorted(steps, key=lambda each: (-each.score, len(each.concepts)))
        )
        if best.text not in {each.text for each in candidates}:
            candidates = tuple(sorted((*candidates, Candidate(best.text, best.score)), key=lambda each: -each.score))
        return Description(unit, best.text, best.score, best.concepts, best.bias, candidates)

    def correlate_held_out(self, description: Description) -> float:
        columns = {name: column for column, name in enumerate(self.names)}
        empty = torch.zeros(len(self.split.test), dtype=torch.float64)
        parts = [
            weight * (self.matrix[:, columns[name]][self.split.test].double() if name in columns else empty)
            for name, weight in description.concepts
        ]
        predicted = sum(parts, empty) + description.bias
        true = self._load_values([description.unit])[self.split.test, 0]
        if predicted.std() < 1e-12 or true.std() < 1e-12:
            return math.nan
        return float(compute_correlations(predicted[None].numpy(), true.double().numpy())[0])

    def _fit_units(self, units: Sequence[Unit]) -> list[list[LinearFit]]:
        say, targets = self.describer, self.regression.make_targets(self._load_values(units))
        weights = targets.fit_elastic_net(Penalty(say.strength, say.mix))
        if say.search == "largest":
            return targets.fit_largest(weights, say.longest, say.ranking)
        return targets.fit_greedily(weights, say.longest, say.width, say.tolerance, say.ranking)

    def _load_values(self, units: Sequence[Unit]) -> Float[Tensor, "images units"]:
        """Return activations, with the unit's mean over the training images for values that are not finite."""
        values = self.dissection.activations(self.describer.pooling, units)
        mean = values[self.split.train].where(values[self.split.train].isfinite(), torch.nan).nanmean(0).nan_to_num()
        return values.where(values.isfinite(), mean)

    def _format_fit(self, unit: Unit, fit: LinearFit) -> Description:
        parts = [(self.names[column], weight) for column, weight in zip(fit.columns, fit.weights, strict=True)]
        parts.sort(key=lambda part: (part[1] < 0, -abs(part[1])))
        return Description(unit, weighted_sum(parts), fit.correlation, tuple(parts), fit.bias)


def prefer_single(steps: Sequence[Description], tolerance: float) -> Description:
    """Return the last step of a search, or the first one by its concept's name if it explains nearly as much.

    Args:
        steps: explanations by one, two and more concepts.
        tolerance: share of the last one's correlation that may be lost.
    """
    first, last = steps[0], steps[-1]
    ((name, weight),) = first.concepts[:1]
    if tolerance and weight > 0 and first.score >= (1 - tolerance) * last.score:
        return replace(first, text=name)
    return last


def _filter_concepts(found: Presence, split: RowSplit) -> tuple[list[str], Float[Tensor, "images concepts"]]:
    """Return the concepts that enough training images show and that vary over them, and their presence.

    This is the filter of the released code (explain_neurons.py, l. 60-65).
    """
    kept = torch.cat(
        [_is_usable(concepts[split.train]) for concepts in found.matrix.split(CONCEPTS_PER_BLOCK, dim=1)]
    ).nonzero()[:, 0]
    if not len(kept):
        raise BadInput(
            f"none of {len(found.names)} concepts is shown by at least three of {len(split.train)} training images and"
            " absent from others; dissect on a probe of more images, or take other evidence"
        )
    if len(kept) == len(found.names):
        return found.names, found.matrix
    matrix = torch.from_numpy(new_scratch_array(cache_folder(), np.float32, (len(found.matrix), len(kept))))
    for rows, usable in zip(found.matrix.split(CHUNK_ROWS), matrix.split(CHUNK_ROWS), strict=True):
        usable.copy_(rows[:, kept])
    return [found.names[column] for column in kept.tolist()], matrix


def _is_usable(train: Float[Tensor, "train some"]) -> Bool[Tensor, " some"]:
    surest = train.topk(min(TOP_IMAGES, len(train)), dim=0).values.mean(0)
    return (surest >= MIN_TOP_MEAN) & (train.std(0, correction=0) >= MIN_DEVIATION)

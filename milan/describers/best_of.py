"""Selection by prediction: the text, of those of several describers, that predicts a unit best on held-out images."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from milan.concepts.concept_sets import load_concept_set
from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.describers._shared.describer_specs import parse_spec
from milan.describers._shared.held_out_prediction import HeldOutPrediction
from milan.dissection.dissection import Dissection
from milan.errors import BadInput
from milan.pretrained.embedder import load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.published_models import MissingModel, find_missing_model
from milan.pretrained.segmenter import Segmenter, load_segmenter
from milan.pretrained.segmenter_labels import segmenter_of
from milan.probes import Probe
from milan.storage.provenance import joined
from milan.storage.text_files import read_content
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit, split_weighted_sum

SILENCE = "nothing in particular"
LABELS = "labels"
KEPT_CANDIDATES = 10  # candidates kept with a description
MAX_REVISIONS = 3  # times that each alternative is chosen again
JOIN = " or "
# Texts that would be read as something else if they were joined by "or".
COMPOUND = re.compile(r"\b(?:or|but|not|neither)\b")


class BestOf(Describer):
    """Chooses, among the candidates of several describers, the text that predicts the unit's activation best.

    A text's score is the correlation of the unit's activation with what the text says, over images that no describer
    has used: with the probability that an image shows it, by image-text models (the mean of their correlations), or
    with the pixels or classes that it denotes, by labels. Of the texts whose score is within a tolerance of the best,
    the one with the fewest words is taken. Further texts are joined to it by "or", as long as each raises the score by
    ``join_gain``. If the score is below the cut, the description is "nothing in particular".

    ``score`` is the correlation. ``reasoning["confidence"]`` is the probability that the description is true, a
    logistic function of its margin: by what share of its score it beats the best candidate that has no word in common
    with it. For a silent one it is the probability that nothing true can be said, and the margin is by what share of
    the cut the best text stays below it.

    Args:
        describers: the describers: names, or NAME:KEY=VALUE,KEY=VALUE.
        options: settings of describers, by the describers as they stand in ``describers``.
        simulator: ``labels`` (the probe's own labels), ``segmenter`` or ``segmenter:SPEC`` (the labels that a
            network predicts, see ``milan.pretrained.segmenter_labels.load_pixel_labels``), or image-text models,
            separated by commas, as ``milan.pretrained.embedder.load_embedder`` takes them; better some that the
            describers do not use.
        concepts: concept set whose concepts are candidates too, as
            ``milan.concepts.concept_sets.load_concept_set`` takes it; empty for none.
        held_out: images that no describer has used, as ``milan.probes.load_probe`` takes them; empty for the
            dissection's own probe, on which texts that a describer has fitted to it look better than they are.
        candidates: number of candidates of each describer.
        tolerance: share of the best score that may be lost for a text with fewer words.
        join_gain: share of the score that another text joined by "or" must gain.
        alternatives: maximum number of texts that are joined.
        cut: correlation below which nothing is said; 0 to say something of every unit.
        confidence: "A,B": the confidence is the logistic function of A * margin + B.
        device: device of the image-text models.
        superclasses: FILE with groups of the held-out images' classes, for ``labels``; see
            ``milan.probes.superclasses``.
        synsets: FILE with the meaning of the numbers in ``superclasses``, if they are not the images' own labels.
    """

    name: ClassVar[str] = "best_of"
    version: ClassVar[int] = 1

    def __init__(
        self,
        describers: list[str] = ["clip_dissect", "sand"],  # noqa: B006 - never changed
        options: dict[str, Any] | None = None,
        simulator: str = "open_clip:ViT-L-16-SigLIP-384/webli",
        concepts: str = "",
        held_out: str = "",
        candidates: int = 10,
        tolerance: float = 0.05,
        join_gain: float = 0.1,
        alternatives: int = 2,
        cut: float = 0.25,
        confidence: str = "5,0.13",
        device: str = "cpu",
        superclasses: str = "",
        synsets: str = "",
    ):
        if not describers or candidates < 1:
            raise BadInput(f"{len(describers)} describers with {candidates} candidates each; give at least 1 of both")
        if not 0 <= tolerance < 1:
            raise BadInput(f"a tolerance of {tolerance}; give a share of the best score, at least 0 and below 1")
        self.describers, self.options, self.simulator, self.concepts = describers, options, simulator, concepts
        self.held_out, self.candidates, self.tolerance, self.join_gain = held_out, candidates, tolerance, join_gain
        self.alternatives = alternatives
        self.cut, self.confidence, self.device = cut, confidence, device
        self.superclasses, self.synsets = superclasses, synsets
        self._slope, self._offset = _parse_confidence(confidence)
        self._predictions: dict[str, HeldOutPrediction] = {}

    @property
    def key(self) -> str:
        """Content key of the describers, of what predicts, and of the settings that change answers."""
        names = ("describers", "options", "simulator", "concepts", "device", "superclasses", "synsets")
        settings = {name: value for name, value in self.settings.items() if name not in names}
        others = [each.key for each in self.candidate_describers]
        models = [each.key for each in self.models] + ([self.segmenter.key] if self.segmenter else [])
        files = [read_content(file) for file in (self.superclasses, self.synsets)]
        return self.key_of(of=others, models=models, more=self.more_texts, files=files, **settings)

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the describers."""
        return "; ".join(dict.fromkeys(each.words for each in self.candidate_describers if each.words))

    @cached_property
    def candidate_describers(self) -> list[Describer]:
        """The describers whose candidates are compared."""
        found = []
        for spec in self.describers:
            parsed = parse_spec(spec)
            found.append(load_describer(parsed.name, **{**parsed.settings, **(self.options or {}).get(spec, {})}))
        return found

    @property
    def model_specs(self) -> list[str]:
        """The image-text models that predict; none if labels do."""
        predicts_pixels = self.simulator == LABELS or self.segmenter_spec
        return [] if predicts_pixels else [each.strip() for each in self.simulator.split(",")]

    @property
    def segmenter_spec(self) -> str:
        """The segmenter whose labels predict; empty if there is none."""
        return segmenter_of(self.simulator).get("segmenter", "")

    @cached_property
    def segmenter(self) -> Segmenter | None:
        """The segmenter whose labels predict, loaded at the first access."""
        return load_segmenter(self.segmenter_spec, device=self.device) if self.segmenter_spec else None

    @cached_property
    def models(self) -> list[Embedder]:
        """The image-text models that predict, loaded at the first access."""
        return [load_embedder(each, device=self.device) for each in self.model_specs]

    @cached_property
    def more_texts(self) -> list[str]:
        """The concepts that are candidates for every unit."""
        return load_concept_set(self.concepts) if self.concepts else []

    def required_models(self) -> dict[str, str]:
        """The image-text models and the concept set."""
        found = {f"embedder {number}": spec for number, spec in enumerate(self.model_specs, 1)}
        return {**found, **segmenter_of(self.simulator), **self.specs("concepts")}

    def find_missing_models(self) -> list[MissingModel]:
        """Return the missing models of this describer and of all describers of candidates."""
        own = [find_missing_model("embedder", spec) for spec in self.model_specs]
        if self.segmenter_spec:
            own.append(find_missing_model("segmenter", self.segmenter_spec))
        others = (missing for each in self.candidate_describers for missing in each.find_missing_models())
        return [*filter(None, own), *others]

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the evidence of a describer of candidates is missing."""
        for each in self.candidate_describers:
            each.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """The image-text models that predict, and the sources of the describers."""
        own = {} if self.simulator == LABELS else {"simulator": self.simulator}
        others = {
            spec: each.sources(dissection)
            for spec, each in zip(self.describers, self.candidate_describers, strict=True)
        }
        return joined({self.name: own, **others})

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield each unit's best candidate; a unit that no describer could describe is a failure."""
        active = select_active(dissection, units)
        if not active:
            return
        prediction = self._load_prediction(dissection)
        streams = [each.describe(dissection, active) for each in self.candidate_describers]
        for unit, found in zip(active, zip(*streams, strict=True), strict=True):
            described = [each for each in found if isinstance(each, Description)]
            if described:
                yield self._choose(unit, described, prediction)
            else:
                reasons = "; ".join(each.reason for each in found if isinstance(each, DescriptionFailure))
                yield DescriptionFailure(unit, reasons)

    def _choose(self, unit: Unit, described: Sequence[Description], prediction: HeldOutPrediction) -> Description:
        texts = list(dict.fromkeys([*list_candidate_texts(described, self.candidates), *self.more_texts]))
        scores = dict(zip(texts, prediction.correlate(unit, texts).tolist(), strict=True))
        chosen = choose_short(scores, self.tolerance)
        parts, score = self._choose_alternatives(unit, scores, prediction)
        if score >= max(scores.values()) * (1 - self.tolerance):
            chosen = JOIN.join(parts)
            scores[chosen] = score
        best = sorted(scores, key=lambda text: -scores[text])[:KEPT_CANDIDATES]
        candidates = [Candidate(text, scores[text]) for text in dict.fromkeys([*best, chosen])]
        value = scores[chosen]
        margin = compute_margin(scores, chosen)
        if value < self.cut:
            chosen, value, margin = SILENCE, self.cut, 1 - value / self.cut
            candidates.append(Candidate(SILENCE, value))
        confidence = float(1 / (1 + np.exp(-(self._slope * margin + self._offset))))
        candidates.sort(key=lambda each: -each.score)
        reasoning = {"confidence": round(confidence, 4), "descriptions": [each.text for each in described]}
        terms = tuple(split_weighted_sum(chosen))
        concepts = terms if len(terms) > 1 else ()
        return Description(unit, chosen, value, concepts, candidates=tuple(candidates), reasoning=reasoning)

    def _choose_alternatives(
        self, unit: Unit, scores: dict[str, float], prediction: HeldOutPrediction
    ) -> tuple[list[str], float]:
        """Return the texts that say together what the unit detects, and their score joined by "or".

        Each is the shortest near the best where none of the others holds, so that the strongest alternative neither
        hides a weaker one nor decides how closely that one is described.
        """
        texts = [text for text in scores if not COMPOUND.search(text) and len(split_weighted_sum(text)) == 1]
        if not texts:
            return [], -1.0

        def choose(others: Sequence[str]) -> str:
            found = prediction.correlate(unit, texts, others).tolist() if others else [scores[text] for text in texts]
            return choose_short(dict(zip(texts, found, strict=True)), self.tolerance)

        parts = [choose(())]
        score = scores[parts[0]]
        while len(parts) < self.alternatives:
            more = [*parts, choose(parts)]
            for _ in range(MAX_REVISIONS):
                before = list(more)
                for place in range(len(more)):
                    more[place] = choose([*more[:place], *more[place + 1 :]])
                if more == before:
                    break
            joint = prediction.correlate_any(unit, more)
            if joint <= score * (1 + self.join_gain):
                break
            parts, score = more, joint
        return sorted(parts, key=lambda text: -scores[text]), score

    def _load_prediction(self, dissection: Dissection) -> HeldOutPrediction:
        """Load what predicts a layer's units, however often units of it are asked for."""
        if dissection.key not in self._predictions:
            files = (self.superclasses, self.synsets)
            found = HeldOutPrediction.load(dissection, self.models, self.held_out, files, self.segmenter)
            self._predictions = {dissection.key: found}
        return self._predictions[dissection.key]


def list_candidate_texts(descriptions: Sequence[Description], count: int) -> list[str]:
    """Return the texts of descriptions and their first ``count`` candidates, without duplicates."""
    texts = [text for each in descriptions for text in (each.text, *(one.text for one in each.candidates[:count]))]
    return list(dict.fromkeys(texts))


def choose_short(scores: dict[str, float], tolerance: float) -> str:
    """Return the text with the fewest words whose score is near the best; of equally long ones the best.

    >>> choose_short({"cats": 0.49, "dogs": 0.5, "grey cats": 0.51, "cows": 0.3}, tolerance=0.05)
    'dogs'
    """
    best = max(scores.values())
    near = [text for text in scores if scores[text] >= best - tolerance * abs(best)]
    return min(near, key=lambda text: (len(text.split()), -scores[text]))


def compute_margin(scores: dict[str, float], chosen: str) -> float:
    """Return by what share of its score a text beats the best one that has no word in common with it, 0..1.

    >>> round(compute_margin({"grey cats": 0.5, "cats": 0.48, "dogs": 0.4}, "grey cats"), 3)
    0.2
    """
    words = set(chosen.split())
    others = [score for text, score in scores.items() if not words & set(text.split())]
    second = max([0.0, *others])
    return 1 - second / scores[chosen] if scores[chosen] > second else 0.0


def _parse_confidence(text: str) -> tuple[float, float]:
    try:
        slope, offset = map(float, text.split(","))
    except ValueError:
        raise BadInput(f"not a confidence: {text!r}; write A,B as in 10,-3") from None
    return slope, offset

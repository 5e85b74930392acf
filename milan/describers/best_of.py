"""Selection by prediction: the text, of those of several describers, that predicts a unit best on held-out images."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import numpy as np

from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.describers._shared.describer_specs import parse_spec
from milan.describers._shared.held_out_prediction import HeldOutPrediction
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.pretrained.embedder import load_embedder
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.scores.activation_simulation import LABEL_SIMULATOR
from milan.storage.provenance import joined
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit

SILENCE = "nothing in particular"
KEPT_CANDIDATES = 10  # candidates kept with a description
JOIN = " or "


class BestOf(Describer):
    """Chooses, among the candidates of several describers, the text that predicts the unit's activation best.

    A text's score is the correlation of the unit's activation with what the text says, over images that no describer
    has used: with the probability that an image shows it, by an image-text model, or with the pixels that it denotes,
    by labels. The best few texts are also tried in pairs joined by "or". Of the texts whose score is within a tolerance
    of the best, the one with the fewest words is taken. If no text reaches the cut, the description is "nothing in
    particular".

    ``score`` is the correlation. ``reasoning["confidence"]`` is the probability that the description is true, a
    logistic function of the correlation; of a silent one that nothing true can be said.

    Args:
        describers: the describers: names, or NAME:KEY=VALUE,KEY=VALUE.
        options: settings of describers, by the describers as they stand in ``describers``.
        simulator: ``labels`` (the probe's own labels), or an image-text model, as
            ``milan.pretrained.embedder.load_embedder`` takes it; better one that none of the describers uses.
        calibration: of the image-text model, as ``milan.concepts.presence.calibrate`` takes it.
        held_out: images that no describer has used, as ``milan.probes.load_probe`` takes them; empty for the
            dissection's own probe, on which texts of describers that fit them to it look better than they are.
        candidates: number of candidates of each describer.
        joined: number of the best candidates that are also tried in pairs joined by "or"; 0 for none.
        tolerance: share of the best score that may be lost for a text with fewer words.
        join_tolerance: the same where a joined pair gives way to a single text.
        cut: correlation below which nothing is said; 0 to say something of every unit.
        confidence: "A,B": the confidence is the logistic function of A * correlation + B.
        device: device of the image-text model.
    """

    name: ClassVar[str] = "best_of"
    version: ClassVar[int] = 1

    def __init__(
        self,
        describers: list[str] = ["clip_dissect", "sand"],  # noqa: B006 - never changed
        options: dict[str, Any] | None = None,
        simulator: str = "open_clip:ViT-L-16-SigLIP-384/webli",
        calibration: str = "",
        held_out: str = "",
        candidates: int = 10,
        joined: int = 6,
        tolerance: float = 0.05,
        join_tolerance: float = 0.1,
        cut: float = 0.1,
        confidence: str = "10,-3",
        device: str = "cpu",
    ):
        if not describers:
            raise BadInput("no describers; give at least one, such as clip_dissect")
        for name, value in (("tolerance", tolerance), ("join_tolerance", join_tolerance)):
            if not 0 <= value < 1:
                raise BadInput(f"{name} is {value}; give a share of the best score, at least 0 and below 1")
        if candidates < 1 or joined < 0:
            raise BadInput(f"{candidates} candidates, {joined} joined; give at least 1 candidate, and 0 or more joined")
        self.describers, self.options, self.simulator, self.calibration = describers, options, simulator, calibration
        self.held_out, self.candidates, self.joined = held_out, candidates, joined
        self.tolerance, self.join_tolerance, self.cut = tolerance, join_tolerance, cut
        self.confidence, self.device = confidence, device
        self._parse_confidence()
        self._predictions: dict[str, HeldOutPrediction] = {}

    @property
    def key(self) -> str:
        """Content key of the describers, of what predicts, and of the settings that change answers."""
        names = ("describers", "options", "simulator", "device")
        settings = {name: value for name, value in self.settings.items() if name not in names}
        model = LABEL_SIMULATOR if self.simulator == LABEL_SIMULATOR else self._load_model_key()
        return self.key_of(of=[each.key for each in self.candidate_describers], model=model, **settings)

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

    def required_models(self) -> dict[str, str]:
        """Return the image-text model, if one predicts."""
        return {} if self.simulator == LABEL_SIMULATOR else {"embedder": self.simulator}

    def find_missing_models(self) -> list[MissingModel]:
        """Return the missing models of this describer and of all describers of candidates."""
        return [
            *super().find_missing_models(),
            *(model for each in self.candidate_describers for model in each.find_missing_models()),
        ]

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the evidence of a describer of candidates is missing."""
        for each in self.candidate_describers:
            each.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the image-text model, if one predicts, and the sources of the describers."""
        own = {} if self.simulator == LABEL_SIMULATOR else {"simulator": self.simulator}
        return joined({self.name: own, **{each.name: each.sources(dissection) for each in self.candidate_describers}})

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
        texts = list_candidate_texts(described, self.candidates)
        scores = dict(zip(texts, prediction.correlate(unit, texts), strict=True))
        best = sorted(texts, key=lambda text: -scores[text])[: self.joined]
        pairs = [JOIN.join(pair) for pair in combinations(best, 2) if not any(JOIN in text for text in pair)]
        scores |= dict(zip(pairs, prediction.correlate(unit, pairs), strict=True))
        text = choose_text(scores, self.tolerance, self.join_tolerance)
        score, odds = scores[text], self._parse_confidence()
        confidence = 1 / (1 + np.exp(-(odds[0] * score + odds[1])))
        if score < self.cut:
            text, confidence = SILENCE, 1 - confidence
        ranked = sorted(scores, key=lambda each: -scores[each])[:KEPT_CANDIDATES]
        kept = [Candidate(each, scores[each]) for each in dict.fromkeys([*ranked, text]) if each != SILENCE]
        if text == SILENCE:
            kept = [Candidate(SILENCE, self.cut), *kept]
        kept.sort(key=lambda each: -each.score)
        says = {each: one.text for each, one in zip(self.describers, described, strict=False)}
        reasoning = {"confidence": round(float(confidence), 4), "descriptions": says}
        return Description(unit, text, score, candidates=tuple(kept), reasoning=reasoning)

    def _parse_confidence(self) -> tuple[float, float]:
        try:
            slope, offset = map(float, self.confidence.split(","))
        except ValueError:
            raise BadInput(f"not a confidence: {self.confidence!r}; write A,B as in 10,-3") from None
        return slope, offset

    def _load_model_key(self) -> str:
        return load_embedder(self.simulator, device=self.device).key

    def _load_prediction(self, dissection: Dissection) -> HeldOutPrediction:
        """Load what predicts a layer's units, however often units of it are asked for."""
        if dissection.key not in self._predictions:
            settings = self.simulator, self.calibration, self.held_out, self.device
            self._predictions = {dissection.key: HeldOutPrediction.load(dissection, *settings)}
        return self._predictions[dissection.key]


def list_candidate_texts(descriptions: Sequence[Description], count: int) -> list[str]:
    """Return the texts of descriptions and their first ``count`` candidates, without duplicates."""
    texts = [text for each in descriptions for text in (each.text, *(one.text for one in each.candidates[:count]))]
    return list(dict.fromkeys(texts))


def choose_text(scores: dict[str, float], tolerance: float, join_tolerance: float) -> str:
    """Return the text with the fewest words whose score is near the best; of equally long ones the best.

    >>> choose_text({"cats": 0.5, "grey cats": 0.51, "cats or dogs": 0.52}, tolerance=0.05, join_tolerance=0.1)
    'cats'
    >>> choose_text({"cats": 0.4, "cats or dogs": 0.52}, tolerance=0.05, join_tolerance=0.1)
    'cats or dogs'
    """
    best = max(scores.values())
    near = [text for text in scores if scores[text] >= best - tolerance * abs(best)]
    single = [text for text in scores if JOIN not in text and scores[text] >= best - join_tolerance * abs(best)]
    best_single = max((scores[text] for text in single), default=0.0)
    # A joined pair gives way to a single text, but to the best single texts only.
    single = [text for text in single if scores[text] >= best_single - tolerance * abs(best_single)]
    return min(single or near, key=lambda text: (len(text.split()), -scores[text]))

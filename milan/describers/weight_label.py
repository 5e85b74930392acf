"""Weight-Label of *Tell me what you see* (section 3.2): a language model reads names of classes and how much a unit
speaks for each.
"""

from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from milan.describers._shared.llm_explainer import LlmExplainer
from milan.describers._shared.weight_pairs import (
    count_outputs,
    make_weight_pairs,
    match_class_names,
    read_class_names,
)
from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.scores.prediction_pairs import PredictionPairs, Signs
from milan.storage.files import content_key
from milan.targets.effective_weights import compute_effective_weights
from milan.targets.target import Target
from milan.units import Unit


class WeightLabel(LlmExplainer):
    """Shows the 25 classes that a unit speaks for most, with weights of 1 to 10, weakest first, and asks what it looks
    for.

    No image is looked at. From an earlier layer the weights are the products of the weight matrices on the way
    (``milan.targets.effective_weights``), which passes over activation functions: the paper's own rough estimate.

    Args:
        classes: the names of the network's answers: a text file with one in each line, ``imagenet``, or, if empty,
            those of the probe's classes, where there are as many.
        llm: ``phrases``, ``openai:MODEL``, ``hf:ID_OR_FOLDER`` or your own, see ``milan.pretrained.llm.load_llm``.
        base_url: of an endpoint, as http://localhost:8000/v1; else $OPENAI_BASE_URL, else OpenAI's. The key is in
            $OPENAI_API_KEY.
        max_calls: requests to the language model at most, repeated ones included.
        llm_options: temperature, longest, timeout, workers, tries, pause and others, see
            ``milan.pretrained.llm_client.load_llm_client``.
        prompts: a folder with files that replace those of configs/prompts.
        examples: a csv of units described by hand (layer, unit, description), of which those of the same layer are
            shown first.
        shots: such units at most; the paper shows 2.
        shown: pairs at most; the paper shows 25.
        signs: ``positive`` weights (the paper's), ``negative`` ones (appendix C.3.1), or ``both`` at once (C.3.2).
        explanations: how many are asked for; the best predictor of pairs that are kept for choosing is taken. The paper
            takes 10.
        share: of the classes that may be shown; half of the others is for choosing, half for
            ``milan.scores.explanation_assessment``.
        seed: of that division and of what is drawn for choosing.
        device: where a language model in process runs.
    """

    name: ClassVar[str] = "weight_label"
    version: ClassVar[int] = 1

    def __init__(
        self,
        classes: str = "imagenet",
        llm: str = "openai:gpt-3.5-turbo",
        base_url: str = "",
        max_calls: int | None = 5000,
        llm_options: dict[str, Any] | None = None,
        prompts: str = "",
        examples: str = "",
        shots: int = 2,
        shown: int = 25,
        signs: Signs = "positive",
        explanations: int = 10,
        share: float = 0.5,
        seed: int = 0,
        device: str = "cpu",
    ):
        self.classes, self.llm, self.base_url, self.max_calls, self.llm_options = (
            classes,
            llm,
            base_url,
            max_calls,
            llm_options,
        )
        self.prompts, self.examples, self.shots, self.shown, self.signs = prompts, examples, shots, shown, signs
        self.explanations, self.share, self.seed, self.device = explanations, share, seed, device
        self._weights: dict[str, Tensor] = {}
        self._check()

    @property
    def key(self) -> str:
        return content_key(explainer=super().key, classes=self._class_names or [])

    def check_evidence(self, target: Target, probe: Probe) -> None:
        names, outputs = self._class_names or (probe.classes or []), count_outputs(target)
        if len(names) != outputs:
            raise MissingEvidence(
                f"{target.name} has {outputs or 'no vector of'} outputs, and there are names for {len(names)} classes;"
                " give classes=FILE with one name in each line, or imagenet"
            )

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """The language model; names of classes are nobody's description."""
        return self.specs("llm")

    @cached_property
    def _class_names(self) -> list[str]:
        """Names of classes that were given; empty where the probe is to tell them."""
        return read_class_names(self.classes)

    def make_pairs(self, dissection: Dissection, unit: Unit) -> PredictionPairs:
        if dissection.key not in self._weights:
            self._weights = {dissection.key: compute_effective_weights(dissection.open_target(), dissection.layer)}
        weights = self._weights[dissection.key]
        names = match_class_names(self._class_names, dissection, len(weights))
        return make_weight_pairs(weights[:, unit.index].numpy(), names, self.signs, self.name)

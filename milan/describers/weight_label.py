"""Weight-Label of *Tell me what you see* (section 3.2): a language model reads class names and a unit's weights."""

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
    """Asks a language model what a unit detects, from the classes that it speaks for most, with weights 1 to 10.

    The classes are listed weakest first. No image is used. For an earlier layer the weights are products of the weight
    matrices up to the output (``milan.targets.effective_weights``), which ignores activation functions: the paper's own
    rough estimate.

    Args:
        classes: names of the network's outputs: ``imagenet``, a text file with one name in each line, or, if empty, the
            probe's classes, which must be as many.
        llm: language model: ``openai:MODEL``, ``hf:ID_OR_FOLDER``, ``phrases``, or a custom one; see
            ``milan.pretrained.llm.load_llm``.
        base_url: address of an endpoint, as http://localhost:8000/v1; if empty $OPENAI_BASE_URL, else OpenAI's. The key
            is read from $OPENAI_API_KEY.
        max_calls: maximum number of requests, retries included; None for no limit.
        llm_options: temperature, longest, timeout, workers, tries, pause and others; see
            ``milan.pretrained.llm_client.load_llm_client``.
        prompts: folder with files that replace those of configs/prompts.
        examples: csv of units described by hand (layer, unit, description); those of the same layer are few-shot
            examples.
        shots: maximum number of examples; 2 in the paper.
        shown: maximum number of classes; 25 in the paper.
        signs: ``positive`` weights (the paper's), ``negative`` ones (appendix C.3.1), or ``both`` at once (C.3.2).
        explanations: number of explanations asked for; the best predictor of held-out pairs is chosen. 10 in the paper.
        share: share of the classes that may be shown; half of the others is for choosing, half for
            ``milan.scores.explanation_assessment``.
        seed: random seed of that split and of the pairs for choosing.
        device: device of a language model in process.
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
        """Content key of the explainer's settings and the classes' names."""
        return content_key(explainer=super().key, classes=self._class_names or [])

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the number of names is not the target's number of outputs."""
        names, outputs = self._class_names or (probe.classes or []), count_outputs(target)
        if len(names) != outputs:
            raise MissingEvidence(
                f"{target.name} has {outputs or 'no vector of'} outputs, and there are names for {len(names)} classes;"
                " give classes=FILE with one name in each line, or imagenet"
            )

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """The language model; class names are no descriptions."""
        return self.specs("llm")

    @cached_property
    def _class_names(self) -> list[str]:
        """The given class names; empty if the probe's are used."""
        return read_class_names(self.classes)

    def make_pairs(self, dissection: Dissection, unit: Unit) -> PredictionPairs:
        """Return the classes' names with the unit's effective weights to their logits as integers."""
        if dissection.key not in self._weights:
            self._weights = {dissection.key: compute_effective_weights(dissection.open_target(), dissection.layer)}
        weights = self._weights[dissection.key]
        names = match_class_names(self._class_names, dissection, len(weights))
        return make_weight_pairs(weights[:, unit.index].numpy(), names, self.signs, self.name)

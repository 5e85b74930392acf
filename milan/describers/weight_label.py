"""Weight-Label of *Tell me what you see* (section 3.2): a language model reads class names and a unit's weights."""

from typing import Any, ClassVar

from torch import Tensor

from milan.describers._shared.weight_pairs import (
    WeightExplainer,
    count_outputs,
    make_weight_pairs,
    match_class_names,
)
from milan.dissection.dissection import Dissection
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.scores.prediction_pairs import PredictionPairs
from milan.storage.files import content_key
from milan.targets.effective_weights import compute_effective_weights
from milan.targets.target import Target
from milan.units import Unit


class WeightLabel(WeightExplainer):
    """Asks a language model what a unit detects, from the classes with its largest weights, as integers 1 to 10.

    The classes are listed weakest first. No image is used. For an earlier layer the weights are products of the weight
    matrices up to the output (``milan.targets.effective_weights``), which ignores activation functions: the paper's own
    rough estimate.

    Args:
        shared: options of ``WeightExplainer``, ``LlmExplainer`` and ``LlmDescriber``.
    """

    name: ClassVar[str] = "weight_label"
    version: ClassVar[int] = 1

    def __init__(self, **shared: Any):
        super().__init__(**shared)
        self._weights: dict[str, Tensor] = {}

    @property
    def key(self) -> str:
        """Content key of the explainer's settings and the classes' names."""
        return content_key(explainer=super().key, classes=self.class_names or [])

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the number of names is not the target's number of outputs."""
        names, outputs = self.class_names or (probe.classes or []), count_outputs(target)
        if len(names) != outputs:
            raise MissingEvidence(
                f"{target.name} has {outputs or 'no vector of'} outputs, and there are names for {len(names)} classes;"
                " give classes=FILE with one name in each line, or imagenet"
            )

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the language model; class names are no descriptions."""
        return self.specs("llm")

    def make_pairs(self, dissection: Dissection, unit: Unit) -> PredictionPairs:
        """Return the classes' names with the unit's effective weights to their logits as integers."""
        if dissection.key not in self._weights:
            self._weights = {dissection.key: compute_effective_weights(dissection.open_target(), dissection.layer)}
        weights = self._weights[dissection.key]
        names = match_class_names(self.class_names, dissection, len(weights))
        return make_weight_pairs(weights[:, unit.index].numpy(), names, self.signs, self.name)

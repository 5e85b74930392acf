"""Options of the assessment experiment."""

from dataclasses import dataclass
from typing import Any

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class AssessmentConfig(DissectedTargetConfig):
    """Score descriptions by how well a language model predicts unseen weights and activations from them.

    Attributes:
        describers: The describers: names, NAME:KEY=VALUE,..., files of
            options as in configs/describe, or tables of descriptions.
        pairs: What is predicted: weight_label, weight_clip or caption_activation. By default weight_label.
        settings: Settings of these describers for the pairs and the predicting language model, as --settings.llm
            openai:gpt-4o-mini.
        explained_share: The share of the pairs from which explanations may be made. Half of the others select among
            several explanations, half evaluate.
    """

    describers: list[str]
    pairs: list[str] | None = None
    settings: dict[str, Any] | None = None
    explained_share: float = 0.5

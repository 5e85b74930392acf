"""How similar two texts are, word by word."""

from functools import cache
from typing import Any

from milan.scores.text_similarity import normalize_text


def compute_rouge_l(text: str, other: str) -> float:
    """Return the ROUGE-L F-measure of two texts: 0 for no common word, 1 for the same words in the same order."""
    return float(_load_scorer().score(normalize_text(text), normalize_text(other))["rougeL"].fmeasure)


@cache
def _load_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)

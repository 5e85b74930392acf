"""Linguistic properties of each description: the seven criteria of MILAN (Hernandez et al. 2022, section 5)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist

from milan.errors import BadInput
from milan.language import format_pipeline_name, load_pipeline
from milan.language.text_parsing import ParsedText, parse_texts
from milan.units import Unit

SYNTACTIC = {"nouns": "noun", "verbs": "verb", "adpositions": "adposition", "adjectives": "adjective"}
STRUCTURAL = ("length", "depth", "word difference")
PIPELINE = "those of"  # how vectors of a pipeline are named
CRITERIA = (*SYNTACTIC, *STRUCTURAL)
WordVectors = Callable[[Sequence[str]], Float[np.ndarray, "words features"]]


def compute_criteria(
    texts: Mapping[Unit, str], vectors: WordVectors, language: str = ""
) -> dict[str, dict[Unit, float]]:
    """Return the value of each of ``CRITERIA`` for each unit.

    Nouns (names too), verbs, adpositions (the paper's prepositions) and adjectives are counted; ``length`` is in words,
    without punctuation (the 2022 code counted signs too); ``depth`` is that of the deepest parse tree in the text (the
    2022 code took the last sentence's); ``word difference`` is the greatest Euclidean distance between the vectors of
    two of the text's words, 0 where fewer than two have one (the 2022 code took a word without one to lie at 0, far
    from all).

    Args:
        texts: the description of each unit.
        vectors: of words; NaN where there is none, see ``load_word_vectors``.
        language: the pipeline, see ``milan.language.load_pipeline``.
    """
    readings = parse_texts(texts.values(), language)
    words = list(dict.fromkeys(word for reading in readings.values() for word in reading.words))
    known = dict(zip(words, vectors(words), strict=True)) if words else {}
    values = {text: _compute_values(reading, known) for text, reading in readings.items()}
    return {name: {unit: values[text][name] for unit, text in texts.items()} for name in CRITERIA}


def _compute_values(parsed: ParsedText, word_vectors: Mapping[str, Float[np.ndarray, " features"]]) -> dict[str, float]:
    counts = {name: float(parsed.count(part)) for name, part in SYNTACTIC.items()}
    there = [word_vectors[word] for word in dict.fromkeys(parsed.words) if not np.isnan(word_vectors[word]).any()]
    apart = float(pdist(np.stack(there)).max()) if len(there) > 1 else 0.0
    return counts | {"length": float(len(parsed.words)), "depth": float(parsed.tree_depth), "word difference": apart}


def load_word_vectors(spec: str, language: str = "", device: str = "cpu") -> tuple[WordVectors, str]:
    """Return a source of word vectors and its name: the pipeline's, or the spec of an image-text model.

    Args:
        spec: ``pipeline`` for the vectors of the spaCy pipeline (``en_core_web_lg`` and ``_md`` have some), else the
            text side of an image-text model as ``milan.pretrained.embedder.load_embedder`` takes it, of each word
            alone; "" for the pipeline's where it has some, else Diorama's stand-in, which knows the words of Diorama's
            sentences.

    Raises:
        BadInput: the pipeline has no vectors.
    """
    pipeline = load_pipeline(language)
    if not pipeline.vocab.vectors_length and spec == "pipeline":
        raise BadInput(
            f"the spaCy pipeline {format_pipeline_name(pipeline)} has no word vectors; take en_core_web_lg, or"
            " --vectors diorama"
        )
    if spec == "pipeline" or (not spec and pipeline.vocab.vectors_length):
        return (
            lambda words: np.stack([_pipeline_vector(pipeline.vocab[word]) for word in words]),
            f"{PIPELINE} {format_pipeline_name(pipeline)}",
        )
    from milan.pretrained.embedder import embed_texts, load_embedder

    embedder = load_embedder(spec or "diorama", device=device)
    return lambda words: embed_texts(embedder, words).numpy().astype(np.float64), spec or "diorama"


def _pipeline_vector(lexeme: object) -> Float[np.ndarray, " features"]:
    vector = np.asarray(lexeme.vector, dtype=np.float64)  # type: ignore[attr-defined]
    return vector if lexeme.has_vector else np.full_like(vector, np.nan)  # type: ignore[attr-defined]


def sort_units(values: Mapping[Unit, float], seed: int) -> list[Unit]:
    """Return units by value, largest first, ties in random order (the 2022 code broke ties by layer, early layers
    first).

    >>> [unit.index for unit in sort_units({Unit("a", 0): 1.0, Unit("a", 1): 3.0, Unit("b", 2): 2.0}, 0)]
    [1, 2, 0]
    """
    tie_breakers = np.random.default_rng(seed).permutation(len(values))
    return [
        unit
        for _, _, unit in sorted(
            (-value, tie_breaker, unit) for (unit, value), tie_breaker in zip(values.items(), tie_breakers, strict=True)
        )
    ]


def compute_tied_share(values: Mapping[Unit, float], count: int) -> float:
    """Return the share of the ``count`` top units whose place was decided by the random order of ties, 0..1.

    >>> compute_tied_share({Unit("a", 0): 2.0, Unit("a", 1): 1.0, Unit("a", 2): 1.0, Unit("a", 3): 1.0}, 2)
    0.5
    """
    ranked = sorted(values.values(), reverse=True)
    if not 0 < count < len(ranked) or ranked[count] != ranked[count - 1]:
        return 0.0
    return sum(value == ranked[count - 1] for value in ranked[:count]) / count


def shuffle_within_layers(order: Sequence[Unit], seed: int) -> list[Unit]:
    """Return a random order with a unit of the same layer in each place: the effect of layers alone."""
    rng = np.random.default_rng(seed)
    layers: dict[str, list[Unit]] = {}
    for unit in order:
        layers.setdefault(unit.layer, []).append(unit)
    shuffled = {layer: iter([units[at] for at in rng.permutation(len(units))]) for layer, units in layers.items()}
    return [next(shuffled[unit.layer]) for unit in order]

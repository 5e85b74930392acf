"""Similarity of descriptions to annotations of the same units: BLEU, ROUGE, BERTScore and embedding cosines, with
intervals.

Both sides are put in lower case, and outer full stops and spaces are taken off, as in the 2022 code. An empty
description scores 0.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from milan.errors import BadInput, MilanWarning
from milan.storage.file_kinds import check_model_folder
from milan.storage.hub_access import format_error_line, quiet

RESAMPLES = 1000
LEVEL = 0.95


@runtime_checkable
class TextEmbedder(Protocol):
    """Embeds texts."""

    @property
    def key(self) -> str:
        """Content key of the model and its settings."""

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """Return unit vectors, float32 (texts, features)."""


@dataclass(frozen=True)
class TextScore:
    """A score over all units, with the figures that must stand beside it."""

    value: float  # larger is better
    low: float  # of the 95% interval, by resampling units
    high: float
    units: int
    distinct: int  # different descriptions
    mean_words: float  # mean number of words of a description
    seed: int  # of the resampling
    settings: Mapping[str, Any] = field(default_factory=dict)  # all that another run needs for the same number
    unit_scores: tuple[float, ...] = ()  # of each unit, where the score is their mean


def bleu_score(
    descriptions: Sequence[str], references: Sequence[Sequence[str]], *, order: int = 4, seed: int = 0
) -> TextScore:
    """Return corpus BLEU by sacrebleu (13a tokens, exponential smoothing), 0..100, against any number of references per
    unit.

    Args:
        descriptions: one of each unit.
        references: the annotations of each unit, at least one text.
        order: longest n-gram that counts; 1 for BLEU-1.

    Raises:
        BadInput: there is nothing to score, or a unit without a reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    said, known = _normalize_pairs(descriptions, references)
    counts = _count_ngrams(said, known, order)
    picks = _draw_resamples(len(said), seed)
    settings = {
        "order": order,
        "tokenize": BLEU().tokenizer.signature(),
        "smooth": "exp",
        "sacrebleu": version("sacrebleu"),
    }
    return _make_score(
        float(bleu_from_counts(counts.sum(0))), bleu_from_counts(counts[picks].sum(1)), said, seed, settings
    )


def bleu_counts(
    descriptions: Sequence[str], references: Sequence[Sequence[str]], *, order: int = 4
) -> Int[np.ndarray, "units counts"]:
    """Return the counts of each unit that ``bleu_from_counts`` needs; they can be summed over units.

    Raises:
        BadInput: there is nothing to score, or a unit without a reference.
    """
    return _count_ngrams(*_normalize_pairs(descriptions, references), order)


def bleu_from_counts(sums: Shaped[np.ndarray, "*shape counts"]) -> Float[np.ndarray, "*shape"]:
    """Return sacrebleu's corpus BLEU, 0..100, from summed ``bleu_counts``, for many sums at once."""
    order = (sums.shape[-1] - 2) // 2
    correct, total = sums[..., :order].astype(np.float64), sums[..., order:-2].astype(np.float64)
    said, known = sums[..., -2].astype(np.float64), sums[..., -1].astype(np.float64)
    smooth = 2.0 ** (correct == 0).cumsum(-1)  # each order without a match counts half as much as the one before it
    precision = np.where(correct > 0, correct, 1 / smooth) / np.maximum(total, 1)
    brevity = np.exp(np.minimum(0, 1 - known / np.maximum(said, 1)))
    possible = (total > 0).all(-1) & (correct > 0).any(-1)
    return np.where(possible, 100 * brevity * np.exp(np.log(precision).mean(-1)), 0.0)


def _count_ngrams(said: list[str], known: list[list[str]], order: int) -> Int[np.ndarray, "units counts"]:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(max_ngram_order=order, effective_order=True)  # gives the same counts for one text, without a warning
    scored = [metric.sentence_score(text, texts) for text, texts in zip(said, known, strict=True)]
    return np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scored])


def rouge_score(
    descriptions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    reduction: Literal["best", "mean"] = "best",
    seed: int = 0,
) -> dict[str, TextScore]:
    """Return ROUGE-1, -2 and -L (F-measure, 0..1) by rouge-score, the mean over units.

    Args:
        reduction: of several references count the best, or the mean of all (as the 2022 code).

    Raises:
        BadInput: there is nothing to score, or a unit without a reference.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    said, known = _normalize_pairs(descriptions, references)
    scorer = RougeScorer(names, use_stemmer=False)
    reduce: Callable[..., Any] = np.max if reduction == "best" else np.mean
    every = [[scorer.score(reference, text) for reference in texts] for text, texts in zip(said, known, strict=True)]
    settings = {"over": reduction, "stemmer": False, "rouge-score": version("rouge-score")}
    return {
        name: _make_mean_score(
            np.array([reduce([one[name].fmeasure for one in scores]) for scores in every]), said, seed, settings
        )
        for name in names
    }


@dataclass(frozen=True)
class BertScoreConfig:
    """How BERTScore is computed.

    Attributes:
        model: id or folder of a transformers encoder.
        num_layers: the layer whose states are compared; None for the library's choice for the models that it knows.
        idf: whether words are weighted by their inverse document frequency, so that scores with different references
            do not compare.
        rescale: whether scores are rescaled by the library's English baseline for the model, so that unrelated texts
            score about 0.
        device: device of the encoder.
    """

    model: str = "roberta-large"
    num_layers: int | None = None
    idf: bool = True
    rescale: bool = True
    device: str = "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """What another run needs for the same numbers; the device does not count."""
        layers = self.num_layers or 0
        return {"model": Path(self.model).name, "layers": layers, "idf": self.idf, "rescale": self.rescale}


def bert_score(
    descriptions: Sequence[str],
    references: Sequence[Sequence[str]],
    config: BertScoreConfig | None = None,
    *,
    batch_size: int = 16,
    idf_texts: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, TextScore]:
    """Return BERTScore's precision, recall and F1, the mean over units of the best reference, as in MILAN's table.

    Args:
        descriptions: one text of each unit.
        references: the annotations of each unit, at least one text.
        config: the encoder and how its states are compared; by default roberta-large, as published.
        batch_size: number of texts encoded together.
        idf_texts: the texts that inverse document frequencies are counted in; by default the references.
        seed: random seed of the interval.

    Raises:
        BadInput: there is nothing to score, a unit has no reference, or the model or its baseline is not available.
    """
    config = config or BertScoreConfig()
    said, known = _normalize_pairs(descriptions, references)
    scorer = _load_bert_scorer(config.model, config.num_layers, config.rescale, config.device)
    if config.idf:
        scorer._idf_dict = None
        scorer.compute_idf(
            [text for texts in known for text in texts]
            if idf_texts is None
            else [normalize_text(text) for text in idf_texts]
        )
    else:
        scorer._idf_dict = None
    scorer._idf = config.idf
    full = [at for at, text in enumerate(said) if text]
    found = np.zeros((3, len(said)))
    if full:
        parts = scorer.score([said[at] for at in full], [known[at] for at in full], batch_size=batch_size)
        found[:, full] = np.stack([part.double().numpy() for part in parts])
    settings = {
        "model": config.model,
        "num_layers": scorer.num_layers,
        "idf": config.idf,
        "rescale": config.rescale,
        "bert-score": version("bert-score"),
    }
    return {
        name: _make_mean_score(values, said, seed, settings)
        for name, values in zip(("precision", "recall", "f1"), found, strict=True)
    }


def embedding_cosine(
    descriptions: Sequence[str],
    references: Sequence[Sequence[str]],
    encoder: TextEmbedder,
    *,
    reduction: Literal["best", "mean"] = "best",
    seed: int = 0,
) -> TextScore:
    """Return the cosine of the embeddings of description and reference, -1..1, the mean over units.

    Unrelated texts are far from 0, and differently so with each encoder: only the floors tell what a number is worth.

    Args:
        references: class names, or the annotations of each unit.
        encoder: an image-text model (``load_embedder``) or a sentence encoder (``load_sentence_encoder``).
        reduction: of several references count the best, or the mean of all.

    Raises:
        BadInput: there is nothing to score, or a unit without a reference.
    """
    said, known = _normalize_pairs(descriptions, references)
    distinct = list(dict.fromkeys([*said, *(text for texts in known for text in texts)]))
    vectors = dict(
        zip(distinct, encoder.encode_texts([text or "." for text in distinct]).double().numpy(), strict=True)
    )
    reduce: Callable[..., Any] = np.max if reduction == "best" else np.mean
    each = [
        reduce([vectors[text] @ vectors[other] for other in texts]) if text else 0.0
        for text, texts in zip(said, known, strict=True)
    ]
    return _make_mean_score(np.array(each), said, seed, {"over": reduction, "encoder": encoder.key})


def normalize_text(text: str) -> str:
    """Return a text in the form in which texts are compared.

    >>> normalize_text(" Red things. ")
    'red things'
    """
    return " ".join(text.lower().split()).strip(". ")


def _normalize_pairs(
    descriptions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Normalize both sides; empty references are left out."""
    if isinstance(references, str) or any(isinstance(texts, str) for texts in references):
        raise BadInput("references are a list of texts for each unit, also where there is one")
    if not descriptions or len(descriptions) != len(references):
        raise BadInput(
            f"{len(descriptions)} descriptions against the references of {len(references)} units; give as many, at"
            " least 1"
        )
    said = [normalize_text(text) for text in descriptions]
    known = [[normalize_text(text) for text in texts if normalize_text(text)] for texts in references]
    if [] in known:
        raise BadInput(f"the unit at {known.index([])} has no reference that is not empty; leave it out")
    if empty := said.count(""):
        warnings.warn(f"{empty} of {len(said)} descriptions are empty: they score 0", MilanWarning, stacklevel=3)
    return said, known


def _draw_resamples(units: int, seed: int) -> Int[np.ndarray, "resamples units"]:
    return np.random.default_rng(seed).integers(0, units, (RESAMPLES, units))


def _make_mean_score(
    unit_scores: Float[np.ndarray, " units"], said: list[str], seed: int, settings: dict[str, Any]
) -> TextScore:
    means = unit_scores[_draw_resamples(len(unit_scores), seed)].mean(1)
    return _make_score(float(unit_scores.mean()), means, said, seed, settings, tuple(unit_scores.tolist()))


def _make_score(
    value: float,
    resampled: Float[np.ndarray, " resamples"],
    said: list[str],
    seed: int,
    settings: dict[str, Any],
    unit_scores: tuple[float, ...] = (),
) -> TextScore:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    length = sum(len(text.split()) for text in said) / len(said)
    return TextScore(
        value, low, high, len(said), len(set(said)), length, seed, settings | {"resamples": RESAMPLES}, unit_scores
    )


@cache
def _load_bert_scorer(model: str, num_layers: int | None, rescale: bool, device: str) -> Any:
    """Return the library's scorer; its tokenizer gets a maximum length and a space before the first word."""
    import bert_score as library
    from bert_score.utils import model2layers

    name = Path(model).name
    layers = num_layers or model2layers.get(model) or model2layers.get(name)
    if layers is None:
        raise BadInput(f"bert-score does not know which layer of {model} to take; set num_layers")
    baseline = Path(library.__file__).parent / "rescale_baseline" / "en" / f"{name}.tsv"
    if rescale and not baseline.exists():
        raise BadInput(f"bert-score has no English baseline for {name}; set rescale=False")
    if (model.startswith((".", "/", "~")) or model.count("/") > 1) and not Path(model).exists():
        raise BadInput(f"no folder {model}; give a transformers encoder by id or folder")
    if Path(model).is_dir():
        check_model_folder(Path(model))
    try:
        with quiet():
            rescaling = {"lang": "en", "rescale_with_baseline": rescale, "baseline_path": str(baseline)}
            scorer = library.BERTScorer(model, num_layers=layers, device=device, nthreads=0, **rescaling)
            scorer._tokenizer = _load_tokenizer(model, scorer._model.config)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"cannot load {model} for BERTScore: {format_error_line(error)}; give a folder that holds it"
        ) from None
    return scorer


def _load_tokenizer(model: str, config: Any) -> Any:
    from transformers import AutoTokenizer

    settings = {"add_prefix_space": True} if config.model_type in ("roberta", "gpt2", "longformer") else {}
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, **settings)
    places = getattr(config, "max_position_embeddings", 512) - (
        2 if config.model_type in ("roberta", "longformer") else 0
    )
    tokenizer.model_max_length = min(tokenizer.model_max_length, places)  # one without a length would overflow
    return tokenizer

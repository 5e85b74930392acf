"""The scores of descriptions by annotations of the same units, and by what is true of the units."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from milan.experiments.core.config import BertScoreOptions
from milan.experiments.core.report import Column, Value
from milan.models.annotated_units import AnnotatedUnit
from milan.scores.bootstrap import bootstrap_mean, bootstrap_pooled
from milan.scores.confidence_intervals import Measure
from milan.scores.text_similarity import (
    BertScoreConfig,
    bert_score,
    bleu_counts,
    bleu_from_counts,
    normalize_text,
    rouge_score,
)
from milan.scores.truth_score import Truth
from milan.storage.files import content_key
from milan.storage.journal import Journal

TextPair = tuple[str, str]  # a description and a reference
BERT_BATCH = 256  # pairs of texts
JOURNAL_BATCH = 10000  # pairs of texts that are scored and kept together
# The scores that need no references.
REFERENCE_FREE = ("truth", "distinct", "words")
COLUMNS = {
    "BERTScore": Column(
        "BERTScore",
        "BERTScore F with a unit's annotations, the best of them; idf of all annotations.",
        "",
        3,
        "more",
    ),
    "BLEU": Column(
        "BLEU",
        "Corpus BLEU, 0 to 100, with all annotations of a unit, over all seeds together; 0 if no text has four words.",
        "",
        1,
        "more",
    ),
    "BLEU-1": Column("BLEU-1", "The same for single words.", "", 1, "more"),
    "ROUGE-L": Column("ROUGE-L", "ROUGE-L F, 0 to 1, with the best of a unit's annotations.", "", 3, "more"),
    "truth": Column(
        "truth",
        "Mean truth score: the share of the way from a random concept to the best formula of up to three concepts,"
        " by correlation over held-out scenes.",
        "%",
        1,
        "more",
    ),
    "distinct": Column("distinct", "Number of different descriptions, a mean over seeds.", "", 0),
    "words": Column("words", "Mean number of words of a description.", "", 2),
    "units": Column("units", "Number of different described units."),
}


class TextsWithReferences(NamedTuple):
    """Descriptions of some units with their references."""

    units: tuple[AnnotatedUnit, ...]
    texts: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    @classmethod
    def from_annotations(cls, units: Sequence[AnnotatedUnit], texts: Sequence[str]) -> "TextsWithReferences":
        """Return descriptions with all annotations of their units as references."""
        return cls(tuple(units), tuple(texts), tuple(one.texts for one in units))

    @property
    def names(self) -> list[str]:
        """A name of each unit that is unique among all networks."""
        return [f"{one.source.parent.name}/{one.unit}" for one in self.units]


def make_bert_config(options: BertScoreOptions, device: str) -> BertScoreConfig:
    """Return the configuration that an experiment's options state; its model is empty if BERTScore is left out."""
    return BertScoreConfig(options.bert, options.bert_layers or None, options.bert_idf, options.bert_rescale, device)


@dataclass(frozen=True)
class DescriptionScorer:
    """Scores rounds of descriptions. Each pair of texts is scored once, and slow scores are kept in a journal.

    Attributes:
        truths: what is true of each layer, by its folder; layers of which it is not known are missing.
        bert: how BERTScore is computed; without a model it is left out.
        idf_texts: the texts for BERTScore's inverse document frequencies; by default the references of the first
        rounds.
        journal: keeps scores by content.
        seed: the random seed of the intervals.
    """

    truths: Mapping[Path, Truth] = field(default_factory=dict)
    bert: BertScoreConfig = BertScoreConfig(model="")  # noqa: RUF009 (frozen)
    idf_texts: tuple[str, ...] = ()
    journal: Journal | None = None
    seed: int = 0
    _pair_cache: dict[str, dict[TextPair, float]] = field(default_factory=lambda: {"rouge": {}, "bert": {}})
    _bleu_cache: dict[tuple[object, ...], list[float]] = field(default_factory=dict)
    _truth_cache: dict[tuple[Path, str, str], float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of its scores, in the order of tables."""
        known = {"BERTScore": bool(self.bert.model), "truth": bool(self.truths)}
        return [name for name in COLUMNS if known.get(name, True)]

    def compute_scores(self, rounds: Sequence[TextsWithReferences]) -> dict[str, Value]:
        """Return all scores of these rounds, with intervals over units and rounds."""
        self.score_pairs(rounds)
        found: dict[str, Value] = {
            "BLEU": bootstrap_pooled([self._count_bleu(one, 4) for one in rounds], bleu_from_counts, self.seed),
            "BLEU-1": bootstrap_pooled([self._count_bleu(one, 1) for one in rounds], bleu_from_counts, self.seed),
            "ROUGE-L": bootstrap_mean([self._find_best("rouge", one) for one in rounds], self.seed),
            "distinct": Measure(sum(len(set(one.texts)) for one in rounds) / len(rounds)),
            "words": bootstrap_mean(
                [dict(zip(one.names, map(_count_words, one.texts), strict=True)) for one in rounds], self.seed
            ),
            "units": len({name for one in rounds for name in one.names}),
        }
        if self.bert.model:
            found["BERTScore"] = bootstrap_mean([self._find_best("bert", one) for one in rounds], self.seed)
        if self.truths:
            found["truth"] = bootstrap_mean([self.compute_truth_scores(one) for one in rounds], self.seed)
        return found

    def score_pairs(self, rounds: Sequence[TextsWithReferences]) -> None:
        """Score the new pairs of texts and references of these rounds, which is fastest for all rounds at once."""
        pairs = {
            pair
            for one in rounds
            for text, texts in zip(one.texts, one.references, strict=True)
            for pair in _make_pairs(text, texts)
        }
        self._score_new_pairs("rouge", pairs, lambda said, known: rouge_score(said, known)["rougeL"].unit_scores)
        if self.bert.model:
            rarity = self.idf_texts or tuple(text for one in rounds for texts in one.references for text in texts)
            self._score_new_pairs(
                "bert", pairs, lambda said, known: self._compute_bert(said, known, rarity), [self.bert.settings, rarity]
            )

    def compute_truth_scores(self, said: TextsWithReferences) -> dict[str, float]:
        """Return the truth score of each unit of which the truth is known."""
        pairs = zip(said.names, said.units, said.texts, strict=True)
        return {name: self._compute_truth(one, text) for name, one, text in pairs if one.source in self.truths}

    def _compute_truth(self, one: AnnotatedUnit, text: str) -> float:
        key = (one.source, str(one.unit), text)
        if key not in self._truth_cache:
            self._truth_cache[key] = self.truths[one.source].score(one.unit, text)
        return self._truth_cache[key]

    def _count_bleu(self, said: TextsWithReferences, order: int) -> dict[str, list[float]]:
        keys = [(order, text, known) for text, known in zip(said.texts, said.references, strict=True)]
        if new := list({key for key in keys if key not in self._bleu_cache}):
            counts = (
                bleu_counts([str(text) for _, text, _ in new], [known for *_, known in new], order=order)
                .astype(float)
                .tolist()
            )
            self._bleu_cache.update(zip(new, counts, strict=True))
        return dict(zip(said.names, (self._bleu_cache[key] for key in keys), strict=True))

    def _find_best(self, name: str, said: TextsWithReferences) -> dict[str, float]:
        """Return the score of each unit with its best reference; 0 for an empty description."""
        pairs = self._pair_cache[name]
        each = [
            max(pairs[pair] for pair in _make_pairs(text, texts))
            for text, texts in zip(said.texts, said.references, strict=True)
        ]
        return dict(zip(said.names, each, strict=True))

    def _compute_bert(
        self, said: Sequence[str], known: Sequence[Sequence[str]], idf_texts: Sequence[str]
    ) -> tuple[float, ...]:
        scores = bert_score(said, known, self.bert, idf_texts=idf_texts, batch_size=BERT_BATCH)
        return scores["f1"].unit_scores

    def _score_new_pairs(
        self, name: str, pairs: Iterable[TextPair], score: Callable[..., Sequence[float]], mark: Sequence[Any] = ()
    ) -> None:
        known = self._pair_cache[name]
        new = sorted(pair for pair in set(pairs) - known.keys() if pair[0])
        known |= {pair: 0.0 for pair in pairs if not pair[0]}
        for begin in range(0, len(new), JOURNAL_BATCH):
            part = new[begin : begin + JOURNAL_BATCH]
            said, texts = [text for text, _ in part], [(other,) for _, other in part]
            known |= zip(
                part,
                self._load_or_compute(f"{name}/{content_key(pairs=part, mark=mark)}", partial(score, said, texts)),
                strict=True,
            )

    def _load_or_compute(self, key: str, make: Callable[[], Sequence[float]]) -> list[float]:
        if self.journal is None:
            return list(make())
        known = self.journal.get(key)
        if known is None:
            known = {"each": [round(value, 6) for value in make()]}
            self.journal.put(key, known)
        return known["each"]


def _make_pairs(text: str, references: Sequence[str]) -> list[TextPair]:
    """Return a text with each of its references that is not empty."""
    return [(normalize_text(text), normalize_text(known)) for known in references if normalize_text(known)]


def merge_rounds(rounds: Sequence[TextsWithReferences]) -> TextsWithReferences:
    """Return several rounds as one."""
    return TextsWithReferences(*(tuple(chain.from_iterable(part)) for part in zip(*rounds, strict=True)))


def _count_words(text: str) -> float:
    return float(len(text.split()))

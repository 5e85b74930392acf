"""What an experiment's descriptions are scored by: what annotators said of the same units, and what is true of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from milan.experiments.core.report import Column, Value
from milan.models.data_module import AnnotatedUnit
from milan.scores.bootstrap import bootstrap_mean, bootstrap_pooled
from milan.scores.confidence_intervals import Measure
from milan.scores.text_similarity import bert_score, bleu_counts, bleu_from_counts, normalize_text, rouge_score
from milan.scores.truth_score import Truth
from milan.storage.files import Journal, content_key

TextPair = tuple[str, str]  # what was said, and what it is compared with
BERT_BATCH = 256  # pairs of texts in a batch of BERTScore
JOURNAL_BATCH = 10000  # pairs that are compared and kept together
REFERENCE_FREE = ("truth", "distinct", "words")  # what needs no references
COLUMNS = {
    "BERTScore": Column(
        "BERTScore",
        "BERTScore F against the annotators' texts, the best of a unit's; idf of all of them.",
        "",
        3,
        "more",
    ),
    "BLEU": Column(
        "BLEU",
        "Corpus BLEU, 0 to 100, against all annotators of a unit, over all seeds together; 0 where no text has four"
        " words.",
        "",
        1,
        "more",
    ),
    "BLEU-1": Column("BLEU-1", "The same of single words.", "", 1, "more"),
    "ROUGE-L": Column("ROUGE-L", "ROUGE-L F, 0 to 1, the best of a unit's annotators.", "", 3, "more"),
    "truth": Column(
        "truth",
        "The mean truth score: the share of the way from a random concept to the best formula of up to three concepts,"
        " by correlation over held-out scenes.",
        "%",
        1,
        "more",
    ),
    "distinct": Column("distinct", "How many different descriptions there are, the mean over seeds.", "", 0),
    "words": Column("words", "The mean number of words of a description.", "", 2),
    "units": Column("units", "How many different units were described."),
}


class TextsWithReferences(NamedTuple):
    """What was said of some units, and what it is compared with."""

    units: tuple[AnnotatedUnit, ...]
    texts: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    @classmethod
    def from_annotations(cls, units: Sequence[AnnotatedUnit], texts: Sequence[str]) -> "TextsWithReferences":
        """Compared with all that annotators said."""
        return cls(tuple(units), tuple(texts), tuple(one.texts for one in units))

    @property
    def names(self) -> list[str]:
        return [f"{one.source.parent.name}/{one.unit}" for one in self.units]


@dataclass(frozen=True)
class BertScoreConfig:
    """How BERTScore is taken; none is where there is no model.

    Attributes:
        model: a transformers encoder by folder or id.
        layers: which of its layers counts; 0 for the library's choice.
        idf: whether words are weighed by their rarity in the references.
        rescale: whether by the library's baseline for the model.
        device: where it runs.
    """

    model: str = ""
    layers: int = 0
    idf: bool = True
    rescale: bool = False
    device: str = "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """What another run needs for the same numbers."""
        return {"model": Path(self.model).name, "layers": self.layers, "idf": self.idf, "rescale": self.rescale}


@dataclass(frozen=True)
class DescriptionScorer:
    """Scores rounds of descriptions. What is said often is compared once: pairs of texts are kept, and what takes long
    by content, too.

    Attributes:
        truths: of each layer, by its folder; layers of which the truth is not known are not in it.
        bert: how BERTScore is taken.
        idf_texts: the texts in which a word is rare or not, for BERTScore's idf; the references of the rounds that come
            first unless given.
        journal: scores by content.
        seed: of the intervals.
    """

    truths: Mapping[Path, Truth] = field(default_factory=dict)
    bert: BertScoreConfig = field(default_factory=BertScoreConfig)
    idf_texts: tuple[str, ...] = ()
    journal: Journal | None = None
    seed: int = 0
    _pair_cache: dict[str, dict[TextPair, float]] = field(default_factory=lambda: {"rouge": {}, "bert": {}})
    _bleu_cache: dict[tuple[object, ...], list[float]] = field(default_factory=dict)
    _truth_cache: dict[tuple[Path, str, str], float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The scores it gives, in the order of tables."""
        known = {"BERTScore": bool(self.bert.model), "truth": bool(self.truths)}
        return [name for name in COLUMNS if known.get(name, True)]

    def compute_scores(self, rounds: Sequence[TextsWithReferences]) -> dict[str, Value]:
        """All scores of what was said in these rounds, with intervals over units and rounds."""
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
        """Compares the texts of these rounds with their references, as far as that was not done; best for all rounds in
        one go.
        """
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
        """The truth score of each unit of which the truth is known."""
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
        """Of each unit the score with the nearest of its references; 0 for one of which nothing was said."""
        pairs = self._pair_cache[name]
        each = [
            max(pairs[pair] for pair in _make_pairs(text, texts))
            for text, texts in zip(said.texts, said.references, strict=True)
        ]
        return dict(zip(said.names, each, strict=True))

    def _compute_bert(
        self, said: Sequence[str], known: Sequence[Sequence[str]], idf_texts: Sequence[str]
    ) -> tuple[float, ...]:
        bert = self.bert
        options: dict[str, Any] = {
            "num_layers": bert.layers or None,
            "idf": bert.idf,
            "rescale": bert.rescale,
            "device": bert.device,
        }
        return bert_score(said, known, model=bert.model, idf_texts=idf_texts, batch_size=BERT_BATCH, **options)[
            "f1"
        ].unit_scores

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
    """A text with each of its references that is not empty."""
    return [(normalize_text(text), normalize_text(known)) for known in references if normalize_text(known)]


def merge_rounds(rounds: Sequence[TextsWithReferences]) -> TextsWithReferences:
    """What was said in several rounds as if it were one."""
    return TextsWithReferences(*(tuple(chain.from_iterable(part)) for part in zip(*rounds, strict=True)))


def _count_words(text: str) -> float:
    return float(len(text.split()))

"""What an experiment's descriptions are scored by: what annotators said of the same units, and what is true of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from milan.annotations import Annotated
from milan.experiments.reporting.report import Column, Value
from milan.scores.intervals import Measure
from milan.scores.rounds import pooled, pooled_mean
from milan.scores.text import bert_score, bleu_counts, bleu_of, rouge, tidied
from milan.scores.truth import Truth
from milan.storage import Journal, content_key

Pair = tuple[str, str]  # what was said, and what it is compared with
AT_ONCE = 256  # pairs of texts in a batch of BERTScore
PART = 10000  # pairs that are compared and kept together
ALONE = ("truth", "distinct", "words")  # what needs no references
COLUMNS = {
    "BERTScore": Column("BERTScore", "BERTScore F against the annotators' texts, the best of a unit's; idf of all of them.", "", 3, "more"),
    "BLEU": Column(
        "BLEU",
        "Corpus BLEU, 0 to 100, against all annotators of a unit, over all seeds together; 0 where no text has four words.",
        "",
        1,
        "more",
    ),
    "BLEU-1": Column("BLEU-1", "The same of single words.", "", 1, "more"),
    "ROUGE-L": Column("ROUGE-L", "ROUGE-L F, 0 to 1, the best of a unit's annotators.", "", 3, "more"),
    "truth": Column(
        "truth",
        "The mean truth score: how much of the best that could be said of a unit with as many concepts its description says.",
        "%",
        1,
        "more",
    ),
    "distinct": Column("distinct", "How many different descriptions there are, the mean over seeds.", "", 0),
    "words": Column("words", "The mean number of words of a description.", "", 2),
    "units": Column("units", "How many different units were described."),
}


class Round(NamedTuple):
    """What was said of some units, and what it is compared with."""

    units: tuple[Annotated, ...]
    texts: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, units: Sequence[Annotated], texts: Sequence[str]) -> "Round":
        """Compared with all that annotators said."""
        return cls(tuple(units), tuple(texts), tuple(one.texts for one in units))

    @property
    def names(self) -> list[str]:
        return [f"{one.source.parent.name}/{one.unit}" for one in self.units]


@dataclass(frozen=True)
class Bert:
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
class Judge:
    """Scores rounds of descriptions. What is said often is compared once: pairs of texts are kept, and what takes long by content, too.

    Attributes:
        truths: of each layer, by its folder; layers of which the truth is not known are not in it.
        bert: how BERTScore is taken.
        rarity: the texts in which a word is rare or not, for BERTScore's idf; the references of the rounds that come first unless given.
        kept: scores by content.
        seed: of the intervals.
    """

    truths: Mapping[Path, Truth] = field(default_factory=dict)
    bert: Bert = field(default_factory=Bert)
    rarity: tuple[str, ...] = ()
    kept: Journal | None = None
    seed: int = 0
    _pairs: dict[str, dict[Pair, float]] = field(default_factory=lambda: {"rouge": {}, "bert": {}})
    _counts: dict[tuple[object, ...], list[float]] = field(default_factory=dict)
    _true: dict[tuple[Path, str, str], float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The scores it gives, in the order of tables."""
        known = {"BERTScore": bool(self.bert.model), "truth": bool(self.truths)}
        return [name for name in COLUMNS if known.get(name, True)]

    def scores(self, rounds: Sequence[Round]) -> dict[str, Value]:
        """All scores of what was said in these rounds, with intervals over units and rounds."""
        self.compare(rounds)
        found: dict[str, Value] = {
            "BLEU": pooled([self._bleu(one, 4) for one in rounds], bleu_of, self.seed),
            "BLEU-1": pooled([self._bleu(one, 1) for one in rounds], bleu_of, self.seed),
            "ROUGE-L": pooled_mean([self._best("rouge", one) for one in rounds], self.seed),
            "distinct": Measure(sum(len(set(one.texts)) for one in rounds) / len(rounds)),
            "words": pooled_mean([dict(zip(one.names, map(_words, one.texts), strict=True)) for one in rounds], self.seed),
            "units": len({name for one in rounds for name in one.names}),
        }
        if self.bert.model:
            found["BERTScore"] = pooled_mean([self._best("bert", one) for one in rounds], self.seed)
        if self.truths:
            found["truth"] = pooled_mean([self.truth(one) for one in rounds], self.seed)
        return found

    def compare(self, rounds: Sequence[Round]) -> None:
        """Compares the texts of these rounds with their references, as far as that was not done; best for all rounds in one go."""
        pairs = {pair for one in rounds for text, texts in zip(one.texts, one.references, strict=True) for pair in _pairs(text, texts)}
        self._learn("rouge", pairs, lambda said, known: rouge(said, known)["rougeL"].each)
        if self.bert.model:
            rarity = self.rarity or tuple(text for one in rounds for texts in one.references for text in texts)
            self._learn("bert", pairs, lambda said, known: self._bert(said, known, rarity), [self.bert.settings, rarity])

    def truth(self, said: Round) -> dict[str, float]:
        """The truth score of each unit of which the truth is known."""
        pairs = zip(said.names, said.units, said.texts, strict=True)
        return {name: self._truth(one, text) for name, one, text in pairs if one.source in self.truths}

    def _truth(self, one: Annotated, text: str) -> float:
        key = (one.source, str(one.unit), text)
        if key not in self._true:
            self._true[key] = self.truths[one.source].score(one.unit, text)
        return self._true[key]

    def _bleu(self, said: Round, order: int) -> dict[str, list[float]]:
        keys = [(order, text, known) for text, known in zip(said.texts, said.references, strict=True)]
        if new := list({key for key in keys if key not in self._counts}):
            counts = bleu_counts([str(text) for _, text, _ in new], [known for *_, known in new], order=order).astype(float).tolist()
            self._counts.update(zip(new, counts, strict=True))
        return dict(zip(said.names, (self._counts[key] for key in keys), strict=True))

    def _best(self, name: str, said: Round) -> dict[str, float]:
        """Of each unit the score with the nearest of its references; 0 for one of which nothing was said."""
        pairs = self._pairs[name]
        each = [max(pairs[pair] for pair in _pairs(text, texts)) for text, texts in zip(said.texts, said.references, strict=True)]
        return dict(zip(said.names, each, strict=True))

    def _bert(self, said: Sequence[str], known: Sequence[Sequence[str]], rarity: Sequence[str]) -> tuple[float, ...]:
        bert = self.bert
        options: dict[str, Any] = {"num_layers": bert.layers or None, "idf": bert.idf, "rescale": bert.rescale, "device": bert.device}
        return bert_score(said, known, model=bert.model, rarity=rarity, batch_size=AT_ONCE, **options)["f1"].each

    def _learn(self, name: str, pairs: Iterable[Pair], score: Callable[..., Sequence[float]], mark: Sequence[Any] = ()) -> None:
        known = self._pairs[name]
        new = sorted(pair for pair in set(pairs) - known.keys() if pair[0])
        known |= {pair: 0.0 for pair in pairs if not pair[0]}
        for begin in range(0, len(new), PART):
            part = new[begin : begin + PART]
            said, texts = [text for text, _ in part], [(other,) for _, other in part]
            known |= zip(part, self._cached(f"{name}/{content_key(pairs=part, mark=mark)}", partial(score, said, texts)), strict=True)

    def _cached(self, key: str, make: Callable[[], Sequence[float]]) -> list[float]:
        if self.kept is None:
            return list(make())
        known = self.kept.get(key)
        if known is None:
            known = {"each": [round(value, 6) for value in make()]}
            self.kept.put(key, known)
        return known["each"]


def _pairs(text: str, references: Sequence[str]) -> list[Pair]:
    """A text with each of its references that is not empty."""
    return [(tidied(text), tidied(known)) for known in references if tidied(known)]


def joined(rounds: Sequence[Round]) -> Round:
    """What was said in several rounds as if it were one."""
    return Round(*(tuple(chain.from_iterable(part)) for part in zip(*rounds, strict=True)))


def _words(text: str) -> float:
    return float(len(text.split()))

"""What an experiment's descriptions are scored by: what annotators said of the same units, and what is true of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from milan.annotations import Annotated
from milan.experiments.report import Column, Value
from milan.scores.intervals import Measure
from milan.scores.rounds import pooled, pooled_mean
from milan.scores.text import bert_score, bleu_counts, bleu_of, rouge
from milan.scores.truth import Truth
from milan.storage import Journal, content_key

ALONE = ("truth", "distinct", "words")  # what needs no references
COLUMNS = {
    "BERTScore": Column("BERTScore", "BERTScore F against the annotators' texts, the best of a unit's; idf of these.", "", 3, "more"),
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
    """Scores rounds of descriptions; what takes long is kept.

    Attributes:
        truths: of each layer, by its folder; layers of which the truth is not known are not in it.
        bert: how BERTScore is taken.
        kept: scores by content.
        seed: of the intervals.
    """

    truths: Mapping[Path, Truth] = field(default_factory=dict)
    bert: Bert = field(default_factory=Bert)
    kept: Journal | None = None
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """The scores it gives, in the order of tables."""
        known = {"BERTScore": bool(self.bert.model), "truth": bool(self.truths)}
        return [name for name in COLUMNS if known.get(name, True)]

    def scores(self, rounds: Sequence[Round]) -> dict[str, Value]:
        """All scores of what was said in these rounds, with intervals over units and rounds."""
        found: dict[str, Value] = {
            "BLEU": pooled([_bleu(one, 4) for one in rounds], bleu_of, self.seed),
            "BLEU-1": pooled([_bleu(one, 1) for one in rounds], bleu_of, self.seed),
            "ROUGE-L": pooled_mean([self._rouge(one) for one in rounds], self.seed),
            "distinct": Measure(sum(len(set(one.texts)) for one in rounds) / len(rounds)),
            "words": pooled_mean([dict(zip(one.names, map(_words, one.texts), strict=True)) for one in rounds], self.seed),
            "units": len({name for one in rounds for name in one.names}),
        }
        if self.bert.model:
            found["BERTScore"] = pooled_mean(self._bert(rounds), self.seed)
        if self.truths:
            found["truth"] = pooled_mean([self.truth(one) for one in rounds], self.seed)
        return found

    def truth(self, said: Round) -> dict[str, float]:
        """The truth score of each unit of which the truth is known."""
        pairs = zip(said.names, said.units, said.texts, strict=True)
        return {name: self.truths[one.source].score(one.unit, text) for name, one, text in pairs if one.source in self.truths}

    def _rouge(self, said: Round) -> dict[str, float]:
        each = self._cached("rouge", said, lambda: rouge(said.texts, said.references)["rougeL"].each)
        return dict(zip(said.names, each, strict=True))

    def _bert(self, rounds: Sequence[Round]) -> list[dict[str, float]]:
        """All rounds in one go: most texts are in several, and idf is that of all their references."""
        whole = joined(rounds)
        each = self._cached("bert", whole, lambda: self._bert_scored(whole))
        found, place = [], 0
        for one in rounds:
            found.append(dict(zip(one.names, each[place : place + len(one.units)], strict=True)))
            place += len(one.units)
        return found

    def _bert_scored(self, said: Round) -> tuple[float, ...]:
        bert = self.bert
        options: dict[str, Any] = {"num_layers": bert.layers or None, "idf": bert.idf, "rescale": bert.rescale, "device": bert.device}
        return bert_score(said.texts, said.references, model=bert.model, **options)["f1"].each

    def _cached(self, name: str, said: Round, make: Callable[[], Sequence[float]]) -> list[float]:
        if self.kept is None:
            return list(make())
        key = f"{name}/{content_key(texts=said.texts, references=said.references, bert=self.bert.settings if name == 'bert' else None)}"
        known = self.kept.get(key)
        if known is None:
            known = {"each": [round(value, 6) for value in make()]}
            self.kept.put(key, known)
        return known["each"]


def joined(rounds: Sequence[Round]) -> Round:
    """What was said in several rounds as if it were one."""
    return Round(*(tuple(chain.from_iterable(part)) for part in zip(*rounds, strict=True)))


def _bleu(said: Round, order: int) -> dict[str, list[float]]:
    counts = bleu_counts(said.texts, said.references, order=order)
    return dict(zip(said.names, counts.astype(float).tolist(), strict=True))


def _words(text: str) -> float:
    return float(len(text.split()))

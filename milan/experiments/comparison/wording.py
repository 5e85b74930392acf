"""Tables of descriptions beside what people said, with floors and people themselves as ceiling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milan.catalogue import read_descriptions
from milan.command import warnings_so_far
from milan.dissection.exchange import annotations_of
from milan.errors import BadInput
from milan.experiments.comparison.floors import COUNTS, SAID, counted, floors_of
from milan.experiments.comparison.judging import Bert
from milan.experiments.comparison.scored import Party
from milan.experiments.reporting.report import Column, Report, Row, Table
from milan.scores.intervals import Measure, share
from milan.scores.known import same_name
from milan.scores.painted import in_words
from milan.scores.text import TextScore, bert_score, bleu, embedding_cosine, rouge
from milan.storage import versions
from milan.text_files import read_lines
from milan.units import Description, Unit

References = Mapping[Unit, Sequence[str]]
CLIP = Column(
    "cosine", "The cosine of description and reference in an image-text model's space, the best of a unit's references.", "", 3, "more"
)
SENTENCE = Column("sentence cosine", "The same in a sentence encoder's.", "", 3, "more")
BERT = Column("BERTScore", "BERTScore F, the best of a unit's references.", "", 3, "more")
COLUMNS = (
    Column("BLEU-1", "BLEU of single words against all references of a unit, 0 to 100.", "", 1, "more"),
    Column("ROUGE-L", "ROUGE-L F, 0 to 1, the best of a unit's references.", "", 3, "more"),
    Column("same", "The share of units described by the very words of a reference, but for case and signs.", "%", 1, "more"),
)
PEOPLE = "one of those who said it"


def references_of(file: Path, layer: str = "") -> dict[Unit, list[str]]:
    """What is said of each unit, in annotations, in a list of class names, or in another table of descriptions.

    Raises:
        BadInput: there is no such file, or no layer for class names, or it holds nothing.
    """
    if file.suffix == ".txt":
        if not layer:
            raise BadInput(f"{file} is a list of class names, one for each unit of a layer; say which with --layer NAME")
        names = enumerate(read_lines(file))
        return {Unit(layer, number): [part.strip() for part in name.split(",")] for number, name in names if name}
    try:
        return {unit: list(texts) for unit, texts in annotations_of(file).items()}
    except BadInput as reason:
        try:
            return {each.unit: [each.text] for each in read_descriptions(file, layer)}
        except BadInput:
            raise reason from None


@dataclass
class Wording:
    """Who said what, what people said of the same units, and the scores so far."""

    parties: Sequence[Party]
    references: References
    seed: int = 0
    columns: list[Column] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, said: Mapping[str, Sequence[Description]], references: References, layer: str, seed: int) -> "Wording":
        """The tables, cut to the units that people spoke of, and their floors.

        Raises:
            BadInput: a table speaks of none of them.
        """
        parties = []
        for name, each in said.items():
            here = [one for one in each if one.unit in references and layer in ("", one.unit.layer) and one.text]
            if not here:
                raise BadInput(f"{name} describes none of the {len(references)} units of the references ({next(iter(references))}, ...)")
            parties.append(Party(name, "", here))
        floors = floors_of(parties[0].said, [each for party in parties for each in party.said], seed)
        return cls([*parties, *(Party(name, "floor", each) for name, each in floors.items())], references, seed)

    def measured(self, embedder: str, sentences: str, bert: Bert) -> None:
        """Scores all of them; what no model is given for is left out."""
        self.columns = [*([CLIP] if embedder else []), *([SENTENCE] if sentences else []), *([BERT] if bert.model else []), *COLUMNS]
        encoders = self._encoders(embedder, sentences, bert.device)
        for name, texts, known in self._rows():
            found: dict[str, Any] = {column.name: embedding_cosine(texts, known, one, seed=self.seed) for column, one in encoders}
            if bert.model:
                found[BERT.name] = bert_score(
                    texts, known, model=bert.model, num_layers=bert.layers or None, idf=bert.idf, rescale=bert.rescale, device=bert.device,
                    seed=self.seed,
                )["f1"]  # fmt: skip
            found["BLEU-1"] = bleu(texts, known, order=1, seed=self.seed)
            found["ROUGE-L"] = rouge(texts, known, seed=self.seed)["rougeL"]
            self.settings = {key: dict(each.settings) for key, each in found.items()}
            same = share([any(same_name(text, other) for other in others) for text, others in zip(texts, known, strict=True)])
            self.values[name] = {key: _measure(each) for key, each in found.items()} | {"same": same}

    @staticmethod
    def _encoders(embedder: str, sentences: str, device: str) -> list[tuple[Column, Any]]:
        from milan.pretrained.embedder import load_embedder
        from milan.pretrained.sentences import load_sentence_encoder

        found: list[tuple[Column, Any]] = [(CLIP, load_embedder(embedder, device=device))] if embedder else []
        return [*found, *([(SENTENCE, load_sentence_encoder(sentences, device=device))] if sentences else [])]

    def _rows(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Name, texts and references of each, people among them where there are several for a unit."""
        rows = [
            (each.name, [in_words(one) for one in each.said], [list(self.references[one.unit]) for one in each.said])
            for each in self.parties
        ]
        several = [list(texts) for unit, texts in self.references.items() if len(texts) > 1 and unit in self._units]
        return [*rows, (PEOPLE, [texts[0] for texts in several], [texts[1:] for texts in several])] if self._people and several else rows

    @property
    def _units(self) -> set[Unit]:
        return {each.unit for each in self.parties[0].said}

    @property
    def _people(self) -> bool:
        """Whether references are of several people, and not several names of one class."""
        return len({len(texts) for texts in self.references.values()}) == 1

    def report(self, references: str) -> Report:
        """The table, with what a reader must know."""
        rows = [
            Row(each.name, self.values[each.name] | counted(each.said, self.seed), each.role)  # type: ignore[arg-type]
            for each in self.parties
        ]
        if PEOPLE in self.values:
            rows.append(Row(PEOPLE, self.values[PEOPLE], "ceiling"))
        notes = (
            "None of these scores sees whether a description is true: the right thing in other words scores low, and a common phrase well "
            "for every unit (in MILANNOTATIONS one constant word beats most methods). Cosines of unrelated texts are far from 0.",
            f"Intervals are of 95%, by drawing the units again a thousand times, seed {self.seed}. {SAID}",
            "The first to speak of each unit, against the others, who are one fewer. Of a weighted sum three concepts are compared.",
        )
        facts = {"references": Path(references).name, "seed": self.seed, "settings": self.settings, "versions": versions()}
        lede = f"{sum(not each.role for each in self.parties)} tables of descriptions against what is said of {len(self._units):,} units."
        table = Table("all units", (*self.columns, *COUNTS), tuple(rows))
        facts |= {"warnings": warnings_so_far()}
        sources = {**self.sources, "references": references}
        return Report("words", Path(references).stem, lede, (table,), (), notes, facts, sources=sources)


def _measure(score: TextScore) -> Measure:
    return Measure(score.value, score.low, score.high, units=score.units)

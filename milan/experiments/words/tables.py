"""Tables of descriptions beside what people said, with floors and people themselves as ceiling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milan.console.command_line import get_recorded_warnings
from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput
from milan.experiments.core.baselines import COUNT_COLUMNS, FLOORS_NOTE, count_descriptions, make_floors
from milan.experiments.core.description_scores import BertScoreConfig
from milan.experiments.core.report import Column, Report, Row, Table
from milan.experiments.core.scored_descriptions import DescriptionSet
from milan.results.catalogue import read_descriptions
from milan.scores.confidence_intervals import Measure, estimate_share
from milan.scores.generated_image_scores import choose_text_to_paint
from milan.scores.known_answers import is_same_name
from milan.scores.text_similarity import TextScore, bert_score, bleu_score, embedding_cosine, rouge_score
from milan.storage.files import collect_versions
from milan.storage.text_files import read_lines
from milan.units import Description, Unit

References = Mapping[Unit, Sequence[str]]
CLIP_COLUMN = Column(
    "cosine",
    "The cosine of description and reference in an image-text model's space, the best of a unit's references.",
    "",
    3,
    "more",
)
SENTENCE_COLUMN = Column("sentence cosine", "The same in a sentence encoder's.", "", 3, "more")
BERT_COLUMN = Column("BERTScore", "BERTScore F, the best of a unit's references.", "", 3, "more")
COLUMNS = (
    Column("BLEU-1", "BLEU of single words against all references of a unit, 0 to 100.", "", 1, "more"),
    Column("ROUGE-L", "ROUGE-L F, 0 to 1, the best of a unit's references.", "", 3, "more"),
    Column(
        "same", "The share of units described by the very words of a reference, but for case and signs.", "%", 1, "more"
    ),
)
PEOPLE_ROW = "one of those who said it"


def read_references(file: Path, layer: str = "") -> dict[Unit, list[str]]:
    """What is said of each unit, in annotations, in a list of class names, or in another table of descriptions.

    Raises:
        BadInput: there is no such file, or no layer for class names, or it holds nothing.
    """
    if file.suffix == ".txt":
        if not layer:
            raise BadInput(
                f"{file} is a list of class names, one for each unit of a layer; say which with --layer NAME"
            )
        names = enumerate(read_lines(file))
        return {Unit(layer, number): [part.strip() for part in name.split(",")] for number, name in names if name}
    try:
        return {unit: list(texts) for unit, texts in read_unit_annotations(file).items()}
    except BadInput as reason:
        try:
            return {each.unit: [each.text] for each in read_descriptions(file, layer)}
        except BadInput:
            raise reason from None


@dataclass
class WordScores:
    """Who said what, what people said of the same units, and the scores so far."""

    sets: Sequence[DescriptionSet]
    references: References
    seed: int = 0
    columns: list[Column] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_tables(
        cls, descriptions: Mapping[str, Sequence[Description]], references: References, layer: str, seed: int
    ) -> "WordScores":
        """The tables, cut to the units that people spoke of, and their floors.

        Raises:
            BadInput: a table speaks of none of them.
        """
        description_sets = []
        for name, each in descriptions.items():
            here = [one for one in each if one.unit in references and layer in ("", one.unit.layer) and one.text]
            if not here:
                raise BadInput(
                    f"{name} describes none of the {len(references)} units of the references ({next(iter(references))},"
                    " ...)"
                )
            description_sets.append(DescriptionSet(name, "", here))
        floors = make_floors(
            description_sets[0].descriptions,
            [each for description_set in description_sets for each in description_set.descriptions],
            seed,
        )
        return cls(
            [*description_sets, *(DescriptionSet(name, "floor", each) for name, each in floors.items())],
            references,
            seed,
        )

    def score(self, embedder: str, sentences: str, bert: BertScoreConfig) -> None:
        """Scores all of them; what no model is given for is left out."""
        self.columns = [
            *([CLIP_COLUMN] if embedder else []),
            *([SENTENCE_COLUMN] if sentences else []),
            *([BERT_COLUMN] if bert.model else []),
            *COLUMNS,
        ]
        encoders = self._load_encoders(embedder, sentences, bert.device)
        for name, texts, known in self._collect_texts():
            found: dict[str, Any] = {
                column.name: embedding_cosine(texts, known, one, seed=self.seed) for column, one in encoders
            }
            if bert.model:
                found[BERT_COLUMN.name] = bert_score(
                    texts, known, model=bert.model, num_layers=bert.layers or None, idf=bert.idf, rescale=bert.rescale,
                    device=bert.device,
                    seed=self.seed,
                )["f1"]  # fmt: skip
            found["BLEU-1"] = bleu_score(texts, known, order=1, seed=self.seed)
            found["ROUGE-L"] = rouge_score(texts, known, seed=self.seed)["rougeL"]
            self.settings = {key: dict(each.settings) for key, each in found.items()}
            same = estimate_share(
                [any(is_same_name(text, other) for other in others) for text, others in zip(texts, known, strict=True)]
            )
            self.values[name] = {key: _to_measure(each) for key, each in found.items()} | {"same": same}

    @staticmethod
    def _load_encoders(embedder: str, sentences: str, device: str) -> list[tuple[Column, Any]]:
        from milan.pretrained.embedder import load_embedder
        from milan.pretrained.sentence_encoder import load_sentence_encoder

        found: list[tuple[Column, Any]] = [(CLIP_COLUMN, load_embedder(embedder, device=device))] if embedder else []
        return [*found, *([(SENTENCE_COLUMN, load_sentence_encoder(sentences, device=device))] if sentences else [])]

    def _collect_texts(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Name, texts and references of each, people among them where there are several for a unit."""
        rows = [
            (
                each.name,
                [choose_text_to_paint(one) for one in each.descriptions],
                [list(self.references[one.unit]) for one in each.descriptions],
            )
            for each in self.sets
        ]
        several = [
            list(texts) for unit, texts in self.references.items() if len(texts) > 1 and unit in self._scored_units
        ]
        return (
            [*rows, (PEOPLE_ROW, [texts[0] for texts in several], [texts[1:] for texts in several])]
            if self._has_several_people and several
            else rows
        )

    @property
    def _scored_units(self) -> set[Unit]:
        return {each.unit for each in self.sets[0].descriptions}

    @property
    def _has_several_people(self) -> bool:
        """Whether references are of several people, and not several names of one class."""
        return len({len(texts) for texts in self.references.values()}) == 1

    def make_report(self, references: str) -> Report:
        """The table, with what a reader must know."""
        rows = [
            Row(each.name, self.values[each.name] | count_descriptions(each.descriptions, self.seed), each.role)  # type: ignore[arg-type]
            for each in self.sets
        ]
        if PEOPLE_ROW in self.values:
            rows.append(Row(PEOPLE_ROW, self.values[PEOPLE_ROW], "ceiling"))
        notes = (
            (
                "None of these scores sees whether a description is true: the right thing in other words scores low,"
                " and a common phrase well for every unit (in MILANNOTATIONS one constant word beats most methods)."
                " Cosines of unrelated texts are far from 0."
            ),
            f"Intervals are of 95%, by drawing the units again a thousand times, seed {self.seed}. {FLOORS_NOTE}",
            (
                "The first to speak of each unit, against the others, who are one fewer. Of a weighted sum three"
                " concepts are compared."
            ),
        )
        facts = {
            "references": Path(references).name,
            "seed": self.seed,
            "settings": self.settings,
            "versions": collect_versions(),
        }
        lede = (
            f"{sum(not each.role for each in self.sets)} tables of descriptions against what is said of"
            f" {len(self._scored_units):,} units."
        )
        table = Table("all units", (*self.columns, *COUNT_COLUMNS), tuple(rows))
        facts |= {"warnings": get_recorded_warnings()}
        sources = {**self.sources, "references": references}
        return Report("words", Path(references).stem, lede, (table,), (), notes, facts, sources=sources)


def _to_measure(score: TextScore) -> Measure:
    return Measure(score.value, score.low, score.high, units=score.units)

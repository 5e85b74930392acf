"""The similarity of descriptions to references, with floors and, as the ceiling, people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput
from milan.experiments.core.baselines import COUNT_COLUMNS, FLOORS_NOTE, count_descriptions, make_floors
from milan.experiments.core.description_scores import make_bert_config
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.scored_descriptions import DescriptionSet
from milan.experiments.words.config import WordsConfig
from milan.results.catalogue import read_descriptions, table_sources
from milan.scores.confidence_intervals import Measure, estimate_share
from milan.scores.generated_image_scores import choose_text_to_paint
from milan.scores.known_answers import is_same_name
from milan.scores.text_similarity import TextScore, bert_score, bleu_score, embedding_cosine, rouge_score
from milan.storage.provenance import joined
from milan.storage.text_files import read_lines
from milan.units import Description, Unit

References = Mapping[Unit, Sequence[str]]
Score = Callable[[Sequence[str], Sequence[Sequence[str]]], TextScore]
CLIP_COLUMN = Column(
    "cosine",
    "Cosine similarity of description and reference by an image-text model, the best of a unit's references.",
    "",
    3,
    "more",
)
SENTENCE_COLUMN = Column("sentence cosine", "The same by a sentence encoder.", "", 3, "more")
BERT_COLUMN = Column("BERTScore", "BERTScore F, the best of a unit's references.", "", 3, "more")
BLEU_COLUMN = Column("BLEU-1", "BLEU of single words against all references of a unit, 0 to 100.", "", 1, "more")
ROUGE_COLUMN = Column("ROUGE-L", "ROUGE-L F, 0 to 1, the best of a unit's references.", "", 3, "more")
SAME_COLUMN = Column(
    "same", "Share of units described by exactly a reference, up to case and punctuation.", "%", 1, "more"
)
PEOPLE_ROW = "one annotator"
NOTES = (
    "None of these scores measures whether a description is true: the right thing in other words scores low, and a"
    " common phrase scores well for every unit (in MILANNOTATIONS one constant word beats most methods). Cosine"
    " similarities of unrelated texts are far from 0.",
    "One annotator: the first annotation of each unit against the others, which are one fewer. Of a weighted sum three"
    " concepts are compared.",
)


def read_references(file: Path, layer: str = "") -> dict[Unit, list[str]]:
    """Return the references of each unit: of annotations, of a list of class names, or of a table of descriptions.

    Raises:
        BadInput: there is no such file, or it is empty, or the layer of class names is missing.
    """
    if file.suffix == ".txt":
        if not layer:
            raise BadInput(
                f"{file} is a list of class names, one for each unit of a layer; say which with --layer NAME"
            )
        names = enumerate(read_lines(file))
        return {Unit(layer, number): [part.strip() for part in name.split(",")] for number, name in names if name}
    try:
        references = {unit: list(texts) for unit, texts in read_unit_annotations(file).items()}
    except BadInput as reason:
        try:
            references = {each.unit: [each.text] for each in read_descriptions(file, layer)}
        except BadInput:
            raise reason from None
    if not references:
        raise BadInput(f"{file} has no references; give annotations, class names or descriptions of the same units")
    return references


@dataclass(frozen=True)
class WordScores:
    """The scores of descriptions by their references.

    Attributes:
        sets: the descriptions, then the floors.
        columns: the scores that are computed.
        values: by name and column; with a row for one annotator if units have several references.
        settings: of each score.
    """

    sets: Sequence[DescriptionSet]
    columns: Sequence[Column]
    values: Mapping[str, Mapping[str, Value]]
    settings: Mapping[str, Mapping[str, Any]]

    @classmethod
    def compute(
        cls, descriptions: Mapping[str, Sequence[Description]], references: References, config: WordsConfig
    ) -> "WordScores":
        """Score tables of descriptions and their floors on the units that have references.

        Raises:
            BadInput: a table describes none of them.
        """
        sets = _make_sets(descriptions, references, config)
        scores, values, settings = _load_scores(config), {}, {}
        for name, texts, references_of in _collect_texts(sets, references):
            found = {column.name: score(texts, references_of) for column, score in scores.items()}
            settings = {column: dict(score.settings) for column, score in found.items()}
            same = [
                any(is_same_name(text, other) for other in others)
                for text, others in zip(texts, references_of, strict=True)
            ]
            values[name] = {column: _to_measure(score) for column, score in found.items()}
            values[name][SAME_COLUMN.name] = estimate_share(same)
        return cls(sets, (*scores, SAME_COLUMN), values, settings)


def _make_sets(
    descriptions: Mapping[str, Sequence[Description]], references: References, config: WordsConfig
) -> list[DescriptionSet]:
    """Return the descriptions of units that have references, and their floors."""
    sets = []
    for name, several in descriptions.items():
        own = [each for each in several if each.unit in references and each.text]
        own = [each for each in own if config.layer in ("", each.unit.layer)]
        if not own:
            raise BadInput(
                f"{name} describes none of the {len(references)} units of the references ({next(iter(references))},"
                " ...)"
            )
        sets.append(DescriptionSet(name, "", own))
    floors = make_floors(sets[0].descriptions, [each for one in sets for each in one.descriptions], config.seed)
    return [*sets, *(DescriptionSet(name, "floor", each) for name, each in floors.items())]


def _load_scores(config: WordsConfig) -> dict[Column, Score]:
    """Return the scores by column; those of models that are not given are left out."""
    from milan.pretrained.embedder import load_embedder
    from milan.pretrained.sentence_encoder import load_sentence_encoder

    scores: dict[Column, Score] = {}
    encoders = (
        (CLIP_COLUMN, config.embedder, load_embedder),
        (SENTENCE_COLUMN, config.sentence_encoder, load_sentence_encoder),
    )
    for column, spec, load in encoders:
        if spec:
            encoder = load(spec, device=config.device)
            scores[column] = lambda texts, known, encoder=encoder: embedding_cosine(  # type: ignore[misc]
                texts, known, encoder, seed=config.seed
            )
    bert = config.bert_score
    if bert.bert:
        options = make_bert_config(bert, config.device)
        scores[BERT_COLUMN] = lambda texts, known: bert_score(texts, known, options, seed=config.seed)["f1"]
    scores[BLEU_COLUMN] = lambda texts, known: bleu_score(texts, known, order=1, seed=config.seed)
    scores[ROUGE_COLUMN] = lambda texts, known: rouge_score(texts, known, seed=config.seed)["rougeL"]
    return scores


def _collect_texts(
    sets: Sequence[DescriptionSet], references: References
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return name, texts and references of each set, and of one annotator if all units have as many annotations."""
    rows = []
    for one in sets:
        texts = [choose_text_to_paint(each) for each in one.descriptions]
        rows.append((one.name, texts, [list(references[each.unit]) for each in one.descriptions]))
    # Several names of one class are not several annotators: their number differs between units.
    counts = {len(texts) for texts in references.values()}
    if len(counts) == 1 and counts.pop() > 1:
        units = {each.unit for each in sets[0].descriptions}
        several = [list(texts) for unit, texts in references.items() if unit in units]
        rows.append((PEOPLE_ROW, [texts[0] for texts in several], [texts[1:] for texts in several]))
    return rows


def make_report(scores: WordScores, config: WordsConfig, tables: Mapping[str, str]) -> Report:
    """Return the table of all scores.

    Args:
        tables: the files or folders of the descriptions, by name.
    """
    rows = [
        Row(one.name, {**scores.values[one.name], **count_descriptions(one.descriptions, config.seed)}, one.role)
        for one in scores.sets
    ]
    if PEOPLE_ROW in scores.values:
        rows.append(Row(PEOPLE_ROW, scores.values[PEOPLE_ROW], "ceiling"))
    units = len({each.unit for each in scores.sets[0].descriptions})
    references = Path(config.references)
    return Report(
        "words",
        references.stem,
        f"{len(tables)} tables of descriptions against references of {units:,} units.",
        (Table("all units", (*scores.columns, *COUNT_COLUMNS), tuple(rows)),),
        notes=(*NOTES, f"Intervals are 95% bootstrap intervals over units, with seed {config.seed}. {FLOORS_NOTE}"),
        facts={"references": references.name, "seed": config.seed, "settings": dict(scores.settings)},
        sources=joined({name: table_sources(table) for name, table in tables.items()})
        | {"embedder": config.embedder, "references": config.references},
    )


def _to_measure(score: TextScore) -> Measure:
    return Measure(score.value, score.low, score.high, units=score.units)

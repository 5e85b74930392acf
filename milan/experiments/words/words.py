"""Descriptions against what people said of the same units, or the names of their classes: Describe-and-Dissect's Tables
2, 10 and 12.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def words(
    tables: list[str],
    references: str,
    layer: str = "",
    embedder: str = "diorama",
    sentences: str = "",
    bert: str = "",
    bert_layers: int = 0,
    bert_idf: bool = True,
    bert_rescale: bool = False,
    out: Path = Path("runs/words"),
    seed: int = 0,
    device: str = "cpu",
) -> "Report":
    """Scores tables of descriptions, of describe.py or published ones, by the words that people used

    Args:
        tables: folders that describe.py wrote (or the bench, in describers/NAME), or csv, jsonl or parquet files
        references: a csv of annotations (layer, unit, summary), a folder of such, another table of descriptions, or a
            text file with a class name on each line, of which line i is that of unit i of the layer
        layer: only units of this layer; needed for class names
        embedder: image-text model for the cosine of embeddings; empty for none
        sentences: sentence encoder for the same, hf:ID_OR_FOLDER
        bert: folder of a transformers encoder for BERTScore
        bert_layers: which of its layers counts, if bert-score does not know
        bert_idf: weigh words by their rarity in the references
        bert_rescale: by bert-score's baseline for the model
        out: the folder to write to
        seed: of intervals and floors
        device: where the models run
    """
    from milan.experiments.core.description_scores import BertScoreConfig
    from milan.experiments.words.tables import WordScores, read_references
    from milan.results.catalogue import read_descriptions, table_sources
    from milan.storage.files import lock_folder
    from milan.storage.provenance import joined

    named = {Path(table).stem if Path(table).is_file() else Path(table).name: table for table in tables}
    said = {name: read_descriptions(table, layer) for name, table in named.items()}
    with lock_folder(out):
        wording = WordScores.from_tables(said, read_references(Path(references), layer), layer, seed)
        wording.sources = joined({name: table_sources(table) for name, table in named.items()}) | {"embedder": embedder}
        wording.score(embedder, sentences, BertScoreConfig(bert, bert_layers, bert_idf, bert_rescale, device))
        report = wording.make_report(references)
        report.write(out)
    return report

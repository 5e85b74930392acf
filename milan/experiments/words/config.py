"""Options of the words experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import BertScoreOptions, RunConfig


@dataclass(frozen=True, kw_only=True)
class WordsConfig(RunConfig):
    """Score descriptions by their similarity to people's annotations of the same units, or class names.

    Attributes:
        tables: Folders that describe.py or the bench (in describers/NAME) wrote, or CSV, JSONL or parquet files, of
            this package or published.
        references: A CSV file of annotations with the columns layer, unit and summary, a folder of such files, another
            table of descriptions, or a text file whose line i is the class name of unit i of the layer.
        layer: Use only units of this layer. It is required with class names.
        embedder: The image-text model for the cosine similarity of embeddings; empty for none.
        sentence_encoder: A sentence encoder for the same, as hf:ID_OR_FOLDER.
        bert_score: How BERTScore is computed.
    """

    tables: list[str]
    references: str
    layer: str = ""
    embedder: str = "diorama"
    sentence_encoder: str = ""
    bert_score: BertScoreOptions = BertScoreOptions()  # noqa: RUF009 (frozen)

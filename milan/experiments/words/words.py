"""Descriptions against people's words for the same units, or class names (Describe-and-Dissect, Tables 2, 10 and
12)."""

from pathlib import Path

from milan.experiments.core.report import Report
from milan.experiments.words.config import WordsConfig
from milan.experiments.words.tables import WordScores, make_report, read_references
from milan.results.catalogue import read_descriptions
from milan.storage.files import lock_folder


def words(config: WordsConfig) -> Report:
    """Score tables of descriptions by their similarity to references of the same units.

    Raises:
        BadInput: a table cannot be read, or describes none of the units of the references.
    """
    out = config.out or Path("runs") / "words"
    tables = {Path(table).stem if Path(table).is_file() else Path(table).name: table for table in config.tables}
    descriptions = {name: read_descriptions(table, config.layer) for name, table in tables.items()}
    references = read_references(Path(config.references), config.layer)
    with lock_folder(out):
        report = make_report(WordScores.compute(descriptions, references, config), config, tables)
        report.write(out)
    return report

"""Descriptions where the answer is known: units of the final layer, Diorama's truth, and classes that the network was
not trained on.
"""

from dataclasses import replace

from milan.experiments.core.report import Report
from milan.experiments.core.scored_descriptions import DescriptionSets
from milan.experiments.core.study import Study
from milan.experiments.known.config import KnownConfig
from milan.experiments.known.tables import KnownAnswerTables
from milan.targets.unit_selection import get_default_layers


def known(config: KnownConfig) -> Report:
    """Score descriptions of units whose answer is known.

    Raises:
        MissingEvidence: the probe or the images of unseen classes have no classes.
    """
    with Study.open(config) as study:
        layers = config.layers or get_default_layers(study.target)[-1:]
        inner = replace(study, out=study.out / "inner", dissection=replace(study.dissection, layers=layers))
        tables = KnownAnswerTables(DescriptionSets.describe(inner, config.describers))
        if config.final_layer:
            options = replace(study.dissection, layers=[config.final_layer], units="")
            final = replace(study, out=study.out / "final", dissection=options)
            tables.add_final_layer(final, config.describers)
        if config.unseen_probe:
            tables.add_unseen_classes(study.load_probe(config.unseen_probe), config.embedder)
        report = tables.make_report()
        report.write(study.out)
    return report

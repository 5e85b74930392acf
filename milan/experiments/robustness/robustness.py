"""How many descriptions change with the images, the seed, k, the quantile or another setting (SAND, Table 1)."""

from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.experiments.robustness.config import RobustnessConfig
from milan.experiments.robustness.perturbations import Perturbations
from milan.experiments.robustness.tables import compare_descriptions, make_report, make_unit_views
from milan.pretrained.embedder import load_embedder
from milan.results.page import write_exemplar_views


def robustness(config: RobustnessConfig) -> Report:
    """Describe the same units again with one thing changed at a time, and compare the descriptions.

    Raises:
        BadInput: the describer describes no unit, or lacks a setting that should be changed.
    """
    with Study.open(config) as study:
        perturbations = Perturbations(study, config)
        changes = compare_descriptions(perturbations, load_embedder(config.embedder, device=config.device))
        report = make_report(changes)
        views = make_unit_views(changes)
        pictures = write_exemplar_views(perturbations.dissections, list(views), study.out / "page")
        report.write(study.out, [view | {"pictures": [pictures.get(unit)]} for unit, view in views.items()])
    return report

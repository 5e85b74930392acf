"""How well a language model predicts pairs from explanations that were not made from them (*Tell me what you see*,
Tables 1 and 2).
"""

from milan.experiments.assessment.config import AssessmentConfig
from milan.experiments.assessment.tables import (
    assess_entries,
    load_explainers,
    make_report,
    restrict_to_share,
    shuffle_entries,
)
from milan.experiments.core.evaluated_describers import load_evaluated_describer
from milan.experiments.core.report import Report
from milan.experiments.core.study import Study


def assessment(config: AssessmentConfig) -> Report:
    """Score descriptions by the predictions that a language model makes from them."""
    with Study.open(config) as study:
        explainers = load_explainers(config, (study.target.spec or study.target.name, study.probe.spec))
        describers = [
            restrict_to_share(load_evaluated_describer(name, study.target, study.probe, config.device), config)
            for name in config.describers
        ]
        assessed = [
            assess_entries(each.name, each.role, each.entries, study.dissections, explainers, config)
            for each in study.describe(*describers)
        ]
        shuffled = shuffle_entries(study.evaluated.entries, config.seed)
        assessed.append(assess_entries("shuffled", "floor", shuffled, study.dissections, explainers, config))
        report = make_report(study, assessed, explainers, config)
        report.write(study.out)
    return report

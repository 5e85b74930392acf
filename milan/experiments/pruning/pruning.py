"""Accuracy without units whose description is like no other's (Describe-and-Dissect, section 5, Tables 7, 8, 13)."""

from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.experiments.pruning.config import PruningConfig
from milan.experiments.pruning.pruned_sets import PruningAccuracy, PruningPlan
from milan.experiments.pruning.tables import make_report
from milan.pretrained.embedder import load_embedder
from milan.scores.accuracy_under_ablation import sort_by_execution


def pruning(config: PruningConfig) -> Report:
    """Prune units by their descriptions, with the network's own classifier and with one that is trained anew.

    Raises:
        MissingEvidence: the images have no labels, or the target is no classifier of them.
    """
    with Study.open(config) as study:
        evaluation_probe = study.load_probe(config.evaluation_probe or "", split="judge")
        study.describe(config.describer)
        layer = config.feature_layer or sort_by_execution(study.target, study.dissections, study.target.image_size)[-1]
        plan = PruningPlan.make(study, load_embedder(config.embedder, device=config.device), config)
        accuracy = PruningAccuracy.evaluate(plan, evaluation_probe, layer)
        report = make_report(plan, accuracy, evaluation_probe.spec or evaluation_probe.name, layer)
        report.write(study.out)
    return report

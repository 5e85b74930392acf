"""Accuracy of a network as units are ablated in the order of criteria of descriptions (MILAN, section 5, Figure 4)."""

from milan.errors import BadInput
from milan.experiments.ablation.ablation_orders import AblationResult, make_order_sets, select_criteria
from milan.experiments.ablation.config import AblationConfig
from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.results.page import write_exemplar_views
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.scores.linguistic_criteria import load_word_vectors


def ablation(config: AblationConfig) -> Report:
    """Ablate units in the order of criteria of their descriptions, and in random orders.

    Raises:
        BadInput: the shares of units are not in order, or descriptions lack the values of a criterion.
        UnknownName: there is no such criterion.
        MissingEvidence: the evaluation images have no labels, or the target is no classifier of them.
    """
    step, end = config.step, config.max_share
    if not 0 < step <= end <= 1:
        raise BadInput(
            f"step is {step} and max_share is {end}; give shares of the units with 0 < step <= max_share <= 1"
        )
    with Study.open(config) as study:
        evaluation_probe = study.load_probe(config.evaluation_probe or "", split="judge")
        study.describe(config.describer)
        words, vectors = load_word_vectors(config.vectors, config.language, config.device)
        values = select_criteria(study.evaluated.descriptions, words, config)
        order_sets = make_order_sets(values, config.orders_per_criterion, config.random_orders, config.seed)
        counts = [round(number * step * len(study.texts)) for number in range(1, round(end / step) + 1)]
        orders = [order for each in order_sets for order in each.orders]
        sets = [(), *(order[:count] for order in orders for count in counts)]
        _, correct = evaluate_ablations(
            study.target, evaluation_probe, sets, study.out / "accuracy.sqlite", config.synsets
        )
        result = AblationResult(study, config, vectors, values, order_sets, counts, correct)
        report = result.make_report(evaluation_probe.spec or evaluation_probe.name)
        views = write_exemplar_views(study.dissections, list(result.first_units), study.out / "page")
        report.write(study.out, [result.make_unit_view(unit, [views.get(unit)]) for unit in result.first_units])
    return report

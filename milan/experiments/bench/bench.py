"""Describers on one network whose truth is known: how true, exact, varied and fast they are, beside ceiling and
floors."""

from milan.describers import load_describer
from milan.errors import MissingEvidence
from milan.experiments.bench.config import BenchConfig
from milan.experiments.bench.tables import BenchData, make_bench_view, make_report
from milan.experiments.core.evaluated_describers import load_evaluated_describers
from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.results.page import write_exemplar_views


def bench(config: BenchConfig) -> Report:
    """Describe the units with each describer, the ceiling and the floors, and score the descriptions by the truth.

    Raises:
        MissingEvidence: what is true of the units is not known, since the probe is not one of Diorama's.
    """
    if config.probe and not config.probe.startswith("diorama:"):
        raise MissingEvidence(
            f"what is true of units on the probe {config.probe!r} is not known; choose one of Diorama's, such as"
            " diorama:objects"
        )
    with Study.open(config) as study:
        # Before the dissection, so that a wrong name is reported at once.
        describers = load_evaluated_describers(config.describers, study.target, study.probe, config.seed, config.device)
        data = BenchData.read(study, config.planted_units)
        constant = [each for each in describers if each.role == "floor" and each.name == "constant"]
        study.describe(*(each for each in describers if each not in constant))
        for each in constant:
            # Last, since measuring what is true caches what would make other describers seem quick.
            each.describer = load_describer("constant", text=data.find_best_constant())
        study.describe(*constant)
        report = make_report(data)
        views = write_exemplar_views(study.dissections, data.units, study.out / "page")
        report.write(study.out, [make_bench_view(data, unit) | {"pictures": [views.get(unit)]} for unit in data.units])
    return report

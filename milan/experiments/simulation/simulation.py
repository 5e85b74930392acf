"""How well descriptions predict activations on images that no describer has seen (Linear Explanations, Tables 2, 3,
8 to 10, 14 and 15, Figure 5).
"""

import warnings

from milan.errors import MilanWarning
from milan.experiments.core.evaluated_describers import load_evaluated_describer
from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.experiments.simulation.config import SimulationConfig
from milan.experiments.simulation.dead_units import make_dead_units_table
from milan.experiments.simulation.search_ablation import PAPER_LENGTHS, make_search_table
from milan.experiments.simulation.tables import DEFAULT_DESCRIBERS, SimulationScorer, make_report
from milan.experiments.simulation.unit_replacement import measure_replacement
from milan.scores.activation_simulation import choose_simulator, find_shared_source, load_simulator


def simulation(config: SimulationConfig) -> Report:
    """Describe units on one split of the probe, and score the predictions of descriptions on the other."""
    with Study.open(config, split="learn") as study:
        evaluation_probe = study.load_probe(split="judge")
        spec = config.simulator or choose_simulator(study.probe_spec)
        describers = [
            load_evaluated_describer(name, study.target, study.probe, config.device)
            for name in config.describers or DEFAULT_DESCRIBERS
        ]
        shared_sources = {each.name: find_shared_source(spec, each.describer.settings) for each in describers}
        for name, reason in shared_sources.items():
            if reason:
                text = f"{name} and the simulator {spec}: {reason}; scores do not show what both get wrong"
                warnings.warn(text, MilanWarning, stacklevel=2)
        options = config.calibration, config.superclasses, config.synsets, config.device
        fitting, evaluation = (
            load_simulator(spec, probe, study.probe, *options) for probe in (study.probe, evaluation_probe)
        )
        dissections = study.dissect_on(evaluation_probe, "evaluation", k=1, quantile=config.quantile)
        scorer = SimulationScorer(dissections, evaluation, config.seed)
        scores = []
        for each in study.describe(*describers):
            scores.append(scorer.score(each.name, each.role, each.descriptions))
            scores[-1].shared_source = shared_sources[each.name]
        scores += scorer.score_floors(scores)
        lengths = PAPER_LENGTHS if config.search_ablation_lengths is None else config.search_ablation_lengths
        search_tables = make_search_table(study, scorer, scores, lengths)
        replaced = measure_replacement(study, config, scores, fitting, evaluation)
        tables = [*search_tables, *replaced.tables, make_dead_units_table(study, scores, config.seed)]
        report = make_report(study, scorer, scores, tables, replaced.notes, replaced.figures)
        report.write(study.out)
    return report

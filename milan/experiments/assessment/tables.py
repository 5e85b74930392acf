"""Descriptions that a language model predicts pairs from, scored by describer, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from milan.describers import load_describer
from milan.describers._shared.describer_specs import resolve_settings
from milan.describers._shared.llm_explainer import LlmExplainer
from milan.describers.shuffled import permute_units
from milan.dissection.dissection import Dissection
from milan.errors import UnknownName
from milan.experiments.assessment.config import AssessmentConfig
from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.experiments.core.report import Column, Report, Role, Row, Table
from milan.experiments.core.study import Study
from milan.pretrained.llm_client import NoAnswer
from milan.results.catalogue import Entry
from milan.scores.explanation_assessment import Assessment, assess, summarize_assessments
from milan.scores.llm_simulation import MAX_HALF_WIDTH, MAX_ROUNDS, MIN_ROUNDS
from milan.units import Unit

PAIR_KINDS = ("weight_label", "weight_clip", "caption_activation")
COLUMNS = (
    Column(
        "correlation", "Mean over units of 100 times the correlation of predicted and true integers.", "%", 1, "more"
    ),
    Column("accuracy", "Share of integers that are predicted exactly.", "%", 1, "more"),
    Column("squared", "Mean squared error of the integers, which are from 0 to 10.", "", 2, "less"),
    Column("absolute", "Mean absolute error of the integers.", "", 2, "less"),
    Column("units", "Number of assessed units."),
    Column("failed", "Number of units without an explanation, without an answer, or with constant evaluation pairs."),
)


@dataclass
class AssessedDescriber:
    """The assessments of one describer's explanations, and the reasons of failures, by kind of pairs."""

    name: str
    role: Role
    assessments: dict[str, list[Assessment]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)


def load_explainers(config: AssessmentConfig, sources: tuple[str, str]) -> dict[str, LlmExplainer]:
    """Return, for each kind of pairs, the describer that knows them and their prompts.

    Args:
        sources: specs of target and probe, which decide settings that are not given.

    Raises:
        UnknownName: there is no such kind of pairs, or no kind has a setting.
    """
    settings, kinds = config.settings or {}, config.pairs or ["weight_label"]
    known = {name for kind in PAIR_KINDS for name in load_describer(kind).settings}
    for name in settings:
        if name not in known:
            raise UnknownName("setting", name, known)
    explainers: dict[str, LlmExplainer] = {}
    for kind in kinds:
        if kind not in PAIR_KINDS:
            raise UnknownName("kind of pairs", kind, PAIR_KINDS, f"one of {', '.join(PAIR_KINDS)}")
        own = {name: value for name, value in settings.items() if name in load_describer(kind).settings}
        own |= {"share": config.explained_share, "seed": config.seed}
        explainer = load_describer(kind, **resolve_settings(kind, own, sources, config.device))
        assert isinstance(explainer, LlmExplainer)
        explainers[kind] = explainer
    return explainers


def restrict_to_share(evaluated: EvaluatedDescriber, config: AssessmentConfig) -> EvaluatedDescriber:
    """Return the describer, which explains only from the explained share of the pairs if it explains from pairs."""
    if not isinstance(evaluated.describer, LlmExplainer):
        return evaluated
    settings = evaluated.describer.settings | {"share": config.explained_share, "seed": config.seed}
    return replace(evaluated, describer=type(evaluated.describer)(**settings))


def shuffle_entries(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Return each unit with the description of another unit of its layer, as a floor."""
    described = {entry.unit: entry.description for entry in entries if entry.description is not None}
    shuffled: list[Entry] = []
    for layer in dict.fromkeys(unit.layer for unit in described):
        others = permute_units([unit for unit in described if unit.layer == layer], seed)
        shuffled += [
            Entry(unit, description=replace(described[other], unit=unit, candidates=()))
            for unit, other in others.items()
        ]
    return shuffled


def assess_entries(
    name: str,
    role: Role,
    entries: Sequence[Entry],
    dissections: Mapping[str, Dissection],
    explainers: Mapping[str, LlmExplainer],
    config: AssessmentConfig,
) -> AssessedDescriber:
    """Assess the description of each unit on each kind of pairs."""
    one = AssessedDescriber(name, role)
    for kind, explainer in explainers.items():
        one.assessments[kind], one.failures[kind] = [], []
        for entry in entries:
            if entry.description is None:
                if entry.status == "failed":
                    one.failures[kind].append(f"{entry.unit}: {entry.reason}")
                continue
            result = _assess(entry.unit, entry.description.text, dissections[entry.unit.layer], explainer, config)
            if isinstance(result, Assessment):
                one.assessments[kind].append(result)
            else:
                one.failures[kind].append(f"{entry.unit}: {result.reason}")
    return one


def _assess(
    unit: Unit, text: str, dissection: Dissection, explainer: LlmExplainer, config: AssessmentConfig
) -> Assessment | NoAnswer:
    pairs, simulation = explainer.make_pairs(dissection, unit), explainer.make_simulation(dissection, unit)
    if not simulation.has_enough_pairs(pairs, config.explained_share, config.seed):
        return NoAnswer("the evaluation pairs are too few, or all the same")
    return assess(simulation, unit, [text], pairs, share=config.explained_share, seed=config.seed)


def make_report(
    study: Study,
    assessed: Sequence[AssessedDescriber],
    explainers: Mapping[str, LlmExplainer],
    config: AssessmentConfig,
) -> Report:
    """Return a table for each kind of pairs."""
    llm = next(iter(explainers.values())).llm_client.llm
    notes = (
        f"Predicted by {llm.name}{f' ({llm.note})' if llm.note else ''}.",
        f"Explanations are made from {100 * config.explained_share:.0f}% of the pairs; half of the others are for"
        " evaluation. Describers that look at the probe's images have seen those of caption_activation.",
        f"The score of a unit is the mean of at least {MIN_ROUNDS} rounds on newly sampled pairs, until the 90%"
        f" interval is under ±{100 * MAX_HALF_WIDTH:.0f} points, at most {MAX_ROUNDS}. A constant prediction has a"
        " correlation of 0.",
        "Intervals are 95% bootstrap intervals over units. Floor: the first describer's descriptions of other units.",
    )
    failures = {one.name: {kind: reasons[:5] for kind, reasons in one.failures.items() if reasons} for one in assessed}
    count = max((len(each) for one in assessed for each in one.assessments.values()), default=0)
    return study.report(
        study.target.name,
        f"Descriptions of up to {count} units by {len(study.describers)} describers, as predictions of integers that"
        " they were not made from.",
        [Table(kind, COLUMNS, tuple(_make_row(one, kind, config.seed) for one in assessed)) for kind in explainers],
        notes=notes,
        facts={"llm": llm.name, "explained share": config.explained_share, "failed": failures},
        sources=study.sources_with({f"explainer {kind}": explainer for kind, explainer in explainers.items()}),
    )


def _make_row(one: AssessedDescriber, kind: str, seed: int) -> Row:
    summary = summarize_assessments(one.assessments[kind], seed)
    return Row(one.name, {**summary, "units": len(one.assessments[kind]), "failed": len(one.failures[kind])}, one.role)

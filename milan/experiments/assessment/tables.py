"""Explanations put to a language model that predicts pairs from them, describer by describer, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from milan.console.command_line import get_recorded_warnings
from milan.describers import load_describer
from milan.describers._shared.describer_specs import resolve_settings
from milan.describers._shared.llm_explainer import LlmExplainer
from milan.describers.shuffled import permute_units
from milan.dissection.store import Dissection
from milan.errors import UnknownName
from milan.experiments.core.evaluated_describers import EvaluatedDescriber
from milan.experiments.core.report import Column, Report, Row, Table
from milan.pretrained.llm_client import NoAnswer
from milan.results.catalogue import Entry
from milan.scores.explanation_assessment import Assessment, assess, summarize_assessments
from milan.scores.llm_simulation import MAX_HALF_WIDTH, MAX_ROUNDS, MIN_ROUNDS
from milan.storage.files import collect_versions
from milan.storage.provenance import Sources

PAIR_KINDS = ("weight_label", "weight_clip", "caption_activation")
COLUMNS = (
    Column(
        "correlation",
        "The mean over units of 100 times the correlation of predicted and true integers.",
        "%",
        1,
        "more",
    ),
    Column("accuracy", "The share of integers that are predicted exactly.", "%", 1, "more"),
    Column("squared", "The mean squared error of the integers, which go from 0 to 10.", "", 2, "less"),
    Column("absolute", "The mean absolute error of the integers.", "", 2, "less"),
    Column("units", "How many units were judged."),
    Column(
        "failed",
        "How many could not be: no explanation, no answer, or nothing that varies among the pairs kept for judging.",
    ),
)


@dataclass
class AssessedDescriber:
    """One describer's explanations as they were judged on each kind of pairs."""

    name: str
    role: str
    assessments: dict[str, list[Assessment]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)


def load_explainers(
    kinds: Sequence[str], settings: Mapping[str, object], sources: tuple[str, str], share: float, seed: int, device: str
) -> dict[str, LlmExplainer]:
    """Load for each kind of pairs the describer that makes them and their prompts; settings that it does not have are
    left out.

    Args:
        sources: specs of target and probe, which decide settings that are not given.
    """
    found: dict[str, LlmExplainer] = {}
    known = {name for kind in PAIR_KINDS for name in load_describer(kind).settings}
    for name in settings:
        if name not in known:
            raise UnknownName("setting", name, known)
    for kind in kinds:
        if kind not in PAIR_KINDS:
            raise UnknownName("kind of pairs", kind, PAIR_KINDS, f"one of {', '.join(PAIR_KINDS)}")
        own = load_describer(kind).settings
        given = {name: value for name, value in settings.items() if name in own}
        given |= {"share": share, "seed": seed}
        judge = load_describer(kind, **resolve_settings(kind, given, sources, device))
        assert isinstance(judge, LlmExplainer)
        found[kind] = judge
    return found


def restrict_to_share(evaluated: EvaluatedDescriber, share: float, seed: int) -> EvaluatedDescriber:
    """The entrant, but if it explains from pairs, from that share of them alone."""
    if not isinstance(evaluated.describer, LlmExplainer):
        return evaluated
    settings = evaluated.describer.settings | {"share": share, "seed": seed}
    return replace(evaluated, describer=type(evaluated.describer)(**settings))


def shuffle_entries(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Each unit with what was said of another one of its layer: the floor."""
    said = {entry.unit: entry.description for entry in entries if entry.description is not None}
    found: list[Entry] = []
    for layer in dict.fromkeys(unit.layer for unit in said):
        others = permute_units([unit for unit in said if unit.layer == layer], seed)
        found += [
            Entry(unit, description=replace(said[other], unit=unit, candidates=())) for unit, other in others.items()
        ]
    return found


def assess_describer(
    name: str,
    role: str,
    entries: Sequence[Entry],
    dissections: Mapping[str, Dissection],
    explainers: Mapping[str, LlmExplainer],
    share: float,
    seed: int,
) -> AssessedDescriber:
    """What is said of each unit, judged on each kind of pairs."""
    one = AssessedDescriber(name, role)
    for kind, judge in explainers.items():
        one.assessments[kind], one.failures[kind] = [], []
        for entry in entries:
            if entry.description is None:
                if entry.status == "failed":
                    one.failures[kind].append(f"{entry.unit}: {entry.reason}")
                continue
            found = _assess_entry(entry, dissections[entry.unit.layer], judge, share, seed)
            if isinstance(found, Assessment):
                one.assessments[kind].append(found)
            else:
                one.failures[kind].append(f"{entry.unit}: {found.reason}")
    return one


def _assess_entry(
    entry: Entry, dissection: Dissection, explainer: LlmExplainer, share: float, seed: int
) -> Assessment | NoAnswer:
    said = entry.description
    assert said is not None
    pairs, simulation = explainer.make_pairs(dissection, entry.unit), explainer.make_simulation(dissection, entry.unit)
    if not simulation.has_enough_pairs(pairs, share, seed):
        return NoAnswer("the pairs kept for judging are too few, or all the same")
    return assess(simulation, entry.unit, [said.text], pairs, share=share, seed=seed)


def make_report(
    assessed: Sequence[AssessedDescriber],
    explainers: Mapping[str, LlmExplainer],
    target: str,
    dissections: Mapping[str, Dissection],
    share: float,
    seed: int,
    sources: Sources,
) -> Report:
    tables = tuple(Table(kind, COLUMNS, tuple(_make_row(one, kind, seed) for one in assessed)) for kind in explainers)
    first = next(iter(explainers.values()))
    notes = (
        (
            "Predicted by"
            f" {first.llm_client.llm.name}{f' ({first.llm_client.llm.note})' if first.llm_client.llm.note else ''}."
        ),
        (
            f"Explanations were made from {100 * share:.0f}% of the pairs; of the others one half is kept for judging."
            " Describers that look at the probe's images have seen those of caption_activation."
        ),
        (
            f"Of each unit the mean of at least {MIN_ROUNDS} rounds on pairs drawn anew, until the 90% interval is"
            f" under ±{100 * MAX_HALF_WIDTH:.0f} points, at most {MAX_ROUNDS}. A prediction that does not vary has a"
            " correlation of 0."
        ),
        (
            "Intervals are of 95%, of means, by drawing the units again a thousand times. Floor: what the first"
            " describer said of other units."
        ),
    )
    facts = {
        "target": target,
        "probe": next(iter(dissections.values())).probe,
        "llm": first.llm_client.llm.name,
        "share": share,
        "seed": seed,
        "hashes": {layer: dissection.key for layer, dissection in dissections.items()},
        "failed": {
            one.name: {kind: reasons[:5] for kind, reasons in one.failures.items() if reasons} for one in assessed
        },
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
    count = max((len(each) for one in assessed for each in one.assessments.values()), default=0)
    asked = sum(not one.role for one in assessed)
    lede = f"What {asked} describers say of up to {count} units, as predictions of integers that were kept from them."
    return Report("assessment", target, lede, tables, (), notes, facts, sources=sources)


def _make_row(one: AssessedDescriber, kind: str, seed: int) -> Row:
    made = summarize_assessments(one.assessments[kind], seed)
    return Row(one.name, {**made, "units": len(one.assessments[kind]), "failed": len(one.failures[kind])}, one.role)  # type: ignore[arg-type]

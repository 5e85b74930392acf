"""Explanations put to a language model that predicts pairs from them, describer by describer, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from milan.catalogue import Entry
from milan.command import warnings_so_far
from milan.describers import load_describer
from milan.describers.explaining import Explainer
from milan.describers.shuffled import exchanged
from milan.dissection.store import Dissection
from milan.errors import UnknownName
from milan.experiments.describing.entrants import Entrant
from milan.experiments.reporting.report import Column, Report, Row, Table
from milan.pretrained.asking import NoAnswer
from milan.provenance import Sources
from milan.scores.assessment import Assessment, assess, figures
from milan.simulated import FEWEST, MOST, WIDTH
from milan.storage import versions

KINDS = ("weight_label", "weight_clip", "caption_activation")
COLUMNS = (
    Column("correlation", "The mean over units of 100 times the correlation of predicted and true integers.", "%", 1, "more"),
    Column("accuracy", "The share of integers that are predicted exactly.", "%", 1, "more"),
    Column("squared", "The mean squared error of the integers, which go from 0 to 10.", "", 2, "less"),
    Column("absolute", "The mean absolute error of the integers.", "", 2, "less"),
    Column("units", "How many units were judged."),
    Column("failed", "How many could not be: no explanation, no answer, or nothing that varies among the pairs kept for judging."),
)


@dataclass
class Judged:
    """One describer's explanations as they were judged on each kind of pairs."""

    name: str
    role: str
    found: dict[str, list[Assessment]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)


def judges_of(kinds: Sequence[str], settings: Mapping[str, object], share: float, seed: int, device: str) -> dict[str, Explainer]:
    """For each kind of pairs the describer that knows them and their prompts; settings that a kind does not have are passed over."""
    found: dict[str, Explainer] = {}
    known = {name for kind in KINDS for name in load_describer(kind).settings}
    for name in settings:
        if name not in known:
            raise UnknownName("setting", name, known)
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownName("kind of pairs", kind, KINDS, f"one of {', '.join(KINDS)}")
        own = load_describer(kind).settings
        given = {name: value for name, value in settings.items() if name in own}
        judge = load_describer(kind, **given | {"share": share, "seed": seed, "device": device})
        assert isinstance(judge, Explainer)
        found[kind] = judge
    return found


def halved(entrant: Entrant, share: float, seed: int) -> Entrant:
    """The entrant, but if it explains from pairs, from that share of them alone."""
    if not isinstance(entrant.describer, Explainer):
        return entrant
    settings = entrant.describer.settings | {"share": share, "seed": seed}
    return replace(entrant, describer=type(entrant.describer)(**settings))


def shuffled(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Each unit with what was said of another one of its layer: the floor."""
    said = {entry.unit: entry.description for entry in entries if entry.description is not None}
    found: list[Entry] = []
    for layer in dict.fromkeys(unit.layer for unit in said):
        others = exchanged([unit for unit in said if unit.layer == layer], seed)
        found += [Entry(unit, description=replace(said[other], unit=unit, candidates=())) for unit, other in others.items()]
    return found


def judged(
    name: str,
    role: str,
    entries: Sequence[Entry],
    dissections: Mapping[str, Dissection],
    judges: Mapping[str, Explainer],
    share: float,
    seed: int,
) -> Judged:
    """What is said of each unit, judged on each kind of pairs."""
    one = Judged(name, role)
    for kind, judge in judges.items():
        one.found[kind], one.failed[kind] = [], []
        for entry in entries:
            if entry.description is None:
                if entry.status == "failed":
                    one.failed[kind].append(f"{entry.unit}: {entry.reason}")
                continue
            found = _assessed(entry, dissections[entry.unit.layer], judge, share, seed)
            if isinstance(found, Assessment):
                one.found[kind].append(found)
            else:
                one.failed[kind].append(f"{entry.unit}: {found.reason}")
    return one


def _assessed(entry: Entry, dissection: Dissection, judge: Explainer, share: float, seed: int) -> Assessment | NoAnswer:
    said = entry.description
    assert said is not None
    pairs, simulation = judge.pairs(dissection, entry.unit), judge.simulation(dissection, entry.unit)
    if not simulation.enough(pairs, share, seed):
        return NoAnswer("the pairs kept for judging are too few, or all the same")
    return assess(simulation, entry.unit, [said.text], pairs, share=share, seed=seed)


def report_of(
    found: Sequence[Judged],
    judges: Mapping[str, Explainer],
    target: str,
    dissections: Mapping[str, Dissection],
    share: float,
    seed: int,
    sources: Sources,
) -> Report:
    tables = tuple(Table(kind, COLUMNS, tuple(_row(one, kind, seed) for one in found)) for kind in judges)
    first = next(iter(judges.values()))
    told = (
        f"Predicted by {first.asker.llm.name}{f' ({first.asker.llm.note})' if first.asker.llm.note else ''}.",
        f"Explanations were made from {100 * share:.0f}% of the pairs; of the others one half is kept for judging. Describers that look at "
        "the probe's images have seen those of caption_activation.",
        f"Of each unit the mean of at least {FEWEST} rounds on pairs drawn anew, until the 90% interval is under ±{100 * WIDTH:.0f} "
        f"points, at most {MOST}. A prediction that does not vary has a correlation of 0.",
        "Intervals are of 95%, of means, by drawing the units again a thousand times. Floor: what the first describer said of other units.",
    )
    facts = {
        "target": target,
        "probe": next(iter(dissections.values())).probe,
        "llm": first.asker.llm.name,
        "share": share,
        "seed": seed,
        "hashes": {layer: dissection.key for layer, dissection in dissections.items()},
        "failed": {one.name: {kind: reasons[:5] for kind, reasons in one.failed.items() if reasons} for one in found},
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    count = max((len(each) for one in found for each in one.found.values()), default=0)
    asked = sum(not one.role for one in found)
    lede = f"What {asked} describers say of up to {count} units, as predictions of integers that were kept from them."
    return Report("assessment", target, lede, tables, (), told, facts, sources=sources)


def _row(one: Judged, kind: str, seed: int) -> Row:
    made = figures(one.found[kind], seed)
    return Row(one.name, {**made, "units": len(one.found[kind]), "failed": len(one.failed[kind])}, one.role)  # type: ignore[arg-type]

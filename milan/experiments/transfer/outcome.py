"""How far MILAN generalizes, in tables: every split, floors and ceilings beside them, and describers on networks left out."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from types import TracebackType

import numpy as np

from milan.annotations import Annotated
from milan.command import warnings_so_far
from milan.describers import sources_of
from milan.errors import MissingEvidence
from milan.experiments.comparison.judging import ALONE, COLUMNS, Bert, Judge, Round, joined
from milan.experiments.reporting.dots import dots
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.experiments.transfer.fitting import Evidence
from milan.experiments.transfer.learning import Learnt, Plan, Stage
from milan.experiments.transfer.splits import TABLE_2, Split
from milan.scores.intervals import Measure
from milan.scores.truth import Truth
from milan.storage import Journal, content_key, versions

PAPER = Column(
    "paper",
    "BERTScore F in the paper's Tables 2 and 3: people's words of other networks and images, so that only the order compares.",
)
UNKNOWN = Column("unknown words", "The share of the annotators' words that nobody said of the units trained on.", "%", 1)
FLOORS = ("shuffled", "constant")
SHOWN = 3  # units of each split, drawn by lot
MAIN = ("truth", "BERTScore", "ROUGE-L")  # BLEU is 0 where all texts are short, and goes up and down with the few that are not
UNTRAINED = ("netdissect", "compositional")
TOLD = (
    "netdissect and compositional are told by the probe what its pixels show and name what overlaps most, which is what the truth score "
    "asks for: that they are near its best says nothing against the others, who look at pictures."
)
FIGURE = (
    "MILAN in every split, with its interval. Strokes: a constant text, and MILAN's own texts dealt to other units. Diamonds: one "
    "annotator, against the other two."
)
SAID = {
    "milan": "MILAN: of the beam's texts the one of highest log p(d|E) - λ log p(d).",
    "p(d|E)": "The likeliest text of the same beam.",
    "shuffled": "MILAN's texts dealt to other units of the split.",
    "constant": "The commonest text of those trained on, said of every unit.",
    "an annotator*": "What one annotator said, against the other two.",
    "milan*": "MILAN against the same two.",
}
NOTES = (
    "Intervals are of 95%, by drawing seeds and units again a thousand times; a unit is drawn under all seeds together.",
    "Starred: against two annotators, since one cannot be scored against itself; fewer references give lower scores. The annotators' truth "
    "score needs no references.",
    "milan and p(d|E) choose from the texts of one beam; the code of 2022 set greedy texts beside reranked ones.",
    "Within a network and for early stopping, a tenth of each layer's units is held out, by the seed; the paper's splits across data sets, "
    "architectures and tasks are made of convolutional networks, but for the one that tests on ViT.",
)


@dataclass(frozen=True)
class Outcome(AbstractContextManager["Outcome"]):
    """All that was said, and the judge of it.

    Attributes:
        found: what MILAN said under every seed, by split.
        plan: how it was trained.
        evidence: where exemplars are read from.
        judge: gives scores.
        stages: networks that could be dissected again.
        reasons: what kept others from it.
        folder: where what describers say is kept.
    """

    found: Mapping[Split, Sequence[Learnt]]
    plan: Plan
    evidence: Evidence
    judge: Judge
    stages: Mapping[str, Stage]
    reasons: Sequence[str]
    folder: Path
    _scored: dict[tuple[str, str, str], dict[str, Value]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[Split, Sequence[Learnt]], plan: Plan, evidence: Evidence, bert: Bert, folder: Path) -> "Outcome":
        networks = {network.name: network for split in found for network in split.test}
        stages: dict[str, Stage] = {}
        truths: dict[Path, Truth] = {}
        reasons: list[str] = []
        for name, network in networks.items():
            stage = Stage(network, evidence)
            try:
                truths |= stage.truths()
                stages[name] = stage
            except MissingEvidence as reason:
                reasons.append(str(reason))
        kept = Journal(folder / "scores.sqlite", content_key(format=1))
        units = {(one.source, str(one.unit)): one.texts for several in found.values() for each in several for one in each.test}
        rarity = tuple(text for texts in units.values() for text in texts)
        return cls(found, plan, evidence, Judge(truths, bert, rarity, kept), stages, reasons, folder)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.judge.kept:
            self.judge.kept.close()

    @cached_property
    def scores(self) -> tuple[Column, ...]:
        """The columns of scores that there are."""
        return tuple(COLUMNS[name] for name in self.judge.names)

    def report(self) -> Report:
        """Tables, figure and notes."""
        self.judge.compare([one for split in self.found for who in SAID for one in self._rounds(split, who)])
        tables = [self._by_split(), *self._left_out(), *self._ends(), self._drawn()]
        paired = [name for name in MAIN if name in self.judge.names]
        figure = dots(
            [(split.kind, split.name, {name: self._ends_of(split, name) for name in paired}, split.paper) for split in self.found], paired
        )
        return Report(
            "generalization",
            "Does MILAN generalize?",
            self._lede(),
            tuple(tables),
            self._headlines(),
            (*NOTES, *([TOLD] if self.stages else []), *self._order(), *self.reasons),
            self._facts(),
            figures=((FIGURE, figure),),
            sources=self._sources(),
        )

    def _sources(self) -> dict[str, str]:
        """The networks that were annotated, their probes, where the annotations are, and the encoder."""
        networks = dict.fromkeys(network for split in self.found for network in (*split.train, *split.test))
        layers = [layer for network in networks for layer in network.layers]
        annotations = ", ".join(dict.fromkeys(str(layer.parent) for layer in layers))
        known = sources_of([self.evidence.dissection(layer) for layer in layers], {})
        return {**known, "annotations": annotations, "encoder": str(self.evidence.encoder.settings["spec"])}

    def _lede(self) -> str:
        networks = {network.name for split in self.found for network in (*split.train, *split.test)}
        return (
            f"MILAN learns from the annotations of some of {len(networks)} networks and describes units that it has not seen: "
            f"{len(self.found)} splits, {self.plan.seeds} trainings of each."
        )

    def _facts(self) -> dict[str, object]:
        first = self.evidence.dissection(next(iter(self.found)).test[0].layers[0])
        trained = {f"{split.kind}, {split.name}": [dict(each.facts) for each in several] for split, several in self.found.items()}
        return {
            "probe": first.probe,
            "settings": {**self.plan.settings, "encoder": self.evidence.encoder.settings["spec"]},
            "seed": f"{self.plan.rounds[0]} to {self.plan.rounds[-1]}",
            "device": self.plan.device,
            "BERTScore": self.judge.bert.settings if self.judge.bert.model else None,
            "trainings": trained,
            "versions": versions(),
            "warnings": warnings_so_far(),
        }

    def _rounds(self, split: Split, who: str) -> list[Round]:
        """What someone said in a split, seed by seed."""
        several = self.found[split]
        if who == "an annotator*":  # they say the same under every seed that asks the same units
            several = list({each.test: each for each in several}.values())
        if who in ("milan*", "an annotator*"):
            return [one for each in several for one in _against_two(each, who)]
        said = {"milan": lambda one: one.milan, "p(d|E)": lambda one: one.likely, "shuffled": _dealt, "constant": _constant}
        return [Round.of(each.test, said[who](each)) for each in several]

    def scored(self, split: Split, who: str) -> dict[str, Value]:
        """All scores of what someone said in a split."""
        key = (split.kind, split.name, who)
        if key not in self._scored:
            self._scored[key] = self.judge.scores(self._rounds(split, who))
        return self._scored[key]

    def _ends_of(self, split: Split, name: str) -> dict[str, Value]:
        return {who: self.scored(split, who)[name] for who in SAID if not (who == "milan*" and name in ALONE)}

    def _by_split(self) -> Table:
        rows = []
        for split, several in self.found.items():
            unknown = float(np.mean([each.unknown for each in several]))
            rows.append(Row(f"{split.kind}: {split.name}", {"paper": split.paper, **self.scored(split, "milan"), "unknown words": unknown}))
        columns = (replace(column, better="") for column in self.scores)  # splits do not compete
        return Table("MILAN in every split", (PAPER, *columns, UNKNOWN), tuple(rows), "split")

    def _ends(self) -> list[Table]:
        """For each main score a table with floors and ceilings."""
        tables = []
        for name in (name for name in MAIN if name in self.judge.names):
            like = COLUMNS[name]
            whose = [who for who in SAID if not (who == "milan*" and name in ALONE)]
            columns = tuple(Column(who, SAID[who], like.unit, like.digits) for who in whose)
            rows = tuple(Row(f"{split.kind}: {split.name}", self._ends_of(split, name)) for split in self.found)
            tables.append(Table(f"{name} with floors and ceilings", columns, rows, "split"))
        return tables

    def _left_out(self) -> list[Table]:
        """Describers on networks that MILAN did not learn from: all together, then each."""
        splits = [split for split in self.found if split.kind == "leave one out"]
        if not splits:
            return []
        names = ["milan", "p(d|E)", *self._untrained(splits), "an annotator*", *FLOORS]
        tables = [self._describers("networks left out", splits, names)] if len(splits) > 1 else []
        return tables + [self._describers(f"left out {split.name}", [split], names) for split in splits]

    def _untrained(self, splits: Sequence[Split]) -> list[str]:
        return list(UNTRAINED) if all(split.name in self.stages for split in splits) else []

    def _describers(self, title: str, splits: Sequence[Split], names: Sequence[str]) -> Table:
        paper = TABLE_2.get(splits[0].test[0].kind, {}) if len(splits) == 1 else {}
        rows = []
        for name in names:
            role = "ceiling" if name == "an annotator*" else "floor" if name in FLOORS else ""
            rows.append(Row(name, {"paper": paper.get(name), **self._together(splits, name)}, role))  # type: ignore[arg-type]
        return Table(title, (PAPER, *self.scores), tuple(rows))

    def _together(self, splits: Sequence[Split], name: str) -> dict[str, Value]:
        if len(splits) == 1 and name not in UNTRAINED:
            return self.scored(splits[0], name)
        several = [self._said(split, name) for split in splits]
        return self.judge.scores([joined(rounds) for rounds in zip(*several, strict=False)])  # some may have fewer annotators

    def _said(self, split: Split, name: str) -> list[Round]:
        if name not in UNTRAINED:
            return self._rounds(split, name)
        units = self.found[split][0].test
        return [Round.of(units, self.stages[split.name].said(name, units, self.folder / "describers"))]

    def _drawn(self) -> Table:
        """What was said of a few units of each split, drawn by lot."""
        rows = []
        for split, several in self.found.items():
            first = several[0]
            for place in sorted(np.random.default_rng(0).choice(len(first.test), min(SHOWN, len(first.test)), replace=False).tolist()):
                unit = first.test[place]
                values = {"milan": first.milan[place], "p(d|E)": first.likely[place], "annotators": "; ".join(unit.texts)}
                rows.append(Row(f"{split.kind}: {split.name}, {unit.source.parent.name} {unit.unit}", values))
        columns = tuple(Column(name, text) for name, text in (*list(SAID.items())[:2], ("annotators", "What annotators said.")))
        return Table("drawn by lot", columns, tuple(rows), "unit")

    def _headlines(self) -> tuple[tuple[str, str], ...]:
        """The mean of MILAN's main score over the splits of each kind."""
        name = next(name for name in MAIN if name in self.judge.names)
        kinds: dict[str, list[float]] = {}
        for split in self.found:
            value = self.scored(split, "milan")[name]
            kinds.setdefault(split.kind, []).append(value.value if isinstance(value, Measure) else float("nan"))
        scale, unit = (100, " %") if COLUMNS[name].unit == "%" else (1, "")
        return tuple((f"{scale * float(np.mean(values)):.3g}{unit}", f"{name}, {kind}") for kind, values in kinds.items())

    def _order(self) -> list[str]:
        """How often two splits stand in the paper's order."""
        known = [split for split in self.found if split.paper is not None and split.kind != "leave one out"]
        pairs = [(one, other) for one, other in combinations(known, 2) if one.paper != other.paper]
        told = []
        for name in (name for name in MAIN if name in self.judge.names and pairs):
            value = {split: _number(self.scored(split, "milan")[name]) for split in known}
            same = sum((value[one] - value[other]) * ((one.paper or 0) - (other.paper or 0)) > 0 for one, other in pairs)
            told.append(f"Of {len(pairs)} pairs of splits that differ in the paper's Table 3, {same} stand in its order here by {name}.")
        return told


def _number(value: Value) -> float:
    return value.value if isinstance(value, Measure) else float("nan")


def _dealt(one: Learnt) -> list[str]:
    """Each unit gets the text of another: all of them in one round, in an order drawn by lot."""
    order = np.random.default_rng(0).permutation(len(one.milan))
    texts = [""] * len(order)
    for place, other in zip(order, np.roll(order, 1), strict=True):
        texts[place] = one.milan[other]
    return texts


def _constant(one: Learnt) -> list[str]:
    return [one.constant] * len(one.test)


def _against_two(one: Learnt, who: str) -> list[Round]:
    """Rounds against all annotators but one, who is each of them in turn; units with fewer than two are left out."""
    most = max(len(unit.texts) for unit in one.test)
    rounds = []
    for out in range(most if most > 1 else 0):
        places = [place for place, unit in enumerate(one.test) if len(unit.texts) > max(out, 1)]
        units = tuple(one.test[place] for place in places)
        texts = tuple(one.milan[place] if who == "milan*" else one.test[place].texts[out] for place in places)
        rounds.append(Round(units, texts, tuple(_without(unit, out) for unit in units)))
    return rounds


def _without(unit: Annotated, out: int) -> tuple[str, ...]:
    return tuple(text for place, text in enumerate(unit.texts) if place != out)

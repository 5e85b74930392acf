"""How far MILAN generalizes, in tables: every split, floors and ceilings beside them, and describers on networks left
out.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from types import TracebackType

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.describers import sources_of
from milan.errors import MissingEvidence
from milan.experiments.core.description_scores import (
    COLUMNS,
    REFERENCE_FREE,
    BertScoreConfig,
    DescriptionScorer,
    TextsWithReferences,
    merge_rounds,
)
from milan.experiments.core.dot_plots import plot_dots
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.generalization.model_training import FeatureStore
from milan.experiments.generalization.network_splits import TABLE_2, NetworkSplit
from milan.experiments.generalization.trained_splits import GeneralizationConfig, RedissectedNetwork, SplitResult
from milan.models.data_module import AnnotatedUnit
from milan.scores.confidence_intervals import Measure
from milan.scores.truth_score import Truth
from milan.storage.files import Journal, collect_versions, content_key

PAPER_COLUMN = Column(
    "paper",
    "BERTScore F in the paper's Tables 2 and 3: people's words of other networks and images, so that only the order"
    " compares.",
)
UNKNOWN_COLUMN = Column(
    "unknown words", "The share of the annotators' words that nobody said of the units trained on.", "%", 1
)
FLOORS = ("shuffled", "constant")
SHOWN_UNITS = 3  # units of each split, drawn by lot
MAIN_SCORES = (
    "truth",
    "BERTScore",
    "ROUGE-L",
)  # BLEU is 0 where all texts are short, and goes up and down with the few that are not
UNTRAINED_DESCRIBERS = ("netdissect", "compositional")
LABELS_NOTE = (
    "netdissect and compositional are told by the probe what its pixels show and name what overlaps most, which is what"
    " the truth score asks for: that they are near its best says nothing against the others, who look at pictures."
)
FIGURE_CAPTION = (
    "MILAN in every split, with its interval. Strokes: a constant text, and MILAN's own texts dealt to other units."
    " Diamonds: one annotator, against the other two."
)
ROW_NOTES = {
    "milan": "MILAN: of the beam's texts the one of highest log p(d|E) - λ log p(d).",
    "p(d|E)": "The likeliest text of the same beam.",
    "shuffled": "MILAN's texts dealt to other units of the split.",
    "constant": "The commonest text of those trained on, said of every unit.",
    "an annotator*": "What one annotator said, against the other two.",
    "milan*": "MILAN against the same two.",
}
NOTES = (
    (
        "Intervals are of 95%, by drawing seeds and units again a thousand times; a unit is drawn under all seeds"
        " together."
    ),
    (
        "Starred: against two annotators, since one cannot be scored against itself; fewer references give lower"
        " scores. The annotators' truth score needs no references."
    ),
    "milan and p(d|E) choose from the texts of one beam; the code of 2022 set greedy texts beside reranked ones.",
    (
        "Within a network and for early stopping, a tenth of each layer's units is held out, by the seed; the paper's"
        " splits across data sets, architectures and tasks are made of convolutional networks, but for the one that"
        " tests on ViT."
    ),
)


@dataclass(frozen=True)
class GeneralizationResult(AbstractContextManager["GeneralizationResult"]):
    """All that was said, and the judge of it.

    Attributes:
        results: what MILAN said under every seed, by split.
        config: how it was trained.
        store: where exemplars are read from.
        scorer: gives scores.
        networks: networks that could be dissected again.
        reasons: what kept others from it.
        folder: where what describers say is kept.
    """

    results: Mapping[NetworkSplit, Sequence[SplitResult]]
    config: GeneralizationConfig
    store: FeatureStore
    scorer: DescriptionScorer
    networks: Mapping[str, RedissectedNetwork]
    reasons: Sequence[str]
    folder: Path
    _score_cache: dict[tuple[str, str, str], dict[str, Value]] = field(default_factory=dict)

    @classmethod
    def score(
        cls,
        results: Mapping[NetworkSplit, Sequence[SplitResult]],
        config: GeneralizationConfig,
        store: FeatureStore,
        bert: BertScoreConfig,
        folder: Path,
    ) -> "GeneralizationResult":
        networks = {network.name: network for split in results for network in split.test}
        stages: dict[str, RedissectedNetwork] = {}
        truths: dict[Path, Truth] = {}
        reasons: list[str] = []
        for name, network in networks.items():
            stage = RedissectedNetwork(network, store)
            try:
                truths |= stage.measure_truths()
                stages[name] = stage
            except MissingEvidence as reason:
                reasons.append(str(reason))
        kept = Journal(folder / "scores.sqlite", content_key(format=1))
        units = {
            (one.source, str(one.unit)): one.texts
            for several in results.values()
            for each in several
            for one in each.test
        }
        rarity = tuple(text for texts in units.values() for text in texts)
        return cls(results, config, store, DescriptionScorer(truths, bert, rarity, kept), stages, reasons, folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.scorer.journal:
            self.scorer.journal.close()

    @cached_property
    def score_columns(self) -> tuple[Column, ...]:
        """The columns of scores that there are."""
        return tuple(COLUMNS[name] for name in self.scorer.names)

    def make_report(self) -> Report:
        """Tables, figure and notes."""
        self.scorer.score_pairs(
            [one for split in self.results for who in ROW_NOTES for one in self._collect_rounds(split, who)]
        )
        tables = [
            self._make_split_table(),
            *self._make_left_out_tables(),
            *self._make_end_tables(),
            self._make_example_table(),
        ]
        paired = [name for name in MAIN_SCORES if name in self.scorer.names]
        figure = plot_dots(
            [
                (
                    split.kind,
                    split.name,
                    {name: self._find_floors_and_ceilings(split, name) for name in paired},
                    split.paper,
                )
                for split in self.results
            ],
            paired,
        )
        return Report(
            "generalization",
            "Does MILAN generalize?",
            self._format_lede(),
            tuple(tables),
            self._make_headlines(),
            (*NOTES, *([LABELS_NOTE] if self.networks else []), *self._compare_order(), *self.reasons),
            self._collect_facts(),
            figures=((FIGURE_CAPTION, figure),),
            sources=self._sources(),
        )

    def _sources(self) -> dict[str, str]:
        """The networks that were annotated, their probes, where the annotations are, and the encoder."""
        networks = dict.fromkeys(network for split in self.results for network in (*split.train, *split.test))
        layers = [layer for network in networks for layer in network.layers]
        annotations = ", ".join(dict.fromkeys(str(layer.parent) for layer in layers))
        known = sources_of([self.store.dissection(layer) for layer in layers], {})
        return {**known, "annotations": annotations, "encoder": str(self.store.encoder.settings["spec"])}

    def _format_lede(self) -> str:
        networks = {network.name for split in self.results for network in (*split.train, *split.test)}
        return (
            f"MILAN learns from the annotations of some of {len(networks)} networks and describes units that it has not"
            f" seen: {len(self.results)} splits, {self.config.seeds} trainings of each."
        )

    def _collect_facts(self) -> dict[str, object]:
        first = self.store.dissection(next(iter(self.results)).test[0].layers[0])
        trained = {
            f"{split.kind}, {split.name}": [dict(each.facts) for each in several]
            for split, several in self.results.items()
        }
        return {
            "probe": first.probe,
            "settings": {**self.config.settings, "encoder": self.store.encoder.settings["spec"]},
            "seed": f"{self.config.seed_range[0]} to {self.config.seed_range[-1]}",
            "device": self.config.device,
            "BERTScore": self.scorer.bert.settings if self.scorer.bert.model else None,
            "trainings": trained,
            "versions": collect_versions(),
            "warnings": get_recorded_warnings(),
        }

    def _collect_rounds(self, split: NetworkSplit, describer: str) -> list[TextsWithReferences]:
        """What someone said in a split, seed by seed."""
        several = self.results[split]
        if describer == "an annotator*":  # they say the same under every seed that asks the same units
            several = list({each.test: each for each in several}.values())
        if describer in ("milan*", "an annotator*"):
            return [one for each in several for one in _compare_with_two(each, describer)]
        said = {
            "milan": lambda one: one.milan,
            "p(d|E)": lambda one: one.most_likely,
            "shuffled": _shuffle_texts,
            "constant": _repeat_constant,
        }
        return [TextsWithReferences.from_annotations(each.test, said[describer](each)) for each in several]

    def compute_scores(self, split: NetworkSplit, describer: str) -> dict[str, Value]:
        """All scores of what someone said in a split."""
        key = (split.kind, split.name, describer)
        if key not in self._score_cache:
            self._score_cache[key] = self.scorer.compute_scores(self._collect_rounds(split, describer))
        return self._score_cache[key]

    def _find_floors_and_ceilings(self, split: NetworkSplit, name: str) -> dict[str, Value]:
        return {
            who: self.compute_scores(split, who)[name]
            for who in ROW_NOTES
            if not (who == "milan*" and name in REFERENCE_FREE)
        }

    def _make_split_table(self) -> Table:
        rows = []
        for split, several in self.results.items():
            unknown = float(np.mean([each.unknown_share for each in several]))
            rows.append(
                Row(
                    f"{split.kind}: {split.name}",
                    {"paper": split.paper, **self.compute_scores(split, "milan"), "unknown words": unknown},
                )
            )
        columns = (replace(column, better="") for column in self.score_columns)  # splits do not compete
        return Table("MILAN in every split", (PAPER_COLUMN, *columns, UNKNOWN_COLUMN), tuple(rows), "split")

    def _make_end_tables(self) -> list[Table]:
        """For each main score a table with floors and ceilings."""
        tables = []
        for name in (name for name in MAIN_SCORES if name in self.scorer.names):
            like = COLUMNS[name]
            whose = [who for who in ROW_NOTES if not (who == "milan*" and name in REFERENCE_FREE)]
            columns = tuple(Column(who, ROW_NOTES[who], like.unit, like.digits) for who in whose)
            rows = tuple(
                Row(f"{split.kind}: {split.name}", self._find_floors_and_ceilings(split, name))
                for split in self.results
            )
            tables.append(Table(f"{name} with floors and ceilings", columns, rows, "split"))
        return tables

    def _make_left_out_tables(self) -> list[Table]:
        """Describers on networks that MILAN did not learn from: all together, then each."""
        splits = [split for split in self.results if split.kind == "leave one out"]
        if not splits:
            return []
        names = ["milan", "p(d|E)", *self._list_untrained(splits), "an annotator*", *FLOORS]
        tables = [self._make_describer_table("networks left out", splits, names)] if len(splits) > 1 else []
        return tables + [self._make_describer_table(f"left out {split.name}", [split], names) for split in splits]

    def _list_untrained(self, splits: Sequence[NetworkSplit]) -> list[str]:
        return list(UNTRAINED_DESCRIBERS) if all(split.name in self.networks for split in splits) else []

    def _make_describer_table(self, title: str, splits: Sequence[NetworkSplit], names: Sequence[str]) -> Table:
        paper = TABLE_2.get(splits[0].test[0].kind, {}) if len(splits) == 1 else {}
        rows = []
        for name in names:
            role = "ceiling" if name == "an annotator*" else "floor" if name in FLOORS else ""
            rows.append(Row(name, {"paper": paper.get(name), **self._score_together(splits, name)}, role))  # type: ignore[arg-type]
        return Table(title, (PAPER_COLUMN, *self.score_columns), tuple(rows))

    def _score_together(self, splits: Sequence[NetworkSplit], name: str) -> dict[str, Value]:
        if len(splits) == 1 and name not in UNTRAINED_DESCRIBERS:
            return self.compute_scores(splits[0], name)
        several = [self._describe_untrained(split, name) for split in splits]
        return self.scorer.compute_scores(
            [merge_rounds(rounds) for rounds in zip(*several, strict=False)]
        )  # some may have fewer annotators

    def _describe_untrained(self, split: NetworkSplit, name: str) -> list[TextsWithReferences]:
        if name not in UNTRAINED_DESCRIBERS:
            return self._collect_rounds(split, name)
        units = self.results[split][0].test
        return [
            TextsWithReferences.from_annotations(
                units, self.networks[split.name].describe_untrained(name, units, self.folder / "describers")
            )
        ]

    def _make_example_table(self) -> Table:
        """What was said of a few units of each split, drawn by lot."""
        rows = []
        for split, several in self.results.items():
            first = several[0]
            for place in sorted(
                np.random.default_rng(0)
                .choice(len(first.test), min(SHOWN_UNITS, len(first.test)), replace=False)
                .tolist()
            ):
                unit = first.test[place]
                values = {
                    "milan": first.milan[place],
                    "p(d|E)": first.most_likely[place],
                    "annotators": "; ".join(unit.texts),
                }
                rows.append(Row(f"{split.kind}: {split.name}, {unit.source.parent.name} {unit.unit}", values))
        columns = tuple(
            Column(name, text) for name, text in (*list(ROW_NOTES.items())[:2], ("annotators", "What annotators said."))
        )
        return Table("drawn by lot", columns, tuple(rows), "unit")

    def _make_headlines(self) -> tuple[tuple[str, str], ...]:
        """The mean of MILAN's main score over the splits of each kind."""
        name = next(name for name in MAIN_SCORES if name in self.scorer.names)
        kinds: dict[str, list[float]] = {}
        for split in self.results:
            value = self.compute_scores(split, "milan")[name]
            kinds.setdefault(split.kind, []).append(value.value if isinstance(value, Measure) else float("nan"))
        scale, unit = (100, " %") if COLUMNS[name].unit == "%" else (1, "")
        return tuple(
            (f"{scale * float(np.mean(values)):.3g}{unit}", f"{name}, {kind}") for kind, values in kinds.items()
        )

    def _compare_order(self) -> list[str]:
        """How often two splits stand in the paper's order."""
        known = [split for split in self.results if split.paper is not None and split.kind != "leave one out"]
        pairs = [(one, other) for one, other in combinations(known, 2) if one.paper != other.paper]
        sentences = []
        for name in (name for name in MAIN_SCORES if name in self.scorer.names and pairs):
            value = {split: _to_number(self.compute_scores(split, "milan")[name]) for split in known}
            same = sum(
                (value[one] - value[other]) * ((one.paper or 0) - (other.paper or 0)) > 0 for one, other in pairs
            )
            sentences.append(
                f"Of {len(pairs)} pairs of splits that differ in the paper's Table 3, {same} stand in its order here by"
                f" {name}."
            )
        return sentences


def _to_number(value: Value) -> float:
    return value.value if isinstance(value, Measure) else float("nan")


def _shuffle_texts(one: SplitResult) -> list[str]:
    """Each unit gets the text of another: all of them in one round, in an order drawn by lot."""
    order = np.random.default_rng(0).permutation(len(one.milan))
    texts = [""] * len(order)
    for place, other in zip(order, np.roll(order, 1), strict=True):
        texts[place] = one.milan[other]
    return texts


def _repeat_constant(one: SplitResult) -> list[str]:
    return [one.constant] * len(one.test)


def _compare_with_two(one: SplitResult, describer: str) -> list[TextsWithReferences]:
    """Rounds against all annotators but one, who is each of them in turn; units with fewer than two are left out."""
    most = max(len(unit.texts) for unit in one.test)
    rounds = []
    for out in range(most if most > 1 else 0):
        places = [place for place, unit in enumerate(one.test) if len(unit.texts) > max(out, 1)]
        units = tuple(one.test[place] for place in places)
        texts = tuple(one.milan[place] if describer == "milan*" else one.test[place].texts[out] for place in places)
        rounds.append(TextsWithReferences(units, texts, tuple(_drop_annotation(unit, out) for unit in units)))
    return rounds


def _drop_annotation(unit: AnnotatedUnit, out: int) -> tuple[str, ...]:
    return tuple(text for place, text in enumerate(unit.texts) if place != out)

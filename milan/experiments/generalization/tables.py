"""The report of the experiment: MILAN's scores on every split, beside trivial baselines (floors), annotators (ceilings)
and describers that need no training.
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
from milan.experiments.core.corpus_tables import make_split_words_table
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
from milan.experiments.generalization.config import GeneralizationConfig
from milan.experiments.generalization.network_splits import TABLE_2, NetworkSplit
from milan.experiments.generalization.trained_splits import RedissectedNetwork, SplitResult
from milan.models.annotated_units import AnnotatedUnit
from milan.models.feature_store import FeatureStore
from milan.scores.bootstrap import make_random_cycle
from milan.scores.confidence_intervals import Measure
from milan.scores.truth_score import Truth, find_best_constant
from milan.storage.files import content_key
from milan.storage.journal import Journal
from milan.storage.software_versions import collect_versions

PAPER_COLUMN = Column(
    "paper",
    "BERTScore F in Tables 2 and 3 of the paper, on other networks, images and annotations: only the order compares.",
)
UNKNOWN_COLUMN = Column(
    "unknown words", "Fraction of the words in the test units' annotations that no training annotation has.", "%", 1
)
FLOORS = ("shuffled", "constant")
EXAMPLE_UNITS = 3  # random units shown per split
# BLEU is not among them: it is 0 where all texts are short, and depends on the few that are not.
MAIN_SCORES = ("truth", "BERTScore", "ROUGE-L")
UNTRAINED_DESCRIBERS = ("netdissect", "compositional")
LABELS_NOTE = (
    "netdissect and compositional read pixel labels of the same kind as those from which the truth score is computed;"
    " the others read images."
)
FIGURE_CAPTION = (
    "MILAN on every split, with its interval. Strokes: a constant text, and MILAN's own texts shuffled among the units."
    " Diamonds: one annotator against the other two."
)
ROW_NOTES = {
    "milan": "MILAN: the text of the beam with the highest log p(d|E) - λ log p(d).",
    "p(d|E)": "The most likely text of the same beam.",
    "shuffled": "MILAN's texts, shuffled among the units of the split.",
    "constant": (
        "One text for every unit: of Diorama's concepts the one with the best mean truth score on these units, or the"
        " most common training annotation where the truth is not known."
    ),
    "an annotator*": "Each annotator in turn, against the other two.",
    "milan*": "MILAN against the same two annotators.",
}
NOTES = (
    "Intervals are 95% bootstrap intervals over seeds and units (1,000 resamples; a unit is drawn with all its seeds).",
    (
        "Starred rows are scored against two annotators, since an annotator cannot be scored against itself; fewer"
        " references give lower scores. The truth score of annotators needs no references."
    ),
    "milan and p(d|E) choose from one beam; the 2022 code compares greedy texts with reranked ones.",
    (
        "Within a network, and for early stopping, a tenth of each layer's units is held out, selected by the seed. As"
        " in the paper, the splits across data sets, architectures and tasks train and test on convolutional networks,"
        " except for the one that tests on ViT."
    ),
)


@dataclass(frozen=True)
class GeneralizationResult(AbstractContextManager["GeneralizationResult"]):
    """All descriptions of the experiment, and their scores.

    Attributes:
        results: MILAN's descriptions under each seed, by split.
        config: the options of the experiment.
        store: reads the annotated exemplars.
        scorer: scores descriptions.
        networks: the networks that could be dissected again, by name.
        reasons: why the others could not.
    """

    results: Mapping[NetworkSplit, Sequence[SplitResult]]
    config: GeneralizationConfig
    store: FeatureStore
    scorer: DescriptionScorer
    networks: Mapping[str, RedissectedNetwork]
    reasons: Sequence[str]
    _score_cache: dict[tuple[str, str, str], dict[str, Value]] = field(default_factory=dict)
    _constant_cache: dict[tuple[AnnotatedUnit, ...], str] = field(default_factory=dict)

    @classmethod
    def score(
        cls,
        results: Mapping[NetworkSplit, Sequence[SplitResult]],
        config: GeneralizationConfig,
        store: FeatureStore,
        bert: BertScoreConfig,
    ) -> "GeneralizationResult":
        """Dissect the test networks again, where possible, and prepare the scores."""
        networks: dict[str, RedissectedNetwork] = {}
        truths: dict[Path, Truth] = {}
        reasons: list[str] = []
        for network in {network.name: network for split in results for network in split.test}.values():
            redissected = RedissectedNetwork(network, store)
            try:
                truths |= redissected.measure_truths()
                networks[network.name] = redissected
            except MissingEvidence as reason:
                reasons.append(str(reason))
        journal = Journal(config.out / "scores.sqlite", content_key(format=1))
        tests = [one for several in results.values() for each in several for one in each.test]
        units = {(one.source, str(one.unit)): one.texts for one in tests}
        idf_texts = tuple(text for texts in units.values() for text in texts)
        return cls(results, config, store, DescriptionScorer(truths, bert, idf_texts, journal), networks, reasons)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.scorer.journal:
            self.scorer.journal.close()

    @cached_property
    def score_columns(self) -> tuple[Column, ...]:
        """The columns of the available scores."""
        return tuple(COLUMNS[name] for name in self.scorer.names)

    def make_report(self) -> Report:
        """Return tables, figure and notes."""
        self.scorer.score_pairs(
            [one for split in self.results for row in ROW_NOTES for one in self._collect_rounds(split, row)]
        )
        tables = [
            self._make_split_table(),
            *self._make_left_out_tables(),
            *self._make_baseline_tables(),
            self._make_words_table(),
            self._make_example_table(),
        ]
        scores = [name for name in MAIN_SCORES if name in self.scorer.names]
        rows = [
            (split.kind, split.name, {name: self._score_rows(split, name) for name in scores}, split.paper)
            for split in self.results
        ]
        figure = plot_dots(rows, scores)
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
        """Return the annotated networks, their probes, the folders of the annotations, and the encoder."""
        networks = dict.fromkeys(network for split in self.results for network in (*split.train, *split.test))
        layers = [layer for network in networks for layer in network.layers]
        annotations = ", ".join(dict.fromkeys(str(layer.parent) for layer in layers))
        known = sources_of([self.store.dissection(layer) for layer in layers], {})
        return {**known, "annotations": annotations, "encoder": str(self.store.encoder.settings["spec"])}

    def _format_lede(self) -> str:
        networks = {network.name for split in self.results for network in (*split.train, *split.test)}
        return (
            f"MILAN is trained on the annotations of some of {len(networks)} networks and describes units that it was"
            f" not trained on: {len(self.results)} splits, {self.config.seeds} trainings of each."
        )

    def _collect_facts(self) -> dict[str, object]:
        first = self.store.dissection(next(iter(self.results)).test[0].layers[0])
        trained = {
            f"{split.kind}, {split.name}": [dict(each.facts) for each in several]
            for split, several in self.results.items()
        }
        return {
            "probe": first.probe,
            "settings": {
                **self.config.decoding_settings,
                **self.config.training_settings,
                "encoder": self.store.encoder.settings["spec"],
            },
            "seed": f"{self.config.seed_range[0]} to {self.config.seed_range[-1]}",
            "device": self.config.device,
            "BERTScore": self.scorer.bert.settings if self.scorer.bert.model else None,
            "trainings": trained,
            "versions": collect_versions(),
            "warnings": get_recorded_warnings(),
        }

    def _collect_rounds(self, split: NetworkSplit, row: str) -> list[TextsWithReferences]:
        """Return the texts of one row of ``ROW_NOTES`` on a split, seed by seed."""
        several = self.results[split]
        if row == "an annotator*":
            # Annotators do not depend on the seed: seeds with the same test units count once.
            several = list({each.test: each for each in several}.values())
        if row in ("milan*", "an annotator*"):
            return [one for each in several for one in _compare_with_two(each, row)]
        choose = {
            "milan": lambda one: one.milan,
            "p(d|E)": lambda one: one.most_likely,
            "shuffled": _shuffle_texts,
            "constant": self._repeat_constant,
        }[row]
        return [TextsWithReferences.from_annotations(each.test, choose(each)) for each in several]

    def _repeat_constant(self, one: SplitResult) -> list[str]:
        if one.test not in self._constant_cache:
            truths = self.scorer.truths
            known = [(truths[unit.source], unit.unit) for unit in one.test if unit.source in truths]
            self._constant_cache[one.test] = find_best_constant(known)[0] if known else one.constant
        return [self._constant_cache[one.test]] * len(one.test)

    def compute_scores(self, split: NetworkSplit, row: str) -> dict[str, Value]:
        """Return all scores of one row of ``ROW_NOTES`` on a split."""
        key = (split.kind, split.name, row)
        if key not in self._score_cache:
            self._score_cache[key] = self.scorer.compute_scores(self._collect_rounds(split, row))
        return self._score_cache[key]

    def _score_rows(self, split: NetworkSplit, score: str) -> dict[str, Value]:
        """Return one score of MILAN, floors and ceilings on a split."""
        return {row: self.compute_scores(split, row)[score] for row in self._list_rows(score)}

    def _list_rows(self, score: str) -> list[str]:
        # Without references, MILAN against two annotators is MILAN.
        return [row for row in ROW_NOTES if not (row == "milan*" and score in REFERENCE_FREE)]

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
        # Splits do not compete, so that no best value is marked.
        columns = (replace(column, better="") for column in self.score_columns)
        return Table("MILAN on every split", (PAPER_COLUMN, *columns, UNKNOWN_COLUMN), tuple(rows), "split")

    def _make_baseline_tables(self) -> list[Table]:
        """Return a table of floors and ceilings for each main score."""
        tables = []
        for name in (name for name in MAIN_SCORES if name in self.scorer.names):
            like = COLUMNS[name]
            columns = tuple(Column(row, ROW_NOTES[row], like.unit, like.digits) for row in self._list_rows(name))
            rows = tuple(Row(f"{split.kind}: {split.name}", self._score_rows(split, name)) for split in self.results)
            tables.append(Table(f"{name} with floors and ceilings", columns, rows, "split"))
        return tables

    def _make_left_out_tables(self) -> list[Table]:
        """Return tables of describers on networks that MILAN was not trained on: all together, then each."""
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
        # Some networks may have fewer annotators.
        return self.scorer.compute_scores([merge_rounds(rounds) for rounds in zip(*several, strict=False)])

    def _describe_untrained(self, split: NetworkSplit, name: str) -> list[TextsWithReferences]:
        if name not in UNTRAINED_DESCRIBERS:
            return self._collect_rounds(split, name)
        units = self.results[split][0].test
        texts = self.networks[split.name].describe_untrained(name, units, self.config.out / "describers")
        return [TextsWithReferences.from_annotations(units, texts)]

    def _make_words_table(self) -> Table:
        """Return how many words of which parts of speech MILAN uses on each split, after the first training."""
        texts = {f"{split.kind}: {split.name}": several[0].milan for split, several in self.results.items()}
        return make_split_words_table(texts)

    def _make_example_table(self) -> Table:
        """Return the descriptions of a few random units of each split."""
        rows = []
        for split, several in self.results.items():
            first, rng = several[0], np.random.default_rng(0)
            count = min(EXAMPLE_UNITS, len(first.test))
            for place in sorted(rng.choice(len(first.test), count, replace=False).tolist()):
                unit = first.test[place]
                values = {
                    "milan": first.milan[place],
                    "p(d|E)": first.most_likely[place],
                    "annotators": "; ".join(unit.texts),
                }
                rows.append(Row(f"{split.kind}: {split.name}, {unit.source.parent.name} {unit.unit}", values))
        columns = tuple(
            Column(name, text)
            for name, text in (*list(ROW_NOTES.items())[:2], ("annotators", "The annotations of the unit."))
        )
        return Table("random units", columns, tuple(rows), "unit")

    def _make_headlines(self) -> tuple[tuple[str, str], ...]:
        """Return the mean of MILAN's main score over the splits of each kind."""
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
        """Return how many pairs of splits have the same order as in the paper, in sentences."""
        known = [split for split in self.results if split.paper is not None and split.kind != "leave one out"]
        pairs = [(one, other) for one, other in combinations(known, 2) if one.paper != other.paper]
        sentences = []
        for name in (name for name in MAIN_SCORES if name in self.scorer.names and pairs):
            value = {split: _to_number(self.compute_scores(split, "milan")[name]) for split in known}
            same = sum(
                (value[one] - value[other]) * ((one.paper or 0) - (other.paper or 0)) > 0 for one, other in pairs
            )
            sentences.append(
                f"Of {len(pairs)} pairs of splits that differ in the paper's Table 3, {same} have the same order here"
                f" by {name}."
            )
        return sentences


def _to_number(value: Value) -> float:
    return value.value if isinstance(value, Measure) else float("nan")


def _shuffle_texts(one: SplitResult) -> list[str]:
    """Return MILAN's texts, each given to another unit: a random cycle through all units."""
    return [one.milan[other] for other in make_random_cycle(len(one.milan), np.random.default_rng(0))]


def _compare_with_two(one: SplitResult, row: str) -> list[TextsWithReferences]:
    """Return the texts of MILAN or of an annotator, with the references of the other annotators.

    Each annotator is left out in turn; units with fewer than two annotations are skipped.
    """
    most = max(len(unit.texts) for unit in one.test)
    rounds = []
    for out in range(most if most > 1 else 0):
        places = [place for place, unit in enumerate(one.test) if len(unit.texts) > max(out, 1)]
        units = tuple(one.test[place] for place in places)
        texts = tuple(one.milan[place] if row == "milan*" else one.test[place].texts[out] for place in places)
        rounds.append(TextsWithReferences(units, texts, tuple(_drop_annotation(unit, out) for unit in units)))
    return rounds


def _drop_annotation(unit: AnnotatedUnit, out: int) -> tuple[str, ...]:
    return tuple(text for place, text in enumerate(unit.texts) if place != out)

"""Why do networks, splits and describers stand in the order they do? Measured on what the experiment generalization
found.

    python -m benchmarks.generalization_reasons --bert FOLDER --bert_layers N --out runs/generalization

Prints, from the descriptions kept in that folder: how MILAN scores on units of whom every annotator's word was said of
a unit trained on, and on the others; how often the simulated annotators name no concept, and how true they are when
they do; and how true, and how near the annotators, descriptions are that name one concept, two or more (the last two
where networks were left out). What is not there is trained.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from benchmarks.better_describer import QUICK
from milan.diorama.text_reader import parse_description
from milan.experiments.core.description_scores import TextsWithReferences
from milan.experiments.generalization.config import GeneralizationConfig
from milan.experiments.generalization.network_splits import NetworkSplit, divide_units, load_networks, select_splits
from milan.experiments.generalization.tables import GeneralizationResult
from milan.experiments.generalization.trained_splits import train_all_splits
from milan.models import load_encoder
from milan.models.feature_store import FeatureStore
from milan.models.vocabulary import tokenize
from milan.scores.confidence_intervals import Measure
from milan.scores.text_similarity import BertScoreConfig
from milan.storage.packaged_data import locate_packaged_data

SCORES = ("truth", "BERTScore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("runs/generalization"), help="folder of the experiment generalization"
    )
    parser.add_argument("--bert", required=True, help="as for the experiment")
    parser.add_argument("--bert_layers", type=int, default=0)
    for name in ("annotations", "kinds", "test_networks"):
        parser.add_argument(f"--{name}", nargs="*", help="as for the experiment")
    parser.add_argument("--quick", action="store_true", help=f"of trainings with {QUICK}")
    options = parser.parse_args()
    known = yaml.safe_load((locate_packaged_data("configs/experiments") / "generalization.yaml").read_text())
    plan = GeneralizationConfig(**known | (QUICK if options.quick else {}) | {"out": options.out})
    evidence = FeatureStore(load_encoder(known["encoder"]))
    splits = select_splits(load_networks(options.annotations or ["diorama"]), options.kinds, options.test_networks)
    found = train_all_splits(splits, plan, evidence)
    with GeneralizationResult.score(
        found, plan, evidence, BertScoreConfig(options.bert, options.bert_layers or None, rescale=False)
    ) as outcome:
        for lines in (
            by_known_words(outcome, plan),
            *((annotators(outcome), by_length(outcome)) if left_out(outcome) else ()),
        ):
            print("\n".join(lines), end="\n\n", flush=True)


def by_known_words(outcome: GeneralizationResult, plan: GeneralizationConfig) -> Iterator[str]:
    """MILAN on units of whom nothing was said that it could not learn to say, and on the others."""
    yield row("split", "unknown words", "units of known words", *SCORES, "others", *SCORES)
    for split, several in outcome.results.items():
        parts: tuple[list[TextsWithReferences], list[TextsWithReferences]] = ([], [])
        for seed, each in zip(plan.seed_range, several, strict=True):
            words = {word for one in divide_units(split, seed).train for text in one.texts for word in tokenize(text)}
            learnable = np.array(
                [{word for text in one.texts for word in tokenize(text)} <= words for one in each.test]
            )
            for part, wanted in zip(parts, (learnable, ~learnable), strict=True):
                part.append(some(TextsWithReferences.from_annotations(each.test, each.milan), wanted))
        cells = [cell for part in parts for cell in (sum(len(one.units) for one in part), *scores(outcome, part))]
        yield row(f"{split.kind}: {split.name}", f"{np.mean([each.unknown_share for each in several]):.1%}", *cells)


def annotators(outcome: GeneralizationResult) -> Iterator[str]:
    """How often they name nothing, and what the rest is worth."""
    yield row("network", "texts", "name no concept", "truth of the rest", "of the rest below 50%")
    for split in left_out(outcome):
        units = outcome.results[split][0].test
        rounds = [TextsWithReferences.from_annotations([one for one in units if len(one.texts) > place],
            [one.texts[place] for one in units if len(one.texts) > place])
                  for place in range(3)]  # fmt: skip
        values = [outcome.scorer.compute_truth_scores(one) for one in rounds]
        pairs = [(parse_description(text).concept_count, value[name]) for one, value in zip(rounds, values, strict=True)
                 for name, text in zip(one.names, one.texts, strict=True)]  # fmt: skip
        table = np.array([pair for pair in pairs if not np.isnan(pair[1])])
        named = table[table[:, 0] > 0, 1]
        yield row(
            split.name,
            len(table),
            f"{(table[:, 0] == 0).mean():.1%}",
            f"{named.mean():.1%}",
            f"{(named < 0.5).mean():.1%}",
        )


def by_length(outcome: GeneralizationResult) -> Iterator[str]:
    """Describers where they name nothing, one concept, two, or more."""
    yield row("describer", "concepts", "share of descriptions", *SCORES)
    splits = left_out(outcome)
    for who in ("milan", "p(d|E)", "netdissect", "compositional", "an annotator*"):
        rounds = [one for split in splits for one in outcome._describe_untrained(split, who)]
        lengths = [np.array([min(3, parse_description(text).concept_count) for text in one.texts]) for one in rounds]
        total = sum(map(len, lengths))
        for count in range(4):
            part = [some(one, length == count) for one, length in zip(rounds, lengths, strict=True)]
            share = sum(len(one.units) for one in part) / total
            if share > 0.005:
                yield row(who, f"{count} or more" if count == 3 else count, f"{share:.1%}", *scores(outcome, part))


def left_out(outcome: GeneralizationResult) -> list[NetworkSplit]:
    return [split for split in outcome.results if split.kind == "leave one out"]


def some(said: TextsWithReferences, wanted: np.ndarray) -> TextsWithReferences:
    places = np.flatnonzero(wanted).tolist()
    return TextsWithReferences(*(tuple(part[place] for place in places) for part in said))


def scores(outcome: GeneralizationResult, rounds: Sequence[TextsWithReferences]) -> list[str]:
    """Truth and BERTScore, as shares of one with their intervals; a dash where there is nothing to score."""
    if not (full := [one for one in rounds if one.units]):
        return ["–"] * len(SCORES)
    found = outcome.scorer.compute_scores(full)
    return [
        f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"
        for name in SCORES
        if isinstance(value := found[name], Measure)
    ]


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

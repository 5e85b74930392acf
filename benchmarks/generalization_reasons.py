"""Why do networks, splits and describers differ? Measured on the results of the experiment ``generalization``.

    python -m benchmarks.generalization_reasons --out runs/generalization [--kinds left-out] [--short]

Prints, from the descriptions in that folder: how MILAN scores on units whose annotators use only words of the training
annotations, and on the others; how often the simulated annotators name no concept, and how true their other texts are;
and the truth score of descriptions that name one concept, two, or more (the last two for networks that were left out).
What is missing is trained.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

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

SHORT = {"updates": 400, "epochs": 16}  # the short trainings of docs/generalization.md
MIN_SHARE = 0.005  # of descriptions, to have a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/generalization"), help="the experiment's folder")
    for name in ("annotations", "kinds", "test_networks"):
        parser.add_argument(f"--{name}", nargs="*", help="as for the experiment")
    parser.add_argument("--short", action="store_true", help=f"trainings with {SHORT}")
    options = parser.parse_args()
    known = yaml.safe_load((locate_packaged_data("configs/experiments") / "generalization.yaml").read_text())
    config = GeneralizationConfig(**known | (SHORT if options.short else {}) | {"out": options.out})
    store = FeatureStore(load_encoder(config.encoder))
    splits = select_splits(load_networks(options.annotations or ["diorama"]), options.kinds, options.test_networks)
    results = train_all_splits(splits, config, store)
    with GeneralizationResult.score(results, config, store, BertScoreConfig(model="")) as result:
        tables = [compare_known_words(result, config)]
        if list_left_out(result):
            tables += [examine_annotators(result), compare_lengths(result)]
        for rows in tables:
            print("\n".join(rows), end="\n\n", flush=True)


def compare_known_words(result: GeneralizationResult, config: GeneralizationConfig) -> Iterator[str]:
    """Compare units whose annotations have only words of the training annotations with the others."""
    yield format_row("split", "unknown words", "units with known words only", "truth", "other units", "truth")
    for split, several in result.results.items():
        parts: tuple[list[TextsWithReferences], list[TextsWithReferences]] = ([], [])
        for seed, each in zip(config.seed_range, several, strict=True):
            words = {word for one in divide_units(split, seed).train for text in one.texts for word in tokenize(text)}
            known = np.array([{word for text in one.texts for word in tokenize(text)} <= words for one in each.test])
            for part, chosen in zip(parts, (known, ~known), strict=True):
                part.append(select(TextsWithReferences.from_annotations(each.test, each.milan), chosen))
        cells = [cell for part in parts for cell in (sum(len(one.units) for one in part), compute_truth(result, part))]
        unknown = np.mean([each.unknown_share for each in several])
        yield format_row(f"{split.kind}: {split.name}", f"{unknown:.1%}", *cells)


def examine_annotators(result: GeneralizationResult) -> Iterator[str]:
    """Count annotations that name no concept, and return the truth score of the others."""
    yield format_row("network", "texts", "name no concept", "truth of the others", "of the others below 25%")
    for split in list_left_out(result):
        units = result.results[split][0].test
        pairs = []
        for place in range(3):
            some = [one for one in units if len(one.texts) > place]
            texts = TextsWithReferences.from_annotations(some, [one.texts[place] for one in some])
            truth = result.scorer.compute_truth_scores(texts)
            counts = [parse_description(text).concept_count for text in texts.texts]
            pairs += [(count, truth[name]) for count, name in zip(counts, texts.names, strict=True)]
        table = np.array([pair for pair in pairs if not np.isnan(pair[1])])
        named = table[table[:, 0] > 0, 1]
        nothing = (table[:, 0] == 0).mean()
        yield format_row(
            split.name, len(table), f"{nothing:.1%}", f"{named.mean():.1%}", f"{(named < 0.25).mean():.1%}"
        )


def compare_lengths(result: GeneralizationResult) -> Iterator[str]:
    """Compare the descriptions of each describer that name no concept, one, two, or more."""
    yield format_row("describer", "concepts", "share of descriptions", "truth")
    for describer in ("milan", "p(d|E)", "netdissect", "compositional", "an annotator*"):
        rounds = [one for split in list_left_out(result) for one in result._describe_untrained(split, describer)]
        lengths = [np.array([min(3, parse_description(text).concept_count) for text in one.texts]) for one in rounds]
        total = sum(map(len, lengths))
        for count in range(4):
            part = [select(one, length == count) for one, length in zip(rounds, lengths, strict=True)]
            share = sum(len(one.units) for one in part) / total
            if share > MIN_SHARE:
                name = f"{count} or more" if count == 3 else count
                yield format_row(describer, name, f"{share:.1%}", compute_truth(result, part))


def list_left_out(result: GeneralizationResult) -> list[NetworkSplit]:
    """Return the splits that leave one network out."""
    return [split for split in result.results if split.kind == "leave one out"]


def select(texts: TextsWithReferences, chosen: np.ndarray) -> TextsWithReferences:
    """Return the descriptions of some of the units."""
    places = np.flatnonzero(chosen).tolist()
    return TextsWithReferences(*(tuple(part[place] for place in places) for part in texts))


def compute_truth(result: GeneralizationResult, rounds: Sequence[TextsWithReferences]) -> str:
    """Return the mean truth score in percent with its interval; a dash if there are no units."""
    full = [one for one in rounds if one.units]
    found = result.scorer.compute_scores(full)["truth"] if full else None
    if not isinstance(found, Measure):
        return "–"
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def format_row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

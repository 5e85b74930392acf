"""Why do networks, splits and describers stand in the order they do? Measured on what the experiment generalization found.

    python -m benchmarks.generalization_reasons --bert FOLDER --bert_layers N --out runs/generalization

Prints, from the descriptions kept in that folder: how MILAN scores on units of whom every annotator's word was said of a unit trained on,
and on the others; how often the simulated annotators name no concept, and how true they are when they do; and how true, and how near the
annotators, descriptions are that name one concept, two or more (the last two where networks were left out). What is not there is trained.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from benchmarks.better_describer import QUICK
from milan.diorama.concepts import read
from milan.embedded import embedded
from milan.experiments.comparison.judging import Bert, Round
from milan.experiments.transfer.fitting import Evidence, Recipe
from milan.experiments.transfer.learning import Plan, learnt
from milan.experiments.transfer.outcome import Outcome
from milan.experiments.transfer.splits import Split, chosen_splits, networks_of, share_of
from milan.models import load_encoder
from milan.scores.intervals import Measure
from milan.vocabulary import tokenize

SCORES = ("truth", "BERTScore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/generalization"), help="folder of the experiment generalization")
    parser.add_argument("--bert", required=True, help="as for the experiment")
    parser.add_argument("--bert_layers", type=int, default=0)
    for name in ("annotations", "kinds", "described"):
        parser.add_argument(f"--{name}", nargs="*", help="as for the experiment")
    parser.add_argument("--quick", action="store_true", help=f"of trainings with {QUICK}")
    options = parser.parse_args()
    known = yaml.safe_load((embedded("configs/experiments") / "generalization.yaml").read_text())
    recipe = Recipe(**{name: value for name, value in (known | (QUICK if options.quick else {})).items() if name in Recipe().settings})
    plan = Plan(recipe, known["seeds"], known["beam"], known["steps"], known["prior_weight"], first_seed=known["first_seed"])
    evidence = Evidence(load_encoder(known["encoder"]))
    splits = chosen_splits(networks_of(options.annotations or ["diorama"]), options.kinds, options.described)
    found = learnt(splits, plan, evidence, options.out)
    with Outcome.of(found, plan, evidence, Bert(options.bert, options.bert_layers), options.out) as outcome:
        for lines in (by_known_words(outcome, plan), *((annotators(outcome), by_length(outcome)) if left_out(outcome) else ())):
            print("\n".join(lines), end="\n\n", flush=True)


def by_known_words(outcome: Outcome, plan: Plan) -> Iterator[str]:
    """MILAN on units of whom nothing was said that it could not learn to say, and on the others."""
    yield row("split", "unknown words", "units of known words", *SCORES, "others", *SCORES)
    for split, several in outcome.found.items():
        parts: tuple[list[Round], list[Round]] = ([], [])
        for seed, each in zip(plan.rounds, several, strict=True):
            words = {word for one in share_of(split, seed).train for text in one.texts for word in tokenize(text)}
            learnable = np.array([{word for text in one.texts for word in tokenize(text)} <= words for one in each.test])
            for part, wanted in zip(parts, (learnable, ~learnable), strict=True):
                part.append(some(Round.of(each.test, each.milan), wanted))
        cells = [cell for part in parts for cell in (sum(len(one.units) for one in part), *scores(outcome, part))]
        yield row(f"{split.kind}: {split.name}", f"{np.mean([each.unknown for each in several]):.1%}", *cells)


def annotators(outcome: Outcome) -> Iterator[str]:
    """How often they name nothing, and what the rest is worth."""
    yield row("network", "texts", "name no concept", "truth of the rest", "of the rest below 50%")
    for split in left_out(outcome):
        units = outcome.found[split][0].test
        rounds = [Round.of([one for one in units if len(one.texts) > place], [one.texts[place] for one in units if len(one.texts) > place])
                  for place in range(3)]  # fmt: skip
        values = [outcome.judge.truth(one) for one in rounds]
        pairs = [(read(text).length, value[name]) for one, value in zip(rounds, values, strict=True)
                 for name, text in zip(one.names, one.texts, strict=True)]  # fmt: skip
        table = np.array([pair for pair in pairs if not np.isnan(pair[1])])
        named = table[table[:, 0] > 0, 1]
        yield row(split.name, len(table), f"{(table[:, 0] == 0).mean():.1%}", f"{named.mean():.1%}", f"{(named < 0.5).mean():.1%}")


def by_length(outcome: Outcome) -> Iterator[str]:
    """Describers where they name nothing, one concept, two, or more."""
    yield row("describer", "concepts", "share of descriptions", *SCORES)
    splits = left_out(outcome)
    for who in ("milan", "p(d|E)", "netdissect", "compositional", "an annotator*"):
        rounds = [one for split in splits for one in outcome._said(split, who)]
        lengths = [np.array([min(3, read(text).length) for text in one.texts]) for one in rounds]
        total = sum(map(len, lengths))
        for count in range(4):
            part = [some(one, length == count) for one, length in zip(rounds, lengths, strict=True)]
            share = sum(len(one.units) for one in part) / total
            if share > 0.005:
                yield row(who, f"{count} or more" if count == 3 else count, f"{share:.1%}", *scores(outcome, part))


def left_out(outcome: Outcome) -> list[Split]:
    return [split for split in outcome.found if split.kind == "leave one out"]


def some(said: Round, wanted: np.ndarray) -> Round:
    places = np.flatnonzero(wanted).tolist()
    return Round(*(tuple(part[place] for place in places) for part in said))


def scores(outcome: Outcome, rounds: Sequence[Round]) -> list[str]:
    """Truth and BERTScore, as shares of one with their intervals; a dash where there is nothing to score."""
    if not (full := [one for one in rounds if one.units]):
        return ["–"] * len(SCORES)
    found = outcome.judge.scores(full)
    return [f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})" for name in SCORES if isinstance(value := found[name], Measure)]


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

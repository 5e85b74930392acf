"""MILAN on Diorama's held-out units, compared with its simulated annotators and with the truth.

    python -m benchmarks.milan_diorama [--captioner FOLDER --prior FOLDER] [--bert FOLDER --bert_layers 6]

One tenth of the units of each layer of the four classifiers are held out of training; all rows are of these. The first
two rows use the same beam and differ in the reranking alone. An annotator is scored against the other two, and so is
MILAN once more, since fewer references give a lower BLEU. The floors are the best constant text and MILAN's own texts,
shuffled among the units. BERTScore needs a transformers encoder in a folder.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milan.describers.milan import Milan
from milan.diorama_build.build_folders import BuildFolders
from milan.diorama_build.build_steps import CLASSIFIERS
from milan.dissection.loading import load_dissection
from milan.models.data_module import AnnotatedUnit, MilannotationsDataModule
from milan.scores.text_similarity import BertScoreConfig, bert_score, bleu_score
from milan.scores.truth_score import Truth, find_best_constant
from milan.storage.files import cache_root
from milan.storage.packaged_data import locate_packaged_data


@dataclass
class UnitScorer:
    """Scores texts of the held-out units."""

    units: Sequence[AnnotatedUnit]
    bert: str
    layers: int

    def __post_init__(self) -> None:
        folders = BuildFolders(locate_packaged_data("data/diorama"), cache_root() / "diorama")
        truths: dict[tuple[str, str], Truth] = {}
        for network in sorted({one.source.parent.name for one in self.units}):
            target = folders.target(network)
            for layer, dissection in folders.dissections(network).items():
                truths[network, layer] = Truth.measure(dissection, target, folders.work)
        self.truths = [(truths[one.source.parent.name, one.unit.layer], one.unit) for one in self.units]

    def compute_truth(self, texts: Sequence[str]) -> tuple[float, float]:
        """Return the mean truth score and its standard error."""
        scores = [truth.score(unit, text) for (truth, unit), text in zip(self.truths, texts, strict=True)]
        known = np.array([score for score in scores if not np.isnan(score)])
        return float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))

    def format_row(
        self, name: str, rounds: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
    ) -> str:
        """Return a row of the table; rounds of texts over the same units are pooled."""
        texts = [text for one in rounds for text in one]
        known = [text for one in references for text in one]
        bleu = bleu_score(texts, known)
        mean, error = np.mean([self.compute_truth(one) for one in rounds], axis=0)
        cells = [f"{bleu.value:.1f} [{bleu.low:.1f}, {bleu.high:.1f}]", f"{mean:.3f} ± {error:.3f}"]
        cells += [str(bleu.distinct), f"{bleu.mean_words:.2f}"]
        if self.bert:
            score = bert_score(texts, known, BertScoreConfig(self.bert, self.layers, rescale=False))["f1"]
            cells.insert(1, f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
        return f"| {name} | {' | '.join(cells)} |"


def describe_units(units: Sequence[AnnotatedUnit], **settings: str) -> list[str]:
    """Return MILAN's text for each unit."""
    describer = Milan(**settings)  # type: ignore[arg-type]
    texts: dict[tuple[Path, int], str] = {}
    for source in dict.fromkeys(one.source for one in units):
        chosen = [one.unit for one in units if one.source == source]
        for described in describer.describe(load_dissection(source), chosen):
            texts[source, described.unit.index] = described.text  # type: ignore[union-attr]
    return [texts[one.source, one.unit.index] for one in units]


def make_table(scorer: UnitScorer, models: Mapping[str, str]) -> list[str]:
    """Return the lines of the table."""
    units = scorer.units
    three = [list(one.texts) for one in units]
    pmi, likely, greedy = (describe_units(units, strategy=each, **models) for each in ("rerank", "beam", "greedy"))
    constant, _ = find_best_constant(scorer.truths)
    shuffled = [pmi[place] for place in np.random.default_rng(0).permutation(len(units))]
    two = [[[text for i, text in enumerate(texts) if i != out] for texts in three] for out in range(3)]
    annotators = [[texts[out] for texts in three] for out in range(3)]
    rows = [
        scorer.format_row("MILAN (beam 50, PMI, λ 0.2)", [pmi], [three]),
        scorer.format_row("p(d\\|E), the same beam", [likely], [three]),
        scorer.format_row("p(d\\|E), greedy", [greedy], [three]),
        scorer.format_row(f'floor: the best constant, "{constant}"', [[constant] * len(units)], [three]),
        scorer.format_row("floor: MILAN's texts, shuffled", [shuffled], [three]),
        scorer.format_row("ceiling: an annotator against the other two", annotators, two),
        scorer.format_row("MILAN against the same two", [pmi] * 3, two),
    ]
    bert = ["BERTScore F1"] if scorer.bert else []
    header = ["", "BLEU", *bert, "truth score ± s.e.", "distinct", "words"]
    return [f"| {' | '.join(header)} |", f"| {' | '.join(['---'] * len(header))} |", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captioner", default="diorama")
    parser.add_argument("--prior", default="diorama")
    parser.add_argument("--bert", default="", help="folder of a transformers encoder for BERTScore")
    parser.add_argument("--bert_layers", type=int, default=6, help="which of its layers")
    options = parser.parse_args()
    split = MilannotationsDataModule([f"diorama:{network}" for network in sorted(CLASSIFIERS)], encoder=None).split
    units = [one for one in split.held_out if len(one.texts) == 3]
    print(
        f"{len(units)} held-out units with three annotations (simulated annotators), {len(split.train)} in training\n"
    )
    scorer = UnitScorer(units, options.bert, options.bert_layers)
    for line in make_table(scorer, {"captioner": options.captioner, "prior": options.prior}):
        print(line)


if __name__ == "__main__":
    main()

"""MILAN on Diorama's held-out units, against its simulated annotators and against what is known of the units.

    python -m benchmarks.milan_diorama [--captioner FOLDER --prior FOLDER] [--bert FOLDER --bert_layers 6]

One tenth of the units of each layer of the four networks were not trained on; all rows are of these. The two searches
use the same beam, so that they differ in the reranking alone. An annotator is scored against the other two, and MILAN's
texts once more so, since two references give less BLEU than three. The floor is the training texts' most frequent one,
and MILAN's own texts dealt to other units. BERTScore needs a transformers encoder in a folder.
"""

import argparse
from collections import Counter
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
from milan.scores.truth_score import Truth
from milan.storage.files import cache_root
from milan.storage.packaged_data import locate_packaged_data


@dataclass
class Judge:
    """Scores texts of the held-out units."""

    units: Sequence[AnnotatedUnit]
    bert: str
    layers: int

    def __post_init__(self) -> None:
        shop = BuildFolders(locate_packaged_data("data/diorama"), cache_root() / "diorama")
        networks = sorted({one.source.parent.name for one in self.units})
        self.truths: dict[tuple[str, str], Truth] = {}
        for network in networks:
            target = shop.target(network)
            for layer, dissection in shop.dissections(network).items():
                self.truths[network, layer] = Truth.measure(dissection, target, shop.work)

    def truth(self, texts: Sequence[str]) -> tuple[float, float]:
        """Mean truth score and its standard error."""
        scores = [
            self.truths[one.source.parent.name, one.unit.layer].score(one.unit, text)
            for one, text in zip(self.units, texts, strict=True)
        ]
        known = np.array([score for score in scores if not np.isnan(score)])
        return float(known.mean()), float(known.std(ddof=1) / np.sqrt(len(known)))

    def row(self, name: str, texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> str:
        """A line of the table; ``texts`` and ``references`` may be of several rounds over the units, which are
        pooled.
        """
        said, known = [text for one in texts for text in one], [one for some in references for one in some]
        found = bleu_score(said, known)
        truths = [self.truth(one) for one in texts]
        mean, error = float(np.mean([one for one, _ in truths])), float(np.mean([one for _, one in truths]))
        cells = [f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]", f"{mean:.3f} ± {error:.3f}"]
        cells += [str(found.distinct), f"{found.mean_words:.2f}"]
        if self.bert:
            score = bert_score(said, known, BertScoreConfig(self.bert, self.layers, rescale=False))["f1"]
            cells.insert(1, f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
        return f"| {name} | {' | '.join(cells)} |"


def described(units: Sequence[AnnotatedUnit], **settings: object) -> list[str]:
    """MILAN's text for each unit."""
    describer = Milan(captioner="diorama", **settings)  # type: ignore[arg-type]
    texts: dict[tuple[Path, int], str] = {}
    for source in dict.fromkeys(one.source for one in units):
        asked = [one.unit for one in units if one.source == source]
        for said in describer.describe(load_dissection(source), asked):
            texts[source, said.unit.index] = said.text  # type: ignore[union-attr]
    return [texts[one.source, one.unit.index] for one in units]


def tables(judge: Judge, models: Mapping[str, str], train: Sequence[AnnotatedUnit]) -> list[str]:
    units = judge.units
    three = [list(one.texts) for one in units]
    pmi, likely, greedy = (described(units, strategy=strategy, **models) for strategy in ("rerank", "beam", "greedy"))
    constant = [Counter(text for one in train for text in one.texts).most_common(1)[0][0]] * len(units)
    dealt = [pmi[place] for place in np.random.default_rng(0).permutation(len(units))]
    rounds = range(3)
    two = [[[text for i, text in enumerate(texts) if i != out] for texts in three] for out in rounds]
    rows = [
        judge.row("MILAN (beam 50, PMI, λ 0.2)", [pmi], [three]),
        judge.row("p(d\\|E), the same beam", [likely], [three]),
        judge.row("p(d\\|E), greedy", [greedy], [three]),
        judge.row(f"constant: {constant[0]!r}", [constant], [three]),
        judge.row("MILAN's texts, shuffled", [dealt], [three]),
        judge.row("each annotator against the other two", [[texts[out] for texts in three] for out in rounds], two),
        judge.row("MILAN against the same two", [pmi] * 3, two),
        judge.row("p(d\\|E), the same beam, against the same two", [likely] * 3, two),
    ]
    bert = ["BERTScore F1"] if judge.bert else []
    header = ["", "BLEU [95%]", *bert, "truth score ± s.e.", "distinct", "words"]
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
        f"{len(units)} held-out units with three annotations (simulated annotators) of {len(split.train)} trained on\n"
    )
    models = {"captioner": options.captioner, "prior": options.prior}
    for line in tables(Judge(units, options.bert, options.bert_layers), models, split.train):
        print(line)


if __name__ == "__main__":
    main()
